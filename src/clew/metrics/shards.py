"""Where a thread counts: shards that only their own thread writes, and that a collection only reads.

A series (one attribute set of an instrument) has a shard for each thread that uses it at one time. Counts and sums in a
shard only grow, and a collection takes the difference to what it found the last time; what belongs to an interval
(minimum, maximum, candidates for exemplars) is in an `Interval`, and a collection puts a fresh one in its place. So no
recording waits for a collection or for another thread, and nothing relies on the interpreter's lock. The shards of a
thread that has ended go to the next one, so there are never more than threads that ran at one time.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.context import Context

from clew.attributes import Key, Value
from clew.interpreter.interruptions import begins_at_once, let_through
from clew.metrics.delta import Delta
from clew.metrics.exemplars import ExemplarCandidate

Offer = Callable[["Interval", int, float, "Context | None"], None]
"""Offers a measurement to an interval: index of its bucket, value, Context or None for the current one."""


class Layout:
    """What all shards of an instrument have in common.

    Args:
        bounds: Upper bounds of the buckets.
        initial_thresholds: The thresholds of an interval that has no candidates.
        offer: Called with each measurement that reaches the threshold of its bucket.
    """

    __slots__ = ("bounds", "initial_thresholds", "lock", "offer", "zeros")

    def __init__(self, bounds: Sequence[float], initial_thresholds: list[float], offer: Offer) -> None:
        self.bounds = bounds
        self.initial_thresholds = initial_thresholds
        self.offer = offer
        self.lock = threading.RLock()  # a signal handler may measure in the middle
        self.zeros = [0] * len(initial_thresholds)


class Interval:
    """What a shard has seen since the last collection.

    Attributes:
        min: The least value.
        max: The greatest value.
        thresholds: Of each bucket, the value from which on a measurement may become its exemplar; the instrument's own
            list until there is a candidate.
        candidates: At most one a bucket, in any order.
    """

    __slots__ = ("candidates", "max", "min", "thresholds")

    def __init__(self, initial_thresholds: list[float]) -> None:
        self.min: float = math.inf
        self.max: float = -math.inf
        self.thresholds = initial_thresholds
        self.candidates: Sequence[ExemplarCandidate] = ()

    def put(self, candidate: ExemplarCandidate) -> None:
        """Put a candidate in the place of the one that its bucket has."""
        bucket = candidate.bucket
        self.candidates = [*(other for other in self.candidates if other.bucket != bucket), candidate]


class Shard:
    """What one thread has recorded of one series."""

    __slots__ = ("abandoned", "bounds", "counts", "interval", "previous", "series", "started", "total")

    def __init__(self, series: Series) -> None:
        layout = series.layout
        self.series = series
        self.bounds = layout.bounds
        self.started = 0
        self.abandoned = 0
        self.counts = layout.zeros.copy()
        self.total: float = 0
        self.interval = Interval(layout.initial_thresholds)
        # for collections alone: the interval that the last one has ended, and what it has read of it
        self.previous: tuple[Interval, float, float, Sequence[ExemplarCandidate]] | None = None


class Series:
    """One attribute set of one instrument, with its shards.

    Args:
        layout: Of the instrument.
        attributes: Those of the data point.
        key: The key of the user's among them, or one that stands for a limit that they are past.
        local: Of the operation, where the series is one of durations.
    """

    __slots__ = (
        "_seen_counts",
        "_seen_total",
        "attributes",
        "created",
        "ended",
        "free",
        "key",
        "layout",
        "local",
        "shards",
    )

    def __init__(
        self, layout: Layout, attributes: Mapping[str, Value], key: Key, local: OperationLocal | None = None
    ) -> None:
        self.layout = layout
        self.attributes = attributes
        self.key = key
        self.local = local
        self.created = time.time_ns()
        self.shards: list[Shard] = []
        self.free: list[Shard] = []
        # what the last collection has found
        self.ended = 0
        self._seen_counts = layout.zeros
        self._seen_total: float = 0

    @begins_at_once
    def record(self, seconds: float, context: Context | None) -> None:
        """Record a run of the operation that has ended."""
        try:
            assert self.local is not None
            shard = self.local.shard_of(self)
            index = bisect_left(shard.bounds, seconds)
        except BaseException:  # of a signal's handler, in the middle
            assert self.local is not None
            shard = self.local.shard_of(self)
            shard.counts[bisect_left(shard.bounds, seconds)] += 1  # the first lines of `add`
            shard.total += seconds
            raise
        shard.counts[index] += 1  # the first lines of `add`
        shard.total += seconds
        self.update_interval(shard, index, seconds, context)

    def add(self, shard: Shard, value: float, context: Context | None = None) -> None:
        """Record one value into a shard of the calling thread; the fast paths have these lines written out."""
        index = bisect_left(shard.bounds, value)
        shard.counts[index] += 1
        shard.total += value
        interval = shard.interval  # as `update_interval` has it, written out since a call saved is worth 50 ns
        if value < interval.min:
            interval.min = value
        if value > interval.max:
            interval.max = value
        if value >= interval.thresholds[index]:
            try:
                self.layout.offer(interval, index, value, context)
            except RecursionError:  # it is counted, but becomes no exemplar
                return
            except Exception as error:
                let_through(error)

    def update_interval(self, shard: Shard, index: int, value: float, context: Context | None) -> None:
        """Bring minimum, maximum and candidates up to date with a value that has been counted."""
        interval = shard.interval
        if value < interval.min:
            interval.min = value
        if value > interval.max:
            interval.max = value
        if value >= interval.thresholds[index]:
            try:
                self.layout.offer(interval, index, value, context)
            except RecursionError:  # it is counted, but becomes no exemplar
                return
            except Exception as error:
                let_through(error)

    def lease(self) -> Shard:
        """Return a shard for the calling thread: one whose thread has ended, or a new one."""
        try:
            return self.free.pop()
        except IndexError:
            shard = Shard(self)
            with self.layout.lock:
                self.shards.append(shard)
            return shard

    @property
    def started(self) -> int:
        """How many runs have begun in this series, wherever they have ended."""
        return sum([shard.started for shard in self.shards.copy()])

    def take_delta(self) -> Delta | None:
        """Take what has been recorded since the last time; None where that is nothing.

        Called by one collection at a time. Afterwards `ended` is how many runs have ended here since the series was
        made.
        """
        shards = self.shards.copy()
        if not shards:
            return None
        shard = shards[0]
        counts, total, abandoned = shard.counts.copy(), shard.total, shard.abandoned
        if len(shards) > 1:
            all_counts = [each.counts.copy() for each in shards]
            counts = [sum(column) for column in zip(*all_counts, strict=True)]
            total = sum([each.total for each in shards])
            abandoned = sum([each.abandoned for each in shards])
        seen_counts = self._seen_counts
        has_changed = counts != seen_counts
        if has_changed or abandoned:
            self.ended = sum(counts) + abandoned
        if not has_changed and all(shard.previous is None for shard in shards):
            return None
        delta = Delta()
        if has_changed:  # a sum that came too late for its count is taken with the next one
            delta.counts, delta.seen_counts = counts, seen_counts
            delta.total, delta.seen_total = total, self._seen_total
            self._seen_counts, self._seen_total = counts, total
        for shard in shards:
            self._end_interval(shard, delta)
        return delta

    def _end_interval(self, shard: Shard, delta: Delta) -> None:
        """Read the interval of a shard and put a fresh one in its place.

        Its thread may still be writing into the one that has ended, so that is read again the next time.
        """
        if shard.previous is not None:
            interval, minimum, maximum, taken = shard.previous
            shard.previous = None
            if interval.min < minimum:
                delta.min = min(delta.min, interval.min)
            if interval.max > maximum:
                delta.max = max(delta.max, interval.max)
            if interval.candidates is not taken:
                delta.add_candidates([each for each in interval.candidates if each not in taken])
        interval = shard.interval
        minimum, maximum, candidates = interval.min, interval.max, interval.candidates
        if maximum == -math.inf:
            return
        shard.interval = Interval(self.layout.initial_thresholds)
        shard.previous = interval, minimum, maximum, candidates
        if minimum < delta.min:
            delta.min = minimum
        if maximum > delta.max:
            delta.max = maximum
        if candidates:
            delta.add_candidates(candidates)


class _Lease:
    """The shards of one thread, which are free again when the thread has ended and its locals are dropped."""

    __slots__ = ("_taken",)

    def __init__(self) -> None:
        self._taken: list[Shard] = []

    def add(self, series: Series) -> Shard:
        shard = series.lease()
        self._taken.append(shard)
        return shard

    def __del__(self) -> None:
        for shard in getattr(self, "_taken", ()):  # not set where a signal's handler raised in `__init__`
            shard.series.free.append(shard)


class _MadeOnFirstUse:
    """A class attribute in place of one that each thread has for itself: it makes that one at its first use there.

    In `__init__` what interrupts the thread would find nothing, and `__getattr__` makes each access cost 60 ns more.
    This is no data descriptor, so what the thread has goes first.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __get__(self, local: Any, owner: type) -> Any:
        return self if local is None else self._make(local)


def _made_shard(local: SeriesLocal) -> Shard:
    lease: _Lease = local.__dict__.setdefault("_lease", _Lease())
    local.shard = shard = lease.add(local.series)
    return shard


class SeriesLocal(threading.local):
    """The shard of one series in each thread."""

    __slots__ = ("series",)  # which all threads share

    shard: Shard

    def __init__(self, series: Series) -> None:
        self.series = series


SeriesLocal.shard = _MadeOnFirstUse(_made_shard)  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]


def _made_shards(local: OperationLocal) -> dict[Any, Any]:
    local.__dict__.setdefault("_lease", _Lease())
    shards: dict[Any, Any] = local.__dict__.setdefault("shards", {})
    return shards


class OperationLocal(threading.local):
    """The shards of many series in each thread, by what they are looked up by."""

    _lease: _Lease
    shards: dict[Any, Any]

    def lease(self, series: Series) -> Shard:
        """Return one more shard of a series for the calling thread."""
        return self._lease.add(series)

    def shard_of(self, series: Series) -> Shard:
        """Return the calling thread's shard of a series, which is looked up by the series itself."""
        shard = self.shards.get(series)
        if shard is None:
            shard = self.shards[series] = self._lease.add(series)
        return shard


OperationLocal.shards = _MadeOnFirstUse(_made_shards)  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
