"""When the requests that servers answer and workers do are decided on, and what they count as failed."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from logs.conftest import Sent

import clew
from clew.integrations import asgi, wsgi

logger = logging.getLogger("shop")

Scope = dict[str, Any]


def texts_beginning(sent: Sent, *words: str) -> list[str]:
    """The texts that begin with these words: frameworks log too."""
    return [text for text in sent.texts() if str(text).startswith(words)]


def ask(app: Any, kind: str = "http", **more: Any) -> None:
    """Call an ASGI application as a server does."""
    scope: Scope = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/orders/17",
        "raw_path": b"/orders/17",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"test"), (b"x-request-id", b"r-1")],
        **more,
    }
    first = {"type": "http.request", "body": b"", "more_body": False}
    incoming = [first if kind == "http" else {"type": "websocket.connect"}]

    async def receive() -> Any:
        return incoming.pop() if incoming else {"type": f"{kind}.disconnect"}

    async def send(message: Any) -> None:
        pass

    with suppress(RuntimeError):
        contextvars.Context().run(asyncio.run, app(scope, receive, send))


def answering(status: int, seen: list[Any], sent: Sent, error: type[Exception] | None = None) -> Any:
    """An application that logs before its answer, while it is sent, and in the background."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        logger.info("before")
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        logger.info("between")
        if error is not None:
            raise error
        seen.append(sent.texts())
        await send({"type": "http.response.body", "body": b"b", "more_body": False})
        seen.append(sent.texts())
        logger.info("background of %s", clew.request_id())
        seen.append(sent.texts())

    return app


@pytest.mark.parametrize("metrics", ["auto", False])
def test_the_last_part_of_the_body_decides_and_the_background_follows(held: Sent, metrics: Any) -> None:
    seen: list[Any] = []
    ask(asgi.RequestMiddleware(answering(200, seen, held), metrics=metrics))
    assert seen == [[], [], []]
    ask(asgi.RequestMiddleware(answering(404, seen, held), metrics=metrics))
    assert held.texts() == []
    seen.clear()
    ask(asgi.RequestMiddleware(answering(500, seen, held), metrics=metrics))
    assert seen == [[], ["before", "between"], ["before", "between", "background of r-1"]]


def test_an_exception_that_leaves_an_asgi_application_keeps_its_request(held: Sent) -> None:
    ask(asgi.RequestMiddleware(answering(200, [], held, RuntimeError)))
    assert held.texts() == ["before", "between"]


def test_a_client_that_leaves_is_no_failure(held: Sent) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        logger.info("waiting")
        await receive()
        await receive()
        raise OSError("the client has gone")

    with suppress(OSError):
        ask(asgi.RequestMiddleware(app))
    assert held.texts() == []


def test_the_records_of_a_websocket_are_not_held(held: Sent) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        logger.info("connected")
        seen.append(held.texts())

    ask(asgi.RequestMiddleware(app), "websocket")
    assert seen == [["connected"]]


def test_fail_of_the_outermost_operation_of_an_endpoint_keeps_its_request(held: Sent) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with clew.measure("check out") as m:
            logger.info("checking out")
            m.fail("declined")
        await send({"type": "http.response.start", "status": 402, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    ask(asgi.RequestMiddleware(app))
    assert held.texts() == ["checking out"]


def serve(app: Any, **more: Any) -> list[bytes]:
    """Call a WSGI application as a server does, to the close of its response."""
    environ: dict[str, Any] = {"SERVER_PROTOCOL": "HTTP/1.1", "HTTP_X_REQUEST_ID": "r-1"}
    setup_testing_defaults(environ)
    environ.update(more)

    def call() -> list[bytes]:
        result = app(environ, lambda *_: None)
        try:
            return list(result)
        finally:
            if hasattr(result, "close"):
                result.close()

    return contextvars.Context().run(call)


def body(status: str, sent: Sent, seen: list[Any], error: type[Exception] | None = None) -> Any:
    class Body:
        def __init__(self) -> None:
            self.left = [b"b", b"a"]

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            logger.info("made")
            if error is not None:
                raise error
            if not self.left:
                raise StopIteration
            return self.left.pop()

        def close(self) -> None:
            seen.append(sent.texts())
            logger.info("closed")

    def app(environ: Any, start_response: Any) -> Any:
        logger.info("called")
        start_response(status, [])
        return Body()

    return app


@pytest.mark.parametrize("metrics", ["auto", False])
def test_the_last_piece_of_a_wsgi_body_decides_and_its_close_follows(held: Sent, metrics: Any) -> None:
    seen: list[Any] = []
    assert serve(wsgi.RequestMiddleware(body("200 OK", held, seen), metrics=metrics)) == [b"a", b"b"]
    assert held.texts() == []
    serve(wsgi.RequestMiddleware(body("503 no", held, seen), metrics=metrics))
    assert seen == [[], ["called", "made", "made", "made"]]
    assert held.texts() == ["called", "made", "made", "made", "closed"]


def test_an_exception_in_a_wsgi_application_keeps_its_request(held: Sent) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        logger.info("called")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        serve(wsgi.RequestMiddleware(app))
    with pytest.raises(RuntimeError):
        serve(wsgi.RequestMiddleware(body("200 OK", held, [], RuntimeError)))
    assert held.texts() == ["called", "called", "made", "closed"]


def test_fastapi_and_starlette_as_documented(held: Sent) -> None:
    fastapi = pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    import clew.integrations.fastapi

    app = fastapi.FastAPI()
    clew.integrations.fastapi.instrument(app)

    @app.get("/orders/{number}")
    def order(number: int) -> int:
        logger.info("looking for %d", number)
        return 100 // number

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/orders/7").status_code == 200
        assert client.get("/orders/x").status_code == 422
        assert texts_beginning(held, "looking") == []
        assert client.get("/orders/0").status_code == 500
    assert texts_beginning(held, "looking") == ["looking for 0"]


def test_flask_as_documented(held: Sent) -> None:
    flask = pytest.importorskip("flask")
    import clew.integrations.flask

    app = flask.Flask(__name__)
    clew.integrations.flask.instrument(app)

    @app.get("/orders/<int:number>")
    def order(number: int) -> str:
        logger.info("looking for %d", number)
        return str(100 // number)

    client = app.test_client()
    assert client.get("/orders/7").status_code == 200
    assert texts_beginning(held, "looking") == []
    assert client.get("/orders/0").status_code == 500
    assert texts_beginning(held, "looking") == ["looking for 0"]


def test_aiohttp_as_documented(held: Sent) -> None:
    web = pytest.importorskip("aiohttp.web")
    from aiohttp.test_utils import TestClient, TestServer

    import clew.integrations.aiohttp

    async def order(request: Any) -> Any:
        number = int(request.match_info["number"])
        logger.info("looking for %d", number)
        return web.Response(text=str(100 // number))

    async def main() -> None:
        app = clew.integrations.aiohttp.instrument(web.Application())
        app.router.add_get("/orders/{number}", order)
        async with TestClient(TestServer(app)) as client:
            assert (await client.get("/orders/7")).status == 200
            assert held.texts() == []
            assert (await client.get("/orders/0")).status == 500

    asyncio.run(main())
    assert texts_beginning(held, "looking") == ["looking for 0"]


def test_grpc_as_documented(held: Sent) -> None:
    grpc = pytest.importorskip("grpc")
    from concurrent.futures import ThreadPoolExecutor

    from clew.integrations.grpc import server_interceptor

    def look(request: bytes, context: Any) -> bytes:
        logger.info("looking for %s", request.decode())
        if request == b"nothing":
            context.abort(grpc.StatusCode.NOT_FOUND, "nothing")
        if request == b"trouble":
            raise RuntimeError
        return request

    handler = grpc.method_handlers_generic_handler("Stock", {"Look": grpc.unary_unary_rpc_method_handler(look)})
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[server_interceptor()])
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/Stock/Look")
            assert call(b"tea", timeout=20) == b"tea"
            for what in (b"nothing", b"trouble"):
                with pytest.raises(grpc.RpcError):
                    call(what, timeout=20)
    finally:
        server.stop(None).wait(20)
    assert texts_beginning(held, "looking") == ["looking for trouble"]


# workers


@pytest.fixture
def eager() -> Iterator[Callable[[Callable[..., Any]], Any]]:
    """Make eager tasks of Celery."""
    celery = pytest.importorskip("celery")
    from clew.integrations.celery import instrument, uninstrument

    instrument()
    app = celery.Celery("orders", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    yield lambda function: app.task(shared=False, name=function.__name__)(function)
    uninstrument()


def test_a_task_that_fails_keeps_its_run_though_the_worker_catches_the_exception(
    held: Sent, eager: Callable[[Callable[..., Any]], Any]
) -> None:
    @eager
    def send_order(fails: bool) -> None:
        logger.info("sending")
        if fails:
            raise ValueError

    send_order.delay(False)
    assert texts_beginning(held, "sending") == []
    send_order.delay(True)
    assert texts_beginning(held, "sending") == ["sending"]


def test_an_eager_task_is_decided_on_with_the_request_that_asks_for_it(
    held: Sent, eager: Callable[[Callable[..., Any]], Any]
) -> None:
    @eager
    def send_order() -> None:
        logger.info("sending in %s", clew.request_id())

    with clew.request("r-1"):
        send_order.delay()
    assert texts_beginning(held, "sending") == []
    with suppress(ValueError), clew.request("r-2"):
        logger.info("asking")
        send_order.delay()
        raise ValueError
    assert texts_beginning(held, "asking", "sending") == ["asking", "sending in r-2"]


def test_a_run_that_will_be_retried_is_no_failure(held: Sent, eager: Callable[[Callable[..., Any]], Any]) -> None:
    from clew.integrations._shared.task_runs import TaskRun

    class Retry(Exception):
        pass

    def work() -> None:
        logger.info("working")
        raise Retry

    for expected in ((Retry,), ()):
        with suppress(Retry), TaskRun("work", expected=expected) as run:
            run.call(work)
    assert held.texts() == ["working"]
    with suppress(Retry), TaskRun("work", expected=(Retry,)) as run:
        run.call(work)
    assert held.texts() == ["working"]


def test_an_actor_of_dramatiq_that_fails_keeps_its_run(held: Sent) -> None:
    dramatiq = pytest.importorskip("dramatiq")
    from dramatiq.brokers.stub import StubBroker

    from clew.integrations.dramatiq import RequestMiddleware

    broker = StubBroker()
    broker.add_middleware(RequestMiddleware())
    broker.emit_after("process_boot")

    @dramatiq.actor(broker=broker, max_retries=0)
    def send_order(fails: bool) -> None:
        logger.info("sending %s", fails)
        if fails:
            raise ValueError

    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=50)
    worker.start()
    try:
        send_order.send(False)
        send_order.send(True)
        broker.join("default", fail_fast=False)
        worker.join()
    finally:
        worker.stop()
    assert texts_beginning(held, "sending") == ["sending True"]
