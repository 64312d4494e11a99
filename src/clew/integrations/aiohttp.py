"""The request ID for an aiohttp application, and in the calls of aiohttp's client.

```python
app = clew.integrations.aiohttp.instrument(web.Application())
session = clew.integrations.aiohttp.instrument(aiohttp.ClientSession())
```
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

from clew.integrations._shared.auto_instrument import patch
from clew.integrations._shared.http_metrics import HttpInstruments
from clew.integrations._shared.other_instrumentations import AIOHTTP, Measurers, aiohttp_measures
from clew.integrations._shared.outgoing import inject
from clew.integrations._shared.server_options import HttpArguments, ServerOptions, check_names, exposed, server_options
from clew.integrations._shared.server_request import HttpRequest, in_no_request, is_served
from clew.propagation.cell import CARRIER_KEY, CarrierCell
from clew.propagation.redirects import redirect_target

try:
    _aiohttp: Any = import_module("aiohttp")
    _web: Any = import_module("aiohttp.web")
except ImportError as error:
    raise ImportError("clew.integrations.aiohttp needs aiohttp: pip install 'clew[aiohttp]'") from error

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["instrument", "instrument_all"]

Target = TypeVar("Target")

_EXPOSE = "Access-Control-Expose-Headers"

_instruments = HttpInstruments(__name__)


class AiohttpArguments(HttpArguments, total=False):
    """The keywords of `instrument` for an application."""

    ignore: Iterable[str] | Callable[[Any], bool]


def instrument(target: Target, **options: Unpack[AiohttpArguments]) -> Target:
    """Make each call of an application a request, or let a client session send the ID of the current request.

    An `aiohttp.web.Application` gets a middleware outside of all that it has, those of other instrumentations included.
    The keywords are those of `clew.integrations.asgi.RequestMiddleware`; a callable `ignore` gets the
    `aiohttp.web.Request`. The response carries the ID, the answer to an unhandled exception too. A request ends when
    its handler returns.

    An `aiohttp.ClientSession` sends the ID with each call, redirects included, to hosts that may have it. It takes no
    keywords.

    Returns:
        `target`, the same object.

    Raises:
        TypeError: `target` is neither, or a keyword has a value that it does not take.
        ValueError: A keyword has a value that it does not take, or the application is instrumented already.
        RuntimeError: The application has started.
    """
    owner = f"{__name__}.instrument"
    check_names(owner, options, AiohttpArguments.__optional_keys__)
    if isinstance(target, _aiohttp.ClientSession):
        _instrument_session(cast("Any", target))
        return target
    if not isinstance(target, _web.Application):
        raise TypeError(
            f"instrument() takes an aiohttp.web.Application or an aiohttp.ClientSession, not {type(target).__name__}"
        )
    app: Any = target
    if any(isinstance(found, _Middleware) for found in app.middlewares):
        raise ValueError("this application is instrumented already")
    if app.frozen:
        raise RuntimeError("instrument() has to be called before the application starts")
    middleware = _Middleware(server_options(owner, options, AiohttpArguments.__optional_keys__))
    app.middlewares.insert(0, _web.middleware(middleware))
    app.on_response_prepare.append(middleware.prepare)
    return target


def instrument_all() -> None:
    """Instrument every application when it starts, and every client session that is made from now on.

    Applications have the middleware with its defaults. One that `instrument` is called for goes by that alone.
    """
    patch(_web.Application, "pre_freeze", _pre_freeze)
    patch(_aiohttp.ClientSession, "__init__", _made_session)


def _pre_freeze(pre_freeze: Callable[[Any], None]) -> Callable[[Any], None]:
    def pre_freeze_instrumented(self: Any) -> None:
        if not self.frozen and not any(isinstance(found, _Middleware) for found in self.middlewares):
            instrument(self)
        pre_freeze(self)

    return pre_freeze_instrumented


def _made_session(make: Callable[..., None]) -> Callable[..., None]:
    def make_instrumented(self: Any, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        _instrument_session(self)

    return make_instrumented


# the server


class _Middleware:
    """The outermost middleware of one application, with the options that it was given."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options

    async def __call__(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Run the handler for one request."""
        if is_served(request):
            return await handler(request)
        options = self._options
        if options.is_ignored(request, request.path):
            with in_no_request():
                return await handler(request)
        _make_known(request)
        request_id = options.choose(request.headers.get)
        is_http = request.headers.get("Upgrade", "").lower() != "websocket"
        server_request = HttpRequest(request_id, request, request.raw_headers, is_held=is_http)
        if is_http:
            server_request.measurement = _instruments.begin(
                options.metrics,
                method=request.method,
                scheme=request.scheme,
                version=f"{request.version.major}.{request.version.minor}",
                app=_Inside(request),
            )
        response: Any = None
        error: BaseException | None = None
        try:
            if options.update_request_headers:
                request = _with_header(request, options.header_names()[0], request_id)
            response = await handler(request)
            return response
        except BaseException as left:
            error = left
            raise
        finally:
            server_request.status = _status(response, error)
            failure = error if _is_failure(request, error) else None
            server_request.answered(request.method, lambda: _route(request), failure)
            server_request.leave(failure)
            error = failure = None

    async def prepare(self, request: Any, response: Any) -> None:
        """Put the ID on any response that is about to be sent."""
        name = self._options.echo_name(self._options.came_in(request.headers.get))
        cell = request.get(CARRIER_KEY)
        if name is None or not isinstance(cell, CarrierCell) or cell.request_id is None:
            return
        response.headers[name] = cell.request_id
        if self._options.expose:
            response.headers[_EXPOSE] = exposed(", ".join(response.headers.popall(_EXPOSE, ())), name)


class _Inside:
    """What measures a request inside of our middleware."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def look_for_measurers(self) -> Measurers:
        """Look at the middlewares of all applications that the request goes through."""
        apps: Iterable[Any] = getattr(self._request.match_info, "apps", ())
        if any(getattr(found, "__module__", None) == AIOHTTP for app in apps for found in app.middlewares):
            return aiohttp_measures(self._request)
        return Measurers()


def _status(response: Any, error: BaseException | None) -> int | None:
    """Return the status of what the server answers: an exception that is no answer may have a status of another one."""
    answer: Any = error if isinstance(error, _web.HTTPException) else response
    if answer is not None:
        return getattr(answer, "status", None)
    if isinstance(error, asyncio.TimeoutError):
        return 504
    return 500 if isinstance(error, Exception) else None


def _route(request: Any) -> str | None:
    """Return the template of the route, that of the applications it is mounted in included, or None."""
    canonical = getattr(request.match_info.route.resource, "canonical", None)
    return canonical if isinstance(canonical, str) and canonical else None


def _is_failure(request: Any, error: BaseException | None) -> bool:
    """Tell whether the request failed of an exception: an answer that is raised is none, nor is a client that left."""
    if error is None or isinstance(error, _web.HTTPException):
        return False
    is_cut_off = isinstance(error, OSError) or type(error).__name__ == "CancelledError"
    return not (is_cut_off and request.transport is None)


def _with_header(request: Any, name: str, request_id: str) -> Any:
    found = request.headers.copy()
    found[name] = request_id
    return request.clone(headers=found)


_is_known = False


def _make_known(request: Any) -> None:
    """Use the key once with the warning off that aiohttp has for the first use of each key that is a string.

    A string it has to be: the propagator looks for it in the carriers of all servers.
    """
    global _is_known
    if not _is_known:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            request[CARRIER_KEY] = None
        _is_known = True


# the client


def _instrument_session(session: Any) -> None:
    configs: list[Any] = session.trace_configs
    if not any(_before_call in config.on_request_start for config in configs):
        config = _aiohttp.TraceConfig()
        config.on_request_start.append(_before_call)
        config.on_request_redirect.append(_before_redirect)
        config.freeze()
        configs.append(config)


async def _before_call(_session: Any, _context: Any, call: Any) -> None:
    inject(call.headers, str(call.url))


async def _before_redirect(_session: Any, _context: Any, call: Any) -> None:
    """The same headers go on to where the response points."""
    inject(call.headers, redirect_target(call.url, call.response))
