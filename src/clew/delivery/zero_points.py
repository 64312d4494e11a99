"""A point of zero before the first point of a series, so that the first call and the first failure are seen.

A backend that computes an increase does not know the value of a series before its first sample, and counts that sample
as no increase. So the first export of a series of a cumulative histogram or monotonic sum has a second point, of zero,
with the time of the collection before, when the series did not exist.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    Sum,
)

from clew.attributes import key_of
from clew.diagnostics import warn_once

_MILLISECOND = 1_000_000
"""In nanoseconds: Prometheus keeps milliseconds, and of two points in the same one only the first."""

_OLDEST = 600 * 1_000_000_000
"""In nanoseconds: an older zero is left out, since backends refuse what is too old."""

_MOST_SEEN = 100_000
"""How many series of one metric are remembered beyond those there are: one that comes back is not a new one."""

Attributes = Mapping[str, Any] | None
Point = NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint


class ZeroPoint:
    """A point of zero that is to be sent before the first point of its series.

    Attributes:
        attributes: Those of the series.
        time: Its time, in nanoseconds.
        is_settled: Whether it is not to be sent again, since the endpoint has taken an export with it.
    """

    __slots__ = ("attributes", "is_settled", "time")

    def __init__(self, attributes: Attributes, at: int) -> None:
        self.attributes = attributes
        self.time = at
        self.is_settled = False


@dataclass(frozen=True)
class MetricsDataWithZeros(MetricsData):
    """A collection in which some points have a zero before them.

    Attributes:
        zeros: These zeros, in the order of the points.
    """

    zeros: Sequence[ZeroPoint] = ()

    def settle(self, requests: Sequence[tuple[bool, int]]) -> None:
        """Settle the zeros that were taken, given for each request in turn whether it was, and its number of zeros."""
        if sum(number for _, number in requests) != len(self.zeros):  # some were left out, and it is not known which
            requests = [(all(taken for taken, _ in requests), len(self.zeros))]
        at = 0
        for taken, number in requests:
            for zero in self.zeros[at : at + number]:
                zero.is_settled = taken
            at += number


class ZeroPointTracker:
    """The series that one reader exports: which have begun, and which still need a zero."""

    def __init__(self) -> None:
        self._start = time.time_ns()
        self._before: int | None = None
        self._last_point = 0
        self._streams: dict[Any, _Stream] = {}

    def begin(self) -> None:
        """Set the time at which the reader begins, unless it has collected before."""
        if self._before is None:
            self._start = time.time_ns()

    def collected(self, began: int) -> None:
        """Note that a collection began at that time, whether or not there was anything to collect.

        Its time is that of its points, if it had any: Prometheus gives `target_info` the time of the earliest point of
        an export, and refuses an export in which that is older than the points of the export before.
        """
        self._before = max(began, self._last_point)

    def added(self, data: MetricsData) -> MetricsData:
        """Return the collection with the zeros that are needed, and with one start time for all series.

        The start time is that of the reader, since a series that began later was zero until then; it is the same in
        every export of a series.
        """
        zeros: list[ZeroPoint] = []
        collected = [
            (scope.scope, metric)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.data.data_points
        ]
        times = (metric.data.data_points[0].time_unix_nano for _, metric in collected)
        self._last_point = max(times, default=self._last_point)
        streams = [(metric, self._stream(scope, metric)) for scope, metric in collected if _is_wanted(metric)]
        before = self._start if self._before is None else self._before
        for metric, stream in streams:
            points = metric.data.data_points
            last = points[0].time_unix_nano - _MILLISECOND
            stream.find_new(points, min(before, last))
            self._start = min([self._start, last, *(zero.time for zero in stream.waiting.values())])
        changed = {
            id(metric): stream.with_zeros(metric, self._start, zeros) for metric, stream in streams if stream.waiting
        }
        for metric, _ in streams:
            for point in metric.data.data_points:
                if point.start_time_unix_nano != self._start:
                    # frozen, but made for this collection alone
                    object.__setattr__(point, "start_time_unix_nano", self._start)
        if not zeros:
            return data
        resources = [
            replace(
                resource,
                scope_metrics=[
                    replace(scope, metrics=[changed.get(id(metric), metric) for metric in scope.metrics])
                    for scope in resource.scope_metrics
                ],
            )
            for resource in data.resource_metrics
        ]
        return MetricsDataWithZeros(resources, zeros)

    def _stream(self, scope: Any, metric: Metric) -> _Stream:
        identity = scope, metric.name, metric.unit, metric.description, type(metric.data)
        stream = self._streams.get(identity)
        if stream is None:
            stream = self._streams[identity] = _Stream()
        return stream


def _is_wanted(metric: Metric) -> bool:
    data = metric.data
    return (
        isinstance(data, (Histogram, ExponentialHistogram)) or (isinstance(data, Sum) and data.is_monotonic)
    ) and data.aggregation_temporality is AggregationTemporality.CUMULATIVE


class _Stream:
    """The series of one metric.

    A series is recognised by the mapping of its attributes, which is kept as long as the series, by the SDK and by us;
    where that is another mapping, by what is in it.
    """

    __slots__ = ("_known", "_seen", "waiting")

    def __init__(self) -> None:
        self._known: dict[int, Attributes] = {}
        self._seen: set[int] = set()
        self.waiting: dict[int, ZeroPoint] = {}

    def find_new(self, points: Sequence[Point], at: int) -> None:
        """Find the series that were not there before, which need a zero, and drop the zeros that are needed no more."""
        known = self._known
        now = points[0].time_unix_nano
        if self.waiting:
            for identity, zero in list(self.waiting.items()):
                zero.time = min(zero.time, now - _MILLISECOND)  # the clock may have been set back
                if zero.is_settled or now - zero.time > _OLDEST:
                    del self.waiting[identity]
        new = [point.attributes for point in points if id(point.attributes) not in known]
        for attributes in new:
            known[id(attributes)] = attributes
            fingerprint = _fingerprint(attributes)
            if fingerprint not in self._seen:
                self._seen.add(fingerprint)
                if now - at <= _OLDEST:
                    self.waiting[id(attributes)] = ZeroPoint(attributes, at)
        if new and len(known) > 2 * len(points):
            self._known = {id(point.attributes): point.attributes for point in points}
        if len(self._seen) > max(_MOST_SEEN, 2 * len(points)):  # those that are gone are forgotten
            self._seen = {_fingerprint(point.attributes) for point in points}

    def with_zeros(self, metric: Metric, start: int, zeros: list[ZeroPoint]) -> Metric:
        """Return the metric with the zeros that its series need, and add these to `zeros`."""
        points: list[Any] = []
        for point in metric.data.data_points:
            zero = self.waiting.get(id(point.attributes))
            if zero is not None:
                zeros.append(zero)
                points.append(_zero_before(point, start, zero.time))
            points.append(point)
        data: Any = metric.data
        return replace(metric, data=replace(data, data_points=points))


def _fingerprint(attributes: Attributes) -> int:
    try:
        return hash(key_of(dict(sorted((attributes or {}).items()))))
    except Exception:  # a value that cannot be hashed, which the SDK allows on log records alone
        return hash(repr(attributes))


def _zero_before(point: Any, start: int, at: int) -> Any:
    """Return a point of the same kind in which nothing has been measured."""
    absent: Any = None  # the minimum and maximum of nothing
    if isinstance(point, HistogramDataPoint):
        counts = [0] * len(point.bucket_counts)
        return HistogramDataPoint(point.attributes, start, at, 0, 0, counts, point.explicit_bounds, absent, absent)
    if isinstance(point, NumberDataPoint):
        return NumberDataPoint(point.attributes, start, at, 0.0 if isinstance(point.value, float) else 0)
    return replace(
        point,
        start_time_unix_nano=start,
        time_unix_nano=at,
        count=0,
        sum=0,
        zero_count=0,
        positive=replace(point.positive, bucket_counts=()),
        negative=replace(point.negative, bucket_counts=()),
        min=absent,
        max=absent,
        exemplars=(),
    )


def add_zeros(zeros: ZeroPointTracker, data: MetricsData) -> MetricsData:
    """Return the collection with its zeros, or as it is where that fails: a zero must not cost an export."""
    try:
        return zeros.added(data)
    except Exception as error:
        warn_once("zero points", "ZeroPoint points could not be added: %s: %s", type(error).__name__, error)
        return data
