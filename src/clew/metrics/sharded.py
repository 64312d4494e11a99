"""The pre-aggregating recorder: each thread counts for itself, and a collection adds up.

Only under a provider that `clew` built, since every reader's collection has to be joined with what the shards hold.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, Counter, ExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, Metric, MetricReader
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from clew.attributes import CARDINALITY_LIMIT, Key, Value
from clew.diagnostics import warn_once
from clew.interpreter.interruptions import begins_at_once, let_through
from clew.metrics import sdk
from clew.metrics.deferred import run_deferred
from clew.metrics.exemplars import HAS_REQUEST, SPAN_KEY, ExemplarCandidate, RequestExemplarFilter, identifiers_in
from clew.metrics.recorder import DURATION_BOUNDS, PortableRecorder
from clew.metrics.shards import Interval, Layout, Offer, OperationLocal, Series
from clew.metrics.streams import HistogramStream, Plan, Stream, SumStream


class ShardedInstrument:
    """One instrument that is counted in shards, and its streams for each reader.

    Args:
        provider: Whose Views and readers it serves.
        instrument: The SDK's own instrument of that name, which is asked about and never recorded into.
        bounds: A histogram's advised bounds in its unit; None for an instrument that sums.
    """

    def __init__(
        self,
        provider: ShardedMeterProvider,
        instrument: Any,
        bounds: Sequence[float] | None,
    ) -> None:
        self.scope: InstrumentationScope = sdk.scope_of(instrument)
        self.bounds: tuple[float, ...] = ()
        self._provider = provider
        self._instrument = instrument
        self._advised = bounds
        self._series: dict[ShardedOperation | None, list[Series]] = {}
        self._streams: weakref.WeakKeyDictionary[MetricReader, list[Stream]] = weakref.WeakKeyDictionary()
        self._layout = self._new_layout()

    def serve(self, readers: list[MetricReader]) -> bool:
        """Plan the streams of all readers; False where one of them needs the SDK's own aggregation."""
        planned: list[tuple[MetricReader, list[Plan]]] = []
        for reader in readers:
            plans = sdk.plans(self._provider, reader, self._instrument, self._advised)
            if plans is None:
                return False
            planned.append((reader, plans))
        if self._advised is not None:
            wanted = {b for _, plans in planned for plan in plans for b in plan.bounds or ()}
            self.bounds = tuple(sorted(wanted))
        self._layout = self._new_layout()
        for reader, plans in planned:
            self._streams[reader] = [self._stream(plan) for plan in plans]
        return True

    def _new_layout(self) -> Layout:
        exemplar_filter = sdk.exemplar_filter_of(self._provider)
        keeps_nothing = isinstance(exemplar_filter, AlwaysOffExemplarFilter)
        thresholds = [math.inf if keeps_nothing else -math.inf] * (len(self.bounds) + 1)
        offer = _keep_nothing if keeps_nothing else _offer_through(exemplar_filter, thresholds)
        return Layout(self.bounds, thresholds, offer)

    def serves(self, reader: MetricReader) -> bool:
        """Tell whether the streams of a reader are planned."""
        return reader in self._streams

    def serve_another(self, reader: MetricReader) -> None:
        """Plan the streams of a reader that is added later; it sees what is recorded from now on."""
        plans = sdk.plans(self._provider, reader, self._instrument, self._advised)
        known = set(self.bounds)
        if plans is None or any(not known.issuperset(plan.bounds or ()) for plan in plans):
            warn_once(
                ("reader added later", self._instrument.name),
                "A metric reader that was added after clew.configure() wants %s aggregated otherwise than it is kept; "
                "give it to configure() as metric_readers=[…]. It gets the buckets that are there",
                self._instrument.name,
            )
            plans = [self._plain()]
        self._streams[reader] = [self._stream(plan) for plan in plans]

    def _plain(self) -> Plan:
        own = self._instrument
        bounds = None if self._advised is None else self.bounds
        cumulative = AggregationTemporality.CUMULATIVE
        return Plan(own.name, own.description, own.unit, cumulative, CARDINALITY_LIMIT, bounds=bounds)

    def _stream(self, plan: Plan) -> Stream:
        if plan.bounds is not None:
            return HistogramStream(plan, self.bounds)
        return SumStream(plan, is_monotonic=isinstance(self._instrument, Counter))

    def new_series(
        self, attributes: Mapping[str, Value], key: Key, operation: ShardedOperation | None = None
    ) -> Series:
        """Make the series of one attribute set."""
        series = Series(self._layout, attributes, key, operation)
        self._series.setdefault(operation, []).append(series)
        return series

    def operations(self) -> list[ShardedOperation]:
        """Return the operations that the series belong to."""
        return [operation for operation in list(self._series) if operation is not None]

    def distribute(self) -> dict[ShardedOperation, int]:
        """Take what has been recorded since the last time, and give it to the streams of all readers.

        Returns:
            The operations that ran, and how many runs more of each are under way.
        """
        streams = [stream for streams in self._streams.values() for stream in streams]
        ran: dict[ShardedOperation, int] = {}
        for operation, all_series in list(self._series.items()):
            # all that has ended, and only then all that has begun: a run may end in another series or thread than it
            # began in, and is to be under way rather than less than none are
            for series in all_series.copy():
                delta = series.take_delta()
                if delta is not None:
                    for stream in streams:
                        stream.add(series, delta)
            if operation is not None:
                amount = operation.take_active_delta(all_series)
                if amount is not None:
                    ran[operation] = amount
        return ran

    def metrics(self, reader: MetricReader, now: int) -> list[Metric]:
        """Return what a reader exports."""
        found = [stream.metric(now) for stream in self._streams.get(reader, ())]
        return [metric for metric in found if metric is not None]


class _RunningOperations(ShardedInstrument):
    """``operation.active``: it has no series of its own, what runs is counted where durations are."""

    def add(self, ran: dict[ShardedOperation, int], reader: MetricReader | None = None) -> None:
        """Add how many runs more are under way, for one reader or for all."""
        for one, streams in self._streams.items():
            for stream in streams if reader in (None, one) else ():
                if isinstance(stream, SumStream):
                    for operation, amount in ran.items():
                        stream.add_to(operation, operation.attributes, operation.created, amount)


class ShardedOperation:
    """One operation: its series, and the shards of each thread."""

    __slots__ = ("_base", "_durations", "_started", "attributes", "created", "local", "running")

    def __init__(self, durations: ShardedInstrument, attributes: Mapping[str, Value]) -> None:
        self._durations = durations
        self.attributes = attributes
        self.created = time.time_ns()
        self.local = OperationLocal()
        self._base = durations.new_series(attributes, (), self)
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

    def take_active_delta(self, all_series: list[Series]) -> int | None:
        """Take how many runs more are under way; None where none has begun or ended.

        Called after all its series have told what has ended in them.
        """
        ended = sum([series.ended for series in all_series])
        started = sum([series.started for series in all_series])
        running, before = started - ended, self.running
        if started == self._started and running == before:
            return None
        self._started, self.running = started, running
        return running - before

    def series(self, attributes: Mapping[str, Value], key: Key) -> Series:
        """Return what records into the point with these attributes."""
        if attributes == self.attributes:
            return self._base
        return self._durations.new_series(attributes, key, self)


class ShardedRecorder:
    """Hands out shards, and turns what they hold into the metrics of each reader's collection."""

    def __init__(self, provider: ShardedMeterProvider) -> None:
        self._provider = provider
        self._lock = threading.RLock()
        self._instruments: list[ShardedInstrument] = []
        self._made: dict[Any, ShardedInstrument] = {}
        self._operations: tuple[ShardedInstrument, _RunningOperations] | None = None

    def serve(self, portable: PortableRecorder) -> bool:
        """Take over from the portable recorder; False where a reader or a View needs the SDK's own aggregation."""
        readers = sdk.readers_of(self._provider)
        if not all(sdk.join(reader, self._provider, self.collect) for reader in readers):
            return False
        durations = ShardedInstrument(self._provider, portable.duration, DURATION_BOUNDS)
        running = _RunningOperations(self._provider, portable.active, None)
        if durations.serve(readers) and running.serve(readers):
            self._operations = durations, running
            self._instruments += [durations, running]
        return True

    def operation(self, attributes: Mapping[str, Value]) -> ShardedOperation | None:
        """Return the recorder of one operation; None where operations are recorded the portable way."""
        return None if self._operations is None else ShardedOperation(self._operations[0], attributes)

    def instrument(self, instrument: Any, bounds: Sequence[float] | None) -> ShardedInstrument | None:
        """Return one of the user's instruments in shards, always the same; None where it is recorded into as it is.

        No lock is taken: a thread that is in the middle of a collection may come here.
        """
        found = self._made.get(instrument)
        if found is not None:
            return found
        sharded = ShardedInstrument(self._provider, instrument, bounds)
        if not sharded.serve(sdk.readers_of(self._provider)):
            return None
        found = self._made.setdefault(instrument, sharded)
        if found is sharded:
            self._instruments.append(sharded)
            for reader in sdk.readers_of(self._provider):  # one that was added meanwhile
                if not sharded.serves(reader):
                    sharded.serve_another(reader)
        return found

    def serve_another(self, reader: MetricReader) -> None:
        """Serve a reader that is added later."""
        with self._lock:
            self._distribute()
            for instrument in self._instruments:
                instrument.serve_another(reader)
            if self._operations is not None:  # what is under way now will end for this reader too
                durations, running = self._operations
                running.add({each: each.running for each in durations.operations() if each.running}, reader)
        sdk.join(reader, self._provider, self.collect)

    def collect(self, reader: MetricReader) -> list[tuple[InstrumentationScope, Metric]]:
        """Take what has been recorded since the last time for all readers, and return the metrics of this one."""
        run_deferred()
        with self._lock:
            self._distribute()
            now = time.time_ns()
            return [
                (instrument.scope, metric)
                for instrument in self._instruments
                for metric in instrument.metrics(reader, now)
            ]

    def _distribute(self) -> None:
        for instrument in self._instruments:
            ran = instrument.distribute()
            if ran and self._operations is not None:
                self._operations[1].add(ran)


def _offer_through(exemplar_filter: ExemplarFilter, initial_thresholds: list[float]) -> Offer:
    """Return what makes a measurement the candidate of its bucket: one that is larger than it, or equal to it.

    Equal ones are common where counters count by one, so nothing is made for one that is not better linked.
    """
    should_sample = None if type(exemplar_filter) is RequestExemplarFilter else exemplar_filter.should_sample

    def offer(interval: Interval, index: int, value: float, context: Context | None) -> None:
        try:
            if context is None:
                context = get_current()
            thresholds = interval.thresholds
            best = 0
            if value == thresholds[index]:
                for candidate in interval.candidates:
                    if candidate.bucket == index:
                        best = candidate.links
                        if best == HAS_REQUEST and SPAN_KEY not in context:
                            return
            links = identifiers_in(context)
            if value == thresholds[index] and links <= best:
                return
            if links if should_sample is None else should_sample(value, 0, None, context):
                interval.put(ExemplarCandidate(value, time.time_ns(), None, context, index))
                if thresholds is initial_thresholds:
                    thresholds = interval.thresholds = initial_thresholds.copy()
                thresholds[index] = value
        except Exception as error:  # a Context that is none, given by the caller
            let_through(error)
            warn_once("exemplar", "An exemplar was not kept: %s: %s", type(error).__name__, error)

    return offer


def _keep_nothing(interval: Interval, index: int, value: float, context: Context | None) -> None:
    """Keep no measurement, for a filter that lets none through: an infinite one asks."""


class ShardedMeterProvider(MeterProvider):
    """A MeterProvider whose readers, those added later too, see what the shards hold."""

    recorder: ShardedRecorder | None = None

    def add_metric_reader(self, metric_reader: MetricReader) -> None:
        """Register a reader, as any MeterProvider does."""
        super().add_metric_reader(metric_reader)
        if self.recorder is not None:
            self.recorder.serve_another(metric_reader)


class OwnRecorder:
    """The recorder under a provider of ours: in shards what can be, the portable way what cannot."""

    def __init__(self, provider: ShardedMeterProvider) -> None:
        self._provider = provider
        self._portable = PortableRecorder(provider)
        sharded = ShardedRecorder(provider)
        self.sharded: ShardedRecorder | None = sharded if sharded.serve(self._portable) else None
        provider.recorder = self.sharded

    def operation(self, attributes: Mapping[str, Value]) -> Any:
        """Return the recorder of one operation."""
        sharded = None if self.sharded is None else self.sharded.operation(attributes)
        return self._portable.operation(attributes) if sharded is None else sharded

    def instrument(self, instrument: Any, bounds: Sequence[float] | None) -> ShardedInstrument | None:
        """Return one of the user's instruments in shards; None where it has to be recorded into as it is."""
        return None if self.sharded is None else self.sharded.instrument(instrument, bounds)

    def renewed(self) -> OwnRecorder:
        """Return a recorder for a forked child, which the readers are joined to instead of this one."""
        sdk.renew_locks(self._provider, with_storages=False)
        return OwnRecorder(self._provider)
