"""The ASGI middleware, called as a server calls it and behind a real uvicorn."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import Recorded
from serving import Address, wait_until

import clew
from clew.integrations.asgi import RequestMiddleware
from clew.propagation.ids import is_valid, remembered_request_id

OK = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
END = {"type": "http.response.body", "body": b"", "more_body": False}


def http_scope(*headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/orders/17",
        "raw_path": b"/orders/17",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"test"), *headers],
        **more,
    }


class Connection:
    """The server's side of one call."""

    def __init__(self, *incoming: dict[str, Any]) -> None:
        self.incoming = list(incoming) or [{"type": "http.request", "body": b"", "more_body": False}]
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        return self.incoming.pop(0) if self.incoming else {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def echoed(self, name: bytes = b"x-request-id") -> list[str]:
        return [value.decode() for key, value in self.sent[0]["headers"] if key.lower() == name]


def call(app: Any, scope: dict[str, Any] | None = None, connection: Connection | None = None) -> Connection:
    connection = connection or Connection()
    scope = http_scope() if scope is None else scope

    async def serve() -> None:
        await app(scope, connection.receive, connection.send)

    contextvars.Context().run(asyncio.run, serve())
    return connection


def seen_by(seen: list[str | None]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(clew.request_id())
        await send(OK)
        await send(END)

    return app


def test_an_id_that_comes_in_is_bound_and_echoed() -> None:
    seen: list[str | None] = []
    connection = call(RequestMiddleware(seen_by(seen)), http_scope((b"x-request-id", b"abc-1")))
    assert seen == ["abc-1"]
    assert connection.echoed() == ["abc-1"]


def test_a_request_without_an_id_gets_one() -> None:
    seen: list[str | None] = []
    connection = call(RequestMiddleware(seen_by(seen)))
    assert seen == connection.echoed()
    assert is_valid(seen[0])


def test_two_requests_get_two_ids() -> None:
    seen: list[str | None] = []
    app = RequestMiddleware(seen_by(seen))
    call(app)
    call(app)
    assert seen[0] != seen[1]


def test_of_a_repeated_header_the_first_counts_however_it_arrives() -> None:
    seen: list[str | None] = []
    app = RequestMiddleware(seen_by(seen))
    call(app, http_scope((b"x-request-id", b"one"), (b"X-Request-ID", b"two")))
    call(app, http_scope((b"x-request-id", b"one,two")))
    call(app, http_scope((b"x-request-id", b"one, two")))
    assert seen == ["one", "one", "one"]


@given(st.binary(max_size=300))
def test_whatever_the_header_holds_only_a_valid_id_goes_on(value: bytes) -> None:
    seen: list[str | None] = []
    connection = call(RequestMiddleware(seen_by(seen)), http_scope((b"x-request-id", value)))
    assert is_valid(seen[0])
    assert connection.echoed() == seen


def test_without_trust_nothing_that_comes_in_is_accepted() -> None:
    seen: list[str | None] = []
    call(RequestMiddleware(seen_by(seen), trust=False), http_scope((b"x-request-id", b"abc")))
    assert seen != ["abc"]
    assert is_valid(seen[0])


def test_the_first_of_several_header_names_that_is_there_counts() -> None:
    seen: list[str | None] = []
    app = RequestMiddleware(seen_by(seen), headers=["X-Correlation-ID", "X-Request-ID"])
    connection = call(app, http_scope((b"x-request-id", b"second"), (b"x-correlation-id", b"first")))
    assert seen == ["first"]
    assert connection.echoed(b"x-correlation-id") == ["first"]
    connection = call(app, http_scope((b"x-request-id", b"second")))
    assert seen == ["first", "second"]
    assert connection.echoed() == ["second"]
    assert connection.echoed(b"x-correlation-id") == []
    connection = call(app)
    assert connection.echoed(b"x-correlation-id") == [seen[-1]]


def test_validator_transformer_and_generator_decide_and_their_result_is_checked() -> None:
    seen: list[str | None] = []
    app = RequestMiddleware(
        seen_by(seen), validator=str.isdigit, transformer=lambda name: f"t-{name}", generator=lambda: "made"
    )
    call(app, http_scope((b"x-request-id", b"123")))
    call(app, http_scope((b"x-request-id", b"abc")))
    call(app)
    assert seen == ["t-123", "t-made", "t-made"]


def test_a_transformer_may_take_the_id_out_of_a_header_of_another_form() -> None:
    seen: list[str | None] = []
    app = RequestMiddleware(
        seen_by(seen), headers="X-Amzn-Trace-Id", transformer=lambda text: text.split(";")[0].removeprefix("Root=")
    )
    call(app, http_scope((b"x-amzn-trace-id", b"Root=1-67891233-abcdef;Parent=53995c3f42cd8ad8;Sampled=1")))
    assert seen == ["1-67891233-abcdef"]


@pytest.mark.parametrize("keyword", ["validator", "transformer", "generator", "ignore"])
def test_a_callable_that_raises_is_logged_once_and_a_fresh_id_is_used(
    keyword: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("broken by the user")

    seen: list[str | None] = []
    app = RequestMiddleware(seen_by(seen), **{keyword: broken})
    headers = () if keyword == "generator" else ((b"x-request-id", b"abc"),)
    with caplog.at_level(logging.WARNING, "clew"):
        call(app, http_scope(*headers))
        call(app, http_scope(*headers))
    assert all(map(is_valid, seen))
    assert len(seen) == 2
    assert len([record for record in caplog.records if "broken by the user" in record.getMessage()]) == 1


@pytest.mark.parametrize("result", [None, 7, "", "a b", "x" * 119, "ö", "a\r\nb"])
def test_a_callable_that_makes_no_request_id_is_logged_once_and_a_fresh_id_is_used(result: Any) -> None:
    for keyword in ("transformer", "generator"):
        seen: list[str | None] = []
        connection = call(RequestMiddleware(seen_by(seen), **{keyword: lambda *_: result}))
        assert is_valid(seen[0])
        assert connection.echoed() == seen


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("headers", []),
        ("headers", "X Request"),
        ("headers", ["X-Request-ID", "a:b"]),
        ("echo", "a\r\nb"),
        ("echo", 1),
        ("validator", "no callable"),
        ("trust", "yes"),
        ("ignore", "/health"),
        ("ignore", [1]),
        ("metrics", "on"),
    ],
)
def test_a_keyword_with_a_wrong_value_is_refused_with_its_name_and_the_value(keyword: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        RequestMiddleware(seen_by([]), **{keyword: value})
    assert keyword in str(raised.value)


def test_the_echo_can_be_renamed_or_switched_off() -> None:
    app = seen_by([])
    scope = http_scope((b"x-request-id", b"abc"))
    renamed = call(RequestMiddleware(app, echo="X-Correlation-ID"), dict(scope))
    assert renamed.echoed() == []
    assert renamed.echoed(b"x-correlation-id") == ["abc"]
    silent = call(RequestMiddleware(app, echo=False), dict(scope))
    assert silent.sent[0]["headers"] == OK["headers"]


def test_an_id_that_the_application_sends_itself_is_replaced_by_the_one_in_the_logs() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**OK, "headers": [(b"X-Request-ID", b"its-own")]})
        await send(END)

    assert call(RequestMiddleware(app), http_scope((b"x-request-id", b"abc"))).echoed() == ["abc"]


def test_browsers_may_read_the_header_when_asked_for() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**OK, "headers": [(b"access-control-expose-headers", b"ETag")]})
        await send(END)

    name = b"access-control-expose-headers"
    assert call(RequestMiddleware(app, expose=True)).echoed(name) == ["ETag, X-Request-ID"]
    assert call(RequestMiddleware(seen_by([]), expose=True)).echoed(name) == ["X-Request-ID"]
    assert call(RequestMiddleware(app)).echoed(name) == ["ETag"]


def test_the_application_sees_the_id_in_the_request_headers_when_asked_for() -> None:
    found: list[list[bytes]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append([value for name, value in scope["headers"] if name == b"x-request-id"])
        await send(OK)
        await send(END)

    call(RequestMiddleware(app, update_request_headers=True, generator=lambda: "made"))
    call(RequestMiddleware(app, generator=lambda: "made"))
    assert found == [[b"made"], []]


def test_ignored_paths_are_passed_on_untouched() -> None:
    seen: list[str | None] = []
    for ignore in (["/health"], lambda scope: scope["path"] == "/health"):
        app = RequestMiddleware(seen_by(seen), ignore=ignore)
        assert call(app, http_scope(path="/health")).echoed() == []
    assert seen == [None, None]


def test_a_middleware_inside_another_leaves_the_request_as_it_is() -> None:
    seen: list[str | None] = []
    inner = RequestMiddleware(seen_by(seen), trust=False)
    connection = call(RequestMiddleware(inner), http_scope((b"x-request-id", b"abc")))
    assert seen == ["abc"]
    assert connection.echoed() == ["abc"]


def test_lifespan_is_no_request() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((clew.request_id(), await receive()))
        await send({"type": "lifespan.startup.complete"})

    connection = Connection({"type": "lifespan.startup"})
    call(RequestMiddleware(app), {"type": "lifespan", "asgi": {"version": "3.0"}}, connection)
    assert seen == [(None, {"type": "lifespan.startup"})]
    assert connection.sent == [{"type": "lifespan.startup.complete"}]


def test_a_websocket_is_one_request_and_its_acceptance_carries_the_id() -> None:
    seen: list[str | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept", "headers": []})
        seen.append(clew.request_id())
        await receive()
        seen.append(clew.request_id())
        await send({"type": "websocket.close"})

    scope = http_scope((b"x-request-id", b"ws-1"), type="websocket", scheme="ws")
    connection = Connection({"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"})
    call(RequestMiddleware(app), scope, connection)
    assert seen == ["ws-1", "ws-1"]
    assert connection.echoed() == ["ws-1"]


def test_the_request_lasts_until_the_application_returns_and_not_longer() -> None:
    seen: list[str | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(OK)
        await send(END)
        await asyncio.sleep(0)
        seen.append(clew.request_id())  # a background task

    connection = Connection()

    async def serve() -> None:
        await RequestMiddleware(app)(http_scope((b"x-request-id", b"abc")), connection.receive, connection.send)
        seen.append(clew.request_id())

    contextvars.Context().run(asyncio.run, serve())
    assert seen == ["abc", None]


def test_a_task_that_outlives_its_request_keeps_the_id() -> None:
    seen: list[str | None] = []

    async def serve() -> None:
        done = asyncio.Event()

        async def later() -> None:
            await done.wait()
            seen.append(clew.request_id())

        tasks = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            tasks.append(asyncio.create_task(later()))
            await send(OK)
            await send(END)

        connection = Connection()
        await RequestMiddleware(app)(http_scope((b"x-request-id", b"abc")), connection.receive, connection.send)
        done.set()
        await tasks[0]

    contextvars.Context().run(asyncio.run, serve())
    assert seen == ["abc"]


def test_an_exception_leaves_as_it_is_and_remembers_its_request() -> None:
    error = RuntimeError("from the application")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    with pytest.raises(RuntimeError) as raised:
        call(RequestMiddleware(app), http_scope((b"x-request-id", b"abc")))
    assert raised.value is error
    assert remembered_request_id(error) == "abc"


def durations(recorded: Recorded) -> list[tuple[dict[str, Any], int]]:
    return [(dict(point.attributes), point.count) for point in recorded.points("http.server.request.duration")]


def active(recorded: Recorded) -> list[int]:
    return [point.value for point in recorded.points("http.server.active_requests")]


PLAIN = {"http.request.method": "GET", "url.scheme": "http", "network.protocol.version": "1.1"}


def test_each_http_call_is_one_point_with_the_id_on_its_exemplar(recorded: Recorded) -> None:
    call(RequestMiddleware(seen_by([])), http_scope((b"x-request-id", b"abc")))
    (point,) = recorded.points("http.server.request.duration", "clew.integrations.asgi")
    assert dict(point.attributes) == {**PLAIN, "http.response.status_code": 200}
    assert point.count == 1
    assert [exemplar.filtered_attributes["request_id"] for exemplar in point.exemplars] == ["abc"]
    assert active(recorded) == [0]


def test_the_duration_bounds_are_those_of_the_conventions(recorded: Recorded) -> None:
    call(RequestMiddleware(seen_by([])))
    (point,) = recorded.points("http.server.request.duration")
    assert point.explicit_bounds[:3] == (0.005, 0.01, 0.025)
    assert point.explicit_bounds[-1] == 10


def test_active_requests_count_the_ones_that_run(recorded: Recorded) -> None:
    during: list[list[int]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        during.append(active(recorded))
        await send(OK)
        await send(END)
        during.append(active(recorded))

    call(RequestMiddleware(app))
    assert during == [[1], [0]]


def test_the_http_duration_ends_with_the_last_part_of_the_body(recorded: Recorded) -> None:
    counted: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(OK)
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
            counted.append(len(durations(recorded)))
        await send(END)
        counted.append(len(durations(recorded)))

    call(RequestMiddleware(app))
    assert counted == [0, 0, 0, 1]
    assert [count for _, count in durations(recorded)] == [1]


def test_with_trailers_the_duration_ends_with_the_last_of_them(recorded: Recorded) -> None:
    counted: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**OK, "trailers": True})
        await send(END)
        counted.append(len(durations(recorded)))
        await send({"type": "http.response.trailers", "headers": [], "more_trailers": False})
        counted.append(len(durations(recorded)))

    call(RequestMiddleware(app))
    assert counted == [0, 1]


def test_a_status_of_500_or_more_is_an_error_of_that_name(recorded: Recorded) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**OK, "status": 503})
        await send(END)

    call(RequestMiddleware(app))
    assert durations(recorded) == [({**PLAIN, "http.response.status_code": 503, "error.type": "503"}, 1)]


def test_an_exception_without_a_response_is_an_error_of_its_type(recorded: Recorded) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        call(RequestMiddleware(app))
    assert durations(recorded) == [({**PLAIN, "error.type": "KeyError"}, 1)]
    assert active(recorded) == [0]


def test_an_exception_that_an_error_page_answers_gives_its_type(recorded: Recorded) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            raise KeyError("x")
        except KeyError:
            await send({**OK, "status": 500})
            await send(END)
            raise

    with pytest.raises(KeyError):
        call(RequestMiddleware(app))
    assert durations(recorded) == [({**PLAIN, "http.response.status_code": 500, "error.type": "KeyError"}, 1)]


def test_a_cancellation_after_the_client_has_gone_is_no_failure(recorded: Recorded) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        call(RequestMiddleware(app))
    assert durations(recorded) == [(PLAIN, 1)]


def test_a_cancellation_while_the_client_is_there_is_a_failure(recorded: Recorded) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        call(RequestMiddleware(app))
    assert durations(recorded) == [({**PLAIN, "error.type": "asyncio.exceptions.CancelledError"}, 1)]


def test_an_unknown_method_is_one_of_few_values(recorded: Recorded) -> None:
    call(RequestMiddleware(seen_by([])), http_scope(method="BREW-7f3a"))
    assert durations(recorded)[0][0]["http.request.method"] == "_OTHER"


def test_a_websocket_is_no_http_duration(recorded: Recorded) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    call(RequestMiddleware(app), http_scope(type="websocket"), Connection({"type": "websocket.connect"}))
    assert durations(recorded) == []


def test_metrics_can_be_switched_off(recorded: Recorded) -> None:
    call(RequestMiddleware(seen_by([]), metrics=False))
    assert durations(recorded) == []
    assert active(recorded) == []


def test_a_request_that_begins_before_the_configuration_is_not_half_measured(
    configured: Callable[..., Recorded],
) -> None:
    found: list[Recorded] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(configured())
        await send(OK)
        await send(END)

    call(RequestMiddleware(app))
    assert active(found[0]) == []
    assert durations(found[0]) == []


def test_a_request_that_ends_after_the_configuration_is_not_half_measured(
    configured: Callable[..., Recorded],
) -> None:
    first = configured()
    found: list[Recorded] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert first.telemetry is not None
        first.telemetry.shutdown()
        found.append(configured())
        await send(OK)
        await send(END)

    call(RequestMiddleware(app))
    assert active(found[0]) == []
    assert durations(found[0]) == []


# behind a real server


async def plain(scope: Any, receive: Any, send: Any) -> None:
    await send(OK)
    await send({"type": "http.response.body", "body": str(clew.request_id()).encode()})


BAD_VALUES = [
    b"",
    b" ",
    b"x" * 65_000,
    b"a b",
    b"caf\xc3\xa9",
    b"\xff\xfe",
    b"a\tb",
    b"'; DROP TABLE requests; --",
    b'{a="b"} 1 # x',
    b"%s%n${jndi:ldap://x}",
    "＜ｓｃｒｉｐｔ＞".encode(),
    b"a\x7fb",
]


@pytest.mark.parametrize("value", BAD_VALUES, ids=range(len(BAD_VALUES)))
def test_a_bad_header_never_costs_the_client_its_answer(asgi_server: Callable[..., Address], value: bytes) -> None:
    address = asgi_server(RequestMiddleware(plain), h11_max_incomplete_event_size=200_000)
    response = address.get("/", ("X-Request-ID", value))
    if response.status == 400:  # uvicorn itself refuses the bytes
        assert response.all("x-request-id") == []
        return
    assert response.status == 200
    assert is_valid(response.one("x-request-id"))
    assert response.one("x-request-id").encode() in response.body


@pytest.mark.parametrize("value", [b"a\r\nInjected: yes", b"a\nInjected: yes", b"a\x00b"])
def test_bytes_that_would_split_a_header_come_back_in_none(asgi_server: Callable[..., Address], value: bytes) -> None:
    response = asgi_server(RequestMiddleware(plain)).get("/", ("X-Request-ID", value))
    assert response.all("injected") == []
    assert response.status == 400 or is_valid(response.one("x-request-id"))


def test_a_client_that_goes_while_it_is_answered_ends_its_request(
    asgi_server: Callable[..., Address], recorded: Recorded
) -> None:
    import socket

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send(OK)
        while True:
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            message = asyncio.ensure_future(receive())
            done, _ = await asyncio.wait([message], timeout=0.01)
            if done and message.result()["type"] == "http.disconnect":
                raise asyncio.CancelledError
            message.cancel()

    address = asgi_server(RequestMiddleware(endless))
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        connection.recv(100)
    wait_until(lambda: durations(recorded), "the request has not ended")
    assert durations(recorded) == [({**PLAIN, "http.response.status_code": 200}, 1)]
    assert active(recorded) == [0]
