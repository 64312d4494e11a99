"""The short way from measured code to its shards, where the current pipeline has shards.

A link is what a decorated function or a block holds on to while one pipeline is current, so that a call finds its
thread's shard without asking anybody. When the pipeline changes every link is cut, and the next call makes a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clew.attributes import Computed, Key, Value, clean, key_of
from clew.failures import failure
from clew.metrics.sharded import ShardedOperation, ShardedSeries
from clew.metrics.shards import OperationLocal, SeriesLocal, Shard

if TYPE_CHECKING:
    from clew.measure import Site
    from clew.pipeline import Operation, Pipeline

_PLAIN = {str, bool, int, float}


class Link:
    """An operation, and each thread's shard of the one series that calls without an error go to."""

    __slots__ = ("_expected", "local", "operation")

    def __init__(self, operation: Operation, series: ShardedSeries, expected: tuple[type[BaseException], ...]) -> None:
        self.operation = operation
        self.local = SeriesLocal(series.series)
        self._expected = expected

    def end(self, shard: Shard, nanoseconds: int, error: BaseException | None, reason: str | None = None) -> None:
        """Record a run that an exception has left, or that was told to have failed."""
        fail(self.operation, shard, nanoseconds, error, self._expected, reason)


class ComputedLink:
    """An operation whose attributes are computed, and each thread's shards of their series."""

    __slots__ = ("_compute", "_expected", "_local", "operation")

    def __init__(
        self, operation: Operation, local: OperationLocal, compute: Computed, expected: tuple[type[BaseException], ...]
    ) -> None:
        self.operation = operation
        self._local = local
        self._compute = compute
        self._expected = expected

    def shard(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Shard:
        """Return the calling thread's shard for the attributes of a call."""
        shards = self._local.shards
        try:
            given = self._compute.raw(*args, **kwargs)()
            items = tuple(given.items())
        except Exception as error:
            return self._find(self._compute.after(error, args, kwargs), None)
        try:
            shard = shards.get(items)
        except TypeError:  # a list among the values
            return self._find(clean(given), None)
        return self._typed(given, items) if shard is None else shard

    def again(self, shard: Shard) -> Shard:
        """Return the calling thread's shard of the same series."""
        return self._local.shard_of(shard.series)

    def _typed(self, given: Mapping[str, Any], items: tuple[Any, ...]) -> Shard:
        """Return the shard for attributes that are not looked up as they are: new ones, or not all of them texts.

        As keys True, 1 and 1.0 are equal, so only texts are looked up without their types.
        """
        types = tuple(map(type, given.values()))
        lookup = items if types.count(str) == len(types) else (items, types)
        shard = self._local.shards.get(lookup)
        if shard is not None:
            return shard  # type: ignore[no-any-return]
        return self._find(clean(given), lookup if _PLAIN.issuperset(types) else None)

    def _find(self, attributes: Mapping[str, Value], lookup: Any) -> Shard:
        key = key_of(attributes)
        series = self.operation.series(key, attributes, None)
        assert isinstance(series, ShardedSeries)
        shard = self._local.shard_of(series.series)
        # what is past the budget comes this way each time, to be counted, and must not fill the table
        if lookup is not None and series.series.key == key:
            self._local.shards[lookup] = shard
        return shard

    def end(self, shard: Shard, nanoseconds: int, error: BaseException | None, reason: str | None = None) -> None:
        """Record a run that an exception has left, or that was told to have failed."""
        fail(self.operation, shard, nanoseconds, error, self._expected, reason)


def fail(
    operation: Operation,
    shard: Shard,
    nanoseconds: int,
    error: BaseException | None,
    expected: tuple[type[BaseException], ...],
    reason: str | None,
) -> None:
    """Record a run that began in `shard` and did not simply return."""
    error_type = None if error is None else failure(error, expected, operation.pipeline.expected)
    series = shard.series
    operation.series(series.key, series.given, error_type or reason).record(nanoseconds, None)


def link_site(site: Site, current: Pipeline) -> Link | ComputedLink | None:
    """Make the link of a decorated function, or None where its calls have to go the long way."""
    if site.failed is not None or (current.spans if site.span is None else site.span):
        return None
    if site.compute is not None:
        operation = current.operation(site.name)
        if not isinstance(operation.recorder, ShardedOperation):
            return None
        return ComputedLink(operation, operation.recorder.local, site.compute, site.expected)
    return _link(current, site.name, site.attributes, site.key, site.expected)


def link_block(name: str, current: Pipeline) -> Link | None:
    """Make the link of blocks of that name without anything further, or None where they have to go the long way."""
    return None if current.spans else _link(current, name, {}, (), ())


def _link(
    current: Pipeline,
    name: str,
    attributes: Mapping[str, Value],
    key: Key,
    expected: tuple[type[BaseException], ...],
) -> Link | None:
    operation = current.operation(name)
    series = operation.series(key, attributes, None)
    if not isinstance(series, ShardedSeries) or series.series.key != key:
        return None  # past a limit, so that each call has to be counted
    return Link(operation, series, expected)
