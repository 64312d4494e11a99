"""The WSGI middleware, called as a server calls it and behind the standard library's server."""

from __future__ import annotations

import contextvars
import io
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import Recorded
from serving import Address, wait_until

import clew
from clew.integrations.wsgi import RequestMiddleware
from clew.propagation.ids import is_valid, remembered_request_id


def environ(header: str | None = None, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"SERVER_PROTOCOL": "HTTP/1.1"}
    setup_testing_defaults(made)
    if header is not None:
        made["HTTP_X_REQUEST_ID"] = header
    made.update(more)
    return made


class Answer:
    """What a server makes of one call, in a Context of its own as in a thread of its own."""

    def __init__(self, app: Any, given: dict[str, Any] | None = None, *, closes: bool = True) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.body: list[bytes] = []
        self.result: Any = None
        self.after: str | None = None
        contextvars.Context().run(self._serve, app, environ() if given is None else given, closes)

    def _serve(self, app: Any, given: dict[str, Any], closes: bool) -> None:
        self.result = app(given, self._start)
        try:
            for part in self.result:
                self.body.append(part)
        finally:
            if closes and hasattr(self.result, "close"):
                self.result.close()
            self.result = None
            self.after = clew.request_id()

    def _start(self, status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], object]:
        self.status, self.headers = status, headers
        return self.body.append

    def echoed(self, name: str = "x-request-id") -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


def plain(given: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(clew.request_id()).encode()]


def test_an_id_that_comes_in_is_bound_and_echoed_and_left_at_close() -> None:
    answer = Answer(RequestMiddleware(plain), environ("abc-1"))
    assert answer.body == [b"abc-1"]
    assert answer.echoed() == ["abc-1"]
    assert answer.after is None


@pytest.mark.parametrize("value", ["one,two", "one, two", " one "])
def test_of_a_repeated_header_the_first_counts(value: str) -> None:
    assert Answer(RequestMiddleware(plain), environ(value)).body == [b"one"]


@given(st.text(st.characters(max_codepoint=255), max_size=300))
def test_whatever_the_header_holds_only_a_valid_id_goes_on(value: str) -> None:
    answer = Answer(RequestMiddleware(plain), environ(value))
    assert is_valid(answer.body[0].decode())
    assert answer.echoed() == [answer.body[0].decode()]


def test_the_keywords_are_those_of_the_other_middleware() -> None:
    app = RequestMiddleware(
        plain,
        headers=["X-Correlation-ID", "X-Request-ID"],
        validator=str.isdigit,
        transformer=lambda name: f"t-{name}",
        generator=lambda: "made",
        echo="X-Echo",
        expose=True,
        update_request_headers=True,
        ignore=["/health"],
    )
    given = environ("17")
    answer = Answer(app, given)
    assert answer.body == [b"t-17"]
    assert answer.echoed("x-echo") == ["t-17"]
    assert answer.echoed("access-control-expose-headers") == ["X-Echo"]
    assert given["HTTP_X_CORRELATION_ID"] == "t-17"
    assert Answer(app, environ("abc")).body == [b"t-made"]
    assert Answer(app, environ(PATH_INFO="/health")).body == [b"None"]


def test_a_middleware_inside_another_leaves_the_request_as_it_is() -> None:
    answer = Answer(RequestMiddleware(RequestMiddleware(plain, trust=False)), environ("abc"))
    assert answer.body == [b"abc"]
    assert answer.echoed() == ["abc"]


def test_an_environ_that_is_used_again_is_another_request() -> None:
    app = RequestMiddleware(plain)
    given = environ()
    assert Answer(app, given).body != Answer(app, given).body


def test_the_body_is_passed_on_piece_by_piece_inside_the_request() -> None:
    made: list[str] = []

    def app(given: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for number in range(3):
            made.append(f"made {number} {clew.request_id()}")
            yield b"part"
        made.append(f"end {clew.request_id()}")

    def serve() -> None:
        body = RequestMiddleware(app)(environ("abc"), lambda *_: None)
        for _ in body:
            made.append("taken")
        body.close()  # type: ignore[attr-defined]

    contextvars.Context().run(serve)
    assert made == ["made 0 abc", "taken", "made 1 abc", "taken", "made 2 abc", "taken", "end abc"]


def test_a_body_that_is_read_in_another_thread_is_made_inside_its_request() -> None:
    def app(given: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        with clew.request("nested"):
            yield str(clew.request_id()).encode()
            yield str(clew.request_id()).encode()
        yield str(clew.request_id()).encode()

    body = contextvars.Context().run(RequestMiddleware(app), environ("abc"), lambda *_: None)
    parts: list[bytes] = []
    after: list[str | None] = []

    def read() -> None:
        parts.extend(body)
        body.close()  # type: ignore[attr-defined]
        after.append(clew.request_id())

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert parts == [b"nested", b"nested", b"abc"]
    assert after == [None]


def test_the_application_s_own_close_is_called_inside_the_request() -> None:
    closed: list[str | None] = []

    class Body(list[bytes]):
        def close(self) -> None:
            closed.append(clew.request_id())

    def app(given: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body([b"x"])

    assert Answer(RequestMiddleware(app), environ("abc")).after is None
    assert closed == ["abc"]


def test_a_body_of_known_length_keeps_it() -> None:
    body = contextvars.Context().run(RequestMiddleware(plain), environ(), lambda *_: None)
    assert len(body) == 1  # type: ignore[arg-type]
    body.close()  # type: ignore[attr-defined]


def test_a_file_of_the_server_keeps_its_type_and_ends_its_request_at_close() -> None:
    def app(given: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return given["wsgi.file_wrapper"](file)  # type: ignore[no-any-return]

    file = io.BytesIO(b"content")
    seen: list[Any] = []

    def serve() -> None:
        body = RequestMiddleware(app)(environ("abc", **{"wsgi.file_wrapper": FileWrapper}), lambda *_: None)
        seen.extend([type(body), b"".join(body), clew.request_id()])
        body.close()  # type: ignore[attr-defined]
        seen.extend([file.closed, clew.request_id()])

    contextvars.Context().run(serve)
    assert seen == [FileWrapper, b"content", "abc", True, None]


def test_a_server_that_does_not_close_leaves_no_id_behind() -> None:
    answer = Answer(RequestMiddleware(plain), environ("abc"), closes=False)
    assert answer.after is None


def test_an_exception_leaves_as_it_is_and_remembers_its_request() -> None:
    error = RuntimeError("from the application")

    def app(given: Any, start_response: Any) -> Iterable[bytes]:
        raise error

    def streaming(given: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"x"
        raise error

    for failing in (app, streaming):
        with pytest.raises(RuntimeError) as raised:
            Answer(RequestMiddleware(failing), environ("abc"))
        assert raised.value is error
        assert remembered_request_id(error) == "abc"
        del error.__dict__["__clew_request_id__"]


def test_a_response_that_is_started_again_for_an_error_has_the_id_too() -> None:
    def app(given: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        try:
            raise ValueError
        except ValueError:
            import sys

            start_response("500 Oops", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"error"]

    answer = Answer(RequestMiddleware(app), environ("abc"))
    assert answer.status == "500 Oops"
    assert answer.echoed() == ["abc"]


def test_what_is_written_by_the_old_callable_arrives() -> None:
    def app(given: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])(b"written")
        return []

    assert Answer(RequestMiddleware(app)).body == [b"written"]


def durations(recorded: Recorded) -> list[tuple[dict[str, Any], int]]:
    return [(dict(point.attributes), point.count) for point in recorded.points("http.server.request.duration")]


PLAIN = {"http.request.method": "GET", "url.scheme": "http", "network.protocol.version": "1.1"}


def test_each_call_is_one_point_with_the_id_on_its_exemplar(recorded: Recorded) -> None:
    Answer(RequestMiddleware(plain), environ("abc"))
    (point,) = recorded.points("http.server.request.duration", "clew.integrations.wsgi")
    assert dict(point.attributes) == {**PLAIN, "http.response.status_code": 200}
    assert point.count == 1
    assert [exemplar.filtered_attributes["request_id"] for exemplar in point.exemplars] == ["abc"]
    assert [point.value for point in recorded.points("http.server.active_requests")] == [0]


def test_the_duration_ends_with_the_body(recorded: Recorded) -> None:
    counted: list[int] = []

    def app(given: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        for _ in range(2):
            yield b"part"
            counted.append(len(durations(recorded)))

    Answer(RequestMiddleware(app))
    assert counted == [0, 0]
    assert [count for _, count in durations(recorded)] == [1]


def test_failures_have_their_error_type(recorded: Recorded) -> None:
    def unavailable(given: Any, start_response: Any) -> Iterable[bytes]:
        start_response("503 Service Unavailable", [])
        return [b""]

    def failing(given: Any, start_response: Any) -> Iterable[bytes]:
        raise KeyError("x")

    Answer(RequestMiddleware(unavailable))
    with pytest.raises(KeyError):
        Answer(RequestMiddleware(failing))
    assert sorted(str(found[0].get("error.type")) for found in durations(recorded)) == ["503", "KeyError"]


def test_metrics_can_be_switched_off(recorded: Recorded) -> None:
    Answer(RequestMiddleware(plain, metrics=False))
    assert durations(recorded) == []


def test_a_route_is_what_the_callable_says_unless_a_mount_was_crossed(recorded: Recorded) -> None:
    def mounted(given: Any, start_response: Any) -> Iterable[bytes]:
        given["SCRIPT_NAME"] = "/shop-of-7f3a"
        return plain(given, start_response)

    Answer(RequestMiddleware(plain, route=lambda given: "/orders/<id>"))
    Answer(RequestMiddleware(mounted, route=lambda given: "/orders/<id>"))
    routes = [found[0].get("http.route") for found in durations(recorded)]
    assert sorted(routes, key=str) == ["/orders/<id>", None]


# behind a real server


@pytest.mark.parametrize(
    "value", [b"", b"x" * 60_000, b"a b", b"caf\xc3\xa9", b"\xff\xfe", b"a\tb", b"'; DROP TABLE x; --", b"a\x00b"]
)
def test_a_bad_header_never_costs_the_client_its_answer(wsgi_server: Callable[..., Address], value: bytes) -> None:
    response = wsgi_server(RequestMiddleware(plain)).get("/", ("X-Request-ID", value))
    assert response.status == 200
    assert is_valid(response.one("x-request-id"))
    assert response.body.decode() == response.one("x-request-id")


def test_bytes_that_would_split_a_header_come_back_in_none(wsgi_server: Callable[..., Address]) -> None:
    response = wsgi_server(RequestMiddleware(plain)).get("/", ("X-Request-ID", b"a\r\nInjected: yes"))
    assert response.all("injected") == []
    assert response.one("x-request-id") == "a"


def test_repeated_headers_on_the_wire_give_the_first(wsgi_server: Callable[..., Address]) -> None:
    response = wsgi_server(RequestMiddleware(plain)).get("/", ("X-Request-ID", "one"), ("X-Request-ID", "two"))
    assert response.body == b"one"


def test_requests_in_many_threads_keep_their_ids_apart(wsgi_server: Callable[..., Address]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    address = wsgi_server(RequestMiddleware(plain))
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda n: address.get("/", ("X-Request-ID", f"r-{n}")).body, range(60)))
    assert bodies == [f"r-{n}".encode() for n in range(60)]


def test_a_client_that_goes_while_it_is_answered_ends_its_request(
    wsgi_server: Callable[..., Address], recorded: Recorded
) -> None:
    import socket

    def endless(given: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        while True:
            yield b"x" * 10_000

    address = wsgi_server(RequestMiddleware(endless))
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        connection.recv(100)
    wait_until(lambda: durations(recorded), "the request has not ended")
    assert durations(recorded)[0][0]["http.response.status_code"] == 200
    assert "error.type" not in durations(recorded)[0][0]
