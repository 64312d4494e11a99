"""Copies of metrics, spans and log records in which each value is the nearest one that OTLP can carry."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import Metric, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Status

from clew.any_value import nearest_number, nearest_value, text_of

T = TypeVar("T")

_LATEST = 2**64 - 1
"""In nanoseconds."""


class ResourcesAndScopes:
    """The resources and scopes of one batch, each copied once, so that items that shared one still do."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Any]] = {}

    def resource(self, resource: Resource) -> Resource:
        """Return a resource that can be encoded."""
        return self._once(
            resource, lambda: Resource(_attributes(resource.attributes), text_of(resource.schema_url or ""))
        )

    def scope(self, scope: InstrumentationScope | None) -> InstrumentationScope | None:
        """Return a scope that can be encoded."""
        if scope is None:
            return None
        return self._once(
            scope,
            lambda: InstrumentationScope(
                text_of(scope.name or ""),
                None if scope.version is None else text_of(scope.version),
                text_of(scope.schema_url or ""),
                _attributes(scope.attributes),
            ),
        )

    def _once(self, original: T, make: Callable[[], T]) -> T:
        known = self._known.get(id(original))
        if known is None:
            known = self._known[id(original)] = original, make()
        return known[1]


def encodable_log(readable: ReadableLogRecord, shared: ResourcesAndScopes) -> ReadableLogRecord:
    """Return a log record that can be encoded."""
    record = copy.copy(readable.log_record)
    record.body = nearest_value(record.body)
    record.attributes = _attributes(record.attributes)
    record.severity_text = None if record.severity_text is None else text_of(record.severity_text)
    record.event_name = None if record.event_name is None else text_of(record.event_name)
    record.timestamp = _time(record.timestamp)
    record.observed_timestamp = _time(record.observed_timestamp)
    return replace(
        readable,
        log_record=record,
        resource=shared.resource(readable.resource),
        instrumentation_scope=shared.scope(readable.instrumentation_scope),
    )


def encodable_span(span: ReadableSpan, shared: ResourcesAndScopes) -> ReadableSpan:
    """Return a span that can be encoded."""
    description = span.status.description
    return ReadableSpan(
        name=text_of(span.name),
        context=span.context,
        parent=span.parent,
        resource=shared.resource(span.resource),
        attributes=_attributes(span.attributes),
        events=[
            Event(text_of(event.name), _attributes(event.attributes), _time(event.timestamp)) for event in span.events
        ],
        links=[Link(link.context, _attributes(link.attributes)) for link in span.links],
        kind=span.kind,
        status=Status(span.status.status_code, None if description is None else text_of(description)),
        start_time=_time(span.start_time),
        end_time=_time(span.end_time),
        instrumentation_scope=shared.scope(span.instrumentation_scope),
    )


def encodable_metrics(data: MetricsData, keep: Callable[[Metric], Metric]) -> MetricsData:
    """Return metrics that can be encoded; `keep` removes from a metric the points that even so cannot."""
    shared = ResourcesAndScopes()
    return MetricsData(
        [
            ResourceMetrics(
                shared.resource(resource.resource),
                [
                    ScopeMetrics(
                        shared.scope(scope.scope) or InstrumentationScope(""),
                        [keep(_encodable_metric(metric)) for metric in scope.metrics],
                        scope.schema_url,
                    )
                    for scope in resource.scope_metrics
                ],
                resource.schema_url,
            )
            for resource in data.resource_metrics
        ]
    )


def with_points(metric: Metric, points: Sequence[Any]) -> Metric:
    """Return a metric with these points in the place of its own."""
    data: Any = metric.data
    return replace(metric, data=replace(data, data_points=points))


def _encodable_metric(metric: Metric) -> Metric:
    metric = replace(
        metric,
        name=text_of(metric.name),
        description=text_of(metric.description or ""),
        unit=text_of(metric.unit or ""),
    )
    return with_points(metric, [_encodable_point(point) for point in metric.data.data_points])


def _encodable_point(point: Any) -> Any:
    """Return a point whose values can be encoded; a value that is no number stays, to be found by the encoder."""
    changes: dict[str, Any] = {
        "attributes": _attributes(point.attributes),
        "time_unix_nano": _time(point.time_unix_nano),
        "start_time_unix_nano": _time(point.start_time_unix_nano),
        "exemplars": [_encodable_exemplar(exemplar) for exemplar in point.exemplars],
    }
    for name in ("value", "sum", "min", "max"):
        if hasattr(point, name):
            changes[name] = _number(getattr(point, name))
    return replace(point, **changes)


def _encodable_exemplar(exemplar: Any) -> Any:
    return replace(
        exemplar,
        filtered_attributes=_attributes(exemplar.filtered_attributes),
        value=_number(exemplar.value),
        time_unix_nano=_time(exemplar.time_unix_nano),
    )


def _number(value: Any) -> Any:
    try:
        return nearest_number(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    except (TypeError, ValueError):
        return value


def _time(value: Any) -> Any:
    return None if value is None else max(0, min(int(value), _LATEST))


def _attributes(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if not attributes else {text_of(name): nearest_value(value) for name, value in attributes.items()}
