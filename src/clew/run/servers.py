"""The request ID for any application that a server has been given, of any framework or none.

Each function changes how one server takes its application, so that a middleware is outermost. It leaves the request to
one of ours that the application has itself, anywhere in it; and the default middleware of a framework, inside, sees
that the request has been entered already.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from clew.integrations import asgi, wsgi
from clew.integrations._shared.auto_instrument import Middleware, has_own, patch
from clew.lifetime import handle_sigterm


class _Outermost(Middleware):
    """An application with the middleware around it, unless the application has one itself when the first call comes."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._chosen: Any = None

    def _choose(self, middleware: Callable[[Any], Any]) -> Any:
        if self._chosen is None:
            self._chosen = self.app if has_own(self.app) else middleware(self.app)
        return self._chosen

    def __getattr__(self, name: str) -> Any:
        if name == "app":  # of one that is just being copied
            raise AttributeError(name)
        return getattr(self.app, name)


class _Asgi(_Outermost):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        app = self.app if scope["type"] == "lifespan" else self._choose(asgi.RequestMiddleware)
        await app(scope, receive, send)


class _Wsgi(_Outermost):
    def __call__(self, environ: Any, start_response: Any) -> Any:
        return self._choose(wsgi.RequestMiddleware)(environ, start_response)


def _outermost(app: Any) -> Any:
    if isinstance(app, _Outermost) or not callable(app):
        return app
    return _Asgi(app) if _is_asgi(app) else _Wsgi(app)


def _is_asgi(app: Any) -> bool:
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004


def of_uvicorn(module: Any) -> None:
    """Wrap what uvicorn has loaded."""

    def made(load: Callable[[Any], None]) -> Callable[[Any], None]:
        def load_and_wrap(self: Any) -> None:
            load(self)
            if self.interface != "wsgi" and not isinstance(self.loaded_app, _Outermost):
                self.loaded_app = _Asgi(self.loaded_app)

        return load_and_wrap

    patch(module.Config, "load", made)


def of_hypercorn(module: Any) -> None:
    """Wrap what Hypercorn is about to serve."""

    def made(wrap_app: Callable[..., Any]) -> Callable[..., Any]:
        def wrap_outermost(app: Any, *args: Any, **options: Any) -> Any:
            return wrap_app(_outermost(app), *args, **options)

        return wrap_outermost

    patch(module, "wrap_app", made)


def of_granian_asgi(module: Any) -> None:
    """Wrap what Granian is about to serve by ASGI; `_callback_wrapper` is private to Granian (2.8)."""
    patch(module, "_callback_wrapper", _of_granian(_Asgi))


def of_granian_wsgi(module: Any) -> None:
    """Wrap what Granian is about to serve by WSGI; `_callback_wrapper` is private to Granian (2.8)."""
    patch(module, "_callback_wrapper", _of_granian(_Wsgi))


def _of_granian(kind: type[_Outermost]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def made(wrap: Callable[..., Any]) -> Callable[..., Any]:
        def wrap_outermost(callback: Any, *args: Any, **options: Any) -> Any:
            return wrap(kind(callback), *args, **options)

        return wrap_outermost

    return made


def of_gunicorn(module: Any) -> None:
    """Wrap what a worker of gunicorn has loaded, of its ASGI workers too."""

    def made(load: Callable[[Any], None]) -> Callable[[Any], None]:
        def load_and_wrap(self: Any) -> None:
            load(self)
            self.wsgi = _outermost(self.wsgi)
            handle_sigterm()  # by now a worker of uvicorn has set all signals back to their defaults

        return load_and_wrap

    patch(module.Worker, "load_wsgi", made)


def of_waitress(module: Any) -> None:
    """Wrap what Waitress is about to serve."""

    def made(create: Callable[..., Any]) -> Callable[..., Any]:
        def create_outermost(application: Any, *args: Any, **options: Any) -> Any:
            return create(_outermost(application), *args, **options)

        return create_outermost

    patch(module, "create_server", made)


def of_wsgiref(module: Any) -> None:
    """Wrap what the standard library's server runs, and Django's own that is made of it."""

    def made(run: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def run_outermost(self: Any, application: Any) -> None:
            run(self, _remembered(application))

        return run_outermost

    patch(module.BaseHandler, "run", made)


def _remembered(application: Any) -> Any:
    try:
        return _outermost_once(application)
    except TypeError:  # not hashable
        return _outermost(application)


_outermost_once = lru_cache(maxsize=16)(_outermost)
