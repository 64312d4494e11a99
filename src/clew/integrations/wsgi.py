"""The request ID for any WSGI application: a middleware that needs no framework.

```python
application = clew.integrations.wsgi.RequestMiddleware(application)
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context, get_current

from clew.integrations._shared.auto_instrument import Middleware
from clew.integrations._shared.http_metrics import HttpInstruments, not_measured
from clew.integrations._shared.server_options import HttpArguments, ServerOptions, exposed, server_options
from clew.integrations._shared.server_request import HttpRequest, in_no_request, is_served
from clew.interpreter.current_context import make_current
from clew.propagation.cell import CARRIER_KEY

if TYPE_CHECKING:
    from typing_extensions import Unpack

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]
Route = Callable[[Environ], str | None]

_EXPOSE = "access-control-expose-headers"

_instruments = HttpInstruments(__name__)


def werkzeug_route(environ: Environ) -> str | None:
    """Return the template of the rule that Werkzeug's routing found for the request, or None."""
    rule = getattr(getattr(environ.get("werkzeug.request"), "url_rule", None), "rule", None)
    return rule if isinstance(rule, str) else None


class WsgiArguments(HttpArguments, total=False):
    """The keywords of `RequestMiddleware` but ``route``."""

    ignore: Iterable[str] | Callable[[Environ], bool]


class RequestMiddleware(Middleware):
    """Makes each call of a WSGI application a request, which ends when the server closes the response.

    Args:
        app: The WSGI application.
        headers: The header names that an ID is accepted in, one or several; the first that is there counts. None for
            the configured one (``X-Request-ID``).
        validator: Called with the text of the header; the ID is accepted only where the result is true.
        transformer: Called with the ID, accepted or made; returns the one to use.
        generator: Makes the ID of a request that brings none.
        trust: Whether incoming IDs are accepted; None for what is configured (``CLEW_TRUST_REQUEST_ID``).
        echo: Whether the response carries the ID: True in the header of the request, or the name of another header.
        expose: Whether ``Access-Control-Expose-Headers`` lets scripts of other origins read that header.
        update_request_headers: Whether the application sees the ID in the headers of the request too.
        ignore: Paths (exact ones, or a callable that gets the environ) that are passed on as if there were no
            middleware.
        metrics: Whether ``http.server.request.duration`` and ``http.server.active_requests`` are recorded: True, False,
            or ``"auto"`` for each request that nobody else measures.
        route: Called with the environ while the response starts; returns the template of the route for ``http.route``,
            or None. By default the rule that Werkzeug's routing found (Flask), if it used any.

    What a callable returns is checked; an error of one is logged once, and a fresh ID is used. The response is
    passed on piece by piece, and what is made by ``wsgi.file_wrapper`` keeps its type.

    Raises:
        TypeError, ValueError: A keyword has a value that it does not take.
    """

    def __init__(self, app: WSGIApp, *, route: Route = werkzeug_route, **options: Unpack[WsgiArguments]) -> None:
        self.app = app
        self._options = server_options(f"{__name__}.RequestMiddleware", options, WsgiArguments.__optional_keys__)
        self._route = route

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Run the application for one request."""
        if CARRIER_KEY in environ and is_served(environ):
            return self.app(environ, start_response)
        options = self._options
        if options.ignore and options.is_ignored(environ, environ.get("PATH_INFO")):
            with in_no_request():
                return self.app(environ, start_response)
        call = _Call(options, environ, start_response, self._route)
        if options.update_request_headers:
            call.update_request_headers()
        call.measure(self.app)
        try:
            body = self.app(environ, call.start_response)
        except BaseException as error:
            call.end(error)
            raise
        return call.response(body)


class _Call:
    """One call of the application on its way through the middleware, until its response is closed."""

    __slots__ = (
        "_after_step",
        "_came_in",
        "_environ",
        "_is_ended",
        "_options",
        "_request",
        "_request_id",
        "_route",
        "_route_of",
        "_script_name",
        "_start_response",
    )

    def __init__(
        self, options: ServerOptions, environ: Environ, start_response: StartResponse, route_of: Route
    ) -> None:
        self._options = options
        self._environ = environ
        self._start_response = start_response
        self._route_of = route_of
        self._script_name = environ.get("SCRIPT_NAME", "")
        self._route: str | None = None
        self._is_ended = False
        self._after_step: Context
        self._came_in = options.came_in(self._header)
        self._request_id = options.choose(self._header)
        self._request = HttpRequest(self._request_id, environ)

    def _header(self, name: str) -> str | None:
        value = self._environ.get(_environ_key(name))
        return value if isinstance(value, str) else None

    def update_request_headers(self) -> None:
        self._environ[_environ_key(self._options.header_names()[0])] = self._request_id

    def measure(self, app: WSGIApp) -> None:
        environ = self._environ
        self._request.measurement = _instruments.begin(
            self._options.metrics,
            method=environ.get("REQUEST_METHOD", ""),
            scheme=environ.get("wsgi.url_scheme", "http"),
            version=environ.get("SERVER_PROTOCOL"),
            app=app,
        )

    def start_response(self, status: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
        request = self._request
        try:
            request.status = int(status[:3])
        except (TypeError, ValueError):
            request.status = None
        write = self._start_response(status, self._echoed(headers), *rest)
        request.response_starts()
        if request.is_observed:
            try:
                if self._environ.get("SCRIPT_NAME", "") == self._script_name:  # no mount was crossed on the way
                    self._route = self._route_of(self._environ)
            except Exception as error:
                not_measured(error)
        return write

    def _echoed(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        name = self._options.echo_name(self._came_in)
        if name is None:
            return headers
        key = name.lower()
        kept = [header for header in headers if header[0].lower() != key]
        kept.append((name, self._request_id))
        if self._options.expose:
            readable = [header[1] for header in kept if header[0].lower() == _EXPOSE]
            kept = [header for header in kept if header[0].lower() != _EXPOSE]
            kept.append(("Access-Control-Expose-Headers", exposed(", ".join(readable), name)))
        return kept

    def response(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """Return what the server is to send: `body` itself where it is the server's own file, else it step by step."""
        self._after_step = get_current()
        self._request.wait(True)
        wrapper = self._environ.get("wsgi.file_wrapper")
        if isinstance(wrapper, type) and isinstance(body, wrapper):
            return self._file(body)
        return _SizedBody(self, body) if hasattr(body, "__len__") else _Body(self, body)

    def _file(self, body: Any) -> Iterable[bytes]:
        close = getattr(body, "close", None)

        def close_file() -> None:
            try:
                if close is not None:
                    close()
            finally:
                self.end()

        try:
            body.close = close_file
        except AttributeError:  # made by a server in C: nothing tells when it has been sent
            self.end()
        return body  # type: ignore[no-any-return]

    def step(self, iterator: Iterator[bytes]) -> bytes:
        """Take the next piece of the body in the Context that the piece before left."""
        before = get_current()
        is_here = before is self._after_step
        if not is_here:
            make_current(self._after_step)
        self._request.wait(False)
        try:
            return next(iterator)
        finally:
            self._request.wait(True)
            self._after_step = get_current()
            if not is_here:
                make_current(before)

    def body_ends(self, error: BaseException | None = None) -> None:
        """The last piece has been taken, or taking one failed: here ends the HTTP duration."""
        if self._request.is_observed:
            self._request.answered(
                self._environ.get("REQUEST_METHOD", ""),
                lambda: self._route,
                error,
                is_failure=not isinstance(error, GeneratorExit),
            )

    def end(self, error: BaseException | None = None) -> None:
        """Leave the request; the first call counts."""
        if self._is_ended:
            return
        self._is_ended = True
        self.body_ends(error)
        self._request.leave(error)


class _Body:
    """The body of a response, passed on as it comes."""

    __slots__ = ("_body", "_call", "_error", "_iterator")

    def __init__(self, call: _Call, body: Iterable[bytes]) -> None:
        self._call = call
        self._body = body
        self._iterator: Iterator[bytes] | None = None
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._iterator is None:
                self._iterator = iter(self._body)
            return self._call.step(self._iterator)
        except StopIteration:
            self._call.body_ends()
            raise
        except BaseException as error:
            self._error = error
            self._call.body_ends(error)
            raise

    def close(self) -> None:
        """Close the application's own body, then leave the request."""
        error, self._error = self._error, None
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._call.end(error)

    def __del__(self) -> None:
        self._call.end(self._error)  # of a server that does not close what it sends


class _SizedBody(_Body):
    """A body whose number of pieces is known: servers derive the length of a single piece from it."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def _environ_key(header: str) -> str:
    return "HTTP_" + header.upper().replace("-", "_")
