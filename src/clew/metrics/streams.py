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

from clew.any_value import nearest_number
from clew.attributes import OVERFLOW, Key, Value, key_of
from clew.metrics.delta import Delta, best_of_each_bucket
from clew.metrics.exemplars import ExemplarCandidate
from clew.metrics.shards import Series

_OVERFLOW: Mapping[str, Value] = {OVERFLOW: True}


class Plan(NamedTuple):
    """How one View of one reader wants an instrument; bounds are None for an instrument that is a sum."""

    name: str
    description: str
    unit: str
    temporality: AggregationTemporality
    limit: int
    attribute_keys: frozenset[str] | None = None
    bounds: tuple[float, ...] | None = None
    records_min_max: bool = True


class _Point:
    """One attribute set of a stream: what has been added since its start.

    Attributes:
        candidates: The best ones of the interval, one a bucket of the stream, in the order of the buckets.
        follows: Whether it holds what one series holds, so that nothing need be added up.
    """

    __slots__ = ("attributes", "candidates", "counts", "follows", "max", "min", "start", "total")

    def __init__(self, attributes: Mapping[str, Value], start: int, *, follows: bool) -> None:
        self.attributes = attributes
        self.start = start
        self.follows = follows
        self.counts: list[int] = []
        self.total: float = 0
        self.min: float = math.inf
        self.max: float = -math.inf
        self.candidates: Sequence[ExemplarCandidate] = ()

    def exemplars(self) -> list[Exemplar]:
        """Return the exemplars of the interval, and forget its candidates."""
        candidates, self.candidates = self.candidates, ()
        return [candidate.exemplar(self.attributes) for candidate in candidates]


class _Stream:
    """The points of one instrument for one View of one reader.

    Args:
        plan: How the View wants it.
        bucket_of: Which of the stream's buckets each bucket of a shard is a part of; None where they are the same.
    """

    def __init__(self, plan: Plan, bucket_of: Sequence[int] | None = None) -> None:
        self.plan = plan
        self._bucket_of = bucket_of
        self._previous_collection = 0
        self._begin()

    def _begin(self) -> None:
        self._points: list[_Point] = []
        self._point_by_source: dict[Any, _Point] = {}
        self._shared: dict[Key, _Point] = {}

    def _point_of(self, series: Series, delta: Delta) -> _Point | None:
        """Return the point of a series, with its new candidates; None where they belong to an interval that is over."""
        point = self._point_by_source.get(series)
        if point is None:
            if delta.counts is None:
                return None
            point = self._point_by_source[series] = self._find(series.attributes, series.created, is_all=delta.is_all)
        candidates = delta.candidates
        if candidates:
            if point.attributes is not series.attributes:
                for candidate in candidates:
                    candidate.attributes = series.attributes
            if point.candidates or self._bucket_of is not None:
                candidates = best_of_each_bucket([*point.candidates, *candidates], self._bucket_of)
            point.candidates = candidates
        return point

    def _find(self, attributes: Mapping[str, Value], created: int, *, is_all: bool = False) -> _Point:
        """Return the point for the attributes of a series, `is_all` where it comes with all that it ever had."""
        keys = self.plan.attribute_keys
        has_room = len(self._points) < self.plan.limit
        if keys is None and has_room and attributes != _OVERFLOW:  # no other series has these attributes
            is_cumulative = self.plan.temporality is AggregationTemporality.CUMULATIVE
            return self._new(attributes, created, follows=is_all and is_cumulative and self._bucket_of is None)
        if keys is not None:
            attributes = {name: value for name, value in attributes.items() if name in keys}
        key = key_of(attributes)
        if key not in self._shared and not has_room:
            attributes, key = _OVERFLOW, key_of(_OVERFLOW)
        if key not in self._shared:
            self._shared[key] = self._new(attributes, created)
        return self._shared[key]

    def _new(self, attributes: Mapping[str, Value], created: int, *, follows: bool = False) -> _Point:
        point = _Point(attributes, self._previous_collection or created, follows=follows)
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
        plan: Has bounds.
        bounds: Those of the shards.
    """

    def __init__(self, plan: Plan, bounds: Sequence[float]) -> None:
        assert plan.bounds is not None
        own = plan.bounds
        is_finer = own != tuple(bounds)
        super().__init__(plan, [*(bisect_left(own, bound) for bound in bounds), len(own)] if is_finer else None)
        self._zeros = [0] * (len(own) + 1)

    def add(self, series: Series, delta: Delta) -> None:
        """Add what has been recorded into a series."""
        point = self._point_of(series, delta)
        if point is None:
            return
        if delta.min < point.min:
            point.min = delta.min
        if delta.max > point.max:
            point.max = delta.max
        if delta.counts is None:
            return
        if point.follows:
            point.counts, point.total = delta.counts, delta.total
            return
        point.total += delta.total - delta.seen_total
        counts = point.counts or self._zeros
        if self._bucket_of is None:
            point.counts = [one + other for one, other in zip(counts, delta.added, strict=True)]
        else:
            point.counts = counts.copy()
            for bucket, number in zip(self._bucket_of, delta.added, strict=True):
                point.counts[bucket] += number

    def metric(self, now: int) -> Metric | None:
        """Return what the reader exports, or None where there is nothing."""
        plan = self.plan
        assert plan.bounds is not None
        points: list[HistogramDataPoint] = []
        for point in self._collected(now):
            minimum, maximum = (point.min, point.max) if plan.records_min_max else (math.inf, -math.inf)
            points.append(
                HistogramDataPoint(
                    attributes=point.attributes,
                    exemplars=point.exemplars(),
                    start_time_unix_nano=point.start,
                    time_unix_nano=now,
                    count=sum(point.counts),
                    sum=point.total,
                    bucket_counts=tuple(point.counts),
                    explicit_bounds=plan.bounds,
                    min=minimum,
                    max=maximum,
                )
            )
        if not points:
            return None
        return Metric(plan.name, plan.description, plan.unit, Histogram(points, plan.temporality))


class SumStream(_Stream):
    """The sum of an instrument that counts."""

    def __init__(self, plan: Plan, *, is_monotonic: bool) -> None:
        super().__init__(plan)
        self._is_monotonic = is_monotonic

    def add(self, series: Series, delta: Delta) -> None:
        """Add what has been recorded into a series."""
        point = self._point_of(series, delta)
        if point is not None and delta.counts is not None:
            point.total = delta.total if point.follows else point.total + (delta.total - delta.seen_total)

    def add_to(self, source: Any, attributes: Mapping[str, Value], created: int, amount: int) -> None:
        """Add an amount that belongs to no series: `source` stands for one, and was `created` at that time."""
        point = self._point_by_source.get(source)
        if point is None:
            point = self._point_by_source[source] = self._find(attributes, created)
        point.total += amount

    def metric(self, now: int) -> Metric | None:
        """Return what the reader exports, or None where there is nothing."""
        plan = self.plan
        points = [
            NumberDataPoint(
                attributes=point.attributes,
                start_time_unix_nano=point.start,
                time_unix_nano=now,
                value=nearest_number(point.total),
                exemplars=point.exemplars(),
            )
            for point in self._collected(now)
        ]
        if not points:
            return None
        return Metric(plan.name, plan.description, plan.unit, Sum(points, plan.temporality, self._is_monotonic))


Stream = HistogramStream | SumStream
