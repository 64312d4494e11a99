"""What arrived by OTLP, with the attributes that matter here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from delivery.listeners import HttpEndpoint


def attributes_of(found: Any) -> dict[str, Any]:
    """Return the attributes of a span, a log record, a point or an exemplar."""
    name = "filtered_attributes" if hasattr(found, "filtered_attributes") else "attributes"
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in getattr(found, name)}


def log_records(endpoint: HttpEndpoint) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Return logger, text and attributes of each log record."""
    for scope in _scopes(endpoint, "resource_logs", "scope_logs"):
        for record in scope.log_records:
            yield scope.scope.name, record.body.string_value, attributes_of(record)


def spans(endpoint: HttpEndpoint) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Return each span with its attributes."""
    for scope in _scopes(endpoint, "resource_spans", "scope_spans"):
        for span in scope.spans:
            yield span, attributes_of(span)


def points(endpoint: HttpEndpoint, name: str) -> list[tuple[str, dict[str, Any], Any]]:
    """Return scope, attributes and point, the last one of each series of a metric."""
    last: dict[Any, tuple[str, dict[str, Any], Any]] = {}
    for message in list(endpoint.received.messages):
        for resource in getattr(message, "resource_metrics", ()):
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name != name:
                        continue
                    for point in getattr(metric, metric.WhichOneof("data")).data_points:
                        attributes = attributes_of(point)
                        key = str(resource.resource), scope.scope.name, repr(sorted(attributes.items()))
                        last[key] = scope.scope.name, attributes, point
    return list(last.values())


def exemplar_ids(found: Iterable[tuple[str, dict[str, Any], Any]]) -> set[str | None]:
    """Return the request IDs of all exemplars of these points; None stands for an exemplar without."""
    return {attributes_of(exemplar).get("request_id") for _, _, point in found for exemplar in point.exemplars}


def _scopes(endpoint: HttpEndpoint, resources: str, scopes: str) -> Iterator[Any]:
    for message in list(endpoint.received.messages):
        for resource in getattr(message, resources, ()):
            yield from getattr(resource, scopes)
