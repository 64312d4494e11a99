"""What was counted in a window: each series between its last points at or before the two edges."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from clew.answers.histogram import Bucket, Histogram, merged, merged_buckets
from clew.answers.questions.operations import seconds_per_unit
from clew.answers.source import ExportTimes, Point, Series, Source

_STALE = 300 * 10**9  # nanoseconds without an export after which nobody knows whether a process was there
_FALLS = 3  # so many that come back are no accident
_SOON = 3  # points; a process that has restarted needs about as many as it had before


@dataclass
class Increase:
    """What one series counted in a window, growing over the times of its points.

    `since` is where counting began: what was measured at or before it is not in here; 0 where all that the series has
    ever counted is in here, as the SDK begins a series a moment after its first value was measured. `sums` are in the
    series' unit, None where a point has no sum. `mixed` says that what falls comes back: not one process that restarts,
    but several that send as one.
    """

    series: Series
    since: int
    times: list[int]
    calls: list[int]
    sums: list[float] | None
    total: Histogram
    mixed: bool = False

    def calls_until(self, edges: Sequence[int]) -> list[int]:
        """Return the calls counted up to each edge."""
        return [self.calls[at - 1] if (at := bisect_right(self.times, edge)) else 0 for edge in edges]

    def sums_until(self, edges: Sequence[int]) -> list[float] | None:
        """Return the sum up to each edge, None if it is not known."""
        if self.sums is None:
            return None
        return [self.sums[at - 1] if (at := bisect_right(self.times, edge)) else 0.0 for edge in edges]


class Window:
    """A stretch of time (`start`, `end`] in nanoseconds, cut per instance to the exports that are there."""

    def __init__(self, source: Source, resources: Iterable[int], start: int, end: int) -> None:
        self.start = start
        self.end = end
        self._source = source
        self._stretches: list[tuple[int, int]] = []
        self._cuts: dict[int, int] = {}
        for times in source.export_times(resources, start, end):
            self._add(times)
        self._stretches = _united(self._stretches)

    @property
    def observed(self) -> float:
        """The seconds during which at least one instance was observed."""
        return self.observed_between(self.start - 2**62, self.end)

    def observed_between(self, start: int, end: int) -> float:
        """Return how many seconds of a stretch were observed."""
        return sum(max(min(end, last) - max(start, first), 0) for first, last in self._stretches) / 1e9

    def edges(self, blocks: int) -> list[int]:
        """Return where equal blocks of the observed stretch begin and end: one edge more than blocks."""
        if not blocks or not self._stretches:
            return []
        first, last = self._stretches[0][0], self._stretches[-1][1]
        return [first + (last - first) * block // blocks for block in range(blocks)] + [last]

    def increase(self, series: Series, widened: bool = False) -> Increase | None:
        """Return what a series counted in this window; None where it has no point in it.

        `widened` goes on to the first point at or after the end: what a window shorter than an export interval needs.
        """
        end = self.end
        if widened and (after := self._source.next_time(series, self.end)) is not None:
            end = after
        points = self._source.points(series, self.start, end)
        if series.temporality == "delta":
            points = [point for point in points if point.start < self.end]
        if not points:
            return None
        baseline = self._source.last_point(series, self.start)
        if series.temporality == "delta":
            since = 0 if baseline is None else min(points[0].start or points[0].time, points[0].time)
            return _added(series, since, points)
        if baseline is not None:
            return _risen(series, baseline.time, baseline.histogram, points)
        if self._begins_here(series, points[0].time):
            return _risen(series, 0, series.empty(), points)
        return _risen(series, points[0].time, points[0].histogram, points[1:])

    def _begins_here(self, series: Series, first: int) -> bool:
        """Return whether a series with no point before this window counts from zero in it."""
        if series.start >= min(self._cuts.get(series.resource, self.start), self.start):
            return True
        earliest = self._source.first_export(series.resource, series.start)
        return earliest is not None and earliest < first

    def _add(self, times: ExportTimes) -> None:
        if times.before is not None and times.before >= self.start - _STALE:
            self._cuts[times.resource] = max(times.before, self._cuts.get(times.resource, times.before))
        if times.first is None or times.last is None:
            return
        begin = times.first
        if times.delta:
            begin = min(times.start or times.first, times.first)
        elif times.before is not None:
            begin = times.before
        elif self.start <= times.start < times.first:
            begin = times.start
        self._stretches.append((begin, times.last))


def export_interval(increases: Iterable[Increase]) -> float | None:
    """Estimate the seconds between two exports: the median over instances of the one with the most points of each."""
    longest: dict[tuple[int, int], list[int]] = {}
    for increase in increases:
        key = (increase.series.resource, increase.series.start)
        if len(increase.times) > len(longest.get(key, ())):
            longest[key] = increase.times
    gaps = [median(b - a for a, b in pairwise(times)) / 1e9 for times in longest.values() if len(times) > 2]
    return median(gaps) if gaps else None


def buckets_in_seconds(increases: Sequence[Increase]) -> list[Bucket]:
    """Return the buckets of all increases together, their bounds in seconds."""
    by_unit: dict[float, list[Increase]] = defaultdict(list)
    for increase in increases:
        by_unit[seconds_per_unit(increase.series)].append(increase)
    found = [
        [
            Bucket(low * unit, high * unit, held, exponential)
            for low, high, held, exponential in merged(increase.total for increase in group)
        ]
        for unit, group in by_unit.items()
    ]
    return merged_buckets(found)


def _added(series: Series, since: int, points: Sequence[Point]) -> Increase:
    total = series.empty()
    increase = Increase(series, since, [], [], [], total)
    for point in points:
        _extend(increase, point.time, point.histogram)
    return increase


def _risen(series: Series, since: int, baseline: Histogram, points: Sequence[Point]) -> Increase:
    increase = Increase(series, since, [], [], [], series.empty())
    earlier = baseline
    for point in points:
        now = point.histogram
        _extend(increase, point.time, now if now.was_reset_since(earlier) else now.minus(earlier))  # type: ignore[arg-type]
        earlier = now
    increase.mixed = _comes_back([baseline.count, *(point.histogram.count for point in points)])
    return increase


def _comes_back(counts: Sequence[int]) -> bool:
    """Return whether a count falls and is soon as high as before, again and again: several writers in turn."""
    falls = [number for number in range(1, len(counts)) if counts[number] < counts[number - 1]]
    back = [number for number in falls if max(counts[number + 1 : number + 1 + _SOON], default=0) >= counts[number - 1]]
    return len(back) >= _FALLS and 2 * len(back) >= len(falls)


def _extend(increase: Increase, time: int, more: Histogram) -> None:
    increase.total = increase.total.plus(more)  # type: ignore[arg-type]
    increase.times.append(time)
    increase.calls.append(increase.total.count)
    total = increase.total.sum
    if total is None:
        increase.sums = None
    elif increase.sums is not None:
        increase.sums.append(total)


def _united(stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
    united: list[tuple[int, int]] = []
    for first, last in sorted(stretches):
        if united and first <= united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], last))
        else:
            united.append((first, last))
    return united
