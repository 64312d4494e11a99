"""The recorders differ in speed, never in what arrives: random programs run over both, compared point by point."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import Counter, Histogram, UpDownCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from stopped_clock import StoppedClock

import clew
from clew.metrics.recorder import PortableRecorder
from clew.metrics.sharded_operation import ShardedOperation
from clew.metrics.sharded_recorder import ShardedMeterProvider, ShardedRecorder
from clew.operations import pipeline

DELTA = dict.fromkeys((Counter, Histogram, UpDownCounter), AggregationTemporality.DELTA)
LIMITS = "aggregation_cardinality_limit" in inspect.signature(View).parameters

READERS: dict[str, Callable[[], InMemoryMetricReader]] = {
    "cumulative": InMemoryMetricReader,
    "delta": lambda: InMemoryMetricReader(preferred_temporality=DELTA),
    "few buckets": lambda: InMemoryMetricReader(
        preferred_aggregation={Histogram: ExplicitBucketHistogramAggregation((0.001, 0.7))}
    ),
    "other buckets": lambda: InMemoryMetricReader(
        preferred_temporality=DELTA,
        preferred_aggregation={
            Histogram: ExplicitBucketHistogramAggregation((0.0003, 0.01, 0.2), record_min_max=False)
        },
    ),
    "exponential": lambda: InMemoryMetricReader(
        preferred_aggregation={Histogram: ExponentialBucketHistogramAggregation()}
    ),
}

VIEWS: dict[str, Callable[[], list[View]]] = {
    "none": list,
    "renamed": lambda: [View(instrument_name="operation.duration", name="task.time", description="Renamed.")],
    "two streams": lambda: [
        View(instrument_name="operation.duration", attribute_keys={"operation.name"}),
        View(instrument_name="operation.duration", name="by.tier", attribute_keys={"tier"}),
    ],
    "no attributes": lambda: [View(instrument_name="operation.*", attribute_keys=set())],
    "buckets": lambda: [
        View(instrument_name="operation.duration", aggregation=ExplicitBucketHistogramAggregation((0.002, 0.3)))
    ],
    "no buckets": lambda: [
        View(instrument_name="operation.duration", aggregation=ExplicitBucketHistogramAggregation(()))
    ],
    "dropped": lambda: [View(instrument_name="operation.active", aggregation=DropAggregation())],
    "exponential": lambda: [
        View(instrument_name="operation.duration", aggregation=ExponentialBucketHistogramAggregation(max_size=20))
    ],
    "other instrument": lambda: [View(instrument_name="unrelated", name="never")],
    **(
        {"limit": lambda: [View(instrument_name="operation.duration", aggregation_cardinality_limit=3)]}
        if LIMITS
        else {}
    ),
}


@dataclass(frozen=True)
class Call:
    operation: str
    form: str
    bound: bool
    attributes: tuple[tuple[str, Any], ...]
    nanoseconds: int
    request_id: str | None
    error: type[Exception] | None
    thread: int


calls = st.builds(
    Call,
    operation=st.sampled_from(["a", "b"]),
    form=st.sampled_from(
        ["function", "computed", "block", "plain block", "generator", "told", "count", "up and down", "size"]
    ),
    bound=st.booleans(),
    attributes=st.lists(
        st.tuples(st.sampled_from(["tier", "size"]), st.sampled_from(["gold", "x", True, 1, 1.0, 0, False, (1, 2)])),
        max_size=2,
        unique_by=lambda pair: pair[0],
    ).map(tuple),
    nanoseconds=st.one_of(
        st.sampled_from([0, 1, 99_999, 100_000, 100_001, 1_000_000, 300_000_000, 60_000_000_000, 60_000_000_001]),
        st.integers(0, 10**11),
    ),
    request_id=st.sampled_from([None, "request-1", "request-2", "request-3"]),
    error=st.sampled_from([None, None, None, ValueError, KeyError]),
    thread=st.integers(0, 2),
)


CLOCK = StoppedClock()


@contextmanager
def stopped_clock() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        CLOCK.put_in_place(patch)
        yield


class Program:
    """The measured code of one run: decorated anew, so that it is linked to one pipeline."""

    def __init__(self) -> None:
        self._functions: dict[Any, Callable[[Call], None]] = {}

    @staticmethod
    def body(call: Call) -> None:
        CLOCK.now += call.nanoseconds
        if call.error is not None:
            raise call.error

    def run(self, call: Call) -> None:
        CLOCK.now = 0  # so that each duration is the same number in every way of measuring
        if call.request_id is None:
            self._run(call)
        else:
            with clew.request(call.request_id):
                self._run(call)

    def _run(self, call: Call) -> None:
        attributes = dict(call.attributes)
        value = call.nanoseconds if call.nanoseconds % 2 else call.nanoseconds / 2**20
        with suppress(ValueError, KeyError):
            if call.form == "count":
                counter = clew.counter(call.operation, scope="test")
                counter.bind(attributes).add(value) if call.bound else counter.add(value, attributes)
            elif call.form == "up and down":
                value = -value if call.error else value
                instrument = clew.up_down_counter(f"{call.operation}.used", scope="test")
                instrument.bind(attributes).add(value) if call.bound else instrument.add(value, attributes)
            elif call.form == "size":
                histogram = clew.histogram(f"{call.operation}.size", scope="test", bounds=(0, 1, 100_000, 10**9))
                histogram.bind(attributes).record(value) if call.bound else histogram.record(value, attributes)
            elif call.form == "block":
                with clew.measure(call.operation, attributes=attributes):
                    self.body(call)
            elif call.form == "plain block":
                with clew.measure(call.operation):
                    self.body(call)
            elif call.form == "told":
                with clew.measure(call.operation) as m:
                    for name, value in attributes.items():
                        m.set(name, value)
                    if call.error is KeyError:
                        m.fail("declined")
                    self.body(call)
            else:
                self._function(call)(call)

    def _function(self, call: Call) -> Callable[[Call], Any]:
        constant = () if call.form == "computed" else tuple((n, type(v), v) for n, v in call.attributes)
        identity = (call.operation, call.form, constant)
        if identity not in self._functions:
            if call.form == "computed":
                measured: Any = clew.measure(call.operation, attributes=lambda call: dict(call.attributes))(self.body)
            elif call.form == "generator":

                @clew.measure(call.operation, attributes=dict(call.attributes))
                def steps(call: Call) -> Iterator[None]:
                    yield
                    self.body(call)

                def measured(call: Call) -> None:
                    for _ in steps(call):
                        pass
            else:
                measured = clew.measure(call.operation, attributes=dict(call.attributes))(self.body)
            self._functions[identity] = measured
        return self._functions[identity]


def exemplars(point: Any) -> list[Any]:
    return sorted(
        (exemplar.value, sorted((k, repr(v)) for k, v in (exemplar.filtered_attributes or {}).items()))
        for exemplar in point.exemplars
    )


def point_of(point: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"attributes": {name: (type(v), v) for name, v in point.attributes.items()}}
    if hasattr(point, "value"):
        return found | {"value": pytest.approx(point.value, rel=1e-9), "exemplars": exemplars(point)}
    found |= {"count": point.count, "sum": pytest.approx(point.sum, rel=1e-9, abs=1e-12)}
    found |= {"min": point.min, "max": point.max}
    if hasattr(point, "bucket_counts"):
        return found | {
            "bucket_counts": tuple(point.bucket_counts),
            "bounds": tuple(point.explicit_bounds),
            "exemplars": exemplars(point),
        }
    return found | {
        "scale": point.scale,
        "zero": point.zero_count,
        "positive": (point.positive.offset, tuple(point.positive.bucket_counts)),
    }


def collected(reader: InMemoryMetricReader) -> dict[str, Any]:
    data = reader.get_metrics_data()
    found: dict[str, Any] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == "clew.events":
                    continue
                points = [point_of(point) for point in metric.data.data_points]
                points.sort(key=lambda point: repr(sorted((k, repr(v)) for k, v in point["attributes"].items())))
                assert metric.name not in found
                temporality = metric.data.aggregation_temporality
                found[metric.name] = (scope.scope.name, metric.unit, metric.description, temporality, points)
    return found


def outcome(
    steps: list[Any], views: str, readers: list[str], recorder: type[PortableRecorder] | None
) -> tuple[list[Any], bool]:
    """Run the steps over one recorder and return what each collection found, and whether it was the sharded one."""
    made = [READERS[name]() for name in readers]
    provider = ShardedMeterProvider(
        made, views=clew.views(*VIEWS[views]()), exemplar_filter=clew.exemplar_filter(), shutdown_on_exit=False
    )
    used = PortableRecorder(provider) if recorder else ShardedRecorder(provider)
    pipeline.use(pipeline.Pipeline(provider, used))
    program = Program()
    found: list[Any] = []
    try:
        for step in steps:
            if isinstance(step, int):
                found.append(collected(made[step % len(made)]))
            elif step.thread == 0:
                program.run(step)
            else:
                thread = threading.Thread(target=program.run, args=(step,))
                thread.start()
                thread.join()
        found += [collected(reader) for reader in made]
    finally:
        pipeline.use(None)
    return found, isinstance(used.operation({}), ShardedOperation)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(st.one_of(calls, calls, calls, calls, st.integers(0, 3)), max_size=40),
    views=st.sampled_from(sorted(VIEWS)),
    readers=st.lists(st.sampled_from(sorted(READERS)), min_size=1, max_size=3),
)
def test_what_arrives_is_the_same(steps: list[Any], views: str, readers: list[str]) -> None:
    if "exponential" in (views, *readers):
        # the SDK's exponential histogram cannot be collected when the first values are all 0 and others follow
        steps = [replace(step, nanoseconds=step.nanoseconds or 1) if isinstance(step, Call) else step for step in steps]
    with stopped_clock():
        sharded, was_sharded = outcome(steps, views, readers, None)
        portable, _ = outcome(steps, views, readers, PortableRecorder)
    event(f"sharded: {was_sharded}")
    if views == "limit":
        # which sets are past the limit depends on their order, which threads do not have; the totals do not
        sharded, portable = totals(sharded), totals(portable)
    assert sharded == portable


def totals(found: list[Any]) -> list[Any]:
    return [
        {
            name: (len(metric[4]), sum(point["count"] for point in metric[4] if "count" in point))
            for name, metric in collection.items()
        }
        for collection in found
    ]


@pytest.mark.parametrize("reader", sorted(READERS))
@pytest.mark.parametrize("views", sorted(VIEWS))
def test_only_exponential_buckets_need_the_portable_recorder(views: str, reader: str) -> None:
    _, sharded = outcome([], views, [reader], None)
    wants_exponential = views == "exponential" or (reader == "exponential" and views not in ("buckets", "no buckets"))
    assert sharded is not wants_exponential
