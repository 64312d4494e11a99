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

from opentelemetry.sdk.metrics import Exemplar
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

    __slots__ = ("_held", "attributes", "counts", "high", "low", "start", "total")

    def __init__(self, attributes: Mapping[str, Value], start: int, buckets: int) -> None:
        self.attributes = attributes
        self.start = start
        self.counts = [0] * buckets
        self.total: float = 0
        self.low: float = math.inf
        self.high: float = -math.inf
        self._held: dict[int, Kept] = {}

    def keep(self, held: Sequence[tuple[int, Kept]], bucket_of: Sequence[int] | None) -> None:
        """Keep what outranks what is there, bucket by bucket."""
        for index, kept in held:
            place = index if bucket_of is None else bucket_of[index]
            if kept.outranks(self._held.get(place)):
                self._held[place] = kept

    def exemplars(self, scale: int) -> list[Exemplar]:
        """Return the exemplars of the interval in order of their buckets, their values divided; and begin anew."""
        if not self._held:
            return []
        held, self._held = self._held, {}
        return [held[index].exemplar(self.attributes, scale) for index in sorted(held)]


class _Stream:
    """The points of one instrument for one View of one reader."""

    def __init__(self, plan: Plan, buckets: int) -> None:
        self.plan = plan
        self._buckets = buckets
        self._previous_collection = 0
        self._begin()

    def _begin(self) -> None:
        self._points: list[_Point] = []
        self._of: dict[Any, _Point] = {}
        self._shared: dict[Key, _Point] = {}

    def _point(self, source: Any, attributes: Mapping[str, Value], created: int) -> _Point:
        """Return the point of a series, or of whatever else stands for one attribute set."""
        point = self._of.get(source)
        if point is None:
            point = self._of[source] = self._find(attributes, created)
        return point

    def _find(self, attributes: Mapping[str, Value], created: int) -> _Point:
        keys = self.plan.attribute_keys
        has_room = len(self._points) < self.plan.limit
        if keys is None and has_room and attributes != OVERFLOW:
            return self._new(attributes, created)  # no other series has these attributes
        if keys is not None:
            attributes = {name: value for name, value in attributes.items() if name in keys}
        key = key_of(attributes)
        if key not in self._shared and not has_room:
            attributes, key = OVERFLOW, key_of(OVERFLOW)
        if key not in self._shared:
            self._shared[key] = self._new(attributes, created)
        return self._shared[key]

    def _new(self, attributes: Mapping[str, Value], created: int) -> _Point:
        point = _Point(attributes, self._previous_collection or created, self._buckets)
        self._points.append(point)
        return point

    def _collected(self, now: int) -> list[_Point]:
        """Return the points to be exported; a delta stream begins anew, so that its limit holds for an interval."""
        points = self._points
        if self.plan.temporality is AggregationTemporality.DELTA:
            self._begin()
            self._previous_collection = now
        return points


class HistogramStream(_Stream):
    """A histogram over shards whose buckets are at least as fine.

    Args:
        plan: Its bounds are in the instrument's unit.
        bounds: The shards' bounds, in the shards' unit.
        scale: How many of the shards' units make one of the instrument's.
    """

    def __init__(self, plan: Plan, bounds: Sequence[float], scale: int) -> None:
        assert plan.bounds is not None
        super().__init__(plan, len(plan.bounds) + 1)
        self._scale = scale
        own = shard_bounds(plan.bounds, scale)
        self._bucket_of: list[int] | None = None
        if own != tuple(bounds):
            self._bucket_of = [*(bisect_left(own, bound) for bound in bounds), len(own)]

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
        point.keep(grown.held, bucket_of)

    def metric(self, now: int) -> Metric | None:
        """Return what the reader exports, or None where there is nothing."""
        plan, scale = self.plan, self._scale
        assert plan.bounds is not None
        points: list[HistogramDataPoint] = []
        for point in self._collected(now):
            low, high = (point.low, point.high) if plan.records_min_max else (math.inf, -math.inf)
            points.append(
                HistogramDataPoint(
                    attributes=point.attributes,
                    exemplars=point.exemplars(scale),
                    start_time_unix_nano=point.start,
                    time_unix_nano=now,
                    count=sum(point.counts),
                    sum=point.total if scale == 1 else point.total / scale,
                    bucket_counts=tuple(point.counts),
                    explicit_bounds=plan.bounds,
                    min=low if scale == 1 else low / scale,
                    max=high if scale == 1 else high / scale,
                )
            )
        if not points:
            return None
        return Metric(plan.name, plan.description, plan.unit, Histogram(points, plan.temporality))


class SumStream(_Stream):
    """The sum of an instrument that counts."""

    def __init__(self, plan: Plan, *, is_monotonic: bool) -> None:
        super().__init__(plan, 0)
        self._is_monotonic = is_monotonic

    def add(self, series: Series, grown: Grown) -> None:
        """Add what a series has grown by."""
        if grown.counts is None and series not in self._of:
            return  # what came late, for an interval that has been exported already
        point = self._point(series, series.attributes, series.created)
        point.total += grown.total
        point.keep(grown.held, None)

    def add_to(self, source: Any, attributes: Mapping[str, Value], created: int, amount: int) -> None:
        """Add an amount that belongs to no series: `source` stands for one, and was `created` at that time."""
        self._point(source, attributes, created).total += amount

    def metric(self, now: int) -> Metric | None:
        """Return what the reader exports, or None where there is nothing."""
        plan = self.plan
        points = [
            NumberDataPoint(
                attributes=point.attributes,
                start_time_unix_nano=point.start,
                time_unix_nano=now,
                value=point.total,
                exemplars=point.exemplars(1),
            )
            for point in self._collected(now)
        ]
        if not points:
            return None
        return Metric(plan.name, plan.description, plan.unit, Sum(points, plan.temporality, self._is_monotonic))


Stream = HistogramStream | SumStream


def shard_bounds(bounds: Sequence[float], scale: int) -> tuple[float, ...]:
    """Return upper bounds in the shards' unit: where that is whole nanoseconds, the last one that each lets in."""
    if scale == 1:
        return tuple(bounds)
    return tuple(math.floor(bound * scale + 1e-3) for bound in bounds)
