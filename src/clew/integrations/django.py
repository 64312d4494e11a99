"""The request ID for a Django project, under WSGI and ASGI.

Around everything, in ``wsgi.py`` or ``asgi.py``:

```python
application = clew.integrations.django.instrument(get_wsgi_application())
```

Or inside, where only the settings can be changed:

```python
MIDDLEWARE = ["clew.integrations.django.RequestMiddleware", ...]
```
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any, TypeVar

from opentelemetry.context import Context, get_current

from clew.integrations import asgi, wsgi
from clew.integrations._shared.auto_instrument import default_of, has_none_by_default, patch
from clew.integrations._shared.http_metrics import HttpInstruments
from clew.integrations._shared.other_instrumentations import (
    Measurers,
    django_counts,
    django_measures,
    django_would_count,
)
from clew.integrations._shared.server_options import HttpArguments, ServerOptions, exposed, server_options
from clew.integrations._shared.server_request import Carrier, HttpRequest, in_no_request, is_served
from clew.interpreter.current_context import make_current
from clew.propagation.cell import bound_cell

try:
    import_module("django")
except ImportError as error:
    raise ImportError("clew.integrations.django needs django: pip install 'clew[django]'") from error

__all__ = ["RequestMiddleware", "instrument", "instrument_all"]

R = TypeVar("R")

_SETTING = "CLEW_REQUEST"
_EXPOSE = "Access-Control-Expose-Headers"
_KEYS = [*(key for key in HttpArguments.__annotations__ if key != "update_request_headers"), "ignore"]

# Django has no types of its own
settings: Any = import_module("django.conf").settings
_WSGIHandler: Any = import_module("django.core.handlers.wsgi").WSGIHandler
_ASGIHandler: Any = import_module("django.core.handlers.asgi").ASGIHandler

_instruments = HttpInstruments(__name__)


def instrument(application: Any, **options: Any) -> Any:
    """Return Django's WSGI or ASGI application inside the middleware: the ID is there until the response has been sent.

    The keywords are those of `clew.integrations.wsgi.RequestMiddleware` and `clew.integrations.asgi.RequestMiddleware`.

    Raises:
        TypeError, ValueError: `application` is neither of Django's, or a keyword has a value that it does not take.
    """
    middleware = _around(application, application, **options)
    has_none_by_default(application)
    return middleware


def instrument_all() -> None:
    """Put the middleware around Django's WSGI and ASGI applications that have none; a second call changes nothing.

    It has its defaults there. With ours in the setting ``MIDDLEWARE``, or with `instrument`, that alone counts.
    """
    patch(_WSGIHandler, "__call__", _wsgi_with_default)
    patch(_ASGIHandler, "__call__", _asgi_with_default)


def _wsgi_with_default(call: Callable[..., Any]) -> Callable[..., Any]:
    def call_in_request(self: Any, environ: Any, start_response: Any) -> Any:
        _let_tell(self)
        middleware = default_of(self, lambda: _around(self, functools.partial(call, self)))
        return call(self, environ, start_response) if middleware is None else middleware(environ, start_response)

    return call_in_request


def _asgi_with_default(call: Callable[..., Any]) -> Callable[..., Any]:
    async def call_in_request(self: Any, scope: Any, receive: Any, send: Any) -> None:
        _let_tell(self)
        middleware = default_of(self, lambda: _around(self, functools.partial(call, self)))
        if middleware is None:
            await call(self, scope, receive, send)
        else:
            await middleware(scope, receive, send)

    return call_in_request


def _around(application: Any, call: Callable[..., Any], **options: Any) -> Any:
    """Return the middleware around `call`, which calls `application`."""
    if isinstance(application, _WSGIHandler):
        _let_tell(application)
        return wsgi.RequestMiddleware(_Application(call), **options)
    if isinstance(application, _ASGIHandler):
        _let_tell(application)
        return asgi.RequestMiddleware(_Application(call), **options)
    raise TypeError(f"instrument() takes Django's WSGI or ASGI application, not {type(application).__name__}")


def _let_tell(application: Any) -> None:
    """Let an application tell the middleware around it what only Django knows; once."""
    if "_clew_tells" in application.__dict__:
        return
    application._clew_tells = True
    if isinstance(application, _ASGIHandler):
        get_response_async = application.get_response_async

        async def get_response_async_told(request: Any) -> Any:
            response = await get_response_async(request)
            _tell(request)
            return response

        application.get_response_async = get_response_async_told
        return
    get_response = application.get_response

    def get_response_told(request: Any) -> Any:
        response = get_response(request)
        _tell(request)
        return response

    application.get_response = get_response_told


class _Application:
    """Django's application, which tells whether contrib counts its active requests."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def __call__(self, *arguments: Any) -> Any:
        return self._application(*arguments)

    def look_for_measurers(self) -> Measurers:
        """Look for contrib's middleware in the settings; whether it records is known when it has run."""
        return Measurers(active=django_would_count(settings.MIDDLEWARE))


class RequestMiddleware:
    """A middleware for the setting ``MIDDLEWARE``, best as its first entry; for sync and async stacks.

    The setting ``CLEW_REQUEST``, a dictionary, takes the keywords of the other middlewares but
    ``update_request_headers``; ``ignore`` may be a callable that gets the `HttpRequest`. The request lasts until the
    view and the middlewares inside have answered, and while a streaming response is made.

    Raises:
        TypeError, ValueError: ``CLEW_REQUEST`` has a key that is not known, or a value that it does not take.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response
        self._options = server_options(_SETTING, _given(), _KEYS)
        self._is_async = inspect.iscoroutinefunction(get_response)
        if self._is_async:
            import_module("asgiref.sync").markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Answer a request, or return the coroutine that does."""
        if self._is_async:
            return self._answer_async(request)
        if self._passes_by(request):
            with self._outside(request):
                return self._told(request, self._get_response(request))
        call = _Call(self._options, request)
        try:
            response = self._get_response(request)
        except BaseException as error:
            call.end(error)
            raise
        return call.respond(response)

    async def _answer_async(self, request: Any) -> Any:
        if self._passes_by(request):
            with self._outside(request):
                return self._told(request, await self._get_response(request))
        call = _Call(self._options, request)
        try:
            response = await self._get_response(request)
        except BaseException as error:
            call.end(error)
            raise
        return call.respond(response)

    def _passes_by(self, request: Any) -> bool:
        return is_served(_carrier(request)) or self._options.is_ignored(request, request.path_info)

    def _outside(self, request: Any) -> AbstractContextManager[None]:
        """Return what an ignored path runs in: no request, not one that was left behind either."""
        return nullcontext() if is_served(_carrier(request)) else in_no_request()

    def _told(self, request: Any, response: R) -> R:
        _tell(request)
        return response


class _Call:
    """One request on its way through the middleware, until its response has been made."""

    __slots__ = ("_options", "_request", "_server_request")

    def __init__(self, options: ServerOptions, request: Any) -> None:
        self._options = options
        self._request = request
        carrier = _carrier(request)
        self._server_request = HttpRequest(options.choose(request.headers.get), carrier, carrier.get("headers"))
        self._server_request.measurement = _instruments.begin(
            options.metrics,
            method=request.method or "",
            scheme=request.scheme or "http",
            version=_version(request),
            is_active_counted=not django_counts(request),
        )

    def respond(self, response: Any) -> Any:
        self._server_request.status = response.status_code
        self._echo(response)
        self._server_request.response_starts()
        if getattr(response, "streaming", False) and not hasattr(response, "file_to_stream"):
            parts = response.streaming_content
            response.streaming_content = self._async_parts(parts) if response.is_async else self._parts(parts)
            self._server_request.leave(is_over=False)
        else:
            self.end()
        return response

    def _echo(self, response: Any) -> None:
        options = self._options
        header = options.echo_name(options.came_in(self._request.headers.get))
        if header is not None:
            response[header] = self._server_request.request_id
            if options.expose:
                response[_EXPOSE] = exposed(response.get(_EXPOSE), header)

    def _parts(self, parts: Iterator[Any]) -> Iterator[Any]:
        """Make each part of a stream inside the request."""
        with self._streaming() as step:
            iterator = iter(parts)
            while True:
                with step:
                    try:
                        part = next(iterator)
                    except StopIteration:
                        return
                yield part

    async def _async_parts(self, parts: AsyncIterator[Any]) -> AsyncIterator[Any]:
        with self._streaming() as step:
            iterator = aiter(parts)
            while True:
                with step:
                    try:
                        part = await anext(iterator)
                    except StopAsyncIteration:
                        return
                yield part

    @contextmanager
    def _streaming(self) -> Generator[_Step]:
        error: BaseException | None = None
        try:
            yield _Step(self._server_request.context)
        except GeneratorExit:
            raise
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._answered(error)
            self._server_request.leave()

    def end(self, error: BaseException | None = None) -> None:
        self._answered(error)
        self._server_request.leave(error)

    def _answered(self, error: BaseException | None) -> None:
        self._server_request.is_measured = django_measures(self._request)
        self._server_request.answered(self._request.method or "", lambda: _route(self._request), error)


class _Step:
    """The Context that each part of a response is made in: what the part before has left."""

    __slots__ = ("_before", "_within")

    def __init__(self, context: Context) -> None:
        self._within = context

    def __enter__(self) -> None:
        self._before = get_current()
        make_current(self._within)

    def __exit__(self, *raised: object) -> None:
        self._within = get_current()
        make_current(self._before)


def _given() -> dict[str, Any]:
    """Return what the setting has; the middleware's keywords are its keys."""
    given = getattr(settings, _SETTING, {})
    if not isinstance(given, dict):
        raise TypeError(f"{_SETTING} takes a dictionary of keywords, not {given!r}")
    unknown = sorted(map(str, given.keys() - set(_KEYS)))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    if unknown:
        raise ValueError(f"{_SETTING} has no key {', '.join(unknown)}; allowed are {', '.join(_KEYS)}")
    return given  # pyright: ignore[reportUnknownVariableType]


def _carrier(request: Any) -> Carrier:
    """Return the ASGI scope or the WSGI environ that the request was made of."""
    scope = getattr(request, "scope", None)
    return request.META if scope is None else scope  # type: ignore[no-any-return]


def _version(request: Any) -> str | None:
    scope = getattr(request, "scope", None)
    if scope is not None:
        return scope.get("http_version")  # type: ignore[no-any-return]
    return str(request.META.get("SERVER_PROTOCOL", "")).removeprefix("HTTP/")


def _tell(request: Any) -> None:
    """Tell our middleware outside of Django what only Django knows."""
    cell = bound_cell(_carrier(request))
    if isinstance(cell, HttpRequest):
        cell.route = _route(request)
        cell.is_measured = cell.is_measured or django_measures(request)


def _route(request: Any) -> str | None:
    """Return the template of the view's route, those that include it in front, with a slash before it."""
    route = getattr(getattr(request, "resolver_match", None), "route", None)
    return "/" + route.removeprefix("^").removeprefix("/") if isinstance(route, str) else None
