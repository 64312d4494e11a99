"""Attributes of operations: computed from the call, cleaned, and bounded."""

from __future__ import annotations

import enum
import gc
import logging
import threading
import tracemalloc
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import Recorded

import clew
from clew.operations import pipeline


def attributes_of(recorded: Recorded, operation: str) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in point.attributes.items() if name != "operation.name"}
        for point in recorded.durations(operation)
    ]


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (lambda cart: {"got": cart}, {"got": "c"}),
        (lambda size, cart: {"got": f"{cart}{size}"}, {"got": "c2"}),
        (lambda tier: {"got": tier}, {"got": "gold"}),
        (lambda *rest: {"got": [str(item) for item in rest]}, {"got": ("c", "2", "x", "y")}),
        (lambda size, *rest: {"got": [str(item) for item in rest]}, {"got": ("c", "x", "y")}),
        (lambda **rest: {"got": sorted(rest)}, {"got": ("cart", "extra", "size", "tier")}),
        (lambda cart, **rest: {"got": sorted(rest)}, {"got": ("extra", "size", "tier")}),
        (lambda cart, *items, **rest: {"got": [*items, *sorted(rest)]}, {"got": ("x", "y", "extra", "size", "tier")}),
        (lambda cart, missing=7: {"got": missing}, {"got": 7}),
        (lambda cart, /: {"got": cart}, {"got": "c"}),
        (lambda *, tier: {"got": tier}, {"got": "gold"}),
        (lambda: {"got": "nothing"}, {"got": "nothing"}),
        (lambda self: {"got": type(self).__name__}, {"got": "Shop"}),
    ],
)
def test_a_callable_gets_the_parameters_that_it_names(
    recorded: Recorded, compute: Callable[..., Mapping[str, Any]], expected: dict[str, Any]
) -> None:
    class Shop:
        @clew.measure("buy", attributes=compute)
        def buy(self, cart: str, size: int = 2, *items: str, tier: str = "gold", **more: object) -> str:
            return cart

    assert Shop().buy("c", 2, "x", "y", extra=1) == "c"
    assert attributes_of(recorded, "buy") == [expected]


def test_a_callable_is_called_once_before_the_body(recorded: Recorded) -> None:
    order: list[str] = []

    def tier_of(cart: list[int]) -> dict[str, int]:
        order.append("attributes")
        return {"size": len(cart)}

    @clew.measure("buy", attributes=tier_of)
    def buy(cart: list[int]) -> None:
        order.append("body")
        cart.append(1)

    buy([])
    assert order == ["attributes", "body"]
    assert attributes_of(recorded, "buy") == [{"size": 0}]


def test_arguments_that_do_not_fit_raise_the_functions_own_error(recorded: Recorded) -> None:
    @clew.measure("buy", attributes=lambda cart: {"cart": cart})
    def buy(cart: str) -> None:
        pass

    with pytest.raises(TypeError, match=r"buy\(\) got an unexpected keyword argument 'nope'"):
        buy(nope=1)  # type: ignore[call-arg]
    assert recorded.calls("buy") == {"TypeError": 1}


@pytest.mark.parametrize("result", [None, 7, "text", [("a", 1)], ZeroDivisionError])
def test_a_callable_that_raises_or_returns_nonsense_costs_only_the_attributes(
    recorded: Recorded, caplog: pytest.LogCaptureFixture, result: Any
) -> None:
    def broken(cart: str) -> Any:
        if result is ZeroDivisionError:
            raise ZeroDivisionError
        return result

    operation = f"buy {result!r}"

    @clew.measure(operation, attributes=broken)
    def buy(cart: str) -> str:
        return cart

    assert [buy("a"), buy("b")] == ["a", "b"]
    assert attributes_of(recorded, operation) == [{}]
    assert len([r for r in caplog.records if operation in r.getMessage()]) == 1


class Tier(str, enum.Enum):
    GOLD = "gold"


class Level(enum.IntEnum):
    HIGH = 3


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("gold", "gold"),
        (Tier.GOLD, "gold"),
        (Level.HIGH, 3),
        (True, True),
        (1.5, 1.5),
        (["a", "b"], ("a", "b")),
        ((1, 2), (1, 2)),
        ([], ()),
        (None, "None"),
        (b"x", "b'x'"),
        ({"a": 1}, "{'a': 1}"),
        ([1, "a"], ("1", "a")),
        (Unprintable(), "<Unprintable>"),
    ],
)
def test_values_are_plain_or_become_text(recorded: Recorded, value: object, kept: object) -> None:
    with clew.measure("clean", attributes={"value": value}) as m:
        m.set("set", value)
    assert attributes_of(recorded, "clean") == [{"value": kept, "set": kept}]


def test_true_one_and_one_point_zero_are_three_values(recorded: Recorded) -> None:
    for value in (True, 1, 1.0, True):
        with clew.measure("three", attributes={"value": value}):
            pass
    found = {(type(p.attributes["value"]), p.attributes["value"]): p.count for p in recorded.durations("three")}
    assert found == {(bool, True): 2, (int, 1): 1, (float, 1.0): 1}


@pytest.mark.parametrize("form", ["computed", "set", "counter"])
def test_values_of_equal_worth_stay_apart_when_they_come_again(recorded: Recorded, form: str) -> None:
    computed = clew.measure("work", attributes=lambda value: {"value": value})(lambda value: None)
    counter = clew.counter("values")
    for value in (True, 1, 1.0, True, 1, 1.0):
        if form == "computed":
            computed(value)
        elif form == "counter":
            counter.add(1, {"value": value})
        else:
            with clew.measure("work") as m:
                m.set("value", value)
    points = recorded.points("values") if form == "counter" else recorded.durations("work")
    found = {type(p.attributes["value"]): p.value if form == "counter" else p.count for p in points}
    assert found == {bool: 2, int: 2, float: 2}


def test_not_a_number_is_one_value(recorded: Recorded) -> None:
    for _ in range(3):
        with clew.measure("nan", attributes={"value": float("nan")}):
            pass
    (point,) = recorded.durations("nan")
    assert point.count == 3


@pytest.mark.parametrize("name", ["operation.name", "error.type", "request_id", "otel.anything", "", 7])
def test_reserved_and_impossible_names_are_ignored_and_logged_once(
    recorded: Recorded, caplog: pytest.LogCaptureFixture, name: Any
) -> None:
    for _ in range(2):
        with clew.measure("reserved", attributes={name: "mine", "fine": 1}) as m:
            m.set(name, "mine")
    assert attributes_of(recorded, "reserved") == [{"fine": 1}]
    assert len(caplog.records) <= 1


def test_past_its_budget_an_operation_keeps_its_totals_and_leaves_others_alone(
    configured: Callable[..., Recorded],
) -> None:
    recorded = configured(cardinality_limit=10)
    before = recorded.events().get("attributes.overflow", 0)
    for n in range(30):
        with suppress(KeyError), clew.measure("careless", attributes={"user": n}):
            if n % 3 == 0:
                raise KeyError
    with clew.measure("careful", attributes={"tier": "gold"}):
        pass
    points = recorded.durations("careless")
    overflow = {
        p.attributes.get("error.type"): p.count for p in points if p.attributes.get("otel.metric.overflow") is True
    }
    assert overflow == {None: 14, "KeyError": 6}
    assert all("user" not in p.attributes for p in points if "otel.metric.overflow" in p.attributes)
    assert len([p for p in points if "user" in p.attributes]) == 10
    assert recorded.calls("careless") == {None: 20, "KeyError": 10}
    assert attributes_of(recorded, "careful") == [{"tier": "gold"}]
    assert recorded.events()["attributes.overflow"] - before == 20


@pytest.mark.parametrize("is_function", [False, True], ids=["blocks", "functions"])
def test_a_handler_that_measures_what_it_does_can_receive_the_warning_of_an_overflow(
    configured: Callable[..., Recorded], is_function: bool
) -> None:
    recorded = configured(cardinality_limit=2)
    told: list[str] = []
    name = f"careless {is_function}"

    class Measured(logging.Handler):
        @clew.measure("handles")
        def emit(self, record: logging.LogRecord) -> None:
            with clew.measure("handles inside") as m:
                m.set("logger", record.name)
            told.append(record.getMessage())

    def use() -> None:
        for number in range(4):
            measure = clew.measure(name, attributes={"user": number})
            if is_function:
                measure(lambda: None)()
            else:
                with measure:
                    pass

    handler = Measured()
    logging.getLogger("clew").addHandler(handler)
    try:
        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
    finally:
        logging.getLogger("clew").removeHandler(handler)
    assert [f"{name} has more than 2 attribute sets" in text for text in told] == [True]
    assert recorded.calls(name) == {None: 4}
    assert recorded.calls("handles") == recorded.calls("handles inside") == {None: 1}


def test_what_interrupts_the_making_of_a_series_may_measure(recorded: Recorded) -> None:
    assert pipeline.current is not None
    current = pipeline.current

    def use() -> None:
        with current.lock:  # as the code has them that the handler of a signal interrupts
            clew.measure("handles")(lambda: None)()
            for number in range(3):
                with clew.measure("handles inside") as m:
                    m.set("number", number)

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert recorded.calls("handles") == {None: 1}
    assert recorded.calls("handles inside") == {None: 3}


def test_error_types_without_end_are_named_other(configured: Callable[..., Recorded]) -> None:
    recorded = configured(cardinality_limit=5)
    for n in range(20):
        with clew.measure("fails") as m:
            m.fail(f"reason {n}")
    calls = recorded.calls("fails")
    assert sum(calls.values()) == 20
    assert calls["_OTHER"] == 15


def test_operation_names_without_end_end_in_one_overflow_point(recorded: Recorded) -> None:
    for n in range(2_100):
        with clew.measure(f"operation {n}"):
            pass
    points = recorded.durations()
    (overflow,) = [p for p in points if p.attributes.get("otel.metric.overflow")]
    assert dict(overflow.attributes) == {"otel.metric.overflow": True}
    assert overflow.count == 100
    assert len(points) == 2_001
    assert len(recorded.points("operation.active")) == 2_001


def test_the_instrument_as_a_whole_has_its_limit_behind_that_of_each_operation(
    configured: Callable[..., Recorded],
) -> None:
    recorded = configured(cardinality_limit=1_100)
    for name in ("one", "two"):
        for number in range(1_100):
            with clew.measure(name, attributes={"number": number}):
                pass
    points = recorded.durations()
    (overflow,) = [p for p in points if p.attributes.get("otel.metric.overflow")]
    assert dict(overflow.attributes) == {"otel.metric.overflow": True}
    assert len(points) == 2_001
    assert sum(p.count for p in points) == 2_200


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    attributes=st.dictionaries(
        st.one_of(st.text(max_size=5), st.integers(), st.none()),
        st.recursive(
            st.one_of(
                st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.complex_numbers()
            ),
            lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
            max_leaves=5,
        ),
    )
)
def test_no_attributes_break_a_call(recorded: Recorded, attributes: dict[Any, Any]) -> None:
    @clew.measure("any", attributes=lambda: attributes)
    def call() -> int:
        return 7

    with clew.measure("any block", attributes=attributes) as m:
        for name, value in attributes.items():
            m.set(name, value)
            m.note(name, value)
    assert call() == 7


@pytest.mark.parametrize("careless", ["request_id", "otel.thing", "nan"])
@pytest.mark.parametrize("form", ["computed", "told", "counter", "bound"])
def test_values_that_make_no_new_attribute_set_cost_no_memory(recorded: Recorded, form: str, careless: str) -> None:
    def attributes(number: int) -> dict[str, Any]:
        return {"tier": "gold", careless: float("nan") if careless == "nan" else f"value {number}"}

    measured = clew.measure("computed", attributes=attributes)(lambda number: number)
    counter = clew.counter("careless", scope="test")

    def call(number: int) -> None:
        if form == "computed":
            measured(number)
        elif form == "told":
            with clew.measure("told") as m:
                for name, value in attributes(number).items():
                    m.set(name, value)
        elif form == "counter":
            counter.add(1, attributes(number))
        else:
            counter.bind(attributes(number)).add(1)

    for number in range(100):
        call(number)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(100, 2_100):
            call(number)
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 100_000
