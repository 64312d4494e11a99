"""The request ID over gRPC: real servers and clients on loopback, both of `grpc` and of `grpc.aio`."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import Recorded
from serving import wait_until

import clew
from clew.integrations.logging import RequestIdFilter
from clew.policy import policy
from clew.propagation.ids import is_valid

grpc = pytest.importorskip("grpc")
pytest.importorskip("grpc.aio")

from clew.integrations import grpc as integration  # noqa: E402

FORMS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")

TELL = b"tell"


def current() -> bytes:
    return str(clew.request_id()).encode()


class Handlers:
    """What the servers do: the first message says it."""

    waiting = False

    def _do(self, what: bytes, context: Any) -> None:
        name, _, argument = what.decode().partition(" ")
        if name == "raise":
            raise ValueError("the handler failed")
        if name == "abort":
            context.abort(grpc.StatusCode[argument], "no")
        if name == "code":
            context.set_code(grpc.StatusCode[argument])
        if name == "trailing":
            context.set_trailing_metadata((("own", "value"), ("x-request-id", "something-else")))
        if name == "wait":
            over = threading.Event()
            context.add_callback(over.set)
            Handlers.waiting = True
            over.wait(60)
        if name == "log":
            logging.getLogger("stock").warning("said")

    def unary_unary(self, request: bytes, context: Any) -> bytes:
        self._do(request, context)
        return current()

    def unary_stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield current()
        self._do(request, context)
        yield current()

    def stream_unary(self, requests: Iterator[bytes], context: Any) -> bytes:
        for request in requests:
            self._do(request, context)
        return current()

    def stream_stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            self._do(request, context)
            yield current()


class AsyncHandlers:
    """The same for `grpc.aio`, whose `abort` is awaited."""

    async def _do(self, what: bytes, context: Any) -> None:
        await asyncio.sleep(0)
        name, _, argument = what.decode().partition(" ")
        if name == "abort":
            await context.abort(grpc.StatusCode[argument], "no")
        if name == "wait":
            Handlers.waiting = True
            await asyncio.sleep(60)
        Handlers._do(None, what, context)  # type: ignore[arg-type]

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        await self._do(request, context)
        return current()

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield current()
        await self._do(request, context)
        yield current()

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        async for request in requests:
            await self._do(request, context)
        return current()

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Writes its responses itself."""
        async for request in requests:
            await self._do(request, context)
            await context.write(current())


def handler_of(handlers: Any) -> Any:
    methods = {
        form: getattr(grpc, f"{form}_rpc_method_handler")(getattr(handlers, form))
        for form in FORMS
        if hasattr(handlers, form)
    }
    return grpc.method_handlers_generic_handler("shop.Stock", methods)


@contextmanager
def serve_sync(handlers: Any = None, interceptors: Any = None, **options: Any) -> Iterator[str]:
    server = grpc.server(
        ThreadPoolExecutor(4),
        interceptors=interceptors or [integration.server_interceptor(**options)],
        options=[("grpc.so_reuseport", 0)],
    )
    server.add_generic_rpc_handlers((handler_of(handlers or Handlers()),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(1).wait(60)


@contextmanager
def serve_aio(handlers: Any = None, interceptors: Any = None, **options: Any) -> Iterator[str]:
    started, over = threading.Event(), threading.Event()
    ports: list[int] = []

    async def run() -> None:
        server = grpc.aio.server(
            interceptors=interceptors or [integration.aio_server_interceptor(**options)],
            migration_thread_pool=ThreadPoolExecutor(2),
        )
        server.add_generic_rpc_handlers((handler_of(handlers or AsyncHandlers()),))
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        started.set()
        await asyncio.get_running_loop().run_in_executor(None, over.wait)
        await server.stop(1)

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield f"127.0.0.1:{ports[0]}"
    finally:
        over.set()
        thread.join(60)
        assert not thread.is_alive()


Serve = Callable[..., str]


@pytest.fixture(params=[serve_sync, serve_aio], ids=["sync", "aio"])
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    Handlers.waiting = False
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(request.param(*args, **options))


@pytest.fixture
def serve_plain() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(serve_sync(*args, **options))


class Answer:
    def __init__(self, messages: list[bytes], call: Any) -> None:
        self.messages = messages
        self.code: str = call.code().name
        self.trailing = [(key, value) for key, value in call.trailing_metadata() or ()]

    @property
    def echoed(self) -> list[str]:
        return [value for key, value in self.trailing if key == "x-request-id"]


def ask(address: str, form: str = "unary_unary", *messages: bytes, metadata: Any = (), timeout: float = 60) -> Answer:
    """Call a server with a plain client."""
    sent = messages or (TELL,)
    with grpc.insecure_channel(address) as channel:
        call = getattr(channel, form)(f"/shop.Stock/{form}")
        request = iter(sent) if form.startswith("stream") else sent[0]
        if form.endswith("stream"):
            responses = call(request, metadata=metadata, timeout=timeout)
            received = []
            with suppress(grpc.RpcError):
                received.extend(responses)
            return Answer(received, responses)
        try:
            response, done = call.with_call(request, metadata=metadata, timeout=timeout)
        except grpc.RpcError as error:
            return Answer([], error)
        return Answer([response], done)


# ------------------------------------------------------------------------------------------------------------ servers


@pytest.mark.parametrize("form", FORMS)
def test_a_valid_id_is_accepted_and_echoed(serve: Serve, form: str) -> None:
    answer = ask(serve(), form, metadata=[("x-request-id", "abc")])
    assert answer.code == "OK"
    assert set(answer.messages) == {b"abc"}
    assert answer.echoed == ["abc"]


@pytest.mark.parametrize("form", FORMS)
def test_a_call_without_an_id_gets_one(serve: Serve, form: str) -> None:
    address = serve()
    first, second = ask(address, form), ask(address, form)
    assert {first.messages[0].decode()} == set(first.echoed)
    assert first.echoed != second.echoed


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("what", "code"), [(b"raise", "UNKNOWN"), (b"abort NOT_FOUND", "NOT_FOUND"), (b"code INTERNAL", "INTERNAL")]
)
def test_an_error_is_the_same_as_ever_and_has_the_id(serve: Serve, form: str, what: bytes, code: str) -> None:
    answer = ask(serve(), form, what, metadata=[("x-request-id", "abc")])
    assert answer.code == code
    assert answer.echoed == ["abc"]


def test_trailing_metadata_of_the_handler_stays(serve: Serve) -> None:
    answer = ask(serve(), "unary_unary", b"trailing", metadata=[("x-request-id", "abc")])
    assert sorted(answer.trailing) == [("own", "value"), ("x-request-id", "abc")]


@pytest.mark.parametrize("form", FORMS)
def test_an_ignored_method_runs_in_no_request_whatever_is_left_around_it(
    serve: Serve, form: str, request: pytest.FixtureRequest
) -> None:
    is_aio = "aio" in request.node.callspec.id

    class Stale(grpc.ServerInterceptor):  # type: ignore[misc]
        def intercept_service(self, continuation: Any, details: Any) -> Any:
            clew.request("stale").__enter__()
            return continuation(details)

    class AioStale(grpc.aio.ServerInterceptor):  # type: ignore[misc]
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            clew.request("stale").__enter__()
            return await continuation(details)

    ignore = [f"/shop.Stock/{form}"]
    interceptors = (
        [AioStale(), integration.aio_server_interceptor(ignore=ignore)]
        if is_aio
        else [Stale(), integration.server_interceptor(ignore=ignore)]
    )
    address = serve(interceptors=interceptors)
    for _ in range(2):
        answer = ask(address, form, metadata=[("x-request-id", "abc")])
        assert (answer.code, set(answer.messages), answer.echoed) == ("OK", {b"None"}, [])
    other = next(other for other in FORMS if other != form)
    assert set(ask(address, other, metadata=[("x-request-id", "abc")]).messages) == {b"abc"}


@pytest.mark.parametrize("came_in", ["x-first", "x-second"])
def test_the_echo_is_under_the_name_that_the_id_came_in(serve: Serve, came_in: str) -> None:
    answer = ask(serve(headers=["X-First", "X-Second"]), metadata=[(came_in, "abc")])
    assert [pair for pair in answer.trailing if pair[0].startswith("x-")] == [(came_in, "abc")]


def test_of_a_repeated_name_the_first_counts(serve: Serve) -> None:
    assert ask(serve(), metadata=[("x-request-id", "one"), ("x-request-id", "two")]).messages == [b"one"]


def test_the_keywords_do_what_they_say(serve: Serve) -> None:
    address = serve(
        headers=["X-Trace", "X-Other"],
        validator=str.isdigit,
        transformer=lambda name: f"t-{name}",
        generator=lambda: "made",
        echo="X-Answer",
        ignore=["/shop.Stock/stream_unary"],
    )
    answer = ask(address, metadata=[("x-other", "17")])
    assert (answer.messages, answer.trailing) == ([b"t-17"], [("x-answer", "t-17")])
    assert ask(address, metadata=[("x-trace", "abc")]).messages == [b"t-made"]
    assert ask(address, "stream_unary").messages == [b"None"]


def test_an_untrusted_id_is_replaced_and_no_echo_sent_where_none_is_wanted(serve: Serve) -> None:
    answer = ask(serve(trust=False, echo=False), metadata=[("x-request-id", "abc")])
    assert answer.messages != [b"abc"]
    assert answer.trailing == []


@pytest.mark.parametrize("broken", ["validator", "transformer", "generator"])
def test_a_callable_that_raises_costs_the_call_nothing(serve: Serve, broken: str) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("broken")

    answer = ask(serve(**{broken: fails}), metadata=[("x-request-id", "abc")] if broken == "validator" else [])
    assert answer.code == "OK"
    assert is_valid(answer.echoed[0])
    assert answer.echoed != ["abc"]


@pytest.mark.parametrize("interceptor", [integration.server_interceptor, integration.aio_server_interceptor])
def test_wrong_keywords_are_refused_with_words(interceptor: Any) -> None:
    with pytest.raises(ValueError, match="metrics takes True or False, not 'auto'"):
        interceptor(metrics="auto")
    with pytest.raises(ValueError, match="'X-Trace-bin' is no name in metadata"):
        interceptor(headers="X-Trace-bin")
    with pytest.raises(ValueError, match="names of HTTP headers"):
        interceptor(echo="a b")
    with pytest.raises(TypeError, match="validator takes a callable"):
        interceptor(validator=7)


def test_what_is_no_id_goes_nowhere(serve_plain: Serve) -> None:
    address = serve_plain()
    visible = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=300)

    @settings(
        max_examples=50,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(visible)
    def check(text: str) -> None:
        answer = ask(address, metadata=[("x-request-id", text)])
        assert answer.code == "OK"
        assert [message.decode() for message in answer.messages] == answer.echoed
        assert is_valid(answer.echoed[0])

    check()


def test_an_unknown_method_is_unimplemented_as_ever(serve: Serve) -> None:
    with grpc.insecure_channel(serve()) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/shop.Stock/nothing")(b"", timeout=60)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_handlers_that_are_no_coroutines_run_in_an_aio_server_too() -> None:
    with serve_aio(Handlers()) as address:
        for form in FORMS[:2]:
            answer = ask(address, form, metadata=[("x-request-id", "abc")])
            assert (answer.code, set(answer.messages), answer.echoed) == ("OK", {b"abc"}, ["abc"])


def test_two_interceptors_make_one_request(recorded: Recorded) -> None:
    both = [integration.server_interceptor(), integration.server_interceptor(headers="X-Other")]
    with serve_sync(interceptors=both) as address:
        answer = ask(address, metadata=[("x-request-id", "abc"), ("x-other", "def")])
    assert answer.messages == [b"abc"]
    assert [point.count for point in recorded.points("rpc.server.call.duration")] == [1]


def test_a_propagator_outside_and_inside_agrees_with_the_interceptor(recorded: Recorded) -> None:
    """Contrib's interceptor extracts from a dict of the metadata and attaches what it gets."""
    from opentelemetry import propagate
    from opentelemetry.context import attach, detach

    seen: list[Any] = []

    class Extracting(grpc.ServerInterceptor):  # type: ignore[misc]
        def intercept_service(self, continuation: Any, details: Any) -> Any:
            handler = continuation(details)

            def call(request: Any, context: Any) -> Any:
                token = attach(propagate.extract({item.key: item.value for item in context.invocation_metadata()}))
                try:
                    seen.append(clew.request_id())
                    return handler.unary_unary(request, context)
                finally:
                    seen.append(clew.request_id())
                    detach(token)

            return grpc.unary_unary_rpc_method_handler(call)

    ours = integration.server_interceptor()
    with serve_sync(interceptors=[Extracting(), ours, Extracting()]) as address:
        answer = ask(address)
    assert answer.messages == [answer.echoed[0].encode()]
    assert seen == [None, *[answer.echoed[0]] * 3]


@pytest.mark.parametrize("form", ["unary_unary", "unary_stream"])
def test_the_traceback_that_the_server_logs_has_the_id(
    serve: Serve, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.addFilter(RequestIdFilter())
    try:
        ask(serve(), form, b"raise", metadata=[("x-request-id", "abc")])
        wait_until(lambda: [r for r in caplog.records if r.exc_info], "nothing was logged")
    finally:
        caplog.handler.filters.clear()
    assert {record.request_id for record in caplog.records if record.exc_info} == {"abc"}


# ------------------------------------------------------------------------------------------------------------ metrics


def measured(recorded: Recorded, count: int) -> list[tuple[dict[str, Any], int]]:
    found: list[Any] = []

    def there() -> bool:
        found[:] = recorded.points("rpc.server.call.duration")
        return sum(point.count for point in found) >= count

    wait_until(there, "not measured")
    assert sum(point.count for point in found) == count
    return [(dict(point.attributes), point.count) for point in found]


@pytest.mark.parametrize("form", FORMS)
def test_calls_are_measured_and_fail_by_their_status_code(serve: Serve, recorded: Recorded, form: str) -> None:
    address = serve()
    for what in (b"tell", b"tell", b"abort NOT_FOUND", b"abort UNAVAILABLE", b"code INTERNAL", b"raise"):
        ask(address, form, what)
    base = {"rpc.system.name": "grpc", "rpc.method": f"shop.Stock/{form}"}
    found = measured(recorded, 6)
    for status, more, count in (
        ("OK", {}, 2),
        ("NOT_FOUND", {}, 1),
        ("UNAVAILABLE", {"error.type": "UNAVAILABLE"}, 1),
        ("INTERNAL", {"error.type": "INTERNAL"}, 1),
        ("UNKNOWN", {"error.type": "ValueError"}, 1),
    ):
        assert ({**base, "rpc.response.status_code": status, **more}, count) in found


def test_the_exemplars_carry_the_id(serve: Serve, recorded: Recorded) -> None:
    ask(serve(), metadata=[("x-request-id", "abc")])
    points: list[Any] = []
    wait_until(lambda: points.extend(recorded.points("rpc.server.call.duration")) or points, "not measured")
    assert points[0].exemplars[0].filtered_attributes["request_id"] == "abc"


def test_metrics_may_be_left_out(serve: Serve, recorded: Recorded) -> None:
    address = serve(metrics=False)
    ask(address)
    ask(address)
    assert recorded.points("rpc.server.call.duration") == []


@pytest.mark.parametrize(("timeout", "status"), [(None, "CANCELLED"), (1.5, "DEADLINE_EXCEEDED")])
def test_a_call_that_its_client_ends_has_the_status_that_the_client_sees(
    serve: Serve, recorded: Recorded, timeout: float | None, status: str
) -> None:
    Handlers.waiting = False
    with grpc.insecure_channel(serve()) as channel:
        call = channel.unary_unary("/shop.Stock/unary_unary")
        call(b"connect", timeout=60)  # so that the next one comes to its handler well before its deadline
        future = call.future(b"wait", timeout=timeout)
        wait_until(lambda: Handlers.waiting, "the handler was not called")
        if timeout is None:
            future.cancel()
        (attributes,) = [each for each, _ in measured(recorded, 2) if each["rpc.response.status_code"] != "OK"]
    assert attributes["rpc.response.status_code"] == status
    assert attributes.get("error.type") == (status if timeout else None)


def test_records_of_the_handler_have_the_id(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(RequestIdFilter())
    try:
        ask(serve(), "unary_unary", b"log", metadata=[("x-request-id", "abc")])
    finally:
        caplog.handler.filters.clear()
    assert [record.request_id for record in caplog.records if record.name == "stock"] == ["abc"]


# ------------------------------------------------------------------------------------------------------------ clients


def ask_instrumented(address: str, form: str, metadata: Any = None) -> bytes:
    with integration.instrument(grpc.insecure_channel(address)) as channel:
        call = getattr(channel, form)(f"/shop.Stock/{form}")
        response = call(iter([TELL]) if form.startswith("stream") else TELL, metadata=metadata, timeout=60)
        return next(response) if form.endswith("stream") else response  # type: ignore[no-any-return]


def ask_instrumented_aio(address: str, form: str, metadata: Any = None) -> bytes:
    async def run() -> bytes:
        interceptors = integration.aio_client_interceptors(address)
        async with grpc.aio.insecure_channel(address, interceptors=interceptors) as channel:
            call = getattr(channel, form)(f"/shop.Stock/{form}")
            response = call(iter([TELL]) if form.startswith("stream") else TELL, metadata=metadata, timeout=60)
            if form.endswith("stream"):
                async for message in response:
                    return message  # type: ignore[no-any-return]
            return await response  # type: ignore[no-any-return]

    return asyncio.run(run())


asking = pytest.mark.parametrize("asks", [ask_instrumented, ask_instrumented_aio], ids=["sync", "aio"])


@asking
@pytest.mark.parametrize("form", FORMS)
def test_the_id_goes_with_the_call(asks: Any, serve_plain: Serve, form: str) -> None:
    address = serve_plain()
    with clew.request("abc"):
        assert asks(address, form) == b"abc"
    assert asks(address, form) != b"abc"


@asking
def test_what_the_caller_sets_stays(asks: Any, serve_plain: Serve) -> None:
    with clew.request("abc"):
        assert asks(serve_plain(), "unary_unary", (("x-request-id", "mine"), ("other", "x"))) == b"mine"
        assert asks(serve_plain(), "unary_unary", (("other", "x"),)) == b"abc"


@asking
@pytest.mark.parametrize(("hosts", "goes"), [(("127.0.0.1",), True), ((".example",), False), ((), False)])
def test_the_id_goes_only_to_hosts_that_may_have_it(
    asks: Any, serve_plain: Serve, monkeypatch: pytest.MonkeyPatch, hosts: Any, goes: bool
) -> None:
    monkeypatch.setattr(policy, "hosts", hosts)
    with clew.request("abc"):
        assert (asks(serve_plain(), "unary_unary") == b"abc") is goes


@pytest.mark.parametrize(
    ("target", "parsed"),
    [
        ("stock:50051", ("stock", 50051)),
        ("dns:///stock:50051", ("stock", 50051)),
        ("dns://8.8.8.8/stock:1", ("stock", 1)),
        ("stock", ("stock", 443)),
        ("ipv4:127.0.0.1:5", ("127.0.0.1", 5)),
        ("ipv6:[::1]:5", ("::1", 5)),
        ("ipv4:1.1.1.1:1,2.2.2.2:2", None),
        ("unix:/run/stock", None),
        ("xds:///stock", None),
        (None, None),
        ("", None),
    ],
)
def test_a_target_is_known_where_it_names_one_host(
    target: Any, parsed: Any, serve_plain: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "hosts", () if parsed is None else (f"[{parsed[0]}]:{parsed[1]}",))
    address = serve_plain()

    async def run() -> bytes:
        interceptors = integration.aio_client_interceptors(target)
        async with grpc.aio.insecure_channel(address, interceptors=interceptors) as channel:
            with clew.request("abc"):
                return await channel.unary_unary("/shop.Stock/unary_unary")(TELL, timeout=60)  # type: ignore[no-any-return]

    assert (asyncio.run(run()) == b"abc") is (parsed is not None)


def test_a_header_that_metadata_cannot_have_is_left_out_and_logged_once(
    serve_plain: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(policy, "header", "X!Request")
    address = serve_plain(headers="X-Request-ID")
    with clew.request("abc"):
        assert ask_instrumented(address, "unary_unary") != b"abc"
        assert ask_instrumented(address, "unary_unary") != b"abc"
    assert [record.getMessage() for record in caplog.records if "X!Request" in record.getMessage()] == [
        "The header X!Request can be no name in gRPC's metadata; no request ID goes there"
    ]


def test_something_else_than_a_channel_is_refused() -> None:
    with pytest.raises(TypeError, match="int"):
        integration.instrument(7)  # type: ignore[arg-type]
