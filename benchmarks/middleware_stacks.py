"""The contestants of `python -m benchmarks.middleware`: one application each, inside a middleware or inside none.

All do the same: accept the request ID or make one, put it on the response, put it on the one log record that the
application makes. The record goes to a handler that only checks whether the ID is there.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from time import thread_time_ns
from typing import Any

GIVEN = "f47ac10b58cc4372a5670e02b2c3d479"
"""The request ID that comes in; a UUID, since the others accept nothing but UUIDs by default."""

HEADER = "x-request-id"


class Sink(logging.Handler):
    """Receives records, and remembers the ID of the last one."""

    def __init__(self, attribute: str = "request_id", *filters: Any) -> None:
        super().__init__()
        self.attribute = attribute
        self.seen: object = None
        for each in filters:
            self.addFilter(each)

    def emit(self, record: logging.LogRecord) -> None:
        self.seen = getattr(record, self.attribute, None)


@dataclass(frozen=True, eq=False)
class Stack:
    """One contestant.

    Attributes:
        interface: ``asgi``, ``wsgi`` or ``django``.
        key: Its name in JSON.
        label: In the table.
        turn: Serves as many requests, with or without an ID that comes in, and returns nanoseconds of processor time.
        answer: Serves one, and returns the ID on the response and the ID on the record.
        application: To be served by a real server.
        is_measured: Whether each request is a point of ``http.server.request.duration``.
    """

    interface: str
    key: str
    label: str
    turn: Callable[[int, bool], int]
    answer: Callable[[bool], tuple[str | None, object]]
    application: Any
    is_measured: bool = False


_loop = asyncio.new_event_loop()


def logger_of(key: str, sink: Sink) -> logging.Logger:
    """Return the logger of one application, whose records go to `sink` alone."""
    logger = logging.getLogger(f"middleware.{key}")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(sink)
    return logger


# ----------------------------------------------------------------------------------------------------------------- ASGI

_REQUEST_HEADERS = [(b"host", b"127.0.0.1:8000"), (b"user-agent", b"bench/1"), (b"accept", b"*/*")]
_SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.4"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/orders/7",
    "raw_path": b"/orders/7",
    "query_string": b"",
    "root_path": "",
    "server": ("127.0.0.1", 8000),
    "client": ("127.0.0.1", 50000),
}


def asgi_application(key: str, sink: Sink) -> Any:
    """Return the application inside; it logs once and answers."""
    info = logger_of(key, sink).info

    async def application(scope: Any, receive: Any, send: Any) -> None:
        info("read an order")
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    return application


def _asgi(key: str, label: str, app: Any, sink: Sink, is_measured: bool = False) -> Stack:
    scopes = {
        False: {**_SCOPE, "headers": _REQUEST_HEADERS},
        True: {**_SCOPE, "headers": [*_REQUEST_HEADERS, (HEADER.encode(), GIVEN.encode())]},
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    async def keep(message: Any) -> None:
        sent.append(message)

    async def serve(count: int, scope: dict[str, Any]) -> int:
        started = thread_time_ns()
        for _ in range(count):
            await app(scope.copy(), receive, send)
        return thread_time_ns() - started

    def turn(count: int, is_given: bool) -> int:
        return _run(serve(count, scopes[is_given]))  # type: ignore[no-any-return]

    def answer(is_given: bool) -> tuple[str | None, object]:
        sent.clear()
        _run(app(scopes[is_given].copy(), receive, keep))
        echoed = dict(sent[0]["headers"]).get(HEADER.encode())
        return (None if echoed is None else echoed.decode()), sink.seen

    return Stack("asgi", key, label, turn, answer, app, is_measured)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return contextvars.Context().run(_loop.run_until_complete, work)


current: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)


class CurrentFilter(logging.Filter):
    """The filter of the hand-written middleware."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = current.get()
        return True


class HandWrittenAsgi:
    """What an expert would write: a context variable, no checks but the characters, no options."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        import uuid

        name = None
        for key, value in scope["headers"]:
            if key == b"x-request-id":
                name = value.decode("latin-1")
                break
        if name is None or not name.isalnum():
            name = uuid.uuid4().hex
        token = current.set(name)
        header = (b"x-request-id", name.encode("ascii"))

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append(header)
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            current.reset(token)


def asgi_stacks() -> Iterator[Stack | str]:
    """Make the ASGI contestants; a text stands for one whose package is missing."""
    from clew.integrations.asgi import RequestMiddleware
    from clew.integrations.logging import RequestIdFilter

    sink = Sink()
    yield _asgi("asgi-bare", "no middleware", asgi_application("asgi-bare", sink), sink)
    sink = Sink("request_id", CurrentFilter())
    app = HandWrittenAsgi(asgi_application("asgi-by-hand", sink))
    yield _asgi("asgi-by-hand", "by hand, no checks", app, sink)
    try:
        from asgi_correlation_id import CorrelationIdFilter, CorrelationIdMiddleware

        sink = Sink("correlation_id", CorrelationIdFilter())
        app = CorrelationIdMiddleware(asgi_application("asgi-correlation-id", sink))
        yield _asgi("asgi-correlation-id", "asgi-correlation-id", app, sink)
    except ImportError:
        yield "asgi-correlation-id"
    try:
        from starlette_context import context
        from starlette_context.middleware import RawContextMiddleware
        from starlette_context.plugins import RequestIdPlugin

        class ContextFilter(logging.Filter):
            def filter(self, record: logging.LogRecord) -> bool:
                record.request_id = context.get("X-Request-ID")
                return True

        sink = Sink("request_id", ContextFilter())
        app = RawContextMiddleware(asgi_application("starlette-context", sink), plugins=(RequestIdPlugin(),))
        yield _asgi("starlette-context", "starlette-context", app, sink)
    except ImportError:
        yield "starlette-context"
    sink = Sink("request_id", RequestIdFilter())
    app = RequestMiddleware(asgi_application("clew-asgi", sink), metrics=False)
    yield _asgi("clew-asgi", "clew, metrics=False", app, sink)
    sink = Sink("request_id", RequestIdFilter())
    app = RequestMiddleware(asgi_application("clew-asgi-full", sink))
    yield _asgi("clew-asgi-full", "clew, HTTP metrics with exemplars", app, sink, is_measured=True)


# ----------------------------------------------------------------------------------------------------------------- WSGI


def environ() -> dict[str, Any]:
    """Return what a server makes of a request that brings no ID."""
    from wsgiref.util import setup_testing_defaults

    made: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/orders/7",
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_USER_AGENT": "bench/1",
        "HTTP_ACCEPT": "*/*",
    }
    setup_testing_defaults(made)
    return made


def wsgi_application(key: str, sink: Sink) -> Any:
    """Return the application inside; it logs once and answers."""
    info = logger_of(key, sink).info

    def application(environ: Any, start_response: Any) -> list[bytes]:
        info("read an order")
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]

    return application


def wsgi_stack(interface: str, key: str, label: str, app: Any, sink: Sink, is_measured: bool = False) -> Stack:
    environs = {False: environ(), True: {**environ(), "HTTP_X_REQUEST_ID": GIVEN}}
    found: list[Any] = []

    def start_response(status: str, headers: Any, *error: Any) -> Any:
        found[:] = headers

    def serve(count: int, given: dict[str, Any]) -> int:
        started = thread_time_ns()
        for _ in range(count):
            body = app(given.copy(), start_response)
            for _ in body:
                pass
            if hasattr(body, "close"):
                body.close()
        return thread_time_ns() - started

    def turn(count: int, is_given: bool) -> int:
        return contextvars.Context().run(serve, count, environs[is_given])

    def answer(is_given: bool) -> tuple[str | None, object]:
        turn(1, is_given)
        return {name.lower(): value for name, value in found}.get(HEADER), sink.seen

    return Stack(interface, key, label, turn, answer, app, is_measured)


class HandWrittenWsgi:
    """The same for WSGI; the ID stays until the next request, as in most such middlewares."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        import uuid

        name = environ.get("HTTP_X_REQUEST_ID")
        if name is None or not name.isalnum():
            name = uuid.uuid4().hex
        current.set(name)

        def start_with_id(status: str, headers: Any, *error: Any) -> Any:
            headers.append(("X-Request-ID", name))
            return start_response(status, headers, *error)

        return self.app(environ, start_with_id)


def wsgi_stacks() -> Iterator[Stack | str]:
    """Make the WSGI contestants."""
    from clew.integrations.logging import RequestIdFilter
    from clew.integrations.wsgi import RequestMiddleware

    sink = Sink()
    yield wsgi_stack("wsgi", "wsgi-bare", "no middleware", wsgi_application("wsgi-bare", sink), sink)
    sink = Sink("request_id", CurrentFilter())
    app = HandWrittenWsgi(wsgi_application("wsgi-by-hand", sink))
    yield wsgi_stack("wsgi", "wsgi-by-hand", "by hand, no checks, never left", app, sink)
    sink = Sink("request_id", RequestIdFilter())
    app = RequestMiddleware(wsgi_application("clew-wsgi", sink), metrics=False)
    yield wsgi_stack("wsgi", "clew-wsgi", "clew, metrics=False", app, sink)
    sink = Sink("request_id", RequestIdFilter())
    app = RequestMiddleware(wsgi_application("clew-wsgi-full", sink))
    yield wsgi_stack("wsgi", "clew-wsgi-full", "clew, HTTP metrics with exemplars", app, sink, is_measured=True)
