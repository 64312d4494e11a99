"""The request ID for any ASGI application: a pure ASGI middleware that needs no framework.

```python
app = clew.integrations.asgi.RequestMiddleware(app)
```
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from clew.integrations._shared.auto_instrument import Middleware
from clew.integrations._shared.http_metrics import HttpInstruments
from clew.integrations._shared.routes import route_template
from clew.integrations._shared.server_options import HttpArguments, ServerOptions, exposed, server_options
from clew.integrations._shared.server_request import HttpRequest, in_no_request, is_served, leave_other_of_connection
from clew.propagation.cell import CARRIER_KEY

if TYPE_CHECKING:
    from typing_extensions import Unpack

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_EXPOSE = b"access-control-expose-headers"
_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")

_instruments = HttpInstruments(__name__)


class AsgiArguments(HttpArguments, total=False):
    """The keywords of `RequestMiddleware`."""

    ignore: Iterable[str] | Callable[[Scope], bool]


class RequestMiddleware(Middleware):
    """Makes each HTTP call and each websocket of an ASGI application a request.

    Args:
        app: The ASGI application.
        headers: The header names that an ID is accepted in, one or several; the first that is there counts. None for
            the configured one (``X-Request-ID``).
        validator: Called with the text of the header; the ID is accepted only where the result is true.
        transformer: Called with the ID, accepted or made; returns the one to use.
        generator: Makes the ID of a request that brings none.
        trust: Whether incoming IDs are accepted; None for what is configured (``CLEW_TRUST_REQUEST_ID``).
        echo: Whether the response carries the ID: True in the header of the request, or the name of another header.
        expose: Whether ``Access-Control-Expose-Headers`` lets scripts of other origins read that header.
        update_request_headers: Whether the application sees the ID in the headers of the request too.
        ignore: Paths (exact ones, or a callable that gets the scope) that are passed on as if there were no middleware.
        metrics: Whether ``http.server.request.duration`` and ``http.server.active_requests`` are recorded: True, False,
            or ``"auto"`` for each request that nobody else measures.

    What a callable returns is checked; an error of one is logged once, and a fresh ID is used. The request lasts until
    the application returns, background tasks included; its HTTP duration ends with the last part of the body.

    Raises:
        TypeError, ValueError: A keyword has a value that it does not take.
    """

    def __init__(self, app: ASGIApp, **options: Unpack[AsgiArguments]) -> None:
        self.app = app
        self._options = server_options(f"{__name__}.RequestMiddleware", options, AsgiArguments.__optional_keys__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for one connection."""
        kind = scope["type"]
        if (kind != "http" and kind != "websocket") or (CARRIER_KEY in scope and is_served(scope)):
            await self.app(scope, receive, send)
            return
        leave_other_of_connection(scope)
        options = self._options
        if options.ignore and options.is_ignored(scope, scope.get("path")):
            with in_no_request():
                await self.app(scope, receive, send)
            return
        call = _Call(options, scope, receive, send)
        if options.update_request_headers:
            call.update_request_headers()
        if kind == "http":
            call.measure(self.app)
        error: BaseException | None = None
        try:
            await self.app(scope, call.receive, call.send)
        except BaseException as left:
            error = left
            raise
        finally:
            call.end(error)
            error = None


@lru_cache(maxsize=64)
def _field(name: str) -> bytes:
    """Return the name of a header as ASGI messages have it."""
    return name.lower().encode("latin-1")


class _Call:
    """One connection on its way through the middleware."""

    # the values that each of them begins with, kept once for all of them
    _has_trailers = False
    _is_disconnected = False

    def __init__(self, options: ServerOptions, scope: Scope, receive: Receive, send: Send) -> None:
        self._options = options
        self._scope = scope
        self._receive = receive
        self._send = send
        given: Any = scope.get("headers")
        if not isinstance(given, (list, tuple)):  # it may be any iterable, and is read more than once
            scope["headers"] = list(given or ())
        self._came_in = options.came_in(self._header)
        self._request_id = options.choose(self._header)
        self._request = HttpRequest(self._request_id, scope, scope["headers"], is_held=scope["type"] == "http")
        self._request.client = scope.get("client")

    def _header(self, name: str) -> str | None:
        wanted = _field(name)
        length = len(wanted)
        for key, value in self._scope["headers"]:
            if len(key) == length and key.lower() == wanted:
                return bytes(value).decode("latin-1")
        return None

    def update_request_headers(self) -> None:
        name = _field(self._options.header_names()[0])
        kept = [(key, value) for key, value in self._scope["headers"] if key.lower() != name]
        self._scope["headers"] = [*kept, (name, self._request_id.encode("ascii"))]

    def measure(self, app: ASGIApp) -> None:
        scope = self._scope
        self._request.measurement = _instruments.begin(
            self._options.metrics,
            method=scope.get("method", ""),
            scheme=scope.get("scheme", "http"),
            version=scope.get("http_version"),
            app=app,
            scope=scope,
        )

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._is_disconnected = True
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in _STARTS:
            self._request.status = message.get("status")
            if "trailers" in message:
                self._has_trailers = bool(message["trailers"])
            message = self._echoed(message)
            self._request.response_starts()
        try:
            await self._send(message)
        except OSError:  # by the ASGI specification: the client has gone
            self._is_disconnected = True
            raise
        if self._request.is_observed and self._is_last(kind, message):
            self._answered(self._unhandled())

    def _unhandled(self) -> BaseException | None:
        """Return the exception that the server answers with a 500, where that is no answer of the application's own.

        An HTTPException is an answer, and so is what a handler of the application's makes of its own exceptions.
        """
        error = sys.exc_info()[1] if self._request.status == 500 else None
        return None if getattr(error, "status_code", None) == 500 else error

    def _is_last(self, kind: str, message: Message) -> bool:
        if kind == "http.response.body":
            return not message.get("more_body") and not self._has_trailers
        if kind == "http.response.trailers":
            return not message.get("more_trailers")
        if kind == "http.response.zerocopysend":
            return not message.get("more_body") and not self._has_trailers
        return kind == "http.response.pathsend"

    def _echoed(self, message: Message) -> Message:
        name = self._options.echo_name(self._came_in)
        if name is None:
            return message
        key = _field(name)
        length = len(key)
        headers: list[tuple[bytes, bytes]] = list(message.get("headers") or ())
        for header in headers:
            if len(header[0]) == length and header[0].lower() == key:
                headers = [header for header in headers if header[0].lower() != key]
                break
        headers.append((key, self._request_id.encode("ascii")))
        if self._options.expose:
            readable = [bytes(header[1]).decode("latin-1") for header in headers if header[0].lower() == _EXPOSE]
            headers = [header for header in headers if header[0].lower() != _EXPOSE]
            headers.append((_EXPOSE, exposed(", ".join(readable), name).encode("latin-1")))
        return {**message, "headers": headers}

    def end(self, error: BaseException | None) -> None:
        """The application has returned or raised."""
        is_failure = error is not None and not self._is_cut_off(error)
        if self._request.is_observed:
            self._answered(error, is_failure)
        self._request.leave(error if is_failure else None)

    def _answered(self, error: BaseException | None, is_failure: bool = True) -> None:
        """The last part of the body has been sent, or there will be none."""
        method = self._scope.get("method", "") if self._scope["type"] == "http" else None
        self._request.answered(method, self._route, error, is_failure=is_failure)

    def _route(self) -> str | None:
        return route_template(self._scope)

    def _is_cut_off(self, error: BaseException) -> bool:
        """Tell whether this is how an application ends whose client has gone."""
        kind = type(error)
        return self._is_disconnected and (
            isinstance(error, OSError) or kind.__name__ in ("CancelledError", "ClientDisconnect")
        )
