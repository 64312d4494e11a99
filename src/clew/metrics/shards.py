"""Where a thread counts: shards that only their own thread writes, and that a collection only reads.

A series (one attribute set of an operation) has a shard for each thread that uses it at one time. Counts and sums in a
shard only grow, and a collection takes what they have grown by; what belongs to an interval (minimum, maximum,
exemplars) stands on a page, and a collection puts a fresh one in its place. So no recording waits for a collection or
for another thread, and nothing leans on the interpreter's lock. The shards of a thread that has ended go to the next
one, so there are never more than threads that ran at one time.

Values are in the shards' own unit: whole nanoseconds for durations, the instrument's unit for everything else.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context

from clew.attributes import Key, Value
from clew.metrics.exemplars import Kept

if TYPE_CHECKING:
    from clew.metrics.sharded import ShardedOperation

NEVER = math.inf
"""More than any value that is measured."""

Keep = Callable[["Page", int, float, "Context | None"], None]
"""Keeps a measurement (index of the bucket, value, Context or None for the current one) if it leads somewhere."""


class Layout:
    """What all shards of an instrument have in common.

    Args:
        bounds: Upper bounds of the buckets.
        blank: What a page holds, bucket by bucket, while nothing has been kept.
        keep: Keeps exemplars.
    """

    __slots__ = ("blank", "bounds", "keep", "lock", "zeros")

    def __init__(self, bounds: Sequence[float], blank: list[Kept], keep: Keep) -> None:
        self.bounds = bounds
        self.blank = blank
        self.keep = keep
        self.lock = threading.Lock()
        self.zeros = [0] * len(blank)


class Page:
    """What a shard has seen since the last collection.

    `held` has the largest measurement of each bucket; until there is one it is the instrument's blank list.
    """

    __slots__ = ("held", "high", "low", "taken", "taken_high", "taken_low")

    def __init__(self, blank: list[Kept]) -> None:
        self.low: float = NEVER
        self.high: float = -NEVER
        self.held = blank
        # what a collection has read of it so far
        self.taken_low: float = NEVER
        self.taken_high: float = -NEVER
        self.taken: tuple[Kept, ...] = ()


class Shard:
    """What one thread has recorded of one series."""

    __slots__ = (
        "abandoned",
        "bounds",
        "counts",
        "page",
        "previous",
        "seen_abandoned",
        "seen_counts",
        "seen_started",
        "seen_total",
        "series",
        "started",
        "total",
    )

    def __init__(self, series: Series) -> None:
        layout = series.layout
        self.series = series
        self.bounds = layout.bounds
        self.started = 0
        self.abandoned = 0
        self.counts = layout.zeros.copy()
        self.total: float = 0
        self.page = Page(layout.blank)
        # of the collection alone: what it has taken already, and the page that it has taken away last
        self.seen_started = 0
        self.seen_abandoned = 0
        self.seen_counts = layout.zeros
        self.seen_total: float = 0
        self.previous: Page | None = None


class Grown:
    """What all shards of a series have grown by since the last collection."""

    __slots__ = ("counts", "held", "high", "low", "ran", "running", "total")

    def __init__(self) -> None:
        self.counts: list[int] | None = None
        self.total: float = 0
        self.low: float = NEVER
        self.high: float = -NEVER
        self.ran = False
        self.running = 0
        self.held: list[tuple[int, Kept]] = []


class Series:
    """One attribute set of one instrument, with its shards.

    Args:
        layout: Of the instrument.
        attributes: Those of the data point.
        key: The key of the user's among them, or one that stands for a limit that they are past.
        operation: What the series belongs to, for durations of operations.
    """

    __slots__ = ("attributes", "created", "free", "key", "layout", "operation", "shards")

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

    def record(self, nanoseconds: int, context: Context | None) -> None:
        """Record a run of the operation that has ended."""
        assert self.operation is not None
        self.add(self.operation.local.shard_of(self), nanoseconds, context)

    def add(self, shard: Shard, value: float, context: Context | None = None) -> None:
        """Record one value into a shard of the calling thread. The decorated functions have this written out."""
        index = bisect_left(shard.bounds, value)
        shard.counts[index] += 1
        shard.total += value
        page = shard.page
        if value < page.low:
            page.low = value
        if value > page.high:
            page.high = value
        if value >= page.held[index].value:
            self.layout.keep(page, index, value, context)

    def lease(self) -> Shard:
        """Return a shard for the calling thread: one whose thread has ended, or a new one."""
        try:
            return self.free.pop()
        except IndexError:
            shard = Shard(self)
            with self.layout.lock:
                self.shards.append(shard)
            return shard

    def grown(self) -> Grown | None:
        """Take what the shards have grown by; None where nothing has happened. Called by one collection at a time."""
        grown: Grown | None = None
        for shard in self.shards.copy():
            counts = shard.counts.copy()
            started, abandoned, total = shard.started, shard.abandoned, shard.total
            seen = shard.seen_counts
            ran = counts != seen or started != shard.seen_started or abandoned != shard.seen_abandoned
            if not ran and shard.previous is None:
                continue
            if grown is None:
                grown = Grown()
            grown.ran = grown.ran or ran
            number = 0
            if counts != seen:
                difference = [now - before for now, before in zip(counts, seen, strict=True)]
                number = sum(difference)
                if grown.counts is not None:
                    difference = [one + other for one, other in zip(grown.counts, difference, strict=True)]
                grown.counts = difference
                shard.seen_counts = counts
            grown.running += started - shard.seen_started - (abandoned - shard.seen_abandoned) - number
            grown.total += total - shard.seen_total
            shard.seen_started, shard.seen_abandoned, shard.seen_total = started, abandoned, total
            self._turn_page(shard, grown)
        return grown

    def _turn_page(self, shard: Shard, grown: Grown) -> None:
        """Read the page of a shard and put a fresh one in its place.

        Its thread may still be writing on the page that is taken away, so that is read again the next time.
        """
        if shard.previous is not None:
            self._read(shard.previous, grown)
            shard.previous = None
        page = shard.page
        if page.high > -NEVER:
            shard.page = Page(self.layout.blank)
            shard.previous = page
            self._read(page, grown)

    def _read(self, page: Page, grown: Grown) -> None:
        if page.low < page.taken_low:
            page.taken_low = page.low
            grown.low = min(grown.low, page.low)
        if page.high > page.taken_high:
            page.taken_high = page.high
            grown.high = max(grown.high, page.high)
        held = page.held
        if held is self.layout.blank:
            return
        taken = page.taken
        found = [(index, kept) for index, kept in enumerate(held.copy()) if kept.time_unix_nano]
        grown.held += [(index, kept) for index, kept in found if kept not in taken] if taken else found
        page.taken = tuple(kept for _, kept in found)


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
        for shard in self._taken:
            shard.series.free.append(shard)


class SeriesLocal(threading.local):
    """The shard of one series in each thread."""

    def __init__(self, series: Series) -> None:
        self._lease = _Lease()
        self.shard = self._lease.add(series)


class OperationLocal(threading.local):
    """The shards of many series in each thread, by whatever they are looked up by."""

    def __init__(self) -> None:
        self._lease = _Lease()
        self.shards: dict[Any, Any] = {}

    def lease(self, series: Series) -> Shard:
        """Return one more shard of a series for the calling thread."""
        return self._lease.add(series)

    def shard_of(self, series: Series) -> Shard:
        """Return the calling thread's shard of a series, which is looked up by the series itself."""
        shard = self.shards.get(series)
        if shard is None:
            shard = self.shards[series] = self._lease.add(series)
        return shard
