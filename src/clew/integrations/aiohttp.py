"""The request ID for an aiohttp application, and onwards with aiohttp's client.

```python
app = clew.integrations.aiohttp.instrument(web.Application())
session = clew.integrations.aiohttp.instrument(aiohttp.ClientSession())
```
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module
from types import FrameType
from typing import Any, Literal, TypeVar, cast

from clew.integrations._shared.auto_instrument import patch
from clew.integrations._shared.http_metrics import HttpInstruments, HttpMeasurement, not_measured
from clew.integrations._shared.incoming import check_metrics, exposed, ignored, incoming, is_ignored
from clew.integrations._shared.other_instrumentations import AIOHTTP, Measurers, aiohttp_measures
from clew.integrations._shared.outgoing import inject
from clew.integrations._shared.server_request import ServerRequest, in_no_request, is_served
from clew.propagation.propagator import CARRIER_KEY, CarrierCell
from clew.propagation.redirects import redirect_target

try:
    _aiohttp: Any = import_module("aiohttp")
    _web: Any = import_module("aiohttp.web")
except ImportError as error:
    raise ImportError("clew.integrations.aiohttp needs aiohttp: pip install 'clew[aiohttp]'") from error

__all__ = ["instrument", "instrument_all"]

Target = TypeVar("Target")

_EXPOSE = "Access-Control-Expose-Headers"

_instruments = HttpInstruments(__name__)


def instrument(
    target: Target,
    *,
    headers: str | Iterable[str] | None = None,
    validator: Callable[[str], object] | None = None,
    transformer: Callable[[str], str] | None = None,
    generator: Callable[[], str] | None = None,
    trust: bool | None = None,
    echo: bool | str = True,
    expose: bool = False,
    update_request_headers: bool = False,
    ignore: Iterable[str] | Callable[[Any], bool] = (),
    metrics: bool | Literal["auto"] = "auto",
) -> Target:
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
    middleware = _Middleware(
        headers=headers,
        validator=validator,
        transformer=transformer,
        generator=generator,
        trust=trust,
        echo=echo,
        expose=expose,
        update_request_headers=update_request_headers,
        ignore=ignore,
        metrics=metrics,
    )
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

    def __init__(self, *, update_request_headers: bool, ignore: Any, metrics: Any, **options: Any) -> None:
        owner = f"{__name__}.instrument"
        self._incoming = incoming(owner, **options)
        self._update_request_headers = update_request_headers
        self._ignore = ignored(owner, ignore)
        self._metrics = check_metrics(owner, metrics)

    async def __call__(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Run the handler for one request."""
        if is_served(request):
            return await handler(request)
        if is_ignored(self._ignore, request, request.path):
            with in_no_request():
                return await handler(request)
        _make_known(request)
        request_id = self._incoming.choose(request.headers.get)
        served = ServerRequest(request_id, request, request.raw_headers, is_held=not _is_websocket(request))
        measurement = self._measured(request, inspect.currentframe())
        response: Any = None
        error: BaseException | None = None
        try:
            if self._update_request_headers:
                request = _with_header(request, self._incoming.header_names()[0], request_id)
            response = await handler(request)
            return response
        except BaseException as left:
            error = left
            raise
        finally:
            status: int | None = getattr(error if response is None else response, "status", None)
            if error is not None and status is None and isinstance(error, Exception):
                status = 500  # what the server answers
            is_failure = _is_failure(request, error)
            if measurement is not None:
                _end(measurement, served, request, status, error, is_failure=is_failure)
            if served.is_followed:
                served.end(
                    error=error if is_failure else None, status=status, method=request.method, route=_route(request)
                )
            failed = status is not None and status >= 500
            served.leave(error if is_failure else None, str(status) if failed else None)
            error = None

    def _measured(self, request: Any, frame: FrameType | None) -> HttpMeasurement | None:
        if self._metrics is False or _is_websocket(request):
            return None
        try:
            instruments = _instruments.get()
            if instruments is None:
                return None
            return HttpMeasurement(
                instruments,
                method=request.method,
                scheme=request.scheme,
                version=f"{request.version.major}.{request.version.minor}",
                is_auto=self._metrics == "auto",
                frame=frame,
                app=_Inside(request),
            )
        except Exception as trouble:
            not_measured(trouble)
            return None

    async def prepare(self, request: Any, response: Any) -> None:
        """Put the ID on a response that is about to be sent, whoever has made it."""
        name = self._incoming.echo_name(self._incoming.came_in(request.headers.get))
        cell = request.get(CARRIER_KEY)
        if name is None or not isinstance(cell, CarrierCell) or cell.request_id is None:
            return
        response.headers[name] = cell.request_id
        if self._incoming.expose:
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


def _end(
    measurement: HttpMeasurement,
    served: ServerRequest,
    request: Any,
    status: int | None,
    error: BaseException | None,
    *,
    is_failure: bool,
) -> None:
    try:
        measurement.end(
            status=status,
            route=_route(request),
            error=error if is_failure else None,
            is_measured=served.is_measured,
            context=served.context,
        )
    except Exception as trouble:
        not_measured(trouble)


def _is_websocket(request: Any) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"  # type: ignore[no-any-return]


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
