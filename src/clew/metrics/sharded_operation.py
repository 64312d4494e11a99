"""One operation in shards: its runs are counted where its durations are, thread by thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from clew.attributes import Key, Value
from clew.interpreter.interruptions import begins_at_once
from clew.metrics.shards import OperationLocal, Series

NewSeries = Callable[[Mapping[str, Value], Key, "ShardedOperation"], Series]
"""Makes a series of ``operation.duration``: its attributes, the key of the user's among them, its operation."""


class ShardedOperation:
    """One operation: its series, and the shards of each thread."""

    __slots__ = ("_base", "_new_series", "_started", "attributes", "created", "local", "running")

    def __init__(self, new_series: NewSeries, attributes: Mapping[str, Value]) -> None:
        self._new_series = new_series
        self.attributes = attributes
        self.created = time.time_ns()
        self.local = OperationLocal()
        self._base = new_series(attributes, (), self)
        # what the last collection has found
        self.running = 0
        self._started: int = 0

    def begin(self) -> None:
        """One more run is under way."""
        self.local.shard_of(self._base).started += 1

    @begins_at_once
    def abandon(self) -> None:
        """One run less is under way, without a duration."""
        try:
            self.local.shard_of(self._base).abandoned += 1
        except BaseException:  # of a signal's handler, in the middle
            self.local.shard_of(self._base).abandoned += 1
            raise

    def series(self, attributes: Mapping[str, Value], key: Key) -> Series:
        """Return what records into the point with these attributes."""
        if attributes == self.attributes:
            return self._base
        return self._new_series(attributes, key, self)

    def take_running_delta(self, all_series: Sequence[Series]) -> int | None:
        """Take how many runs more are under way than the last time; None where none has begun or ended.

        Args:
            all_series: All series of the operation, each of which has counted what has ended in it.
        """
        ended = sum([series.ended for series in all_series])
        started = sum([series.started for series in all_series])
        running, before = started - ended, self.running
        if started == self._started and running == before:
            return None
        self._started, self.running = started, running
        return running - before
