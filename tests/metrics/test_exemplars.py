"""Exemplars: the slow and the failed ones are kept, each with its request ID, on every instrument of the provider."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from recorded import Recorded
from stopped_clock import StoppedClock

import clew
from clew.metrics.exemplars import LABEL_BUDGET, ExemplarCandidate, identifiers_in


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    clock = StoppedClock()
    clock.put_in_place(monkeypatch)
    return clock


def request_ids(point: Any) -> list[str | None]:
    return [(exemplar.filtered_attributes or {}).get("request_id") for exemplar in point.exemplars]


def exponential() -> InMemoryMetricReader:
    return InMemoryMetricReader(preferred_aggregation={Histogram: ExponentialBucketHistogramAggregation()})


def test_the_slowest_call_of_each_bucket_is_kept_with_its_request_id(recorded: Recorded, clock: StoppedClock) -> None:
    @clew.measure("work")
    def work(milliseconds: int) -> None:
        clock.now += milliseconds * 1_000_000

    for number, milliseconds in enumerate([300, 499, 260, 1, 30_000, 3]):
        with clew.request(f"request-{number}"):
            work(milliseconds)
    (point,) = recorded.durations("work")
    kept = {round(exemplar.value, 9): exemplar.filtered_attributes for exemplar in point.exemplars}
    assert kept == {
        0.001: {"request_id": "request-3"},
        0.003: {"request_id": "request-5"},
        0.499: {"request_id": "request-1"},
        30.0: {"request_id": "request-4"},
    }


def test_each_interval_starts_afresh(recorded: Recorded, clock: StoppedClock) -> None:
    @clew.measure("work")
    def work(milliseconds: int) -> None:
        clock.now += milliseconds * 1_000_000

    for request_id, milliseconds in (("slow", 400), ("quick", 300)):
        with clew.request(request_id):
            work(milliseconds)
        (point,) = recorded.durations("work")
        assert request_ids(point) == [request_id]
    assert point.max == pytest.approx(0.4)
    (point,) = recorded.durations("work")
    assert request_ids(point) == []


def test_the_slowest_is_kept_when_it_was_measured_in_another_thread(recorded: Recorded, clock: StoppedClock) -> None:
    import threading

    @clew.measure("work")
    def work(milliseconds: int) -> None:
        clock.now += milliseconds * 1_000_000

    def run(request_id: str, milliseconds: int) -> None:
        with clew.request(request_id):
            work(milliseconds)

    for request_id, milliseconds in (("a", 300), ("slowest", 450), ("c", 310)):
        thread = threading.Thread(target=run, args=(request_id, milliseconds))
        thread.start()
        thread.join()
    (point,) = recorded.durations("work")
    assert request_ids(point) == ["slowest"]


def test_every_point_with_an_error_type_has_its_own(recorded: Recorded, clock: StoppedClock) -> None:
    for request_id, error in (("fine", None), ("first", KeyError), ("second", ValueError)):
        with clew.request(request_id), pytest.raises(error or RuntimeError), clew.measure("fails"):
            raise error or RuntimeError
    kept = {point.attributes["error.type"]: request_ids(point) for point in recorded.durations("fails")}
    assert kept == {"KeyError": ["first"], "ValueError": ["second"], "RuntimeError": ["fine"]}


def test_without_a_request_or_a_sampled_span_there_is_no_exemplar(recorded: Recorded) -> None:
    with clew.measure("lonely"):
        pass
    (point,) = recorded.durations("lonely")
    assert point.exemplars == []


@pytest.mark.parametrize("order", [("span", "request"), ("request", "span")])
def test_among_equals_a_measurement_with_a_request_id_wins(
    recorded: Recorded, clock: StoppedClock, order: tuple[str, str]
) -> None:
    tracer = trace.get_tracer("test", tracer_provider=recorded.telemetry.tracer_provider)
    for what in order:
        with clew.request("wins") if what == "request" else tracer.start_as_current_span("span"), clew.measure("work"):
            clock.now += 1_000_000
    (point,) = recorded.durations("work")
    assert request_ids(point) == ["wins"]


def test_a_sampled_span_is_on_the_exemplar_and_an_unsampled_one_is_not(
    configured: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = configured()
    tracer = trace.get_tracer("test", tracer_provider=recorded.telemetry.tracer_provider)
    with tracer.start_as_current_span("span") as span, clew.measure("traced"):
        pass
    (point,) = recorded.durations("traced")
    (exemplar,) = point.exemplars
    assert exemplar.trace_id == span.get_span_context().trace_id
    assert exemplar.span_id == span.get_span_context().span_id
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    recorded.telemetry.shutdown()
    recorded = configured()
    tracer = trace.get_tracer("test", tracer_provider=recorded.telemetry.tracer_provider)
    with clew.request("only"), tracer.start_as_current_span("span"), clew.measure("untraced"):
        pass
    (point,) = recorded.durations("untraced")
    (exemplar,) = point.exemplars
    assert (exemplar.trace_id, exemplar.span_id) == (None, None)
    assert exemplar.filtered_attributes == {"request_id": "only"}


@pytest.mark.parametrize("kind", ["counter", "up_down_counter", "histogram", "gauge"])
def test_every_instrument_of_the_provider_carries_the_request_id(recorded: Recorded, kind: str) -> None:
    meter = metrics.get_meter("somebody else's", meter_provider=recorded.telemetry.meter_provider)
    theirs = getattr(meter, f"create_{kind}")("theirs")
    mine = getattr(clew, kind)("mine")
    for request_id, value in (("first", 2), ("second", 1)):
        with clew.request(request_id):
            for instrument in (theirs, mine):
                getattr(instrument, {"histogram": "record", "gauge": "set"}.get(kind, "add"))(value)
    newest = kind == "gauge"
    found = {metric.name: metric.data.data_points for _, metric in recorded.metrics()}
    for name in ("theirs", "mine"):
        (point,) = found[name]
        assert "request_id" not in point.attributes
        if kind == "histogram":
            assert set(request_ids(point)) <= {"first", "second"}
            assert "first" in request_ids(point)
        else:
            assert request_ids(point) == ["second" if newest else "first"]


def test_exponential_histograms_keep_the_largest_the_newest_and_a_sample(
    configured: Callable[..., Recorded],
) -> None:
    reader = exponential()
    recorded = configured(metric_readers=[reader])
    recorded.reader = reader
    histogram = clew.histogram("sizes")
    for number in range(2_000):
        with clew.request(f"request-{number}"):
            histogram.record(30_000 if number == 777 else number % 100)
    (point,) = recorded.points("sizes")
    kept = request_ids(point)
    assert "request-777" in kept
    assert "request-1999" in kept
    assert 4 < len(kept) <= 10


def test_the_users_views_keep_their_meaning_and_make_no_second_stream(
    configured: Callable[..., Recorded], caplog: pytest.LogCaptureFixture
) -> None:
    recorded = configured(
        views=[
            View(instrument_name="operation.duration", name="task.time", attribute_keys={"operation.name"}),
            View(instrument_name="orders", attribute_keys=set()),
        ]
    )
    with clew.request("mine"):
        with clew.measure("work", attributes={"tier": "gold"}):
            pass
        clew.counter("orders", scope="one").add(1, {"shop": "north"})
        for scope in ("one", "two"):  # of one name in two scopes, which the user's Views do not match
            clew.counter("items", scope=scope).add(1)
    assert recorded.points("operation.duration") == []
    with clew.request("mine"):
        with clew.measure("work", attributes={"tier": "gold"}):
            pass
        clew.counter("orders", scope="one").add(1, {"shop": "north"})
    found = {metric.name: metric for scope, metric in recorded.metrics() if scope in ("clew", "one")}
    (point,) = found["task.time"].data.data_points
    assert dict(point.attributes) == {"operation.name": "work"}
    (exemplar,) = point.exemplars
    assert exemplar.filtered_attributes == {"request_id": "mine", "tier": "gold"}
    (point,) = found["orders"].data.data_points
    assert dict(point.attributes) == {}
    assert point.exemplars[0].filtered_attributes == {"request_id": "mine", "shop": "north"}
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("name", "unlinked", "spanned"), [("always_on", 1, 1), ("always_off", 0, 0), ("trace_based", 0, 1)]
)
def test_a_filter_that_is_set_keeps_its_exact_meaning(
    configured: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch, name: str, unlinked: int, spanned: int
) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", name)
    recorded = configured()
    tracer = trace.get_tracer("test", tracer_provider=recorded.telemetry.tracer_provider)
    with clew.measure("unlinked"):
        pass
    with tracer.start_as_current_span("span"), clew.measure("spanned"):
        pass
    counts = {point.attributes["operation.name"]: len(point.exemplars) for point in recorded.durations()}
    assert counts == {"unlinked": unlinked, "spanned": spanned}


def test_the_attribute_of_the_request_id_can_be_renamed(configured: Callable[..., Recorded]) -> None:
    recorded = configured(request_id_attribute="correlation_id")
    with clew.request("mine"), clew.measure("work"):
        pass
    (point,) = recorded.durations("work")
    assert point.exemplars[0].filtered_attributes == {"correlation_id": "mine"}


@given(
    request_id=st.one_of(st.none(), st.text("abc", min_size=1, max_size=118)),
    sampled=st.booleans(),
    others=st.dictionaries(st.text(min_size=1, max_size=40), st.one_of(st.text(max_size=60), st.integers())),
)
@example(request_id="a" * 55, sampled=True, others={})
@example(request_id="a" * 56, sampled=True, others={"more": 1})
@example(request_id="a" * 118, sampled=True, others={"more": 1})
def test_all_labels_together_stay_within_the_budget_the_request_id_first(
    request_id: str | None, sampled: bool, others: dict[str, Any]
) -> None:
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    context = Context()
    if sampled:
        span = NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))
        context = set_span_in_context(span, context)
    others.pop("request_id", None)
    rank, _, span_context = identifiers_in(context)
    exemplar = ExemplarCandidate(1.0, 1, others, (rank, request_id, span_context)).exemplar({})
    labels = dict(exemplar.filtered_attributes or {})
    size = sum(len(name) + len(str(value)) for name, value in labels.items())
    if exemplar.span_id is not None:
        size += len("trace_id") + 32 + len("span_id") + 16
    assert size <= LABEL_BUDGET
    assert labels.get("request_id") == request_id
    if sampled and (request_id is None or len(request_id) <= 55):
        assert (exemplar.trace_id, exemplar.span_id) == (1, 2)


def test_a_generators_request_is_the_one_it_began_in_wherever_it_is_driven_later(recorded: Recorded) -> None:
    @clew.measure("stream")
    def stream() -> Iterator[int]:
        yield 1
        yield 2

    for _ in range(2):  # the first one takes the slow path, the second one the fast path
        with clew.request("began-here"):
            generator = stream()
            next(generator)
        with clew.request("driven-here"):
            assert list(generator) == [2]
        (point,) = recorded.durations("stream")
        assert set(request_ids(point)) == {"began-here"}


def test_an_async_generators_request_is_the_one_it_began_in(recorded: Recorded) -> None:
    @clew.measure("stream")
    async def stream() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def main() -> None:
        with clew.request("began-here"):
            generator = stream()
            await generator.__anext__()
        with clew.request("driven-here"):
            assert [item async for item in generator] == [2]

    for _ in range(2):  # the first one takes the slow path, the second one the fast path
        asyncio.run(main())
        (point,) = recorded.durations("stream")
        assert set(request_ids(point)) == {"began-here"}


def test_a_coroutine_driven_on_in_another_thread_counts_once_and_runs_no_more(recorded: Recorded) -> None:
    import threading

    @clew.measure("wander")
    async def wander() -> str:
        await asyncio.sleep(0)
        return "done"

    for _ in range(3):
        coroutine = wander()
        coroutine.send(None)

        def finish(coroutine: Any = coroutine) -> None:
            with pytest.raises(StopIteration):
                coroutine.send(None)

        thread = threading.Thread(target=finish)
        thread.start()
        thread.join()
    found = {metric.name: metric.data.data_points for _, metric in recorded.metrics()}
    assert [point.count for point in found["operation.duration"]] == [3]
    assert [point.value for point in found["operation.active"]] == [0]
