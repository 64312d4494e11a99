"""Whatever a user's object does when it is looked at: the function runs, gives what it gives, and is counted once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hostile import Real, Recipe, exceptions, objects
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from recorded import Recorded

import clew

FORMS = ["function", "coroutine", "generator", "async generator", "method", "block"]

WAYS = ["shards", "spans", "portable"]


@pytest.fixture(params=WAYS)
def telemetry(request: pytest.FixtureRequest, configured: Callable[..., Recorded]) -> Recorded:
    """Telemetry whose operations go into shards, are spans too, or go the portable way."""
    if request.param != "portable":
        return configured(spans=request.param == "spans")
    reader = InMemoryMetricReader(preferred_aggregation={Histogram: ExponentialBucketHistogramAggregation()})
    recorded = configured(metric_readers=[reader])
    recorded.reader = reader
    return recorded


def outcome(form: str, measure: Any, body: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Run `body` in that form, measured, and return what came out of it."""

    def function() -> Any:
        return body()

    async def coroutine() -> Any:
        return body()

    def generator() -> Iterator[Any]:
        yield body()

    async def async_generator() -> AsyncIterator[Any]:
        yield body()

    class Shop:
        @measure
        def method(self) -> Any:
            return body()

    async def only(steps: AsyncIterator[Any]) -> Any:
        (item,) = [item async for item in steps]
        return item

    try:
        if form == "function":
            return measure(function)(), None
        if form == "coroutine":
            return run(measure(coroutine)()), None
        if form == "generator":
            (item,) = measure(generator)()
            return item, None
        if form == "async generator":
            return run(only(measure(async_generator)())), None
        if form == "method":
            return Shop().method(), None
        with measure:
            return body(), None
    except BaseException as error:
        return None, error


def run(coroutine: Any) -> Any:
    """Run a coroutine that waits for nothing, without a loop, whose own code looks at results and exceptions too."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


def assert_counted(telemetry: Recorded, operation: str, calls: int) -> None:
    assert sum(telemetry.calls(operation).values()) == calls
    active = [p.value for p in telemetry.points("operation.active") if p.attributes["operation.name"] == operation]
    assert active == [0]


def is_raised_by_python(error: BaseException) -> bool:
    """Tell whether Python itself can raise it."""
    try:
        raise error
    except BaseException as raised:
        return raised is error


numbers = iter(range(1_000_000))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    form=st.sampled_from(FORMS),
    recipe=exceptions,
    expected=st.sampled_from(["nothing", "its class", "a builtin", "a callable", "a raising one"]),
)
def test_an_exception_leaves_as_it_is_whatever_its_class_does(
    telemetry: Recorded, form: str, recipe: Recipe, expected: str
) -> None:
    operation = f"raises {next(numbers)}"
    error = recipe.make()
    arguments: dict[str, Any] = {
        "its class": {"expected": type(error)},
        "a builtin": {"expected": (KeyError, OSError)},
        "a callable": {"expected": lambda error: error},
        "a raising one": {"expected": lambda error: 1 / 0},
    }.get(expected, {})

    def body() -> Any:
        raise error

    assume(is_raised_by_python(error))
    for _ in range(3):
        _, raised = outcome(form, clew.measure(operation, **arguments), body)
        is_same, context = raised is error, BaseException.__dict__["__context__"].__get__(error)
        assert is_same
        assert context is None
    assert_counted(telemetry, operation, 3)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    form=st.sampled_from(FORMS),
    recipe=st.one_of(objects, exceptions),
    place=st.sampled_from(["value", "mapping", "computed value", "computed mapping", "failed", "returned"]),
)
def test_a_call_is_measured_whatever_it_is_given_or_returns(
    telemetry: Recorded, form: str, recipe: Recipe | Real, place: str
) -> None:
    operation = f"is given {next(numbers)}"
    value = recipe.make()
    if form == "block" and place != "mapping":
        place = "value"
    if form == "async generator" and place in ("failed", "returned"):
        place = "value"
    arguments: dict[str, Any] = {
        "value": lambda: {"attributes": {"tier": value}},
        "mapping": lambda: {"attributes": Pairs(value)},
        "computed value": lambda: {"attributes": lambda: {"tier": value}},
        "computed mapping": lambda: {"attributes": lambda: value},
        "failed": lambda: {"failed": lambda _: value},
        "returned": lambda: {"failed": lambda result: result},
    }[place]()
    result = value if place == "returned" else object()

    for _ in range(3):
        returned, raised = outcome(form, clew.measure(operation, **arguments), lambda: result)
        is_same = returned is result
        assert raised is None
        assert is_same
    assert_counted(telemetry, operation, 3)


class Pairs(dict[str, Any]):
    """A mapping that has an odd name, or is odd itself."""

    def __init__(self, odd: Any) -> None:
        super().__init__(tier="gold")
        self._odd = odd

    def items(self) -> Any:
        return [("tier", "gold"), (self._odd, 1), self._odd]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(recipes=st.tuples(objects, objects), told=st.sampled_from(["set", "set name", "note", "note name", "fail"]))
def test_a_block_goes_on_whatever_it_is_given(telemetry: Recorded, recipes: tuple[Any, Any], told: str) -> None:
    operation = f"is told {next(numbers)}"
    value, other = recipes[0].make(), recipes[1].make()
    for one in (value, other, value):
        with clew.measure(operation) as m:
            if told == "fail":
                m.fail(one)
            elif told.endswith("name"):
                (m.set if told.startswith("set") else m.note)(one, "value")
            else:
                (m.set if told == "set" else m.note)("name", one)
    assert_counted(telemetry, operation, 3)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(recipe=objects, error=exceptions)
def test_a_request_is_entered_and_left_whatever_its_id_and_its_exception_are(
    telemetry: Recorded, recipe: Recipe | Real, error: Recipe
) -> None:
    value, theirs = recipe.make(), error.make()
    assume(is_raised_by_python(theirs))
    request: Any = clew.request(value)
    if not callable(value) or type(request) is type(clew.request(None)):

        def in_a_request() -> None:
            with request as request_id:
                assert type(request_id) is str
                assert clew.request_id() == request_id
                raise theirs

        _, raised = outcome("function", lambda function: function, in_a_request)
        is_same = raised is theirs
        assert is_same
    assert clew.request_id() is None


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(recipe=objects, is_mapping=st.booleans())
def test_an_instrument_counts_whatever_its_attributes_are(
    telemetry: Recorded, recipe: Recipe | Real, is_mapping: bool
) -> None:
    name = f"odd.{next(numbers)}"
    counter = clew.counter(name, scope="test")
    value = recipe.make()
    attributes = value if is_mapping else {"tier": value}
    for _ in range(3):
        counter.add(1, attributes)
    counter.bind(attributes).add(2)
    assert sum(point.value for point in telemetry.points(name)) == 5


def test_what_the_program_is_to_see_passes_and_nothing_stays_active(telemetry: Recorded) -> None:
    class Interrupting(Exception):
        def __init__(self, error: BaseException) -> None:
            self.error = error

    def interrupted(error: BaseException) -> bool:
        raise KeyboardInterrupt

    @clew.measure("interrupted", expected=interrupted)
    def call() -> None:
        raise ValueError

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            call()
    assert_counted(telemetry, "interrupted", 3)


def test_a_module_that_raises_when_it_is_asked_costs_no_exception(
    configured: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import sys
    import types

    lazy = types.ModuleType("lazy_for_a_test")

    def missing(name: str) -> Any:
        raise ImportError("what it needs is not installed")

    lazy.__getattr__ = missing  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_for_a_test", lazy)
    monkeypatch.setenv("CLEW_EXPECTED", "lazy_for_a_test.Thing,KeyError")
    recorded = configured()
    error = ValueError("theirs")

    @clew.measure("fails")
    def fails() -> None:
        raise error

    @clew.request()
    def serve() -> None:
        fails()

    for call in (fails, fails, serve):
        with pytest.raises(ValueError, match="theirs") as raised:
            call()
        assert raised.value is error
    assert recorded.calls("fails") == {"ValueError": 3}
    assert recorded.events()["expected.failed"] >= 2
    assert len([r for r in caplog.records if "lazy_for_a_test.Thing" in r.getMessage()]) == 1


def test_a_coroutine_runs_in_a_loop_whatever_its_attributes_are(telemetry: Recorded) -> None:
    @clew.measure("in a loop", attributes=lambda: {"odd": object})
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert [asyncio.run(work()) for _ in range(2)] == [7, 7]
    assert_counted(telemetry, "in a loop", 2)


def test_at_the_recursion_limit_calls_give_what_they_give_and_are_counted(recorded: Recorded) -> None:
    ran = {"leaf": 0, "failing": 0, "block": 0, "deep": 0}
    reached = {"leaf": 0, "failing": 0}
    theirs = ValueError()  # to make one there may be no room

    @clew.measure("leaf")
    def leaf() -> str:
        ran["leaf"] += 1
        return "returned"

    @clew.measure("failing")
    def failing() -> str:
        ran["failing"] += 1
        raise theirs

    def block() -> str:
        with clew.measure("block"):
            ran["block"] += 1
        return "returned"

    @clew.measure("deep")
    def deep() -> None:
        ran["deep"] += 1
        deep()

    def down(levels: int, function: Callable[[], str]) -> tuple[str, bool]:
        if levels:
            return down(levels - 1, function)
        before = sum(ran.values())
        try:
            came = function()
        except Exception as error:
            came = type(error).__name__
        return came, sum(ran.values()) > before

    def tried(function: Callable[[], str], name: str, comes: str) -> None:
        with suppress(ValueError):
            function()
        for levels in range(sys.getrecursionlimit()):
            try:
                came, has_run = down(levels, function)
            except RecursionError:
                return
            assert came in (comes, "RecursionError")
            assert came == comes or not has_run
            reached[name] = levels

    for function, name, comes in ((leaf, "leaf", "returned"), (failing, "failing", "ValueError")):
        tried(function, name, comes)
        assert reached[name] > 100
    tried(block, "block", "returned")
    for _ in range(3):
        with pytest.raises(RecursionError):
            deep()
    for name, times in ran.items():
        calls = recorded.calls(name)
        assert times <= sum(calls.values()) <= times + 4  # at the very limit there may be room for nothing but the call
        (active,) = (p.value for p in recorded.points("operation.active") if p.attributes["operation.name"] == name)
        assert active == 0
    assert recorded.calls("leaf")[None] == ran["leaf"]
    assert recorded.calls("failing")["ValueError"] == ran["failing"]
