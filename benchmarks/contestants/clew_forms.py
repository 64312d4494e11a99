"""`clew` in all its forms: measured functions and blocks, instruments, and what it costs before `configure()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import clew
from benchmarks.contestant import BOUNDS, Contestant, Form, Recorded
from benchmarks.contestants.hand_written import bare, bare_async_generator, bare_coroutine, bare_generator
from benchmarks.reading import Reading

GROUP = "clew"

EMITS = "histogram, exemplar, running"


def attributes_of(value: float) -> dict[str, str]:
    """Return two attributes of a call, of two values each."""
    return {"tier": "gold" if value > 0.005 else "plain", "region": "north" if value > 0.02 else "south"}


def named(name: str) -> Any:
    """Return the attributes of the instruments' contestants; the name tells them apart."""
    return {"operation.name": name}


def _block(name: str) -> Callable[[float], float]:
    def block(value: float) -> float:
        with clew.measure(name):
            return value

    return block


def _async_block(name: str) -> Callable[[float], Any]:
    async def block(value: float) -> float:
        async with clew.measure(name):
            return value

    return block


def _set(value: float) -> float:
    with clew.measure("set") as m:
        m.set("tier", "gold")
        return value


def _decorated(name: str, function: Callable[..., Any], **arguments: Any) -> Any:
    return clew.measure(name, **arguments)(function)


def _instruments() -> list[tuple[str, str, str, Callable[[float], float]]]:
    counter = clew.counter("benchmark.counter", scope="benchmarks")
    histogram = clew.histogram("benchmark.histogram", unit="s", scope="benchmarks", bounds=BOUNDS)
    bound_counter = counter.bind(named("counter-bound"))
    bound_histogram = histogram.bind(named("histogram-bound"))
    of_counter, of_histogram = named("counter"), named("histogram")

    def add(value: float) -> float:
        counter.add(1, of_counter)
        return value

    def add_bound(value: float) -> float:
        bound_counter.add(1)
        return value

    def record(value: float) -> float:
        histogram.record(value, of_histogram)
        return value

    def record_bound(value: float) -> float:
        bound_histogram.record(value)
        return value

    return [
        ("counter", "counter.add(1, attributes)", "benchmark.counter", add),
        ("counter-bound", "counter.bind(attributes).add(1)", "benchmark.counter", add_bound),
        ("histogram", "histogram.record(value, attributes)", "benchmark.histogram", record),
        ("histogram-bound", "histogram.bind(attributes).record(value)", "benchmark.histogram", record_bound),
    ]


def disabled() -> list[Contestant]:
    """Return the forms before `clew.configure()`, which record nothing."""

    def contestant(key: str, label: str, call: Callable[[Any], Any], form: Form = Form.FUNCTION) -> Contestant:
        return Contestant(f"disabled-{key}", f"{label}, not configured", GROUP, call, "nothing", form=form)

    counter = clew.counter("disabled.counter", scope="benchmarks")
    bound = counter.bind(named("disabled"))
    attributes = named("disabled")

    def add(value: float) -> float:
        counter.add(1, attributes)
        return value

    def add_bound(value: float) -> float:
        bound.add(1)
        return value

    return [
        contestant("decorator", "decorator", _decorated("disabled", bare)),
        contestant(
            "computed", "decorator, two computed attributes", _decorated("disabled", bare, attributes=attributes_of)
        ),
        contestant("decorator-async", "decorator, async", _decorated("disabled", bare_coroutine), Form.COROUTINE),
        contestant("generator", "generator", _decorated("disabled", bare_generator), Form.GENERATOR),
        contestant("block", "with block", _block("disabled")),
        contestant("counter", "counter.add(1, attributes)", add),
        contestant("counter-bound", "counter.bind(attributes).add(1)", add_bound),
    ]


def enabled(reading: Reading) -> list[Contestant]:
    """Return the forms; `reading` has to be what `clew.configure()` was given."""

    def operation(name: str, label: str, call: Callable[[Any], Any], form: Form = Form.FUNCTION) -> Contestant:
        def recorded() -> Recorded:
            return Recorded(
                {"histogram": reading.total("operation.duration", operation_name=name)},
                reading.has_request_id("operation.duration", operation_name=name),
                reading.total("operation.active", operation_name=name),
            )

        return Contestant(f"clew-{name}", label, GROUP, call, EMITS, recorded, form)

    def instrument(name: str, label: str, metric: str, call: Callable[[float], float]) -> Contestant:
        def recorded() -> Recorded:
            return Recorded(
                {metric: reading.total(metric, operation_name=name)},
                reading.has_request_id(metric, operation_name=name),
            )

        return Contestant(f"clew-{name}", label, GROUP, call, f"{metric.split('.')[1]}, exemplar", recorded)

    return [
        operation("decorator", "decorator", _decorated("decorator", bare)),
        operation(
            "constant-attributes",
            "decorator, a constant attribute",
            _decorated("constant-attributes", bare, attributes={"tier": "gold"}),
        ),
        operation(
            "computed-attributes",
            "decorator, two computed attributes",
            _decorated("computed-attributes", bare, attributes=attributes_of),
        ),
        operation("block", "with block", _block("block")),
        operation("set", "with block, m.set", _set),
        operation("generator", "generator", _decorated("generator", bare_generator), Form.GENERATOR),
        operation("decorator-async", "decorator, async", _decorated("decorator-async", bare_coroutine), Form.COROUTINE),
        operation("block-async", "async with block", _async_block("block-async"), Form.COROUTINE),
        operation(
            "async-generator",
            "async generator",
            _decorated("async-generator", bare_async_generator),
            Form.ASYNC_GENERATOR,
        ),
        *(instrument(*one) for one in _instruments()),
    ]
