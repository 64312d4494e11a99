"""The request ID for a Starlette application.

```python
app = Starlette(...)
clew.integrations.starlette.instrument(app)
```
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from clew.integrations._shared.auto_instrument import default_of
from clew.integrations._shared.server_options import check_names
from clew.integrations.asgi import ASGIApp, AsgiArguments, Receive, RequestMiddleware, Scope, Send

try:
    from starlette.applications import Starlette
except ImportError as error:
    raise ImportError("clew.integrations.starlette needs starlette: pip install 'clew[starlette]'") from error

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["RequestMiddleware", "instrument", "instrument_all", "uninstrument"]

App = TypeVar("App", bound=Starlette)

_ATTRIBUTE = "_clew_request_middleware"


def instrument(app: App, **options: Unpack[AsgiArguments]) -> App:
    """Put the middleware around the whole of `app`, outside its error handling too, so that a 500 has the ID as well.

    The keywords are those of `clew.integrations.asgi.RequestMiddleware`. May be called before or after the application
    has started, and before or after other instrumentations.

    Returns:
        `app`, the same object.

    Raises:
        TypeError: `app` is no Starlette application, or a keyword has a value that it does not take.
        ValueError: A keyword has a value that it does not take, or `app` is instrumented already.
    """
    check_names(f"{__name__}.instrument", options, AsgiArguments.__optional_keys__)
    if not isinstance(app, Starlette):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"instrument() takes a Starlette or FastAPI application, not {type(app).__name__}")
    if hasattr(app, _ATTRIBUTE):
        raise ValueError("this application is instrumented already; uninstrument() it first to choose anew")
    _patch(Starlette)
    setattr(app, _ATTRIBUTE, RequestMiddleware(_Inside(app), **options))
    return app


def uninstrument(app: Starlette) -> None:
    """Take the middleware off again; nothing happens where `app` is not instrumented."""
    if hasattr(app, _ATTRIBUTE):
        delattr(app, _ATTRIBUTE)


def instrument_all() -> None:
    """Put the middleware around every application that has none of ours; a second call changes nothing.

    It has its defaults there. An application that `instrument` is called for, or that has the middleware among its own,
    goes by that alone.
    """
    global _is_for_all
    _is_for_all = True
    _patch(Starlette)


_is_for_all = False


class _Inside:
    """The application without our middleware."""

    def __init__(self, app: Starlette) -> None:
        self._application = app

    @property
    def app(self) -> Any:
        """The middleware that the application consists of."""
        if self._application.middleware_stack is None:  # as the application does a moment later
            self._application.middleware_stack = self._application.build_middleware_stack()
        return self._application.middleware_stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _original(self._application, scope, receive, send)


_original: Callable[[Starlette, Any, Any, Any], Any] = Starlette.__call__


def _patch(kind: type[Starlette]) -> None:
    """Let applications of this class look for their middleware, once.

    On the class since ``app(…)`` looks there, and not in the stack of middleware, which other instrumentations take
    apart and expect to begin with ServerErrorMiddleware.
    """
    if kind.__call__ is not _original:
        return

    @functools.wraps(_original)
    async def call(self: Starlette, scope: Any, receive: Any, send: Any) -> None:
        middleware: ASGIApp | None = getattr(self, _ATTRIBUTE, None)
        if middleware is None and _is_for_all and scope["type"] != "lifespan":
            middleware = default_of(self, lambda: RequestMiddleware(_Inside(self)))
        if middleware is None:
            await _original(self, scope, receive, send)
        else:
            await middleware(scope, receive, send)

    kind.__call__ = call  # type: ignore[method-assign]
