"""The metrics of a test: what the instruments of a MeterProvider have recorded since it began."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.metrics import Exemplar, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint, Sum

from clew.policy import policy
from clew.testing.tables import Amount, Listed, Number, attributes_text, rows

_Key = tuple[str, str, tuple[tuple[str, Any], ...]]


@dataclass(frozen=True)
class Point:
    """One attribute set of one metric, and what was recorded into it since the test began.

    Attributes:
        metric: The name of the metric.
        scope: The name of the instrumentation scope that its instrument belongs to.
        unit: Its unit.
        attributes: The attribute set.
        value: Of a counter or gauge; the sum of a histogram.
        count: How many measurements a histogram has; None for other kinds.
        exemplars: Each with the request ID among its filtered attributes.
    """

    metric: str
    scope: str
    unit: str
    attributes: Mapping[str, Any]
    value: float
    count: int | None
    exemplars: tuple[Exemplar, ...]


class Measurements:
    """What was recorded into one metric since the test began, attribute set by attribute set."""

    def __init__(self, name: str, points: Iterable[Point], others: Iterable[str]) -> None:
        self._name = name
        self._points = list(points)
        self._others = list(others)

    def __len__(self) -> int:
        return len(self._points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self._points)

    def __repr__(self) -> str:
        return f"<{len(self._points)} points of {self._name}>" if self._points else f"<{self._nothing()}>"

    @property
    def value(self) -> float:
        """The sum over all attribute sets: of what was counted, or of what a histogram measured."""
        total = sum(point.value for point in self._points)
        return Number(total, self) if isinstance(total, int) else Amount(total, self)

    @property
    def count(self) -> int:
        """How many measurements the histograms have."""
        return Number(sum(point.count or 0 for point in self._points), self)

    @property
    def attributes(self) -> list[dict[str, Any]]:
        """The attribute sets."""
        return Listed((dict(point.attributes) for point in self._points), self)

    @property
    def exemplars(self) -> list[Exemplar]:
        """The exemplars of all attribute sets."""
        return Listed((exemplar for point in self._points for exemplar in point.exemplars), self)

    @property
    def request_ids(self) -> list[str]:
        """The request IDs on the exemplars, each once."""
        return Listed(dict.fromkeys(name for one in self.exemplars if (name := request_id_of(one))), self)

    def table(self) -> list[str]:
        """Return the points as the lines of a table."""
        if not self._points:
            return [self._nothing()]
        return rows(
            ("metric", "attributes", "value", "count", "requests"),
            [
                (
                    point.metric,
                    attributes_text(point.attributes),
                    f"{point.value:g}",
                    "-" if point.count is None else str(point.count),
                    " ".join(filter(None, map(request_id_of, point.exemplars))) or "-",
                )
                for point in self._points
            ],
        )

    def _nothing(self) -> str:
        return f"no measurements of {self._name}; measured were: {', '.join(self._others) or 'none at all'}"


def request_id_of(exemplar: Exemplar) -> str | None:
    """Return the request ID on an exemplar, or None."""
    found = (exemplar.filtered_attributes or {}).get(policy.attribute)
    return found if isinstance(found, str) else None


class CapturedMetrics:
    """Reads one MeterProvider from now on, by a reader of its own."""

    def __init__(self, provider: MeterProvider) -> None:
        self.provider = provider
        self._reader = InMemoryMetricReader()
        # past what a provider of ours adds: nothing goes into its shards while a test captures
        MeterProvider.add_metric_reader(provider, self._reader)
        self._exemplars: dict[_Key, dict[Any, Exemplar]] = {}
        self._before: dict[_Key, tuple[float, int]] = {}
        self._before = {key: (point.value, point.count or 0) for key, _, point in self._read()}
        self._exemplars.clear()

    def points(self, is_kept: Callable[[Exemplar], bool]) -> Iterator[Point]:
        """Return what has been recorded since, with those exemplars that `is_kept` lets through."""
        for key, is_sum, point in self._read():
            value, count = self._before.get(key, (0, 0)) if is_sum else (0, 0)
            delta = point.value - value, None if point.count is None else point.count - count
            if not is_sum or delta[0] or delta[1] or key not in self._before:
                exemplars = tuple(one for one in self._exemplars.get(key, {}).values() if is_kept(one))
                yield Point(point.metric, point.scope, point.unit, point.attributes, *delta, exemplars)

    def names(self) -> set[str]:
        """Return the names of all metrics that have any points, from before as well."""
        return {point.metric for _, _, point in self._read()}

    def end(self) -> None:
        """Read no more."""
        self.provider.remove_metric_reader(self._reader)

    def _read(self) -> Iterator[tuple[_Key, bool, Point]]:
        """Read everything, and keep the exemplars, which each collection tells once. The flag is False for a gauge."""
        data = self._reader.get_metrics_data()
        for resource in () if data is None else data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for found in metric.data.data_points:
                        attributes = dict(found.attributes or {})
                        key = (scope.scope.name, metric.name, tuple(sorted(attributes.items(), key=lambda i: i[0])))
                        exemplars = self._exemplars.setdefault(key, {})
                        for one in found.exemplars:
                            exemplars[one.time_unix_nano, one.value, request_id_of(one)] = one
                        is_number = isinstance(found, NumberDataPoint)
                        yield (
                            key,
                            isinstance(metric.data, Sum) or not is_number,
                            Point(
                                metric.name,
                                scope.scope.name,
                                metric.unit or "",
                                attributes,
                                found.value if isinstance(found, NumberDataPoint) else found.sum,
                                None if isinstance(found, NumberDataPoint) else found.count,
                                (),
                            ),
                        )
