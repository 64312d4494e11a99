"""What an OpenTelemetry reader sees, remembered over collections."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from benchmarks.contestant import REQUEST_ID


class Reading:
    """A reader in memory, and what its collections have brought so far.

    Attributes:
        reader: To be given to a MeterProvider or to `clew.configure()`.
    """

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self._numbers: dict[tuple[str, frozenset[tuple[str, Any]]], float] = {}
        self._exemplar_of: set[tuple[str, frozenset[tuple[str, Any]]]] = set()

    def collect(self) -> None:
        """Collect once. Points are cumulative, exemplars are those since the last collection."""
        data = self.reader.get_metrics_data()
        if data is None:
            return
        for resource in data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        self._remember(metric.name, point)

    def _remember(self, name: str, point: Any) -> None:
        series = (name, frozenset((point.attributes or {}).items()))
        self._numbers[series] = point.count if hasattr(point, "count") else point.value
        if any((found.filtered_attributes or {}).get("request_id") == REQUEST_ID for found in point.exemplars):
            self._exemplar_of.add(series)

    def total(self, name: str, **attributes: str) -> int:
        """Return the count (of a histogram) or value (of a sum) over all points with these attributes among theirs."""
        wanted = _dotted(attributes)
        return int(sum(number for (metric, held), number in self._numbers.items() if metric == name and wanted <= held))

    def has_request_id(self, name: str, **attributes: str) -> bool:
        """Tell whether an exemplar of such a point has ever had the request ID."""
        wanted = _dotted(attributes)
        return any(metric == name and wanted <= held for metric, held in self._exemplar_of)


def _dotted(attributes: dict[str, str]) -> frozenset[tuple[str, Any]]:
    return frozenset((name.replace("_", "."), value) for name, value in attributes.items())
