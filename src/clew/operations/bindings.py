"""The fast path from measured code to its shards, where the current pipeline has shards.

A binding is what a decorated function or a block holds on to while one pipeline is current, so that a call finds its
thread's shard at once. When the pipeline changes, all bindings are let go, and the next call makes a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter as clock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.context import Context, get_current
from opentelemetry.trace import get_current_span

from clew.attributes import RESERVED, Computed, Key, Value, clean, is_reserved, key_of
from clew.diagnostics import count
from clew.failures import OTHER, Checked, failure, failure_of_kind
from clew.interpreter.interruptions import begins_at_once, let_through
from clew.metrics.exemplars import SPAN_KEY
from clew.metrics.lookup import PLAIN, enter_shard, lookup_of
from clew.metrics.recorder import NO_REQUEST
from clew.metrics.sharded_operation import ShardedOperation
from clew.metrics.shards import OperationLocal, Series, SeriesLocal, Shard
from clew.operations.pipeline import Operation, Pipeline
from clew.operations.site import Site

if TYPE_CHECKING:
    from clew.metrics.recorder import SeriesRecorder


class _OperationBinding:
    """What the bindings of operations share: how a run is recorded that does not simply return."""

    __slots__ = ("_expected", "operation", "returned")

    def __init__(self, operation: Operation, expected: Checked) -> None:
        self.operation = operation
        self.returned: type = type(None)
        """The class of what a call has returned last, which is a value."""
        self._expected = expected

    @begins_at_once
    def end(self, shard: Shard, seconds: float, error: BaseException, context: Context | None = None) -> None:
        """Record a run that an exception has left; without that it would have ended in `shard`.

        `context` is None for the current one.
        """
        error_type: str | None = OTHER
        try:
            error_type = failure(error, self._expected, self.operation.pipeline.expected)
        finally:  # what `expected` raises may be for the program, such as a KeyboardInterrupt
            try:
                series = self._series(shard, error_type)
            except BaseException:  # of a signal's handler, in the middle
                series = self._series(shard, error_type)
                series.record(seconds, context)
                raise
            series.record(seconds, context)

    @begins_at_once
    def end_since(self, shard: Shard, start: float, error: BaseException, context: Context | None = None) -> None:
        """Do the same for a run that has begun at `start` (of `perf_counter`)."""
        try:
            seconds = clock() - start
        except BaseException:  # of a signal's handler, in the middle
            self.end(shard, clock() - start, error, context)
            raise
        self.end(shard, seconds, error, context)

    @begins_at_once
    def _series(self, shard: Shard, error_type: str | None) -> SeriesRecorder:
        """Return the series of the same attributes and this error type."""
        series = shard.series
        return self.operation.series(series.key, _user_attributes(series), error_type)

    def __reduce__(self) -> Any:
        """Have a function that is pickled with its closure be without a binding where it is unpickled."""
        return _unbound, ()

    def end_later(self, shard: Shard, seconds: float, kind: type[BaseException] | None) -> None:
        """Record a run for which there was no room when it ended; `kind` is the class of the exception that left it."""
        operation = self.operation
        error_type = None if kind is None else failure_of_kind(kind, self._expected, operation.pipeline.expected)
        self._series(shard, error_type).record(seconds, NO_REQUEST)

    @begins_at_once
    def abandon(self, shard: Shard) -> None:
        """Record that a run is no longer under way, without a duration."""
        try:
            own = self.in_this_thread(shard)
        except BaseException:  # of a signal's handler, in the middle
            self.in_this_thread(shard).abandoned += 1
            raise
        own.abandoned += 1
        count("operation.abandoned")

    def in_this_thread(self, shard: Shard) -> Shard:
        """Return the calling thread's shard of the same series."""
        raise NotImplementedError


def _unbound() -> None:
    """Return None, as which bindings are unpickled."""


def _user_attributes(series: Series) -> dict[str, Value]:
    return {name: value for name, value in series.attributes.items() if name not in RESERVED}


class Binding(_OperationBinding):
    """An operation, and each thread's shard of the one series that calls without an error go to."""

    __slots__ = ("local",)

    attributes: Mapping[str, Value] = MappingProxyType({})
    """What a block has set so far: nothing."""

    def __init__(self, operation: Operation, series: Series, expected: Checked) -> None:
        super().__init__(operation, expected)
        self.local = SeriesLocal(series)

    def in_this_thread(self, shard: Shard) -> Shard:
        """Return the calling thread's shard of the same series."""
        return self.local.shard

    def with_attribute(self, name: str, value: Any) -> BlockBinding:
        """Return the binding of one block that has set an attribute."""
        return BlockBinding(self.operation).with_attribute(name, value)


class BlockBinding(_OperationBinding):
    """The binding of one block that has set attributes, and so ends in another series than it began in."""

    __slots__ = ("_table", "attributes")

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self._expected = ()
        self.attributes: dict[str, Value] = {}
        self._table: OperationLocal = operation.recorder.local  # type: ignore[attr-defined]

    def with_attribute(self, name: str, value: Any) -> BlockBinding:
        """Add an attribute, to the current span too, and return this binding."""
        if type(value) in PLAIN and type(name) is str and name and not is_reserved(name):
            self.attributes[name] = cast("Value", value)
        else:
            self.attributes.update(clean({name: value}))
        context = get_current()
        if SPAN_KEY in context:
            span = get_current_span(context)
            if span.is_recording():
                span.set_attributes(clean({name: value}))
        return self

    @property
    def local(self) -> BlockBinding:
        """This binding itself, which has a `shard` as other locals do; as an attribute it would be a cycle."""
        return self

    @property
    def shard(self) -> Shard:
        """The calling thread's shard of the series that the block ends in."""
        attributes, shards = self.attributes, self._table.shards
        items = tuple(attributes.items())
        try:
            found = shards.get(items)
        except TypeError:  # a list among the values
            found = None
        if found is None:
            lookup = lookup_of(items, tuple(map(type, attributes.values())))
            found = shards.get(lookup)
            if found is None:
                found = shard_for(self.operation, self._table, dict(sorted(attributes.items())), lookup, attributes)
        return found


class ComputedBinding(_OperationBinding):
    """An operation whose attributes are computed, and each thread's shards of their series."""

    __slots__ = ("_compute", "_local")

    def __init__(self, operation: Operation, local: OperationLocal, compute: Computed, expected: Checked) -> None:
        super().__init__(operation, expected)
        self._local = local
        self._compute = compute

    def shard(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Shard:
        """Return the calling thread's shard for the attributes of a call."""
        given: Any = None
        try:
            given = self._compute.raw(*args, **kwargs)()
            items = tuple(given.items())
            shard = self._local.shards.get(items)
            return self._typed(given, items) if shard is None else shard
        except Exception as error:  # a list among the values too, which cannot be looked up
            let_through(error)
            cleaned = self._compute.cleaned(given, error, args, kwargs)
            return shard_for(self.operation, self._local, cleaned, None, cleaned)

    def in_this_thread(self, shard: Shard) -> Shard:
        """Return the calling thread's shard of the same series."""
        return self._local.shard_of(shard.series)

    def _typed(self, given: Mapping[str, Any], items: tuple[Any, ...]) -> Shard:
        """Return the shard for attributes that are not looked up as they are: new ones, or not all of them texts."""
        lookup = lookup_of(items, tuple(map(type, given.values())))
        shard = self._local.shards.get(lookup)
        if shard is None:
            shard = shard_for(self.operation, self._local, clean(given), lookup, given)
        return shard


def shard_for(
    operation: Operation, table: OperationLocal, attributes: Mapping[str, Value], lookup: Any, given: Mapping[str, Any]
) -> Shard:
    """Return the calling thread's shard for attributes that its table does not have yet, and perhaps put it there.

    `attributes` are what is left of `given`, which `lookup` stands for.
    """
    key = key_of(attributes)
    series = operation.series(key, attributes, None)
    assert isinstance(series, Series)
    # what is past the limit comes here each time, to be counted
    return enter_shard(table, series, lookup if series.key == key else None, given)


def site_binding(site: Site, current: Pipeline) -> Binding | ComputedBinding | None:
    """Return a binding of a decorated function, or None where its calls have to take the slow path."""
    if site.failed is not None or (current.spans if site.span is None else site.span):
        return None
    if site.compute is not None:
        operation = current.operation(site.name)
        if not isinstance(operation.recorder, ShardedOperation):
            return None
        return ComputedBinding(operation, operation.recorder.local, site.compute, site.expected)
    return _plain_binding(current, site.name, site.attributes, site.key, site.expected)


def block_binding(name: str, current: Pipeline) -> Binding | None:
    """Return a binding for blocks that are given only that name, or None where they have to take the slow path."""
    return None if current.spans else _plain_binding(current, name, {}, (), ())


def _plain_binding(
    current: Pipeline,
    name: str,
    attributes: Mapping[str, Value],
    key: Key,
    expected: Checked,
) -> Binding | None:
    operation = current.operation(name)
    series = operation.series(key, attributes, None)
    if not isinstance(series, Series) or series.key != key:
        return None  # past a limit, so that each call has to be counted
    return Binding(operation, series, expected)
