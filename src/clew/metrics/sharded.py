"""The pre-aggregating recorder: each thread counts for itself, and a collection adds up.

Only under a provider that `clew` built, since every reader's collection has to be joined with what the shards hold.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    ExemplarFilter,
    MeterProvider,
)
from opentelemetry.sdk.metrics.export import AggregationTemporality, Metric, MetricReader

from clew.attributes import Key, Value
from clew.diagnostics import say_once
from clew.metrics import sdk
from clew.metrics.exemplars import Kept
from clew.metrics.recorder import DURATION_BOUNDS, PortableRecorder
from clew.metrics.shards import NEVER, Keep, OperationLocal, Page, Series
from clew.metrics.streams import DurationStream, Plan, RunningStream, nanosecond_bounds


class ShardedOperation:
    """One operation: its series, and the shards of each thread."""

    __slots__ = ("_base", "_recorder", "attributes", "created", "local")

    def __init__(self, recorder: ShardedRecorder, attributes: Mapping[str, Value]) -> None:
        self._recorder = recorder
        self.attributes = attributes
        self.created = time.time_ns()
        self.local = OperationLocal()
        self._base = recorder.new_series(self, attributes, (), {})

    def begin(self) -> None:
        """One more run is under way."""
        self.local.shard_of(self._base).started += 1

    def abandon(self) -> None:
        """One run less is under way, without a duration."""
        self.local.shard_of(self._base).abandoned += 1

    def series(self, attributes: Mapping[str, Value], key: Key, given: Mapping[str, Value]) -> ShardedSeries:
        """Return what records into the point with these attributes."""
        return ShardedSeries(self, self._recorder.new_series(self, attributes, key, given))


class ShardedSeries:
    """One attribute set of an operation."""

    __slots__ = ("operation", "series")

    def __init__(self, operation: ShardedOperation, series: Series) -> None:
        self.operation = operation
        self.series = series

    def record(self, nanoseconds: int, context: Context | None) -> None:
        """Record one run that has ended."""
        self.series.record(self.operation.local.shard_of(self.series), nanoseconds, context)


class ShardedRecorder:
    """Hands out shards, and turns what they hold into the metrics of each reader's collection."""

    def __init__(
        self, provider: ShardedMeterProvider, portable: PortableRecorder, exemplar_filter: ExemplarFilter
    ) -> None:
        self._provider = provider
        self._portable = portable
        self._filter = exemplar_filter
        self._lock = threading.Lock()
        self._series: list[tuple[ShardedOperation, Series]] = []
        self._readers: weakref.WeakKeyDictionary[MetricReader, tuple[list[DurationStream], list[RunningStream]]] = (
            weakref.WeakKeyDictionary()
        )
        self.bounds: tuple[int, ...] = ()
        self.keep: Keep = _keeping(exemplar_filter)

    def serve(self, readers: list[MetricReader]) -> bool:
        """Plan the streams of all readers; False where one of them needs the SDK's own aggregation."""
        planned: list[tuple[MetricReader, list[Plan], list[Plan]]] = []
        for reader in readers:
            duration = sdk.plans(self._provider, reader, self._portable.duration, DURATION_BOUNDS)
            active = sdk.plans(self._provider, reader, self._portable.active, None)
            if duration is None or active is None:
                return False
            planned.append((reader, duration, active))
        wanted = {
            bound for _, duration, _ in planned for plan in duration for bound in nanosecond_bounds(plan.bounds or ())
        }
        self.bounds = tuple(sorted(wanted or nanosecond_bounds(DURATION_BOUNDS)))
        for reader, duration, active in planned:
            self._add(reader, duration, active)
        return all(sdk.join(reader, self._provider, self.collect) for reader in readers)

    def serve_another(self, reader: MetricReader) -> None:
        """Plan the streams of a reader that is added later; it sees what is recorded from now on."""
        duration = sdk.plans(self._provider, reader, self._portable.duration, DURATION_BOUNDS)
        active = sdk.plans(self._provider, reader, self._portable.active, None)
        with self._lock:
            self._share_out()
            if duration is None or active is None or not self._has_bounds_of(duration):
                say_once(
                    "reader added later",
                    "A metric reader that was added after clew.configure() wants other buckets for operation.duration "
                    "than are kept; give it to configure() as metric_readers=[…]. It gets the buckets that are there",
                )
                duration = [_plain(self._portable.duration, DURATION_BOUNDS)]
                active = [_plain(self._portable.active, None)]
            self._add(reader, duration, active)
        sdk.join(reader, self._provider, self.collect)

    def _has_bounds_of(self, plans: list[Plan]) -> bool:
        return all(set(nanosecond_bounds(plan.bounds or ())) <= set(self.bounds) for plan in plans)

    def _add(self, reader: MetricReader, duration: list[Plan], active: list[Plan]) -> None:
        self._readers[reader] = (
            [DurationStream(plan, self.bounds) for plan in duration],
            [RunningStream(plan) for plan in active],
        )

    def operation(self, attributes: Mapping[str, Value]) -> ShardedOperation:
        """Return the recorder of one operation."""
        return ShardedOperation(self, attributes)

    def renewed(self) -> ShardedRecorder | PortableRecorder:
        """Return a recorder for a forked child, which the readers are joined to instead of this one."""
        return recorder_for(self._provider)

    def new_series(
        self, operation: ShardedOperation, attributes: Mapping[str, Value], key: Key, given: Mapping[str, Value]
    ) -> Series:
        """Make the series of one attribute set."""
        largest = [NEVER if isinstance(self._filter, AlwaysOffExemplarFilter) else -1] * (len(self.bounds) + 1)
        series = Series(attributes, key, given, self.bounds, largest, self.keep)
        with self._lock:
            self._series.append((operation, series))
        return series

    def collect(self, reader: MetricReader) -> list[Metric]:
        """Take what all shards have grown by, share it out to all readers, and return the metrics of this one."""
        with self._lock:
            self._share_out()
            found = self._readers.get(reader)
            if found is None:
                return []
            now = time.time_ns()
            metrics = [stream.metric(now) for streams in found for stream in streams]
        return [metric for metric in metrics if metric is not None]

    def _share_out(self) -> None:
        readers = list(self._readers.values())
        for operation, series in self._series:
            grown = series.grown()
            if grown is None:
                continue
            for _, kept in grown.held:
                kept.attributes = series.attributes
            for durations, running in readers:
                for duration_stream in durations:
                    duration_stream.add(series, grown)
                for running_stream in running if grown.ran else ():
                    running_stream.add(operation, operation.attributes, operation.created, grown.running)


def _plain(instrument: Any, bounds: tuple[float, ...] | None) -> Plan:
    return Plan(
        instrument.name,
        instrument.description,
        instrument.unit,
        AggregationTemporality.CUMULATIVE,
        2_000,
        bounds=bounds,
    )


def _keeping(exemplar_filter: ExemplarFilter) -> Keep:
    should_sample = exemplar_filter.should_sample

    def keep(page: Page, index: int, nanoseconds: int, context: Context | None) -> None:
        if context is None:
            context = get_current()
        value = nanoseconds / 1e9
        now = time.time_ns()
        try:
            if should_sample(value, now, None, context):
                kept = Kept(value, now, None, context)
                if kept.outranks(page.held.get(index)):
                    page.held[index] = kept
                page.largest[index] = nanoseconds
        except Exception as error:  # a Context that is none, given by the caller
            say_once("exemplar", "An exemplar was not kept: %s: %s", type(error).__name__, error)

    return keep


class ShardedMeterProvider(MeterProvider):
    """A MeterProvider whose readers, those added later too, see what the shards hold."""

    recorder: ShardedRecorder | None = None

    def add_metric_reader(self, metric_reader: MetricReader) -> None:
        """Register a reader, as any MeterProvider does."""
        super().add_metric_reader(metric_reader)
        if self.recorder is not None:
            self.recorder.serve_another(metric_reader)


def recorder_for(provider: ShardedMeterProvider) -> ShardedRecorder | PortableRecorder:
    """Return the fastest recorder that all readers of a provider of ours can be served by."""
    portable = PortableRecorder(provider)
    recorder = ShardedRecorder(provider, portable, sdk.exemplar_filter_of(provider))
    if not recorder.serve(sdk.readers_of(provider)):
        return portable
    provider.recorder = recorder
    return recorder
