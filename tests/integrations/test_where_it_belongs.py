"""A request stays with what it is for: several entries at a time, pipelined requests, paths that are ignored."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clew
from clew.integrations import asgi, wsgi


@given(st.lists(st.integers(0, 3), min_size=1, max_size=24))
@settings(deadline=None)
def test_tasks_that_share_an_object_each_have_their_own_id(turns: list[int]) -> None:
    shared = clew.request()

    async def worker(turn: asyncio.Queue[None], done: asyncio.Queue[None]) -> None:
        while True:
            await turn.get()
            assert clew.request_id() is None
            with shared as name:
                assert clew.request_id() == name
                done.put_nowait(None)
                await turn.get()
                assert clew.request_id() == name
            assert clew.request_id() is None
            done.put_nowait(None)

    async def main() -> None:
        queues = [(asyncio.Queue[None](), asyncio.Queue[None]()) for _ in range(4)]
        tasks = [asyncio.create_task(worker(*pair)) for pair in queues]
        for number in turns:
            turn, done = queues[number]
            turn.put_nowait(None)
            got = asyncio.ensure_future(done.get())
            await asyncio.wait([got, tasks[number]], return_when=asyncio.FIRST_COMPLETED)
            if not got.done():
                tasks[number].result()
        for task in tasks:
            task.cancel()

    asyncio.run(main())


@given(st.lists(st.integers(0, 2), max_size=20))
@settings(deadline=None)
def test_generators_that_share_an_object_leave_nothing_behind(turns: list[int]) -> None:
    shared = clew.request()

    def steps() -> Iterator[None]:
        while True:
            with shared:
                yield
            yield

    def run() -> None:
        generators = [steps() for _ in range(3)]
        for number in turns:
            next(generators[number])
        for generator in generators:
            generator.close()
        found.append(clew.request_id())

    found: list[str | None] = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [None]


def test_threads_and_nested_entries_that_share_an_object() -> None:
    shared = clew.request()
    inside, leave = threading.Event(), threading.Event()
    seen: list[tuple[str, str | None]] = []

    def other() -> None:
        with shared as name:
            inside.set()
            leave.wait(10)
            seen.append((name, clew.request_id()))

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    with ExitStack() as stack:
        outer = stack.enter_context(shared)
        with shared as inner:
            assert clew.request_id() == inner != outer
        assert clew.request_id() == outer
    leave.set()
    thread.join()
    assert clew.request_id() is None
    assert seen[0][0] == seen[0][1]


def test_the_advice_for_generators_holds() -> None:
    with pytest.raises(TypeError, match="without a yield"):

        @clew.request()
        def steps() -> Iterator[None]:
            yield


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_pipelined_requests_on_uvicorn_are_apart(http: str) -> None:
    uvicorn = pytest.importorskip("uvicorn")
    after: list[str | None] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body = str(clew.request_id()).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        await asyncio.sleep(0.01)  # a background task: the next request begins meanwhile

    middleware = asgi.RequestMiddleware(application, ignore=["/ignored"])

    async def outermost(scope: Any, receive: Any, send: Any) -> None:
        await middleware(scope, receive, send)
        after.append(clew.request_id())

    server = uvicorn.Server(uvicorn.Config(outermost, port=0, http=http, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        paths = [("/a", "id-1"), ("/ignored", None), ("/b", "id-2"), ("/ignored", "id-3"), ("/c", "id-4")]
        lines = []
        for path, name in paths:
            lines += [f"GET {path} HTTP/1.1", "Host: x", *([f"X-Request-ID: {name}"] if name else []), ""]
        text = "\r\n".join(lines) + "\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(text.encode())
            answered = b""
            while answered.count(b"HTTP/1.1 200") < 5 or not answered.endswith(b"id-4"):
                piece = connection.recv(65536)
                assert piece, answered
                answered += piece
    finally:
        server.should_exit = True
        thread.join(30)
    bodies = [part.rsplit(b"\r\n\r\n", 1)[1].decode() for part in answered.split(b"HTTP/1.1 200")[1:]]
    assert bodies == ["id-1", "None", "id-2", "None", "id-4"]
    assert after == [None] * 5


def test_an_ignored_path_runs_in_no_request_under_wsgi_either() -> None:
    seen: list[str | None] = []

    def application(environ: Any, start_response: Any) -> Any:
        seen.append(clew.request_id())
        return []

    middleware = wsgi.RequestMiddleware(application, ignore=["/ignored"])
    with clew.request() as name:
        middleware({"PATH_INFO": "/ignored"}, None)
        assert clew.request_id() == name
    assert seen == [None]


@pytest.mark.parametrize("middleware", [asgi.RequestMiddleware, wsgi.RequestMiddleware])
def test_a_path_without_a_slash_is_refused(middleware: Any) -> None:
    with pytest.raises(ValueError, match="begin with a slash"):
        middleware(lambda *_: None, ignore=["no-guid"])


@pytest.mark.parametrize(
    "function",
    [
        "asgi.RequestMiddleware",
        "wsgi.RequestMiddleware",
        "starlette.instrument",
        "flask.instrument",
        "aiohttp.instrument",
        "grpc.server_interceptor",
        "grpc.aio_server_interceptor",
    ],
)
def test_a_keyword_that_is_not_known_is_refused_by_the_name_of_the_function(function: str) -> None:
    module, _, name = function.partition(".")
    if module not in ("asgi", "wsgi"):
        pytest.importorskip(module)
    take = getattr(importlib.import_module(f"clew.integrations.{module}"), name)
    arguments = () if module == "grpc" else (lambda *_: None,)
    with pytest.raises(TypeError) as raised:
        take(*arguments, header="X-Request-ID")
    assert str(raised.value) == f"clew.integrations.{function}() got an unexpected keyword argument 'header'"


def test_a_request_that_is_over_is_kept_by_nothing_of_ours() -> None:
    served: list[weakref.ref[Any]] = []

    async def asgi_application(scope: Any, receive: Any, send: Any) -> None:
        served.append(weakref.ref(scope["clew.request"]))
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    def wsgi_application(environ: Any, start_response: Any) -> Any:
        served.append(weakref.ref(environ["clew.request"]))
        start_response("200 OK", [])
        return [b""]

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        assert message

    gc.collect()
    gc.disable()
    try:
        asyncio.run(asgi.RequestMiddleware(asgi_application)({"type": "http", "path": "/"}, receive, send))
        body: Any = wsgi.RequestMiddleware(wsgi_application)({"PATH_INFO": "/"}, lambda *_: None)
        assert list(body) == [b""]
        body.close()
        del body
        assert [request() for request in served] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("came_in", ["X-First", "X-Second"])
def test_the_echo_is_in_the_header_that_the_id_came_in(came_in: str) -> None:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return []

    answered: list[Any] = []
    middleware = wsgi.RequestMiddleware(application, headers=["X-First", "X-Second"])
    environ = {"PATH_INFO": "/", "HTTP_" + came_in.upper().replace("-", "_"): "id-1"}
    middleware(environ, lambda status, headers: answered.extend(headers))
    assert answered == [(came_in, "id-1")]


def test_our_logger_logs_though_logging_config_has_disabled_it() -> None:
    logged = subprocess.run(
        [
            sys.executable,
            "-c",
            "import clew, logging.config\n"
            "handlers = {'console': {'class': 'logging.StreamHandler'}}\n"
            "logging.config.dictConfig({'version': 1, 'handlers': handlers, 'root': {'handlers': ['console']}})\n"
            "assert logging.getLogger('clew').disabled\n"
            "with clew.request('no id'): pass",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stderr
    assert "The request ID 'no id' is not valid" in logged


def test_an_extra_does_not_name_the_event(logged: Any) -> None:
    logging.getLogger("shop").warning("told", extra={"otel.event.name": "boom", "event.name": "mine"})
    attributes = logged.one("told").attributes
    assert "otel.event.name" not in attributes
    assert attributes["event.name"] == "mine"
