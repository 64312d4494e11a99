"""What a reader sees of the sharded instruments: a stream for each View that matches, as the SDK would keep it.

The counterpart of the SDK's own storage, over public classes for what is exported: temporality, attribute filters,
bucket bounds, the cardinality limit and the exemplars of each reader's interval.

Reference: https://opentelemetry.io/docs/specs/otel/metrics/sdk/#view
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)

from clew.attributes import Key, Value, key_of
from clew.metrics.exemplars import Kept
from clew.metrics.shards import NEVER, Grown, Series

OVERFLOW: Mapping[str, Value] = {"otel.metric.overflow": True}
NANOSECONDS = 1e9


class Plan(NamedTuple):
    """How one View of one reader wants an instrument; bounds in seconds, None for an instrument that is a sum."""

    name: str
    description: str
    unit: str
    temporality: AggregationTemporality
    limit: int
    attribute_keys: frozenset[str] | None = None
    bounds: tuple[float, ...] | None = None
    records_min_max: bool = True


class _Point:
    """One attribute set of a stream: what has been added since its start."""

    __slots__ = ("attributes", "counts", "held", "high", "low", "start", "total")

    def __init__(self, attributes: Mapping[str, Value], start: int, buckets: int) -> None:
        self.attributes = attributes
        self.start = start
        self.counts = [0] * buckets
        self.total = 0
        self.low: float = math.inf
        self.high: float = -math.inf
        self.held: dict[int, Kept] = {}


class _Stream:
    """The points of one instrument for one View of one reader."""

    def __init__(self, plan: Plan, buckets: int) -> None:
        self.plan = plan
        self._buckets = buckets
        self._points: dict[Key, _Point] = {}
        self._of: dict[Any, _Point] = {}
        self._previous_collection = 0

    def _point(self, source: Any, attributes: Mapping[str, Value], created: int) -> _Point:
        point = self._of.get(source)
        if point is None:
            keys = self.plan.attribute_keys
            if keys is not None:
                attributes = {name: value for name, value in attributes.items() if name in keys}
            key = key_of(attributes)
            point = self._points.get(key)
            if point is None:
                if len(self._points) >= self.plan.limit:
                    attributes = OVERFLOW
                    key = key_of(attributes)
                point = self._points.get(key)
                if point is None:
                    point = _Point(attributes, self._previous_collection or created, self._buckets)
                    self._points[key] = point
            self._of[source] = point
        return point

    def _collected(self, now: int) -> list[_Point]:
        """Return the points to be exported; a delta stream begins anew, so that its limit holds for an interval."""
        points = list(self._points.values())
        if self.plan.temporality is AggregationTemporality.DELTA:
            self._points = {}
            self._of = {}
            self._previous_collection = now
        return points


class DurationStream(_Stream):
    """A histogram of durations."""

    def __init__(self, plan: Plan, bounds: Sequence[int]) -> None:
        assert plan.bounds is not None
        super().__init__(plan, len(plan.bounds) + 1)
        own = nanosecond_bounds(plan.bounds)
        # the shards' buckets are at least as fine, so each of them lies within one of this stream's
        self._bucket_of = None if list(own) == list(bounds) else [bisect_left(own, bound) for bound in bounds]
        if self._bucket_of is not None:
            self._bucket_of.append(len(own))

    def add(self, series: Series, grown: Grown) -> None:
        """Add what a series has grown by."""
        counts = grown.counts
        if counts is None and series not in self._of:
            return  # what came late, for an interval that has been exported already
        point = self._point(series, series.attributes, series.created)
        bucket_of = self._bucket_of
        if counts is not None:
            if bucket_of is None:
                point.counts = [one + other for one, other in zip(point.counts, counts, strict=True)]
            else:
                for index, number in enumerate(counts):
                    point.counts[bucket_of[index]] += number
            point.total += grown.total
        if grown.low != NEVER:
            point.low = min(point.low, grown.low)
        point.high = max(point.high, grown.high)
        for index, kept in grown.held:
            place = index if bucket_of is None else bucket_of[index]
            if kept.outranks(point.held.get(place)):
                point.held[place] = kept

    def metric(self, now: int) -> Metric | None:
        """Return what the reader exports, or None where there is nothing."""
        plan = self.plan
        bounds = plan.bounds
        assert bounds is not None
        points = []
        for point in self._collected(now):
            held, point.held = point.held, {}
            low, high = (point.low, point.high) if plan.records_min_max else (math.inf, -math.inf)
            points.append(
                HistogramDataPoint(
                    attributes=point.attributes,
                    exemplars=[held[index].exemplar(point.attributes) for index in sorted(held)] if held else [],
                    start_time_unix_nano=point.start,
                    time_unix_nano=now,
                    count=sum(point.counts),
                    sum=point.total / NANOSECONDS,
                    bucket_counts=tuple(point.counts),
                    explicit_bounds=bounds,
                    min=low / NANOSECONDS,
                    max=high / NANOSECONDS,
                )
            )
        if not points:
            return None
        return Metric(plan.name, plan.description, plan.unit, Histogram(points, plan.temporality))


class RunningStream(_Stream):
    """How many runs of each operation there are."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, 0)

    def add(self, operation: Any, attributes: Mapping[str, Value], created: int, amount: int) -> None:
        """Add to the number of running runs of an operation."""
        self._point(operation, attributes, created).total += amount

    def metric(self, now: int) -> Metric | None:
        """Return what the reader exports, or None where there is nothing."""
        plan = self.plan
        points = [
            NumberDataPoint(
                attributes=point.attributes,
                start_time_unix_nano=point.start,
                time_unix_nano=now,
                value=point.total,
                exemplars=[],
            )
            for point in self._collected(now)
        ]
        if not points:
            return None
        return Metric(plan.name, plan.description, plan.unit, Sum(points, plan.temporality, is_monotonic=False))


def nanosecond_bounds(bounds: Sequence[float]) -> tuple[int, ...]:
    """Return upper bounds given in seconds as whole nanoseconds: a whole number is at most one exactly if the other."""
    return tuple(math.floor(bound * NANOSECONDS + 1e-3) for bound in bounds)
