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
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.context import Context

from clew.attributes import Key, Value
from clew.metrics.exemplars import Kept

NEVER = math.inf
"""More than any value that is measured."""

Keep = Callable[["Page", int, float, "Context | None"], None]
"""Keeps a measurement (index of the bucket, value, Context or None for the current one) if it leads somewhere."""


class Page:
    """What a shard has seen since the last collection."""

    __slots__ = ("held", "high", "largest", "low", "taken", "taken_high", "taken_low")

    def __init__(self, largest: Sequence[float]) -> None:
        self.low: float = NEVER
        self.high: float = -NEVER
        self.largest = list(largest)
        self.held: dict[int, Kept] = {}
        # what a collection has read of it so far
        self.taken_low: float = NEVER
        self.taken_high: float = -NEVER
        self.taken: dict[int, Kept] = {}


class Shard:
    """What one thread has recorded of one series."""

    __slots__ = ("abandoned", "bounds", "counts", "page", "previous", "seen", "series", "started", "total")

    def __init__(self, series: Series) -> None:
        buckets = len(series.bounds) + 1
        self.series = series
        self.bounds = series.bounds
        self.started = 0
        self.abandoned = 0
        self.counts = [0] * buckets
        self.total: float = 0
        self.page = Page(series.largest)
        # of the collection alone: what it has taken already, and the page that it has taken away last
        self.seen: tuple[int, int, float, list[int]] = (0, 0, 0, [0] * buckets)
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
    """One attribute set of one operation, with its shards.

    `attributes` are those of the data point; `given` are the user's among them, and `key` is their key, or one that
    stands for a limit that they are past.
    """

    __slots__ = ("_lock", "attributes", "bounds", "created", "free", "given", "keep", "key", "largest", "shards")

    def __init__(
        self,
        attributes: Mapping[str, Value],
        key: Key,
        given: Mapping[str, Value],
        bounds: Sequence[float],
        largest: Sequence[float],
        keep: Keep,
    ) -> None:
        self.attributes = attributes
        self.key = key
        self.given = given
        self.bounds = bounds
        self.largest = largest
        self.keep = keep
        self.created = time.time_ns()
        self.shards: list[Shard] = []
        self.free: deque[Shard] = deque()
        self._lock = threading.Lock()

    def lease(self) -> Shard:
        """Return a shard for the calling thread: one whose thread has ended, or a new one."""
        try:
            return self.free.popleft()
        except IndexError:
            shard = Shard(self)
            with self._lock:
                self.shards.append(shard)
            return shard

    def grown(self) -> Grown | None:
        """Take what the shards have grown by; None where nothing has happened. Called by one collection at a time."""
        grown: Grown | None = None
        with self._lock:
            shards = self.shards[:]
        for shard in shards:
            counts = shard.counts[:]
            started, abandoned, total = shard.started, shard.abandoned, shard.total
            seen = shard.seen
            ran = counts != seen[3] or started != seen[0] or abandoned != seen[1]
            if not ran and shard.previous is None:
                continue
            grown = grown or Grown()
            grown.ran = grown.ran or ran
            shard.seen = (started, abandoned, total, counts)
            difference = [now - before for now, before in zip(counts, seen[3], strict=True)]
            number = sum(difference)
            grown.running += started - seen[0] - (abandoned - seen[1]) - number
            grown.total += total - seen[2]
            if number:
                grown.counts = (
                    difference
                    if grown.counts is None
                    else [one + other for one, other in zip(grown.counts, difference, strict=True)]
                )
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
        if page.held or page.high > -NEVER:
            shard.page = Page(self.largest)
            shard.previous = page
            self._read(page, grown)

    @staticmethod
    def _read(page: Page, grown: Grown) -> None:
        if page.low < page.taken_low:
            page.taken_low = page.low
            grown.low = min(grown.low, page.low)
        if page.high > page.taken_high:
            page.taken_high = page.high
            grown.high = max(grown.high, page.high)
        held = page.held.copy()
        taken = page.taken
        if held:
            grown.held += [(index, kept) for index, kept in held.items() if taken.get(index) is not kept]
            page.taken = held

    def record(self, shard: Shard, value: float, context: Context | None = None) -> None:
        """Record one value into a shard of the calling thread. The decorated functions have this written out."""
        index = bisect_left(self.bounds, value)
        shard.counts[index] += 1
        shard.total += value
        page = shard.page
        if value < page.low:
            page.low = value
        if value > page.high:
            page.high = value
        if value >= page.largest[index]:
            self.keep(page, index, value, context)


class _Lease:
    """Gives the shards of a thread back when the thread has ended and its locals are dropped."""

    __slots__ = ("_taken",)

    def __init__(self) -> None:
        self._taken: list[tuple[deque[Shard], Shard]] = []

    def add(self, series: Series) -> Shard:
        shard = series.lease()
        self._taken.append((series.free, shard))
        return shard

    def __del__(self) -> None:
        for free, shard in self._taken:
            free.append(shard)


class SeriesLocal(threading.local):
    """The shard of one series in each thread."""

    def __init__(self, series: Series) -> None:
        self._lease = _Lease()
        self.shard = self._lease.add(series)


class OperationLocal(threading.local):
    """The shards of all series of an operation in each thread, by whatever they are looked up by."""

    def __init__(self) -> None:
        self._lease = _Lease()
        self.shards: dict[Any, Any] = {}

    def shard_of(self, series: Series) -> Shard:
        """Return the calling thread's shard of a series."""
        shard = self.shards.get(series)
        if shard is None:
            shard = self.shards[series] = self._lease.add(series)
        return shard
