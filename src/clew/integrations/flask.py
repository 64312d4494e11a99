"""The request ID for a Flask application.

```python
app = Flask(__name__)
clew.integrations.flask.instrument(app)
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

from clew.integrations._shared.auto_instrument import default_of, patch
from clew.integrations._shared.server_options import check_names
from clew.integrations.wsgi import Environ, RequestMiddleware, StartResponse, WsgiArguments

try:
    import_module("flask")
except ImportError as error:
    raise ImportError("clew.integrations.flask needs flask: pip install 'clew[flask]'") from error

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["RequestMiddleware", "instrument", "instrument_all"]

App = TypeVar("App")


def instrument(app: App, **options: Unpack[WsgiArguments]) -> App:
    """Put the middleware around ``app.wsgi_app``; the answer to an unhandled exception has the ID as well.

    The keywords are those of `clew.integrations.wsgi.RequestMiddleware`. Best called after other instrumentations of
    the application: what is outside of ours records some of its measurements when the request has been left.

    Returns:
        `app`, the same object.

    Raises:
        TypeError, ValueError: `app` is no Flask application, or a keyword has a value that it does not take.
    """
    check_names(f"{__name__}.instrument", options, WsgiArguments.__optional_keys__)
    if not callable(getattr(app, "wsgi_app", None)):
        raise TypeError(f"instrument() takes a Flask application, not {type(app).__name__}")
    flask = cast("Any", app)
    flask.wsgi_app = RequestMiddleware(flask.wsgi_app, **options)
    return app


def instrument_all() -> None:
    """Put the middleware around every application that has none of ours; a second call changes nothing.

    It has its defaults there, and is outside of all that other instrumentations add. An application that `instrument`
    is called for goes by that alone.
    """
    patch(import_module("flask.app").Flask, "__call__", _with_default)


def _with_default(call: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    def call_in_request(self: Any, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        middleware = default_of(self, lambda: RequestMiddleware(_Inside(self, call)))
        return call(self, environ, start_response) if middleware is None else middleware(environ, start_response)

    return call_in_request


class _Inside:
    """The application without the middleware that it has by default."""

    def __init__(self, app: Any, call: Callable[..., Iterable[bytes]]) -> None:
        self.app = app
        self._call = call

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return self._call(self.app, environ, start_response)
