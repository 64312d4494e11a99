"""Telemetry of a test, read in memory by the SDK's own readers and exporters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import clew


class Recorded:
    """Reads back what has been recorded, point by point."""

    def __init__(self, **reader: Any) -> None:
        self.reader = InMemoryMetricReader(**reader)
        self._spans = InMemorySpanExporter()
        self.arguments: dict[str, Any] = {
            "metric_readers": [self.reader],
            "span_processors": [SimpleSpanProcessor(self._spans)],
        }
        self.telemetry: clew.Telemetry

    def metrics(self) -> Iterator[tuple[str, Any]]:
        """Collect, and return each metric with the name of its scope."""
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    yield scope.scope.name, metric

    def points(self, name: str, scope: str | None = None) -> list[Any]:
        """Collect, and return the data points of the metric `name`."""
        return [
            point
            for found, metric in self.metrics()
            if metric.name == name and scope in (None, found)
            for point in metric.data.data_points
        ]

    def durations(self, operation: str | None = None) -> list[Any]:
        """Collect, and return the points of ``operation.duration``, of one operation or of all."""
        return [
            point
            for point in self.points("operation.duration")
            if operation is None or point.attributes.get("operation.name") == operation
        ]

    def calls(self, operation: str) -> dict[str | None, int]:
        """Collect, and return how many runs of an operation there were, by error type."""
        found: dict[str | None, int] = {}
        for point in self.durations(operation):
            error_type = point.attributes.get("error.type")
            found[error_type] = found.get(error_type, 0) + point.count
        return found

    def events(self) -> dict[str, int]:
        """Collect, and return the counts of ``clew.events``."""
        return {point.attributes["event.name"]: point.value for point in self.points("clew.events")}

    def spans(self) -> tuple[ReadableSpan, ...]:
        """Return the spans that have ended."""
        return tuple(self._spans.get_finished_spans())
