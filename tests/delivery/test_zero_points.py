"""The first point of a series has a zero before it, without which no backend sees the first call and failure."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from delivery.listeners import GrpcEndpoint, HttpEndpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import clew
from clew.delivery import lost

MILLISECOND = 1_000_000
SECOND = 1_000 * MILLISECOND
MINUTE = 60 * SECOND


class Clock:
    """The wall clock, which stands still but for what a test does."""

    def __init__(self) -> None:
        self.now = 1_800_000_000 * SECOND + 123_456_789
        self.each = 0
        """By how much it goes on whenever somebody looks at it."""

    def __call__(self) -> int:
        self.now += self.each
        return self.now

    def put_in_place(self, patch: pytest.MonkeyPatch) -> None:
        """Stand for the clock in all modules, those of OpenTelemetry's that have taken it by its name too."""
        patch.setattr(time, "time_ns", self)
        for name, module in list(sys.modules.items()):
            if name.startswith("opentelemetry.sdk.metrics.") and hasattr(module, "time_ns"):
                patch.setattr(module, "time_ns", self)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    made.put_in_place(monkeypatch)
    return made


@pytest.fixture
def configured(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., clew.Telemetry]]:
    """`clew.configure(…)` that sends metrics alone to the endpoint, when it is asked to."""
    environ = {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", **environ}
    made: list[clew.Telemetry] = []

    def configure(*, variables: dict[str, str] | None = None, **arguments: Any) -> clew.Telemetry:
        for name, value in {**environ, "OTEL_METRIC_EXPORT_INTERVAL": "3600000", **(variables or {})}.items():
            monkeypatch.setenv(name, value)
        made.append(clew.configure(**arguments))
        return made[-1]

    yield configure
    for telemetry in made:
        telemetry.shutdown(0.0)


@pytest.fixture
def telemetry(configured: Callable[..., clew.Telemetry]) -> clew.Telemetry:
    return configured()


def exports(endpoint: Any, name: str) -> list[list[Any]]:
    """The points of a metric in each export with it that has been accepted."""
    found = [
        [point for metric in metrics_of(message) if metric.name == name for point in points_of(metric)]
        for message in endpoint.received.messages
    ]
    return [points for points in found if points]


def metrics_of(message: Any) -> Iterator[Any]:
    for resource in message.resource_metrics:
        for scope in resource.scope_metrics:
            yield from scope.metrics


def points_of(metric: Any) -> Iterable[Any]:
    points: Iterable[Any] = getattr(metric, metric.WhichOneof("data")).data_points
    return points


def number_in(point: Any) -> float:
    return float(point.as_int or point.as_double if hasattr(point, "as_int") else point.count)


def numbers(points: Iterable[Any]) -> list[float]:
    return [number_in(point) for point in points]


def refuse(endpoint: Any, times: int = 1) -> None:
    for _ in range(times):
        if isinstance(endpoint, HttpEndpoint):
            endpoint.answers.append((400, {}, b"too old sample"))
        else:
            endpoint.answers.append((grpc.StatusCode.INVALID_ARGUMENT, "too old sample"))


def fail(endpoint: Any) -> None:
    """Be unavailable for one export: with an answer after which there is no other attempt, and no other content."""
    if isinstance(endpoint, HttpEndpoint):
        endpoint.answers.append((401, {}, b"come in with a token"))
    else:
        endpoint.answers.append((grpc.StatusCode.UNAUTHENTICATED, "come in with a token"))


def is_right_zero(zero: Any, point: Any) -> None:
    """The zero is of the kind of the point, before it, and nothing has been measured in it."""
    assert type(zero) is type(point)
    assert list(zero.attributes) == list(point.attributes)
    assert number_in(zero) == 0
    assert number_in(point) > 0
    assert zero.start_time_unix_nano == point.start_time_unix_nano <= zero.time_unix_nano
    assert point.time_unix_nano - zero.time_unix_nano >= MILLISECOND
    assert not zero.exemplars
    if hasattr(zero, "as_int"):
        assert zero.WhichOneof("value") == point.WhichOneof("value")
        return
    assert not zero.HasField("min")
    assert not zero.HasField("max")
    assert (zero.HasField("sum"), zero.sum) == (True, 0)
    if hasattr(zero, "scale"):
        assert (zero.scale, zero.zero_threshold) == (point.scale, point.zero_threshold)
        assert zero.zero_count == 0
        assert not any(zero.positive.bucket_counts)
        assert not any(zero.negative.bucket_counts)
    else:
        assert list(zero.explicit_bounds) == list(point.explicit_bounds)
        assert list(zero.bucket_counts) == [0] * len(point.bucket_counts)


KINDS: dict[str, Callable[[Any], None]] = {
    "operation.duration": lambda _: clew.measure("work")(lambda: None)(),
    "orders": lambda _: clew.counter("orders").add(2, {"tier": "gold"}),
    "bound": lambda _: clew.counter("bound").bind({"tier": "gold"}).add(0.5),
    "size": lambda _: clew.histogram("size").record(3),
    "theirs": lambda meter: meter.create_counter("theirs").add(3, {"a": [1, 2]}),
    "their.time": lambda meter: meter.create_histogram("their.time").record(0.5, {"a": True}),
    "observed": lambda meter: meter.create_observable_counter("observed", [lambda _: [Observation(7, {"a": 1})]]),
}
OTHERS: dict[str, Callable[[Any], None]] = {
    "gauge": lambda _: clew.gauge("gauge").set(3),
    "up.down": lambda _: clew.up_down_counter("up.down").add(3),
    "operation.active": lambda _: clew.measure("work")(lambda: None)(),
    "their.gauge": lambda meter: meter.create_gauge("their.gauge").set(3),
    "their.up.down": lambda meter: meter.create_up_down_counter("their.up.down").add(3),
    "observed.gauge": lambda meter: meter.create_observable_gauge("observed.gauge", [lambda _: [Observation(7)]]),
    "observed.up.down": lambda meter: meter.create_observable_up_down_counter(
        "observed.up.down", [lambda _: [Observation(7)]]
    ),
}


@pytest.mark.parametrize("aggregation", ["explicit_bucket_histogram", "base2_exponential_bucket_histogram"])
@pytest.mark.parametrize("name", KINDS)
def test_every_series_that_grows_begins_with_a_zero(
    configured: Callable[..., clew.Telemetry], endpoint: Any, name: str, aggregation: str
) -> None:
    variables = {"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": aggregation}
    telemetry = configured(variables=variables)
    with clew.request():
        KINDS[name](telemetry.meter_provider.get_meter("theirs"))
    assert telemetry.force_flush()
    assert telemetry.force_flush()
    (zero, point), (again,) = exports(endpoint, name)
    is_right_zero(zero, point)
    assert again.start_time_unix_nano == point.start_time_unix_nano


@pytest.mark.parametrize("name", OTHERS)
def test_what_may_fall_does_not(telemetry: clew.Telemetry, endpoint: Any, name: str) -> None:
    OTHERS[name](telemetry.meter_provider.get_meter("theirs"))
    assert telemetry.force_flush()
    assert [len(points) for points in exports(endpoint, name)] == [1]


@pytest.mark.parametrize(
    ("variables", "arguments", "with_zeros"),
    [
        ({"CLEW_ZERO_POINTS": "false"}, {}, set()),
        ({}, {"zero_points": False}, set()),
        ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}, {}, set()),
        ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "lowmemory"}, {}, {"observed"}),
    ],
)
def test_deltas_have_none_and_nothing_has_where_they_are_turned_off(
    configured: Callable[..., clew.Telemetry],
    endpoint: Any,
    variables: dict[str, str],
    arguments: dict[str, Any],
    with_zeros: set[str],
) -> None:
    telemetry = configured(variables=variables, **arguments)
    for make in KINDS.values():
        make(telemetry.meter_provider.get_meter("theirs"))
    assert telemetry.force_flush()
    found = {name: [len(points) for points in exports(endpoint, name)] for name in KINDS}
    assert found == {name: [2 if name in with_zeros else 1] for name in KINDS}


def test_other_readers_and_exporters_see_no_zeros(
    configured: Callable[..., clew.Telemetry],
    capsys: pytest.CaptureFixture[str],
    endpoint: Any,
) -> None:
    reader = InMemoryMetricReader()
    telemetry = configured(variables={"OTEL_METRICS_EXPORTER": "console,otlp"})
    telemetry.meter_provider.add_metric_reader(reader)  # type: ignore[attr-defined]
    clew.counter("orders").add(2)
    assert telemetry.force_flush()
    assert [len(points) for points in exports(endpoint, "orders")] == [2]
    data: Any = reader.get_metrics_data()
    for seen in (json.loads(data.to_json()), json.loads(capsys.readouterr().out)):
        metrics = [metric for scope in seen["resource_metrics"][0]["scope_metrics"] for metric in scope["metrics"]]
        assert [len(metric["data"]["data_points"]) for metric in metrics if metric["name"] == "orders"] == [1]


# when it stands


def test_it_stands_at_the_collection_before_the_series_began(
    configured: Callable[..., clew.Telemetry], endpoint: Any, clock: Clock
) -> None:
    started = clock.now
    telemetry = configured()
    clock.now += MINUTE
    assert telemetry.force_flush()  # with nothing to collect
    collected = clock.now
    clock.now += MINUTE
    clew.counter("orders").add(1, {"number": 1})
    clock.now += SECOND
    assert telemetry.force_flush()
    second = clock.now
    clock.now += MINUTE
    clew.counter("orders").add(1, {"number": 2})
    assert telemetry.force_flush()
    third = clock.now

    first_export, second_export = exports(endpoint, "orders")
    assert [(number_in(point), point.time_unix_nano) for point in first_export] == [(0, collected), (1, second)]
    assert [(number_in(point), point.time_unix_nano) for point in second_export] == [
        *[(1, third)],
        *[(0, second), (1, third)],
    ]
    assert {point.start_time_unix_nano for point in (*first_export, *second_export)} == {started}


@pytest.mark.parametrize("each", [700_000, 3 * MILLISECOND, SECOND])
def test_no_zero_is_older_than_the_points_of_the_export_before(
    configured: Callable[..., clew.Telemetry], endpoint: Any, clock: Clock, each: int
) -> None:
    clock.each = each  # a collection takes its time
    telemetry = configured()
    for number in range(4):
        clew.counter("orders").add(1, {"number": number})
        clock.now += 2 * MILLISECOND
        assert telemetry.force_flush()
    newest = 0
    for points in exports(endpoint, "orders"):
        assert min(point.time_unix_nano for point in points) >= newest
        newest = max(point.time_unix_nano for point in points)
        is_right_zero(*points[-2:])


def test_two_exports_in_one_moment_have_their_zeros_a_millisecond_before(
    configured: Callable[..., clew.Telemetry], endpoint: Any, clock: Clock
) -> None:
    telemetry = configured()
    for number in range(3):
        clew.counter("orders").add(1, {"number": number})
        assert telemetry.force_flush()
        clock.now += 300_000
    for points in exports(endpoint, "orders"):
        is_right_zero(*points[-2:])
        assert points[-1].time_unix_nano // MILLISECOND > points[-2].time_unix_nano // MILLISECOND
    starts = {point.start_time_unix_nano for points in exports(endpoint, "orders") for point in points}
    assert len(starts) == 1


def test_a_clock_that_is_set_back_leaves_it_before_its_point(
    configured: Callable[..., clew.Telemetry], endpoint: Any, clock: Clock
) -> None:
    telemetry = configured()
    clock.now += 10 * MINUTE
    assert telemetry.force_flush()
    fail(endpoint)
    clew.counter("orders").add(1, {"number": 0})
    assert not telemetry.force_flush()
    clock.now -= 5 * SECOND
    clew.counter("orders").add(1, {"number": 1})
    assert telemetry.force_flush()
    (points,) = exports(endpoint, "orders")
    is_right_zero(*points[:2])
    is_right_zero(*points[2:])
    clock.now -= 60 * MINUTE  # before the process began
    clew.counter("orders").add(1, {"number": 2})
    assert telemetry.force_flush()
    points = exports(endpoint, "orders")[-1]
    assert numbers(points) == [1, 1, 0, 1]
    is_right_zero(*points[2:])
    assert all(point.start_time_unix_nano <= point.time_unix_nano for point in points)


def test_the_last_export_of_a_program_has_them_too(telemetry: clew.Telemetry, endpoint: Any) -> None:
    with suppress(ValueError), clew.measure("work"):
        raise ValueError
    assert telemetry.shutdown(60)
    ((zero, point),) = exports(endpoint, "operation.duration")
    is_right_zero(zero, point)


# until an export is accepted


def test_it_goes_with_each_export_until_one_is_accepted(
    configured: Callable[..., clew.Telemetry], endpoint: Any, clock: Clock
) -> None:
    telemetry = configured()
    stands = clock.now
    clock.now += MINUTE
    clew.counter("orders").add(1)
    for _ in range(4):
        fail(endpoint)
        assert not telemetry.force_flush()
        clock.now += MINUTE
    clew.counter("orders").add(1)
    assert telemetry.force_flush()
    assert telemetry.force_flush()
    (zero, point), (again,) = exports(endpoint, "orders")
    is_right_zero(zero, point)
    assert (zero.time_unix_nano, number_in(point), number_in(again)) == (stands, 2, 2)


@pytest.mark.parametrize(("minutes", "expected"), [(10, [0, 1]), (10.001, [1]), (180, [1])])
def test_it_is_left_out_once_it_is_older_than_ten_minutes(
    configured: Callable[..., clew.Telemetry], endpoint: Any, clock: Clock, minutes: float, expected: list[int]
) -> None:
    telemetry = configured()
    assert telemetry.force_flush()
    began = clock.now
    clew.counter("orders").add(1)
    clock.now += MINUTE
    fail(endpoint)
    assert not telemetry.force_flush()
    clock.now = began + int(minutes * MINUTE)
    fail(endpoint)
    assert not telemetry.force_flush()
    clew.counter("later").add(1)
    assert telemetry.force_flush()
    assert numbers(exports(endpoint, "orders")[-1]) == expected
    assert numbers(exports(endpoint, "later")[-1]) == [0, 1]
    assert telemetry.force_flush()
    assert numbers(exports(endpoint, "orders")[-1]) == [1]


def test_an_export_that_is_refused_is_sent_again_without_them(telemetry: clew.Telemetry, endpoint: Any) -> None:
    before = lost()["metric points"]
    clew.counter("orders").add(1)
    clew.up_down_counter("open").add(4)
    with clew.measure("work"):
        pass
    refuse(endpoint)
    assert telemetry.force_flush()
    names = ("orders", "open", "operation.duration")
    assert [numbers(exports(endpoint, name)[-1]) for name in names] == [[1], [4], [1]]
    clew.counter("orders").add(1, {"number": 2})
    assert telemetry.force_flush()
    assert numbers(exports(endpoint, "orders")[-1]) == [1, 0, 1]
    assert len(endpoint.received.messages) == 2
    assert lost()["metric points"] == before


def test_an_export_that_is_refused_without_them_too_is_sent_twice_and_no_more(
    telemetry: clew.Telemetry, endpoint: Any
) -> None:
    clew.counter("orders").add(1)
    refuse(endpoint, 2)
    assert not telemetry.force_flush()
    assert endpoint.answers == []
    assert endpoint.received.messages == []
    assert telemetry.force_flush()
    assert numbers(exports(endpoint, "orders")[-1]) == [0, 1]


def test_an_endpoint_that_takes_nothing_is_not_asked_twice(telemetry: clew.Telemetry, endpoint: Any) -> None:
    clew.counter("orders").add(1)
    fail(endpoint)
    fail(endpoint)
    assert not telemetry.force_flush()
    assert len(endpoint.answers) == 1


def test_of_an_export_in_parts_only_the_part_that_is_refused_goes_without_them(
    configured: Callable[..., clew.Telemetry], endpoint: Any
) -> None:
    telemetry = configured(variables={"CLEW_MAX_EXPORT_BYTES": "2000"})
    for number in range(60):
        clew.counter("orders").add(number + 1, {"number": number})
    refuse(endpoint)
    assert telemetry.force_flush()
    parts = exports(endpoint, "orders")
    assert len(parts) > 3
    assert sorted(number for points in parts for number in numbers(points) if number) == list(range(1, 61))
    without, *others = parts
    assert 0 not in numbers(without)
    for points in others:
        for zero, point in zip(points[::2], points[1::2], strict=True):
            is_right_zero(zero, point)
    assert telemetry.force_flush()
    assert all(0 not in numbers(points) for points in exports(endpoint, "orders")[len(parts) :])


def test_of_an_export_in_parts_only_those_that_did_not_arrive_have_them_the_next_time(
    configured: Callable[..., clew.Telemetry], endpoint: Any
) -> None:
    telemetry = configured(variables={"CLEW_MAX_EXPORT_BYTES": "2000"})
    for number in range(60):
        clew.counter("orders").add(number + 1, {"number": number})
    fail(endpoint)
    assert not telemetry.force_flush()
    arrived = {number for points in exports(endpoint, "orders") for number in numbers(points)}
    assert 0 in arrived
    endpoint.received.messages.clear()
    assert telemetry.force_flush()
    points = [point for points in exports(endpoint, "orders") for point in points]
    begun = {number_in(points[place + 1]) for place, zero in enumerate(points) if number_in(zero) == 0}
    assert begun == set(range(1, 61)) - arrived
    assert begun


@pytest.mark.parametrize("rejected", [1, 2, 3])
def test_points_that_are_rejected_beside_others_may_be_the_zeros(
    telemetry: clew.Telemetry, endpoint: Any, rejected: int
) -> None:
    before = lost()["metric points"]
    answer = ExportMetricsServiceResponse(
        partial_success=ExportMetricsPartialSuccess(rejected_data_points=rejected, error_message="out of order")
    ).SerializeToString()
    for number in range(2):
        clew.counter("orders").add(1, {"number": number})
    if isinstance(endpoint, GrpcEndpoint):
        endpoint.answers.append(answer)
    else:
        endpoint.answers.append((200, {"content-type": "application/x-protobuf"}, answer))
    assert telemetry.force_flush() is (rejected <= 2)
    assert len(endpoint.received.messages) == 1
    assert lost()["metric points"] == before + max(0, rejected - 2)
    assert telemetry.force_flush()
    assert numbers(exports(endpoint, "orders")[-1]) == [1, 1]


def test_a_value_that_cannot_be_carried_costs_no_zero(telemetry: clew.Telemetry, endpoint: Any) -> None:
    meter = telemetry.meter_provider.get_meter("theirs")
    meter.create_counter("large").add(2**64)
    with clew.measure("work"):
        clew.counter("orders").add(1)
    telemetry.force_flush()
    assert numbers(exports(endpoint, "large")[-1]) == [0, float(2**64)]
    for name in ("orders", "operation.duration"):
        is_right_zero(*exports(endpoint, name)[-1])
    telemetry.force_flush()
    assert [len(exports(endpoint, name)[-1]) for name in ("large", "orders", "operation.duration")] == [1, 1, 1]


# series of all sorts


def test_points_past_a_limit_begin_with_one_too(configured: Callable[..., clew.Telemetry], endpoint: Any) -> None:
    telemetry = configured(cardinality_limit=2)
    for number in range(2):
        with clew.measure("work", attributes={"number": number}):
            pass
    assert telemetry.force_flush()
    for number in range(9):
        with clew.measure("work", attributes={"number": number}):
            pass
    assert telemetry.force_flush()
    first, second = exports(endpoint, "operation.duration")
    assert numbers(first) == [0, 1, 0, 1]
    assert numbers(second) == [2, 2, 0, 7]
    is_right_zero(*second[2:])


def test_a_series_that_is_away_for_a_while_does_not_begin_again(telemetry: clew.Telemetry, endpoint: Any) -> None:
    seen = [{"a": 1, "b": 1}, {"a": 2}, {}, {"a": 3, "c": 1}, {"a": 4, "b": 2, "c": 2}]
    rounds = iter(seen)

    def observe(options: CallbackOptions) -> list[Observation]:
        return [Observation(number, {"queue": queue}) for queue, number in next(rounds).items()]

    telemetry.meter_provider.get_meter("theirs").create_observable_counter("jobs", [observe])
    for _ in seen:
        clew.counter("orders").add(1)  # so that no collection is empty
        assert telemetry.force_flush()
    assert [numbers(points) for points in exports(endpoint, "jobs")] == [[0, 1, 0, 1], [2], [3, 0, 1], [4, 2, 2]]


def test_each_reader_begins_its_own(configured: Callable[..., clew.Telemetry], endpoint: Any, environ: Any) -> None:
    from clew.exporters import OtlpMetricExporter
    from clew.settings import load_settings

    exporters = [OtlpMetricExporter(load_settings(environ).metrics_otlp) for _ in range(2)]
    telemetry = configured(metric_exporters=exporters)
    clew.counter("orders").add(1)
    assert telemetry.force_flush()
    assert [numbers(points) for points in exports(endpoint, "orders")] == [[0, 1]] * 2
    refuse(endpoint)
    clew.counter("orders").add(1, {"number": 2})
    assert telemetry.force_flush()
    assert sorted(numbers(points) for points in exports(endpoint, "orders")[2:]) == [[1, 0, 1], [1, 1]]


def test_the_next_configuration_starts_afresh(configured: Callable[..., clew.Telemetry], endpoint: Any) -> None:
    for _ in range(2):
        telemetry = configured()
        clew.counter("orders").add(1)
        assert telemetry.shutdown(60)
    (zero, point), (other_zero, other) = exports(endpoint, "orders")
    is_right_zero(zero, point)
    is_right_zero(other_zero, other)
    assert other_zero.time_unix_nano > point.time_unix_nano


Step = tuple[str, int]
FATES: dict[str, Callable[[Any], None]] = {
    "taken": lambda endpoint: None,
    "away": fail,
    "refused": refuse,
    "refused twice": lambda endpoint: refuse(endpoint, 2),
}
WAITS = (1, 400_000, MILLISECOND, SECOND, MINUTE, 9 * MINUTE, -SECOND, -5 * MINUTE)
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["counter", "failure"]), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.sampled_from(WAITS)),
        st.tuples(st.sampled_from(sorted(FATES)), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(steps=steps)
def test_whatever_becomes_of_exports_each_series_begins_with_its_zero_once_and_counts_right(steps: list[Step]) -> None:
    endpoint = HttpEndpoint()
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url,
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
        }.items():
            patch.setenv(name, value)
        clock.put_in_place(patch)
        telemetry = clew.configure()
        try:
            play(steps, telemetry, endpoint, clock)
        finally:
            telemetry.shutdown(0.0)
            endpoint.close()


def play(steps: list[Step], telemetry: clew.Telemetry, endpoint: HttpEndpoint, clock: Clock) -> None:
    earliest = collected = clock.now
    added: dict[str, int] = {}
    zero_of: dict[str, int] = {}
    """When the zero stands of each series that still needs one."""
    for what, number in steps:
        if what in ("counter", "failure"):
            key = f"{what} {number}"
            if key not in added:
                zero_of[key] = collected
            added[key] = added.get(key, 0) + 1
            if what == "counter":
                clew.counter("orders").add(1, {"key": key})
            else:
                with suppress(ValueError), clew.measure("work", attributes={"key": key}):
                    raise ValueError
        elif what == "wait":
            clock.now += number
        else:
            FATES[what](endpoint)
            is_delivered = telemetry.force_flush(60)
            for key, at in list(zero_of.items()):
                zero_of[key] = min(at, clock.now - MILLISECOND)
                if clock.now - at > 10 * MINUTE:
                    del zero_of[key]
            if added:
                earliest = min([earliest, clock.now - MILLISECOND, *zero_of.values()])
            if what == "taken" or (what == "refused" and zero_of):
                assert is_delivered
            elif what != "refused":  # or it may be sent again because of the zeros of clew.events
                assert not is_delivered or not added
            expected = {
                key: [*([(zero_of[key], 0)] if what == "taken" and key in zero_of else []), (clock.now, number)]
                for key, number in added.items()
            }
            assert what_arrived(endpoint, earliest) == (expected if is_delivered else {})
            if is_delivered:
                zero_of.clear()
            endpoint.answers.clear()
            collected = clock.now


def what_arrived(endpoint: HttpEndpoint, start: int) -> dict[str, list[tuple[int, float]]]:
    """The points since the last time, by their key: when, and how many."""
    found: dict[str, list[tuple[int, float]]] = {}
    for points in (*exports(endpoint, "orders"), *exports(endpoint, "operation.duration")):
        for point in points:
            key = next(each.value.string_value for each in point.attributes if each.key == "key")
            found.setdefault(key, []).append((point.time_unix_nano, number_in(point)))
            assert point.start_time_unix_nano == start
    endpoint.received.messages.clear()
    return found
