"""`clew.measure` on everything that can be measured: what is recorded, and that nothing else changes."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
import types
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from recorded import Recorded
from stopped_clock import StoppedClock

import clew


class Declined(Exception):
    pass


def total_active(recorded: Recorded, operation: str) -> int:
    (point,) = [p for p in recorded.points("operation.active") if p.attributes["operation.name"] == operation]
    return point.value


def test_a_bare_decorator_names_the_operation_after_the_function(recorded: Recorded) -> None:
    @clew.measure
    def checkout(cart: int) -> int:
        return cart + 1

    assert checkout(1) == 2
    name = f"{__name__}.{checkout.__qualname__}"
    assert recorded.calls(name) == {None: 1}


def test_a_duration_is_in_seconds_and_in_its_bucket(recorded: Recorded) -> None:
    @clew.measure("waits")
    def waits() -> None:
        threading.Event().wait(0.06)

    began = time.perf_counter()
    waits()
    around = time.perf_counter() - began
    (point,) = recorded.durations("waits")
    assert 0.05 < point.sum < around
    assert len(point.explicit_bounds) == 18
    assert point.explicit_bounds[0] == 0.0001
    assert point.explicit_bounds[-1] == 60
    assert sum(point.bucket_counts) == point.count == 1


@pytest.mark.parametrize("form", ["function", "computed", "coroutine", "generator", "async generator", "block", "told"])
def test_each_form_lasts_as_long_as_it_takes(recorded: Recorded, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    clock = StoppedClock()
    clock.put_in_place(monkeypatch)
    measure = clew.measure("work", attributes=(lambda seconds: {"a": "b"}) if form == "computed" else None)

    def work(seconds: int) -> None:
        clock.now += seconds * 1_000_000_000

    async def coroutine(seconds: int) -> None:
        work(seconds)

    def generator(seconds: int) -> Iterator[None]:
        yield work(seconds)

    async def async_generator(seconds: int) -> AsyncIterator[None]:
        yield work(seconds)

    forms: dict[str, Any] = {
        "coroutine": coroutine,
        "generator": generator,
        "async generator": async_generator,
    }
    measured = measure(forms.get(form, work))

    async def drain(seconds: int) -> None:
        async for _ in measured(seconds):
            pass

    for seconds in (1, 20, 3):  # the first one takes the slow path, the others the fast path
        if form in ("block", "told"):
            with clew.measure("work") as m:
                if form == "told":
                    m.set("a", "b")
                work(seconds)
        elif form == "coroutine":
            asyncio.run(measured(seconds))
        elif form == "async generator":
            asyncio.run(drain(seconds))
        else:
            list(measured(seconds) or ())
    (point,) = recorded.durations("work")
    assert (point.count, point.sum, point.min, point.max) == (3, 24, 1, 20)
    buckets = dict(zip((*point.explicit_bounds, None), point.bucket_counts, strict=True))
    assert {bound: count for bound, count in buckets.items() if count} == {1.0: 1, 5.0: 1, 30.0: 1}


def test_an_exception_passes_unchanged_and_names_the_error_type(recorded: Recorded) -> None:
    error = Declined("no")

    @clew.measure("charge")
    def charge() -> None:
        raise error

    with pytest.raises(Declined) as raised:
        charge()
    assert raised.value is error
    assert raised.value.__context__ is None
    assert recorded.calls("charge") == {f"{__name__}.Declined": 1}


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError(), "ValueError"),
        (asyncio.TimeoutError(), "TimeoutError"),
        (TimeoutError(), "TimeoutError"),
        (asyncio.CancelledError(), "asyncio.exceptions.CancelledError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(3), "SystemExit"),
        (SystemExit("wrong"), "SystemExit"),
        (SystemExit(0), None),
        (SystemExit(None), None),
        (StopAsyncIteration(), None),
        (StopIteration(), None),
        (GeneratorExit(), None),
    ],
)
def test_what_counts_as_a_failure(recorded: Recorded, error: BaseException, name: str | None) -> None:
    @clew.measure("raises")
    def raises() -> None:
        raise error

    with pytest.raises(type(error)):
        raises()
    assert recorded.calls("raises") == {name: 1}


def test_an_expected_exception_is_no_failure_and_still_passes(recorded: Recorded) -> None:
    @clew.measure("buy", expected=(Declined, KeyError))
    def buy(error: Exception) -> None:
        raise error

    for error in (Declined(), KeyError(), ValueError()):
        with pytest.raises(type(error)):
            buy(error)
    assert recorded.calls("buy") == {None: 2, "ValueError": 1}


def test_exceptions_expected_by_the_environment_are_looked_up_by_name(
    configured: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEW_EXPECTED", "json.JSONDecodeError,asyncio.CancelledError")
    recorded = configured()
    import json

    @clew.measure("parse")
    def parse(text: str) -> Any:
        return json.loads(text)

    for _ in range(2):  # the first call takes the slow path, the second one the fast path
        with pytest.raises(json.JSONDecodeError):
            parse("{")
    assert recorded.calls("parse") == {None: 2}


def test_a_returned_failure_is_one(recorded: Recorded) -> None:
    @clew.measure("charge", failed=lambda receipt: receipt["error"])
    def charge(error: object) -> dict[str, object]:
        return {"error": error}

    for error in (None, "", "declined", True, 7):
        assert charge(error) == {"error": error}
    assert recorded.calls("charge") == {None: 2, "declined": 1, "_OTHER": 1, "7": 1}


def test_a_failed_callable_that_raises_fails_nothing(recorded: Recorded, caplog: pytest.LogCaptureFixture) -> None:
    @clew.measure("odd", failed=lambda result: result.missing)
    def odd() -> int:
        return 1

    assert [odd(), odd()] == [1, 1]
    assert recorded.calls("odd") == {None: 2}
    assert len([r for r in caplog.records if "`failed` raised" in r.getMessage()]) == 1


def test_a_block_sets_notes_and_fails(recorded: Recorded) -> None:
    with clew.measure("charge card", attributes={"tier": "gold"}) as m:
        m.set("payment.method", "visa")
        m.note("order.id", "8f3c")
        m.fail("declined")
    (point,) = recorded.durations("charge card")
    assert dict(point.attributes) == {
        "operation.name": "charge card",
        "tier": "gold",
        "payment.method": "visa",
        "error.type": "declined",
    }


def test_an_exception_beats_fail(recorded: Recorded) -> None:
    with suppress(ValueError), clew.measure("both") as m:
        m.fail("declined")
        raise ValueError
    assert recorded.calls("both") == {"ValueError": 1}


def test_an_async_block_is_measured(recorded: Recorded) -> None:
    async def main() -> None:
        async with clew.measure("await") as m:
            m.set("kind", "async")
            await asyncio.sleep(0)

    asyncio.run(main())
    (point,) = recorded.durations("await")
    assert point.attributes["kind"] == "async"


def test_a_block_is_single_use_and_says_so_each_time(recorded: Recorded) -> None:
    block = clew.measure("once")
    with block:
        pass
    for _ in range(2):
        with pytest.raises(RuntimeError, match="single-use"), block:
            pass
    assert recorded.calls("once") == {None: 1}


def test_a_block_is_single_use_without_telemetry_too() -> None:
    block = clew.measure("once")
    with block:
        pass
    with pytest.raises(RuntimeError, match="single-use"), block:
        pass


def test_one_decorator_serves_any_number_of_functions(recorded: Recorded) -> None:
    measured = clew.measure("shared")
    first, second = measured(lambda: 1), measured(lambda: 2)
    assert (first(), second(), first()) == (1, 2, 1)
    assert recorded.calls("shared") == {None: 3}


def test_a_coroutine_is_measured_over_its_awaits_and_stays_one(recorded: Recorded) -> None:
    @clew.measure("fetch")
    async def fetch(n: int) -> int:
        await asyncio.sleep(0)
        return n

    assert inspect.iscoroutinefunction(fetch)

    async def main() -> list[int]:
        return await asyncio.gather(*(fetch(n) for n in range(10)))

    assert asyncio.run(main()) == list(range(10))
    assert recorded.calls("fetch") == {None: 10}


def test_a_cancelled_task_is_a_failure(recorded: Recorded) -> None:
    @clew.measure("forever")
    async def forever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert recorded.calls("forever") == {"asyncio.exceptions.CancelledError": 1}


def test_a_generator_lasts_from_its_first_step_to_its_end(recorded: Recorded) -> None:
    @clew.measure("rows")
    def rows(n: int) -> Iterator[int]:
        got = yield n
        yield got
        return "end"

    assert inspect.isgeneratorfunction(rows)
    generator = rows(1)
    assert inspect.isgenerator(generator)
    assert recorded.durations("rows") == []
    assert next(generator) == 1
    assert total_active(recorded, "rows") == 1
    assert generator.send(5) == 5
    with pytest.raises(StopIteration) as stopped:
        next(generator)
    assert stopped.value.value == "end"
    assert recorded.calls("rows") == {None: 1}
    assert total_active(recorded, "rows") == 0


def test_a_generator_that_is_never_stepped_is_not_measured(recorded: Recorded) -> None:
    @clew.measure("rows")
    def rows() -> Iterator[int]:
        yield 1

    rows().close()
    del rows
    assert recorded.durations() == []


def test_closing_a_generator_early_is_no_failure(recorded: Recorded) -> None:
    closed = []

    @clew.measure("rows")
    def rows() -> Iterator[int]:
        try:
            yield 1
        finally:
            closed.append(True)

    generator = rows()
    next(generator)
    generator.close()
    assert closed == [True]
    assert recorded.calls("rows") == {None: 1}


def test_an_exception_thrown_into_a_generator_reaches_it(recorded: Recorded) -> None:
    @clew.measure("rows")
    def rows() -> Iterator[object]:
        try:
            yield 1
        except KeyError as error:
            yield error
        raise Declined

    generator = rows()
    next(generator)
    thrown = KeyError("x")
    assert generator.throw(thrown) is thrown
    with pytest.raises(Declined):
        next(generator)
    assert recorded.calls("rows") == {f"{__name__}.Declined": 1}


def test_a_generator_that_is_awaited_is_measured_and_can_still_be(recorded: Recorded) -> None:
    @clew.measure("waits")
    @types.coroutine
    def waits(number: int) -> Iterator[None]:
        yield
        return number

    async def waits_for_it() -> int:
        found: int = await waits(3)
        return found

    assert asyncio.run(waits_for_it()) == 3
    assert asyncio.run(waits_for_it()) == 3
    assert recorded.calls("waits") == {None: 2}


TELLS_COLLECTED = pytest.mark.skipif(
    "sys.version_info < (3, 11)", reason="Python 3.10 cannot tell a collected generator from a closed one"
)


@TELLS_COLLECTED
def test_a_collected_generator_is_counted_as_abandoned_without_a_duration(recorded: Recorded) -> None:
    @clew.measure("rows")
    def rows() -> Iterator[int]:
        yield 1
        yield 2

    before = recorded.events().get("operation.abandoned", 0)
    for number in (1, 2):  # the first one takes the slow path, the second one the fast path
        generator = rows()
        next(generator)
        assert total_active(recorded, "rows") == 1
        del generator
        assert recorded.durations("rows") == []
        assert total_active(recorded, "rows") == 0
        assert recorded.events()["operation.abandoned"] == before + number


def test_an_async_generator_passes_values_errors_and_its_end(recorded: Recorded) -> None:
    seen: list[object] = []

    @clew.measure("stream")
    async def stream(n: int) -> AsyncIterator[object]:
        try:
            seen.append((yield n))
            yield n + 1
        except KeyError as error:
            yield error
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    assert inspect.isasyncgenfunction(stream)

    async def main() -> None:
        assert [item async for item in stream(1)] == [1, 2]
        generator = stream(5)
        assert await generator.__anext__() == 5
        assert await generator.asend("sent") == 6
        await generator.aclose()
        generator = stream(7)
        await generator.__anext__()
        thrown = KeyError("x")
        assert await generator.athrow(thrown) is thrown
        with pytest.raises(StopAsyncIteration):
            await generator.__anext__()

    asyncio.run(main())
    assert seen == [None, "closed", "sent", "closed", "closed"]
    assert recorded.calls("stream") == {None: 3}


@TELLS_COLLECTED
def test_an_async_generator_left_in_the_middle_is_counted_as_abandoned(recorded: Recorded) -> None:
    @clew.measure("stream")
    async def stream() -> AsyncIterator[int]:
        yield 1
        yield 2

    before = recorded.events().get("operation.abandoned", 0)

    async def main() -> None:
        async for _ in stream():
            break

    for number in (1, 2):  # the first one takes the slow path, the second one the fast path
        asyncio.run(main())
        assert recorded.durations("stream") == []
        assert total_active(recorded, "stream") == 0
        assert recorded.events()["operation.abandoned"] == before + number


def test_methods_classmethods_and_staticmethods_work_in_either_order(recorded: Recorded) -> None:
    class Shop:
        @clew.measure("method")
        def method(self, n: int) -> tuple[object, int]:
            return self, n

        @clew.measure("outer class")
        @classmethod
        def outer_class(cls) -> type:
            return cls

        @classmethod
        @clew.measure("inner class")
        def inner_class(cls) -> type:
            return cls

        @clew.measure("outer static")
        @staticmethod
        def outer_static(n: int) -> int:
            return n

        @staticmethod
        @clew.measure("inner static")
        def inner_static(n: int) -> int:
            return n

    shop = Shop()
    assert shop.method(1) == (shop, 1)
    assert Shop.outer_class() is Shop.inner_class() is shop.outer_class() is Shop
    assert shop.outer_static(1) + Shop.inner_static(2) == 3
    for operation in ("method", "outer static", "inner static", "inner class"):
        assert recorded.calls(operation) == {None: 1}
    assert recorded.calls("outer class") == {None: 2}


def test_recursion_and_nesting_count_each_call(recorded: Recorded) -> None:
    @clew.measure("factorial")
    def factorial(n: int) -> int:
        return 1 if n == 0 else n * factorial(n - 1)

    assert factorial(5) == 120
    assert recorded.calls("factorial") == {None: 6}
    assert total_active(recorded, "factorial") == 0


def test_threads_lose_no_call(recorded: Recorded) -> None:
    @clew.measure("work")
    def work() -> None:
        pass

    def run() -> None:
        for _ in range(500):
            work()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorded.calls("work") == {None: 2000}


def test_the_number_of_running_operations_is_there_while_they_run(recorded: Recorded) -> None:
    seen: list[int] = []

    @clew.measure("runs")
    def runs(depth: int) -> None:
        if depth:
            runs(depth - 1)
        else:
            seen.append(total_active(recorded, "runs"))

    runs(2)
    assert seen == [3]
    assert total_active(recorded, "runs") == 0


def test_the_signature_and_what_wraps_keeps_stay() -> None:
    def original(cart: int, /, *items: str, tier: str = "gold", **rest: object) -> bool:
        """Buy."""
        return bool(cart)

    original.marked = True  # type: ignore[attr-defined]
    measured: Any = clew.measure("buy")(original)
    assert inspect.signature(measured) == inspect.signature(original)
    assert measured.__wrapped__ is original
    assert (measured.__name__, measured.__doc__, measured.__module__) == ("original", "Buy.", __name__)
    assert measured.marked


def test_what_can_be_called_can_be_measured(recorded: Recorded) -> None:
    class Callable_:
        def __call__(self, n: int) -> int:
            return n

    measured = clew.measure("object")(Callable_())
    partial = clew.measure("partial")(functools.partial(max, 3))
    assert (measured(2), partial(7)) == (2, 7)
    assert recorded.calls("object") == recorded.calls("partial") == {None: 1}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: clew.measure(42), TypeError, "42"),
        (lambda: clew.measure(""), ValueError, "1 to 255 printable"),
        (lambda: clew.measure("a\nb"), ValueError, "printable"),
        (lambda: clew.measure("x" * 256), ValueError, "256 characters"),
        (lambda: clew.measure("x", attributes=7), TypeError, "mapping or a callable"),
        (lambda: clew.measure("x", expected=7), TypeError, "exception type"),
        (lambda: clew.measure("x", expected=(ValueError, "KeyError")), TypeError, "KeyError"),
        (lambda: clew.measure("x", failed=7), TypeError, "callable"),
        (lambda: clew.measure("x", span="yes"), TypeError, "span takes True, False or None, not 'yes'"),
        (lambda: clew.measure("x")(7), TypeError, "functions and methods"),
        (lambda: clew.measure("x")(int), TypeError, "functions and methods"),
        (lambda: clew.measure("x", attributes=lambda nope: {})(lambda cart: 0), TypeError, "'nope'"),
        (lambda: clew.measure("x", wrong=1), TypeError, "wrong"),
        (lambda: clew.measure(len, expected=ValueError), TypeError, "alone"),  # type: ignore[call-overload]
    ],
)
def test_wrong_arguments_are_refused_at_decoration(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_block_without_a_name_or_with_a_calls_arguments_is_refused() -> None:
    with pytest.raises(TypeError, match="name"), clew.measure():
        pass
    with pytest.raises(TypeError, match="use m"), clew.measure("x", attributes=lambda cart: {}):
        pass
    with pytest.raises(TypeError, match="use m"), clew.measure("x", failed=bool):
        pass


def test_without_telemetry_everything_works_and_request_ids_do() -> None:
    @clew.measure("nothing")
    def nothing(n: int) -> str | None:
        with clew.measure("inside") as m:
            m.set("a", 1)
            m.note("b", 2)
            m.fail("no")
        return clew.request_id()

    with clew.request("given") as request_id:
        assert nothing(1) == request_id == "given"


def test_a_function_decorated_before_is_measured_from_configure_on(configured: Callable[..., Recorded]) -> None:
    @clew.measure("early")
    def early() -> None:
        pass

    early()
    recorded = configured()
    early()
    assert recorded.calls("early") == {None: 1}
    recorded.telemetry.shutdown()
    early()
    again = configured()
    early()
    early()
    assert again.calls("early") == {None: 2}


def test_an_operation_under_way_at_configure_is_not_recorded(configured: Callable[..., Recorded]) -> None:
    first = configured()
    with clew.measure("across"):
        first.telemetry.shutdown()
        second = configured()
    assert second.durations("across") == []
    assert [p for p in second.points("operation.active") if p.attributes["operation.name"] == "across"] == []


def test_what_a_block_without_a_span_sets_and_notes_goes_to_the_current_one(recorded: Recorded) -> None:
    tracer = trace.get_tracer("test", tracer_provider=recorded.telemetry.tracer_provider)
    with tracer.start_as_current_span("theirs"):
        for tier in ("silver", "gold"):  # the first block of a name takes the slow path, the second one the fast path
            with clew.measure("checkout") as m:
                m.set("tier", tier)
                m.note("order", tier[0])
            with clew.measure("check in") as m:
                m.set("class", tier)
    (span,) = recorded.spans()
    assert dict(span.attributes or {}) == {"tier": "gold", "order": "g", "class": "gold"}
    assert recorded.calls("checkout") == {None: 2}


def test_an_exception_whose_text_raises_ends_its_span_all_the_same(recorded: Recorded) -> None:
    from opentelemetry.trace import INVALID_SPAN, get_current_span

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    @clew.measure("mute", span=True)
    def mute() -> None:
        raise Mute

    with pytest.raises(Mute):
        mute()
    assert get_current_span() is INVALID_SPAN
    (span,) = recorded.spans()
    assert span.name == "mute"
    assert not span.status.is_ok
    assert list(recorded.calls("mute").values()) == [1]


def test_a_span_has_what_is_set_and_noted_and_the_request_id(recorded: Recorded) -> None:
    with clew.request("mine"), clew.measure("charge", span=True) as m:
        m.set("payment.method", "visa")
        m.note("order.id", "8f3c")
        m.fail("declined")
    (span,) = recorded.spans()
    assert dict(span.attributes or {}) == {
        "operation.name": "charge",
        "payment.method": "visa",
        "order.id": "8f3c",
        "error.type": "declined",
        "request_id": "mine",
    }


def _is_missing(error: BaseException) -> bool:
    return isinstance(error, KeyError) and error.args == ("missing",)


@pytest.mark.parametrize("form", ["function", "coroutine", "generator", "block", "everywhere"])
def test_a_callable_judges_exceptions_by_their_value(configured: Callable[..., Recorded], form: str) -> None:
    recorded = configured(expected=_is_missing if form == "everywhere" else None)
    arguments: dict[str, Any] = {} if form == "everywhere" else {"expected": _is_missing}

    def look_up(key: str) -> None:
        raise KeyError(key)

    async def coroutine(key: str) -> None:
        look_up(key)

    def generator(key: str) -> Iterator[None]:
        yield look_up(key)

    measure = clew.measure("look up", **arguments)
    measured: Any = measure({"coroutine": coroutine, "generator": generator}.get(form, look_up))
    for key in ("missing", "other", "missing", "other"):
        with suppress(KeyError):
            if form == "block":
                with clew.measure("look up", **arguments):
                    look_up(key)
            elif form == "coroutine":
                asyncio.run(measured(key))
            else:
                list(measured(key))
    assert recorded.calls("look up") == {None: 2, "KeyError": 2}


def test_an_expected_callable_that_raises_means_a_failure_logged_once(
    recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    @clew.measure("judged badly", expected=lambda error: error.status == 404)
    def fails() -> None:
        raise ValueError

    for _ in range(3):
        with suppress(ValueError):
            fails()
    assert recorded.calls("judged badly") == {"ValueError": 3}
    assert recorded.events()["expected.failed"] == 3
    assert len([r for r in caplog.records if "judged badly" in r.getMessage()]) == 1


@pytest.mark.parametrize("expected", [7, "KeyError", int, (KeyError, _is_missing), asyncio.sleep])
def test_what_cannot_be_expected_is_refused_at_once(expected: Any) -> None:
    with pytest.raises(TypeError, match="expected takes"):
        clew.measure("refused", expected=expected)
