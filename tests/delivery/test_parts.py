"""An export that is too long for a receiver goes in parts, and what becomes of one part costs no other."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest
from delivery.listeners import GrpcEndpoint
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_DELTA, Metric

from clew.diagnostics import counts
from clew.exporters.splitting import split

LIMIT = 2_000

names = st.text("abc", max_size=40)


def attributes(*values: str) -> list[KeyValue]:
    return [KeyValue(key=f"key{number}", value=AnyValue(string_value=text)) for number, text in enumerate(values)]


@st.composite
def exports_of_metrics(draw: st.DrawFn) -> Any:
    message = ExportMetricsServiceRequest()
    number = 0
    for _ in range(draw(st.integers(1, 2))):
        resource = message.resource_metrics.add(schema_url=draw(names))
        resource.resource.attributes.extend(attributes(draw(names)))
        for _ in range(draw(st.integers(1, 3))):
            scope = resource.scope_metrics.add(schema_url=draw(names))
            scope.scope.name = draw(names)
            scope.scope.attributes.extend(attributes(draw(names)))
            for _ in range(draw(st.integers(0, 4))):
                metric = scope.metrics.add(name=draw(names), unit=draw(names), description=draw(names))
                data = getattr(metric, draw(st.sampled_from(["gauge", "sum", "histogram", "exponential_histogram"])))
                data.SetInParent()
                if hasattr(data, "aggregation_temporality"):
                    data.aggregation_temporality = AGGREGATION_TEMPORALITY_DELTA
                for _ in range(draw(st.integers(0, 12))):
                    number += 1
                    given_attributes = attributes(str(number), draw(names))
                    for _ in range(draw(st.integers(1, 2))):  # two where a zero stands before the first value
                        data.data_points.add(time_unix_nano=draw(st.integers(0, 9))).attributes.extend(given_attributes)
    return message


@st.composite
def exports_of_items(draw: st.DrawFn) -> Any:
    kind, of_resource, of_scope, items = draw(
        st.sampled_from(
            [
                (ExportTraceServiceRequest, "resource_spans", "scope_spans", "spans"),
                (ExportLogsServiceRequest, "resource_logs", "scope_logs", "log_records"),
            ]
        )
    )
    message: Any = kind()
    for _ in range(draw(st.integers(1, 2))):
        resource = getattr(message, of_resource).add(schema_url=draw(names))
        resource.resource.attributes.extend(attributes(draw(names)))
        for _ in range(draw(st.integers(1, 3))):
            scope = getattr(resource, of_scope).add()
            scope.scope.name = draw(names)
            for _ in range(draw(st.integers(0, 20))):
                item = getattr(scope, items).add()
                item.attributes.extend(attributes(draw(names)))
    return message


def flat(message: Any) -> list[tuple[Any, ...]]:
    """Every item, with all that it stands in."""
    found: list[tuple[Any, ...]] = []
    (resources,) = [value for _, value in message.ListFields()] or [()]
    for resource in resources:
        bare = (resource.resource.SerializeToString(), resource.schema_url)
        scopes = next((value for field, value in resource.ListFields() if field.name.startswith("scope_")), ())
        for scope in scopes:
            within = (*bare, scope.scope.SerializeToString(), scope.schema_url)
            for field, items in scope.ListFields():
                if field.name not in ("metrics", "spans", "log_records"):
                    continue
                for item in items:
                    if not isinstance(item, Metric):
                        found.append((*within, item.SerializeToString()))
                        continue
                    data = getattr(item, item.WhichOneof("data"))
                    about = (item.name, item.unit, item.description, item.WhichOneof("data"))
                    temporality = getattr(data, "aggregation_temporality", None)
                    found += [(*within, *about, temporality, point.SerializeToString()) for point in data.data_points]
    return found


def points_of(message: Any) -> list[list[bytes]]:
    """The attributes of the points of each metric."""
    return [
        [
            b"".join(each.SerializeToString() for each in point.attributes)
            for point in getattr(metric, metric.WhichOneof("data")).data_points
        ]
        for resource in getattr(message, "resource_metrics", ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]


@given(exports_of_metrics() | exports_of_items(), st.integers(1, 3_000))
def test_parts_are_within_the_bound_and_hold_together_what_the_export_held(message: Any, limit: int) -> None:
    parts = split(message, limit)
    assert [item for part in parts for item in flat(part.message)] == flat(message)
    assert [part.items + part.zeros for part in parts] == [len(flat(part.message)) for part in parts]
    if message.ByteSize() <= limit:
        assert [part.message for part in parts] == [message]
    for part in parts:
        alone = len(flat(part.message)) == 1 or [len(set(points)) for points in points_of(part.message)] == [1]
        assert part.message.ByteSize() <= limit or alone
    series = [{series for points in points_of(part.message) for series in points} for part in parts]
    assert sum(map(len, series)) == len(set[bytes]().union(*series)), "a zero is not with its first value"


@pytest.fixture
def environ(environ: dict[str, str]) -> dict[str, str]:
    """The environment that leads to the endpoint, in small parts."""
    return {**environ, "CLEW_MAX_EXPORT_BYTES": str(LIMIT), "OTEL_EXPORTER_OTLP_TIMEOUT": "30000"}


def spans(made: Any, number: int = 60) -> list[str]:
    """Ends spans, of which about ten make a part; their names."""
    made_names = [f"span-{place:03}" for place in range(number)]
    for name in made_names:
        with made.tracers.get_tracer("test").start_as_current_span(name, attributes={"what": "x" * 80}):
            pass
    return made_names


def refused(endpoint: Any) -> Any:
    """The answer that says that a request is not wanted."""
    grpc_answer = (grpc.StatusCode.INVALID_ARGUMENT, "odd")
    return grpc_answer if isinstance(endpoint, GrpcEndpoint) else (400, {"content-type": "text/plain"}, b"odd")


def busy(endpoint: Any) -> Any:
    """The answer that asks for another attempt."""
    return (grpc.StatusCode.UNAVAILABLE, "busy") if isinstance(endpoint, GrpcEndpoint) else (503, {}, b"")


def taken(endpoint: Any, body: bytes = b"") -> Any:
    """The answer of success."""
    return body if isinstance(endpoint, GrpcEndpoint) else (200, {"content-type": "application/x-protobuf"}, body)


def sizes(endpoint: Any) -> list[int]:
    return [message.ByteSize() for message in endpoint.received.messages]


def test_every_signal_arrives_whole_in_requests_within_the_bound(
    telemetry: Any, endpoint: Any, environ: dict[str, str]
) -> None:
    made = telemetry(environ)
    names = spans(made)
    for place in range(60):
        made.record(f"record-{place}")
        made.counter.add(1, {"place": place, "what": "x" * 80})
    assert made.deliver()
    assert endpoint.received.spans[:60] == names
    assert endpoint.received.logs == [f"record-{place}" for place in range(60)]
    assert sorted(endpoint.received.counters["orders"]) == [1] * 60 + [60]
    assert max(sizes(endpoint)) <= LIMIT
    assert len(sizes(endpoint)) > 10
    assert not any(made.lost.values())


def test_what_is_within_the_bound_is_one_request(telemetry: Any, endpoint: Any, environ: dict[str, str]) -> None:
    made = telemetry({**environ, "CLEW_MAX_EXPORT_BYTES": ""})
    names = spans(made)
    assert made.deliver()
    assert endpoint.received.spans == names
    assert len(sizes(endpoint)) == 1


def test_one_that_is_too_long_alone_goes_alone_and_is_counted_where_it_is_refused(
    telemetry: Any, endpoint: Any, environ: dict[str, str]
) -> None:
    made = telemetry(environ)
    before = spans(made, 3)
    with made.tracers.get_tracer("test").start_as_current_span("long", attributes={"what": "x" * 5_000}):
        pass
    spans(made, 3)
    endpoint.answers = [taken(endpoint), refused(endpoint)]
    assert not made.deliver()
    assert endpoint.received.spans == before * 2
    assert made.lost["spans"] == 1


def test_a_part_that_is_refused_costs_no_other(telemetry: Any, endpoint: Any, environ: dict[str, str]) -> None:
    made = telemetry(environ)
    names = spans(made)
    endpoint.answers = [taken(endpoint), refused(endpoint)]
    assert not made.deliver()
    arrived = endpoint.received.spans
    assert made.lost["spans"] == len(names) - len(arrived)
    assert 0 < made.lost["spans"] < 15
    assert arrived == [name for name in names if name in arrived]


def test_a_part_that_is_retried_does_not_hold_up_the_others_and_nothing_is_sent_twice(
    telemetry: Any, endpoint: Any, environ: dict[str, str]
) -> None:
    made = telemetry(environ)
    names = spans(made)
    endpoint.answers = [taken(endpoint), busy(endpoint)]
    assert made.deliver()
    assert sorted(endpoint.received.spans) == names
    assert not any(made.lost.values())


def test_what_is_rejected_of_one_part_is_all_that_is_lost(
    telemetry: Any, endpoint: Any, environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    made = telemetry(environ)
    names = spans(made)
    partial = ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
    endpoint.answers = [
        taken(endpoint),
        taken(endpoint, ExportTraceServiceResponse(partial_success=partial).SerializeToString()),
    ]
    assert not made.deliver()
    assert endpoint.received.spans == names
    assert made.lost["spans"] == 2
    assert [record.getMessage().partition(" took ")[2] for record in caplog.records] == [
        "58 of 60 spans and refused the rest: too old; further refusals are counted and not logged"
    ]


def test_a_part_that_is_not_answered_leaves_time_for_the_others(
    telemetry: Any, endpoint: Any, environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    made = telemetry({**environ, "OTEL_EXPORTER_OTLP_TIMEOUT": "6000"})
    names = spans(made)
    endpoint.pauses = [0.0, 60.0, *[0.0] * 20]
    started = time.monotonic()
    made.deliver()
    assert time.monotonic() - started < 30
    assert set(endpoint.received.spans) == set(names)  # the one that hung was sent again, when all others were there
    assert not any(made.lost.values())


def test_totals_of_a_part_that_does_not_arrive_are_not_lost_but_deltas_are(
    telemetry: Any, endpoint: Any, environ: dict[str, str]
) -> None:
    for temporality, lost_at_least in (("cumulative", 0), ("delta", 1)):
        made = telemetry({**environ, "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": temporality})
        active = made.meters.get_meter("test").create_up_down_counter("active")  # cumulative in any case
        for place in range(40):
            made.counter.add(1, {"place": place, "what": "x" * 80})
            active.add(1, {"place": place, "what": "x" * 80})
        forbidden = (grpc.StatusCode.UNAUTHENTICATED, "who?") if isinstance(endpoint, GrpcEndpoint) else (401, {}, b"")
        endpoint.answers = [taken(endpoint), forbidden]
        before = len(endpoint.received.counters.get("orders", ()))
        assert not made.reader.force_flush()
        arrived = len(endpoint.received.counters["orders"]) - before
        assert arrived < 40
        assert made.lost["metric points"] == (40 - arrived if lost_at_least else 0)


def test_exemplars_that_do_not_arrive_are_counted_under_a_name_of_their_own(
    telemetry: Any, endpoint: Any, environ: dict[str, str]
) -> None:
    made = telemetry(environ)
    before = counts().get("exemplars.lost", 0)
    with made.tracers.get_tracer("test").start_as_current_span("a"):
        made.counter.add(1)
    forbidden = (grpc.StatusCode.UNAUTHENTICATED, "who?") if isinstance(endpoint, GrpcEndpoint) else (401, {}, b"")
    endpoint.answers = [forbidden]
    assert not made.reader.force_flush()
    assert made.lost["metric points"] == 0
    assert counts()["exemplars.lost"] == before + 1
