"""The request ID for aiohttp's server, asked through a real one on loopback."""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import propagate
from recorded import Recorded
from serving import Address, wait_until

import clew
from clew.integrations.logging import RequestIdFilter

aiohttp = pytest.importorskip("aiohttp")
from aiohttp import web  # noqa: E402

from clew.integrations.aiohttp import instrument  # noqa: E402


@contextmanager
def serve_aiohttp(app: Any, **options: Any) -> Iterator[Address]:
    """Serve `app` with aiohttp's own server in a thread."""
    started, over = threading.Event(), threading.Event()
    listening: list[Address] = []
    loop = asyncio.new_event_loop()

    async def run() -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, **options)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        listening.append(Address(*runner.addresses[0][:2]))
        started.set()
        await loop.run_in_executor(None, over.wait)
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield listening[0]
    finally:
        over.set()
        thread.join(60)
        assert not thread.is_alive()
        loop.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Address]]:
    with ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(serve_aiohttp(app, **options))


async def tell(request: web.Request) -> web.Response:
    return web.Response(text=str(clew.request_id()))


async def fail(request: web.Request) -> web.Response:
    raise RuntimeError("the handler failed")


async def refuse(request: web.Request) -> web.Response:
    raise web.HTTPForbidden(text=str(clew.request_id()))


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(3):
        await response.write(f"{clew.request_id()} ".encode())
    await response.write_eof()
    return response


def shop(**options: Any) -> web.Application:
    app = web.Application()
    app.add_routes(
        [
            web.get("/", tell),
            web.get("/fails", fail),
            web.get("/forbidden", refuse),
            web.get("/stream", stream),
            web.get(r"/orders/{order:\d+}", tell),
        ]
    )
    inner = web.Application()
    inner.add_routes([web.get("/items/{item}", tell)])
    app.add_subapp("/inner", inner)
    return instrument(app, **options)


def test_a_valid_id_is_accepted_and_echoed(serve: Any) -> None:
    answer = serve(shop()).get("/", ("X-Request-ID", "abc"))
    assert (answer.status, answer.body) == (200, b"abc")
    assert answer.one("X-Request-ID") == "abc"


def test_a_request_without_an_id_gets_one(serve: Any) -> None:
    server = serve(shop())
    first, second = server.get("/"), server.get("/")
    assert first.body.decode() == first.one("X-Request-ID") != second.one("X-Request-ID")


@pytest.mark.parametrize(
    ("path", "status"), [("/fails", 500), ("/forbidden", 403), ("/nowhere", 404), ("/inner/nowhere", 404)]
)
def test_every_answer_of_the_application_has_the_id(serve: Any, path: str, status: int) -> None:
    answer = serve(shop()).get(path, ("X-Request-ID", "abc"))
    assert answer.status == status
    assert answer.one("X-Request-ID") == "abc"


def test_a_stream_is_in_the_request_and_has_the_id(serve: Any) -> None:
    answer = serve(shop()).get("/stream", ("X-Request-ID", "abc"))
    assert answer.body.count(b"abc ") == 3
    assert answer.one("X-Request-ID") == "abc"


@pytest.mark.parametrize("value", [b"a b", b"", b"x" * 5000, b"caf\xc3\xa9", b"\xff\xfe", b"a;DROP", b"'", b"{}"])
def test_what_is_no_id_goes_nowhere(serve: Any, value: bytes) -> None:
    answer = serve(shop()).get("/", ("X-Request-ID", value))
    assert answer.status == 200
    assert 8 <= len(answer.one("X-Request-ID")) <= 32
    assert answer.body.decode() == answer.one("X-Request-ID")


def test_of_a_repeated_header_the_first_counts(serve: Any) -> None:
    answer = serve(shop()).get("/", ("X-Request-ID", "one"), ("X-Request-ID", "two"))
    assert answer.body == b"one"


def test_the_keywords_do_what_they_say(serve: Any) -> None:
    server = serve(
        shop(
            headers=["X-Trace", "X-Other"],
            validator=str.isdigit,
            transformer=lambda name: f"t-{name}",
            generator=lambda: "made",
            echo="X-Answer",
            expose=True,
            ignore=["/orders/1"],
        )
    )
    answer = server.get("/", ("X-Other", "17"))
    assert (answer.body, answer.one("X-Answer")) == (b"t-17", "t-17")
    assert answer.one("Access-Control-Expose-Headers") == "X-Answer"
    assert server.get("/", ("X-Trace", "abc")).body == b"t-made"
    ignored = server.get("/orders/1", ("X-Other", "17"))
    assert (ignored.body, ignored.all("X-Answer")) == (b"None", [])


@pytest.mark.parametrize("path", ["/", "/fails", "/forbidden", "/stream"])
@pytest.mark.parametrize("came_in", ["X-First", "X-Second"])
def test_the_echo_is_in_the_header_that_the_id_came_in(serve: Any, came_in: str, path: str) -> None:
    answer = serve(shop(headers=["X-First", "X-Second"])).get(path, (came_in, "abc"))
    assert {name: answer.all(name) for name in ("X-First", "X-Second")} == {
        "X-First": ["abc"] * (came_in == "X-First"),
        "X-Second": ["abc"] * (came_in == "X-Second"),
    }


def test_an_untrusted_id_is_replaced(serve: Any) -> None:
    assert serve(shop(trust=False)).get("/", ("X-Request-ID", "abc")).body != b"abc"


def test_there_is_no_echo_where_none_is_wanted(serve: Any) -> None:
    assert serve(shop(echo=False)).get("/").all("X-Request-ID") == []


def test_the_application_sees_the_id_in_the_headers_when_asked(serve: Any) -> None:
    async def headers(request: web.Request) -> web.Response:
        return web.Response(text=request.headers.get("X-Request-ID", "-") + (await request.text()))

    app = web.Application()
    app.add_routes([web.get("/", headers)])
    answer = serve(instrument(app, update_request_headers=True)).get("/")
    assert answer.body.decode() == answer.one("X-Request-ID")


def test_a_file_has_the_id(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "tea").write_text("leaves")
    app = web.Application()
    app.add_routes([web.static("/files", tmp_path)])
    answer = serve(instrument(app)).get("/files/tea", ("X-Request-ID", "abc"))
    assert (answer.body, answer.one("X-Request-ID")) == (b"leaves", "abc")


def test_requests_over_one_connection_are_different_ones(serve: Any) -> None:
    server = serve(shop())
    one = b"GET / HTTP/1.1\r\nHost: test\r\nX-Request-ID: %b\r\n%b\r\n"
    received = server.send(one % (b"first", b"") + one % (b"second", b"Connection: close\r\n"))
    assert received.count(b"X-Request-ID: first") == received.count(b"X-Request-ID: second") == 1
    assert received.index(b"\r\n\r\nfirst") < received.index(b"\r\n\r\nsecond")


def test_the_traceback_that_the_server_logs_has_the_id(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(RequestIdFilter())
    try:
        serve(shop()).get("/fails", ("X-Request-ID", "abc"))
        wait_until(lambda: [r for r in caplog.records if r.exc_info], "nothing was logged")
    finally:
        caplog.handler.filters.clear()
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.request_id == "abc"


def test_a_websocket_is_one_request_and_has_the_id(serve: Any, recorded: Recorded) -> None:
    async def talk(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"{message.data} {clew.request_id()}")
        return socket

    app = web.Application()
    app.add_routes([web.get("/", talk)])
    server = serve(instrument(app))

    async def ask() -> list[str]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(server.url, headers={"X-Request-ID": "abc"}) as socket,
        ):
            answers = [socket._response.headers["X-Request-ID"]]
            for text in ("a", "b"):
                await socket.send_str(text)
                answers.append(await socket.receive_str())
            return answers

    assert asyncio.run(ask()) == ["abc", "a abc", "b abc"]
    assert recorded.points("http.server.request.duration") == []


def durations(recorded: Recorded, count: int) -> list[dict[str, Any]]:
    found: list[Any] = []

    def there() -> bool:
        found[:] = recorded.points("http.server.request.duration")
        return sum(point.count for point in found) >= count

    wait_until(there, "not measured")
    assert sum(point.count for point in found) == count
    return [dict(point.attributes) for point in found]


def test_requests_are_measured_by_route_template(serve: Any, recorded: Recorded) -> None:
    server = serve(shop())
    server.get("/orders/17", ("X-Request-ID", "abc"))
    server.get("/inner/items/tea")
    server.get("/fails")
    server.get("/forbidden")
    server.get("/nowhere/17")
    base = {"http.request.method": "GET", "url.scheme": "http", "network.protocol.version": "1.1"}
    found = durations(recorded, 5)
    for expected in (
        {"http.route": "/orders/{order}", "http.response.status_code": 200},
        {"http.route": "/inner/items/{item}", "http.response.status_code": 200},
        {"http.route": "/fails", "http.response.status_code": 500, "error.type": "RuntimeError"},
        {"http.route": "/forbidden", "http.response.status_code": 403},
        {"http.response.status_code": 404},
    ):
        assert {**base, **expected} in found
    active = recorded.points("http.server.active_requests")
    assert [(dict(point.attributes), point.value) for point in active] == [
        ({"http.request.method": "GET", "url.scheme": "http"}, 0)
    ]


def test_the_status_is_that_of_the_answer_whatever_the_exception_has(serve: Any, recorded: Recorded) -> None:
    async def upstream_says_no(request: web.Request) -> web.Response:
        raise aiohttp.ClientResponseError(None, (), status=404)

    async def upstream_is_slow(request: web.Request) -> web.Response:
        raise asyncio.TimeoutError

    app = web.Application()
    app.add_routes([web.get("/no", upstream_says_no), web.get("/slow", upstream_is_slow)])
    server = serve(instrument(app))
    assert (server.get("/no").status, server.get("/slow").status) == (500, 504)
    found = {point["http.route"]: point["http.response.status_code"] for point in durations(recorded, 2)}
    assert found == {"/no": 500, "/slow": 504}


def test_the_exemplars_carry_the_id(serve: Any, recorded: Recorded) -> None:
    serve(shop()).get("/orders/17", ("X-Request-ID", "abc"))
    points: list[Any] = []
    wait_until(lambda: points.extend(recorded.points("http.server.request.duration")) or points, "not measured")
    assert points[0].exemplars[0].filtered_attributes["request_id"] == "abc"


def test_metrics_may_be_left_out(serve: Any, recorded: Recorded) -> None:
    server = serve(shop(metrics=False))
    server.get("/")
    server.get("/")
    assert recorded.points("http.server.request.duration") == []


def test_a_client_that_leaves_is_no_failure(serve: Any, recorded: Recorded) -> None:
    entered, left = threading.Event(), threading.Event()

    async def wait(request: web.Request) -> web.Response:
        entered.set()
        try:
            await asyncio.sleep(120)
        finally:
            left.set()
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/", wait)])
    server = serve(instrument(app), handler_cancellation=True)

    async def leave() -> None:
        _, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await asyncio.get_running_loop().run_in_executor(None, entered.wait, 60)
        writer.close()

    asyncio.run(leave())
    assert left.wait(60)
    (attributes,) = durations(recorded, 1)
    assert "error.type" not in attributes


def test_a_propagator_inside_keeps_the_id(serve: Any, recorded: Recorded) -> None:
    """Contrib's middleware extracts from the request and attaches what it gets."""
    from opentelemetry.context import attach, detach
    from opentelemetry.propagators.textmap import Getter

    class FromRequest(Getter[Any]):
        def get(self, carrier: Any, key: str) -> list[str] | None:
            return carrier.headers.getall(key, None)

        def keys(self, carrier: Any) -> list[str]:
            return list(carrier)

    @web.middleware
    async def extracting(request: web.Request, handler: Any) -> Any:
        token = attach(propagate.extract(request, getter=FromRequest()))
        try:
            return await handler(request)
        finally:
            detach(token)

    app = web.Application(middlewares=[extracting])
    app.add_routes([web.get("/", tell)])
    answer = serve(instrument(app)).get("/")
    assert answer.body.decode() == answer.one("X-Request-ID")


def test_an_instrumented_application_inside_another_leaves_the_id_as_it_is(serve: Any, recorded: Recorded) -> None:
    inner = web.Application()
    inner.add_routes([web.get("/", tell)])
    outer = web.Application()
    outer.add_subapp("/inner", instrument(inner))
    answer = serve(instrument(outer)).get("/inner/")
    assert answer.body.decode() == answer.one("X-Request-ID")
    durations(recorded, 1)


def test_no_warning_comes_of_it(serve: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert serve(shop()).get("/").status == 200


def test_an_application_is_instrumented_once_and_before_it_starts() -> None:
    app = web.Application()
    assert instrument(app) is app
    with pytest.raises(ValueError, match="already"):
        instrument(app)
    started = web.Application()
    started.freeze()
    with pytest.raises(RuntimeError, match="before the application starts"):
        instrument(started)
    with pytest.raises(TypeError, match="int"):
        instrument(7)
    with pytest.raises(ValueError, match="metrics"):
        instrument(web.Application(), metrics="sometimes")  # type: ignore[arg-type]


def test_records_of_the_handler_have_the_id(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def log(request: web.Request) -> web.Response:
        logging.getLogger("shop").warning("said")
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/", log)])
    caplog.handler.addFilter(RequestIdFilter())
    try:
        serve(instrument(app)).get("/", ("X-Request-ID", "abc"))
    finally:
        caplog.handler.filters.clear()
    assert [record.request_id for record in caplog.records if record.name == "shop"] == ["abc"]
