"""Where a thread counts: shards that only their own thread writes, and that a collection only reads.

A series (one attribute set of an operation) has a shard for each thread that uses it at one time. Counts and sums in a
shard only grow, and a collection takes what they have grown by; what belongs to an interval (minimum, maximum,
exemplars) stands on a page, and a collection puts a fresh one in its place. So no recording waits for a collection or
for another thread, and nothing leans on the interpreter's lock. The shards of a thread that has ended go to the next
one, so there are never more than threads that ran at one time.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context

from clew.attributes import Key, Value
from clew.interpreter.interruptions import begins_at_once, let_through
from clew.metrics.exemplars import ExemplarCandidate

if TYPE_CHECKING:
    from clew.metrics.sharded import ShardedOperation

NEVER = math.inf
"""More than any value that is measured."""

Keep = Callable[["Interval", int, float, "Context | None"], None]
"""Keeps a measurement (index of the bucket, value, Context or None for the current one) if it leads somewhere."""


class Layout:
    """What all shards of an instrument have in common.

    Args:
        bounds: Upper bounds of the buckets.
        blank: The largest measurements of a page on which nothing has been kept.
        keep: Keeps exemplars.
    """

    __slots__ = ("blank", "bounds", "keep", "lock", "zeros")

    def __init__(self, bounds: Sequence[float], blank: list[float], keep: Keep) -> None:
        self.bounds = bounds
        self.blank = blank
        self.keep = keep
        self.lock = threading.RLock()  # a signal handler may measure in the middle
        self.zeros = [0] * len(blank)


class Interval:
    """What a shard has seen since the last collection.

    `largest` is what the measurements that were kept are, bucket by bucket; until there is one it is the instrument's
    blank list. `kept` are those measurements, in any order.
    """

    __slots__ = ("high", "kept", "largest", "low")

    def __init__(self, blank: list[float]) -> None:
        self.low: float = NEVER
        self.high: float = -NEVER
        self.largest = blank
        self.kept: Sequence[ExemplarCandidate] = ()

    def keep(self, kept: ExemplarCandidate) -> None:
        """Keep a measurement as the largest of its bucket, in the place of the one that was."""
        others = self.kept
        self.kept = [kept] if not others else [*(other for other in others if other.bucket != kept.bucket), kept]


class Shard:
    """What one thread has recorded of one series."""

    __slots__ = ("abandoned", "bounds", "counts", "page", "previous", "series", "started", "total")

    def __init__(self, series: Series) -> None:
        layout = series.layout
        self.series = series
        self.bounds = layout.bounds
        self.started = 0
        self.abandoned = 0
        self.counts = layout.zeros.copy()
        self.total: float = 0
        self.page = Interval(layout.blank)
        # of the collection alone: the page that it has taken away last, and what it has read of it
        self.previous: tuple[Interval, float, float, Sequence[ExemplarCandidate]] | None = None


_BY_BUCKET = attrgetter("bucket")


class Delta:
    """What the shards of a series hold together, and what that has grown by since the last collection.

    Attributes:
        counts: Of each bucket, since the series was made; None where they are what they were, and then there is neither
            any of the next three.
        seen_counts: What they were at the last collection.
        total: The sum, since the series was made.
        seen_total: What it was at the last collection.
        low: The least since the last collection.
        high: The most since the last collection.
        kept: The largest measurements since then, one a bucket, in the order of the buckets.
    """

    __slots__ = ("_added", "counts", "high", "kept", "low", "seen_counts", "seen_total", "total")

    seen_counts: list[int]
    total: float
    seen_total: float

    def __init__(self) -> None:
        self.counts: list[int] | None = None
        self.low: float = NEVER
        self.high: float = -NEVER
        self.kept: Sequence[ExemplarCandidate] = ()
        self._added: list[int] | None = None

    def keep(self, kept: Sequence[ExemplarCandidate]) -> None:
        """Keep the measurements of one more page, where they are the largest of their buckets."""
        if self.kept:
            self.kept = largest_of_each_bucket([*self.kept, *kept])
        else:
            self.kept = kept if len(kept) == 1 else sorted(kept, key=_BY_BUCKET)

    @property
    def is_all(self) -> bool:
        """Whether this is all that the series has ever grown by."""
        return self.counts is not None and not any(self.seen_counts)

    @property
    def added(self) -> list[int]:
        """What the counts have grown by."""
        if self._added is None:
            assert self.counts is not None
            self._added = [now - before for now, before in zip(self.counts, self.seen_counts, strict=True)]
        return self._added


def largest_of_each_bucket(
    kept: Iterable[ExemplarCandidate], bucket_of: Sequence[int] | None = None
) -> Sequence[ExemplarCandidate]:
    """Return the measurements that outrank all others of their bucket, in the order of the buckets.

    Args:
        kept: Measurements with the bucket of the shard that each was in.
        bucket_of: Which bucket each bucket of a shard is a part of, where they are finer.
    """
    best: dict[int, ExemplarCandidate] = {}
    for one in kept:
        bucket = one.bucket if bucket_of is None else bucket_of[one.bucket]
        if one.outranks(best.get(bucket)):
            best[bucket] = one
    return [best[bucket] for bucket in sorted(best)]


class Series:
    """One attribute set of one instrument, with its shards.

    Args:
        layout: Of the instrument.
        attributes: Those of the data point.
        key: The key of the user's among them, or one that stands for a limit that they are past.
        operation: What the series belongs to, for durations of operations.
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
        "operation",
        "shards",
    )

    def __init__(
        self, layout: Layout, attributes: Mapping[str, Value], key: Key, operation: ShardedOperation | None = None
    ) -> None:
        self.layout = layout
        self.attributes = attributes
        self.key = key
        self.operation = operation
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
            assert self.operation is not None
            shard = self.operation.local.shard_of(self)
            index = bisect_left(shard.bounds, seconds)
        except BaseException:  # of a signal's handler, in the middle
            assert self.operation is not None
            shard = self.operation.local.shard_of(self)
            shard.counts[bisect_left(shard.bounds, seconds)] += 1
            shard.total += seconds
            raise
        shard.counts[index] += 1
        shard.total += seconds
        self.see(shard, index, seconds, context)

    def add(self, shard: Shard, value: float, context: Context | None = None) -> None:
        """Record one value into a shard of the calling thread. The decorated functions have this written out."""
        index = bisect_left(shard.bounds, value)
        shard.counts[index] += 1
        shard.total += value
        page = shard.page  # as `see` has it, written out since a call saved is worth 50 ns
        if value < page.low:
            page.low = value
        if value > page.high:
            page.high = value
        if value >= page.largest[index]:
            try:
                self.layout.keep(page, index, value, context)
            except RecursionError:  # it is counted, and only no exemplar
                return
            except Exception as trouble:
                let_through(trouble)

    def see(self, shard: Shard, index: int, value: float, context: Context | None) -> None:
        """Look at a value that has been counted: as the least, the most and the largest of its bucket."""
        page = shard.page
        if value < page.low:
            page.low = value
        if value > page.high:
            page.high = value
        if value >= page.largest[index]:
            try:
                self.layout.keep(page, index, value, context)
            except RecursionError:  # it is counted, and only no exemplar
                return
            except Exception as trouble:
                let_through(trouble)

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

    def grown(self) -> Delta | None:
        """Take what the shards have grown by; None where nothing has happened. Called by one collection at a time.

        How many runs have `ended` here since the series was made is known afterwards.
        """
        shards = self.shards.copy()
        if not shards:
            return None
        shard = shards[0]
        counts, total, abandoned = shard.counts.copy(), shard.total, shard.abandoned
        if len(shards) > 1:
            held = [each.counts.copy() for each in shards]
            counts = [sum(column) for column in zip(*held, strict=True)]
            total = sum([each.total for each in shards])
            abandoned = sum([each.abandoned for each in shards])
        seen_counts = self._seen_counts
        has_grown = counts != seen_counts
        if has_grown or abandoned:
            self.ended = sum(counts) + abandoned
        if not has_grown and all(shard.previous is None for shard in shards):
            return None
        grown = Delta()
        if has_grown:  # a sum that came too late for its count is taken with the next one
            grown.counts, grown.seen_counts = counts, seen_counts
            grown.total, grown.seen_total = total, self._seen_total
            self._seen_counts, self._seen_total = counts, total
        for shard in shards:
            self._turn_page(shard, grown)
        return grown

    def _turn_page(self, shard: Shard, grown: Delta) -> None:
        """Read the page of a shard and put a fresh one in its place.

        Its thread may still be writing on the page that is taken away, so that is read again the next time.
        """
        if shard.previous is not None:
            page, low, high, taken = shard.previous
            shard.previous = None
            if page.low < low:
                grown.low = min(grown.low, page.low)
            if page.high > high:
                grown.high = max(grown.high, page.high)
            if page.kept is not taken:
                grown.keep([kept for kept in page.kept if kept not in taken])
        page = shard.page
        low, high, kept = page.low, page.high, page.kept
        if high == -NEVER:
            return
        shard.page = Interval(self.layout.blank)
        shard.previous = page, low, high, kept
        if low < grown.low:
            grown.low = low
        if high > grown.high:
            grown.high = high
        if kept:
            grown.keep(kept)


class _Lease:
    """Gives the shards of a thread back when the thread has ended and its locals are dropped."""

    __slots__ = ("_taken",)

    def __init__(self) -> None:
        self._taken: list[Shard] = []

    def add(self, series: Series) -> Shard:
        shard = series.lease()
        self._taken.append(shard)
        return shard

    def __del__(self) -> None:
        for shard in getattr(self, "_taken", ()):  # none, where a signal's handler raised when this was made
            shard.series.free.append(shard)


class _MadeWhenAsked:
    """What stands in the class for an attribute that each thread has for itself, and makes it at its first use there.

    Neither `__init__`, in which whoever interrupts the thread would find nothing, nor `__getattr__`, with which each
    access costs 60 ns more: what the thread has goes before this, which is no data descriptor.
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


SeriesLocal.shard = _MadeWhenAsked(_made_shard)  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]


def _made_shards(local: OperationLocal) -> dict[Any, Any]:
    local.__dict__.setdefault("_lease", _Lease())
    shards: dict[Any, Any] = local.__dict__.setdefault("shards", {})
    return shards


class OperationLocal(threading.local):
    """The shards of many series in each thread, by whatever they are looked up by."""

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


OperationLocal.shards = _MadeWhenAsked(_made_shards)  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
