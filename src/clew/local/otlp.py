"""From OTLP messages to rows of the store.

Follows opentelemetry-proto 1.x. What cannot be stored is rejected point by point, span by span, line by line, each with
its reason, as OTLP's *partial success* wants it; the rest of the export is kept.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar as ExemplarMessage
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    SummaryDataPoint,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

from clew.local import rows
from clew.local.rows import Batch

_LARGEST = 2**63 - 1  # what an INTEGER of SQLite holds; OTLP's times and counts go to 2**64 - 1
_NO_RECORDED_VALUE = 1  # a data point's flag: the series ended, there is no value to store
_TEMPORALITIES = {0: "", 1: "delta", 2: "cumulative"}
_SCALES = range(-10, 21)

_AnyPoint = NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint | SummaryDataPoint


class _UnstorableError(Exception):
    """One data point, exemplar, span or log line cannot be stored; the message says why."""


def metrics(request: ExportMetricsServiceRequest, request_id_attribute: str) -> Batch:
    """Turn an export of metrics into points and exemplars.

    Args:
        request: the message as received.
        request_id_attribute: the filtered attribute of exemplars that holds the request ID.
    """
    batch = Batch("metrics")
    for resource_metrics in request.resource_metrics:
        resource = _resource(resource_metrics.resource)
        for scope_metrics in resource_metrics.scope_metrics:
            scope = _scope(scope_metrics.scope)
            for metric in scope_metrics.metrics:
                _add_metric(batch, resource, scope, metric, request_id_attribute)
    return batch


def spans(request: ExportTraceServiceRequest, request_id_attribute: str) -> Batch:
    """Turn an export of spans into rows; `request_id_attribute` is the span attribute that holds the request ID."""
    batch = Batch("spans")
    for resource_spans in request.resource_spans:
        resource = _resource(resource_spans.resource)
        for scope_spans in resource_spans.scope_spans:
            scope = _scope(scope_spans.scope)
            for span in scope_spans.spans:
                try:
                    batch.spans.append(_span(resource, scope, span, request_id_attribute))
                except _UnstorableError as reason:
                    batch.reject(str(reason))
    return batch


def log_lines(request: ExportLogsServiceRequest, request_id_attribute: str) -> Batch:
    """Turn an export of log records into rows; `request_id_attribute` is the attribute that holds the request ID."""
    batch = Batch("logs")
    for resource_logs in request.resource_logs:
        resource = _resource(resource_logs.resource)
        for scope_logs in resource_logs.scope_logs:
            scope = _scope(scope_logs.scope)
            for record in scope_logs.log_records:
                attributes = _attributes(record.attributes)
                digest = hashlib.blake2b(digest_size=16)
                for part in (
                    resource.attributes.encode(),
                    scope.encode(),
                    record.SerializeToString(deterministic=True),
                ):
                    digest.update(len(part).to_bytes(8, "big") + part)
                body = _json_value(record.body)
                try:
                    batch.log_lines.append(
                        rows.LogLine(
                            resource=resource,
                            scope=scope,
                            digest=digest.digest(),
                            time=_timestamp(record.time_unix_nano or record.observed_time_unix_nano) or time.time_ns(),
                            severity=min(max(record.severity_number, 0), 24),
                            severity_text=record.severity_text,
                            body="" if body is None else body if isinstance(body, str) else _json(body),
                            event=record.event_name,
                            trace_id=record.trace_id.hex(),
                            span_id=record.span_id.hex(),
                            request_id=_text(attributes.get(request_id_attribute)),
                            attributes=_json(attributes),
                        )
                    )
                except _UnstorableError as reason:
                    batch.reject(str(reason))
    return batch


def _add_metric(batch: Batch, resource: rows.Resource, scope: str, metric: Metric, request_id_attribute: str) -> None:
    kind = metric.WhichOneof("data")
    if kind is None:
        batch.reasons["a metric without data"] += 1
        return
    data: Any = getattr(metric, kind)
    temporality = _TEMPORALITIES.get(getattr(data, "aggregation_temporality", 0), "")
    if not temporality and kind not in ("gauge", "summary"):
        for _ in data.data_points:
            batch.reject("an aggregation temporality that is neither delta nor cumulative")
        return
    monotonic = bool(getattr(data, "is_monotonic", kind in ("histogram", "exponential_histogram", "summary")))
    for point in data.data_points:
        if point.flags & _NO_RECORDED_VALUE:
            continue
        try:
            start = _timestamp(point.start_time_unix_nano)
            bounds = _bounds(point) if kind == "histogram" else []
            series = rows.Series(
                resource=resource,
                scope=scope,
                name=metric.name,
                unit=metric.unit,
                kind=kind,
                temporality=temporality,
                monotonic=monotonic,
                attributes=_json(_attributes(point.attributes)),
                bounds=_json(bounds) if kind == "histogram" else "",
                start=0 if temporality == "delta" else start,
            )
            batch.points.append(_point(series, start, point))
        except _UnstorableError as reason:
            batch.reject(str(reason))
            continue
        for exemplar in getattr(point, "exemplars", ()):
            try:
                batch.exemplars.append(_exemplar(series, exemplar, request_id_attribute))
            except _UnstorableError as reason:
                batch.reasons[str(reason)] += 1


def _point(series: rows.Series, start: int, point: _AnyPoint) -> rows.Point:
    at = _timestamp(point.time_unix_nano)
    if not at:
        raise _UnstorableError("a data point without a time")
    if isinstance(point, NumberDataPoint):
        number = point.as_int if point.WhichOneof("value") == "as_int" else point.as_double
        if point.WhichOneof("value") is None or math.isnan(number):
            raise _UnstorableError("a data point without a number")
        return rows.Point(series, at, start, number, None, None, None, None, None)
    count = _whole(point.count)
    if isinstance(point, SummaryDataPoint):
        quantiles = [[q.quantile, q.value] for q in point.quantile_values if math.isfinite(q.value + q.quantile)]
        return rows.Point(series, at, start, None, count, _finite(point.sum), None, None, _json(quantiles))
    total = _finite(point.sum) if point.HasField("sum") else None
    low = _finite(point.min) if point.HasField("min") else None
    high = _finite(point.max) if point.HasField("max") else None
    buckets = _explicit(point) if isinstance(point, HistogramDataPoint) else _exponential(point)
    return rows.Point(series, at, start, None, count, total, low, high, _json(buckets))


def _bounds(point: HistogramDataPoint) -> list[float]:
    bounds = list(point.explicit_bounds)
    if not all(map(math.isfinite, bounds)) or any(a >= b for a, b in pairwise(bounds)):
        raise _UnstorableError("a histogram whose bounds are not finite and rising")
    return bounds


def _explicit(point: HistogramDataPoint) -> list[int]:
    """Check and return the counts, one more than there are bounds; empty for a histogram without buckets."""
    counts = [_whole(count) for count in point.bucket_counts]
    if counts and len(counts) != len(point.explicit_bounds) + 1:
        raise _UnstorableError("a histogram whose bucket counts do not fit its bounds")
    return counts


def _exponential(point: ExponentialHistogramDataPoint) -> dict[str, Any]:
    """Check and return ``scale``, ``zero``, ``threshold``, and ``positive`` and ``negative`` as [offset, counts]."""
    if point.scale not in _SCALES:
        raise _UnstorableError(f"an exponential histogram with a scale outside {_SCALES.start} to {_SCALES.stop - 1}")
    return {
        "scale": point.scale,
        "zero": _whole(point.zero_count),
        "threshold": max(_finite(point.zero_threshold) or 0.0, 0.0),
        "positive": [point.positive.offset, [_whole(count) for count in point.positive.bucket_counts]],
        "negative": [point.negative.offset, [_whole(count) for count in point.negative.bucket_counts]],
    }


def _exemplar(series: rows.Series, exemplar: ExemplarMessage, request_id_attribute: str) -> rows.Exemplar:
    value = float(exemplar.as_int) if exemplar.WhichOneof("value") == "as_int" else exemplar.as_double
    if exemplar.WhichOneof("value") is None or not math.isfinite(value):
        raise _UnstorableError("an exemplar without a finite value")
    attributes = _attributes(exemplar.filtered_attributes)
    return rows.Exemplar(
        series=series,
        time=_timestamp(exemplar.time_unix_nano),
        value=value,
        trace_id=exemplar.trace_id.hex() if any(exemplar.trace_id) else "",
        span_id=exemplar.span_id.hex() if any(exemplar.span_id) else "",
        request_id=_text(attributes.get(request_id_attribute)),
        attributes=_json(attributes),
    )


def _span(resource: rows.Resource, scope: str, span: SpanMessage, request_id_attribute: str) -> rows.Span:
    if len(span.trace_id) != 16 or not any(span.trace_id):
        raise _UnstorableError("a span without a trace ID of 16 bytes")
    if len(span.span_id) != 8 or not any(span.span_id):
        raise _UnstorableError("a span without a span ID of 8 bytes")
    start = _timestamp(span.start_time_unix_nano)
    attributes = _attributes(span.attributes)
    return rows.Span(
        resource=resource,
        scope=scope,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() if any(span.parent_span_id) else "",
        name=span.name,
        kind=span.kind,
        start=start,
        end=max(_timestamp(span.end_time_unix_nano), start),
        status=span.status.code,
        message=span.status.message,
        request_id=_text(attributes.get(request_id_attribute)),
        attributes=_json(attributes),
        events=_json(
            [
                {"name": event.name, "time": event.time_unix_nano, "attributes": _attributes(event.attributes)}
                for event in span.events
            ]
        ),
        links=_json([{"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex()} for link in span.links]),
    )


def _resource(resource: ResourceMessage) -> rows.Resource:
    attributes = _attributes(resource.attributes)
    return rows.Resource(
        attributes=_json(attributes),
        service=_text(attributes.get("service.name")) or None,
        instance=_text(attributes.get("service.instance.id")) or None,
    )


def _scope(scope: InstrumentationScope) -> str:
    return _json({"name": scope.name, "version": scope.version, "attributes": _attributes(scope.attributes)})


def _attributes(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {attribute.key: _json_value(attribute.value) for attribute in attributes}


def _json_value(value: AnyValue) -> Any:
    """Turn OTLP's value into what JSON can hold: bytes as base 64, numbers that are not finite as their names."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_json_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    found = getattr(value, kind)
    if isinstance(found, bytes):
        return base64.b64encode(found).decode()
    if isinstance(found, float) and not math.isfinite(found):
        return "NaN" if math.isnan(found) else "Infinity" if found > 0 else "-Infinity"
    return found


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else _json(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _timestamp(nanoseconds: int) -> int:
    if nanoseconds > _LARGEST:
        raise _UnstorableError("a time after the year 2262")
    return nanoseconds


def _whole(count: int) -> int:
    if count > _LARGEST:
        raise _UnstorableError("a count over 2**63 - 1")
    return count
