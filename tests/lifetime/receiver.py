"""What arrived at an endpoint of a test, by the process that sent it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from delivery.listeners import GrpcEndpoint, HttpEndpoint

Endpoint = HttpEndpoint | GrpcEndpoint


def resource_of(message: Any) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in message.resource.attributes}


def instances(endpoint: Endpoint) -> set[str]:
    """Every ``service.instance.id`` that sent anything."""
    return {
        resource_of(resource)["service.instance.id"]
        for message in list(endpoint.received.messages)
        for field in ("resource_metrics", "resource_spans", "resource_logs")
        for resource in getattr(message, field, ())
    }


def points(endpoint: Endpoint, name: str) -> Iterator[tuple[str, dict[str, str], Any]]:
    """The points of a metric in the order they came: instance, attributes, point."""
    for message in list(endpoint.received.messages):
        for resource in getattr(message, "resource_metrics", ()):
            instance = resource_of(resource)["service.instance.id"]
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        data = getattr(metric, metric.WhichOneof("data"))
                        for point in data.data_points:
                            attributes = {each.key: each.value.string_value for each in point.attributes}
                            yield instance, attributes, point


def totals(endpoint: Endpoint, name: str) -> dict[str, int]:
    """The last cumulative value of each instance, all attribute sets added up."""
    last: dict[tuple[str, str], int] = {}
    for instance, attributes, point in points(endpoint, name):
        value = point.count if hasattr(point, "bucket_counts") else point.as_int
        last[instance, repr(sorted(attributes.items()))] = value
    found: dict[str, int] = {}
    for (instance, _), value in last.items():
        found[instance] = found.get(instance, 0) + value
    return found


def spans(endpoint: Endpoint) -> list[tuple[str, str]]:
    """Instance and name of each span."""
    return [
        (resource_of(resource)["service.instance.id"], span.name)
        for message in list(endpoint.received.messages)
        for resource in getattr(message, "resource_spans", ())
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def logs(endpoint: Endpoint) -> list[tuple[str, str]]:
    """Instance and text of each log record."""
    return [
        (resource_of(resource)["service.instance.id"], record.body.string_value)
        for message in list(endpoint.received.messages)
        for resource in getattr(message, "resource_logs", ())
        for scope in resource.scope_logs
        for record in scope.log_records
    ]
