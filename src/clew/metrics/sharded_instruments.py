"""Instruments that are counted in shards: the series of each, and the streams of each reader that they go to."""

from __future__ import annotations

import math
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
from clew.interpreter.interruptions import let_through
from clew.metrics.exemplars import REQUEST_RANK, SPAN_KEY, ExemplarCandidate, RequestExemplarFilter, identifiers_in
from clew.metrics.sdk.collection import plan_streams, scope_of
from clew.metrics.sdk.providers import exemplar_filter_of
from clew.metrics.sharded_operation import ShardedOperation
from clew.metrics.shards import Interval, Layout, Offer, Series
from clew.metrics.streams import HistogramStream, Plan, Stream, SumStream


class ShardedInstrument:
    """One instrument that is counted in shards, and its streams for each reader.

    Args:
        provider: The provider whose Views and readers it serves.
        instrument: The SDK's own instrument, which says how it is to be aggregated and is never recorded into.
        bounds: A histogram's advised bounds in its unit; None for an instrument that sums.
    """

    def __init__(
        self,
        provider: MeterProvider,
        instrument: Any,
        bounds: Sequence[float] | None,
    ) -> None:
        self.scope: InstrumentationScope = scope_of(instrument)
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
            plans = plan_streams(self._provider, reader, self._instrument, self._advised)
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
        exemplar_filter = exemplar_filter_of(self._provider)
        samples_nothing = isinstance(exemplar_filter, AlwaysOffExemplarFilter)
        thresholds = [math.inf if samples_nothing else -math.inf] * (len(self.bounds) + 1)
        offer = _offer_nothing if samples_nothing else _offer_through(exemplar_filter, thresholds)
        return Layout(self.bounds, thresholds, offer)

    def serves(self, reader: MetricReader) -> bool:
        """Tell whether the streams of a reader are planned."""
        return reader in self._streams

    def serve_another(self, reader: MetricReader) -> None:
        """Plan the streams of a reader that is added later; it sees what is recorded from now on."""
        plans = plan_streams(self._provider, reader, self._instrument, self._advised)
        known = set(self.bounds)
        if plans is None or any(not known.issuperset(plan.bounds or ()) for plan in plans):
            warn_once(
                ("reader added later", self._instrument.name),
                "A metric reader that was added after clew.configure() wants %s aggregated otherwise than it is kept; "
                "give it to configure() as metric_readers=[…]. It gets the buckets that are there",
                self._instrument.name,
            )
            plans = [self._default_plan()]
        self._streams[reader] = [self._stream(plan) for plan in plans]

    def _default_plan(self) -> Plan:
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
        series = Series(self._layout, attributes, key, None if operation is None else operation.local)
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
            # first all that has ended, then all that has begun: a run may end in another series or thread than it began
            # in, and must never be counted as ended only
            for series in all_series.copy():
                delta = series.take_delta()
                if delta is not None:
                    for stream in streams:
                        stream.add(series, delta)
            if operation is not None:
                amount = operation.take_running_delta(all_series)
                if amount is not None:
                    ran[operation] = amount
        return ran

    def metrics(self, reader: MetricReader, now: int) -> list[Metric]:
        """Return what a reader exports."""
        found = [stream.metric(now) for stream in self._streams.get(reader, ())]
        return [metric for metric in found if metric is not None]


class ActiveOperations(ShardedInstrument):
    """``operation.active``: it has no series of its own, since runs are counted where their durations are."""

    def add(self, ran: dict[ShardedOperation, int], reader: MetricReader | None = None) -> None:
        """Add how many runs more are under way, for one reader or for all."""
        for one, streams in self._streams.items():
            for stream in streams if reader in (None, one) else ():
                if isinstance(stream, SumStream):
                    for operation, amount in ran.items():
                        stream.add_to(operation, operation.attributes, operation.created, amount)


def _offer_through(exemplar_filter: ExemplarFilter, initial_thresholds: list[float]) -> Offer:
    """Return what makes a measurement the candidate of its bucket where it is larger than the one there, or equal.

    Equal ones are common, since counters count by one: nothing is made for one that leads to no more.
    """
    should_sample = None if type(exemplar_filter) is RequestExemplarFilter else exemplar_filter.should_sample

    def offer(interval: Interval, index: int, value: float, context: Context | None) -> None:
        try:
            if context is None:
                context = get_current()
            thresholds = interval.thresholds
            best_rank = 0
            if value == thresholds[index]:
                for candidate in interval.candidates:
                    if candidate.bucket == index:
                        best_rank = candidate.rank
                        if best_rank == REQUEST_RANK and SPAN_KEY not in context:
                            return
            identifiers = identifiers_in(context)
            rank = identifiers[0]
            if value == thresholds[index] and rank <= best_rank:
                return
            if rank if should_sample is None else should_sample(value, 0, None, context):
                interval.put(ExemplarCandidate(value, time.time_ns(), None, identifiers, index))
                if thresholds is initial_thresholds:
                    thresholds = interval.thresholds = initial_thresholds.copy()
                thresholds[index] = value
        except Exception as error:  # the caller gave a Context that is none
            let_through(error)
            warn_once("exemplar", "An exemplar was not kept: %s: %s", type(error).__name__, error)

    return offer


def _offer_nothing(interval: Interval, index: int, value: float, context: Context | None) -> None:
    """Make nothing a candidate, for a filter that lets none through; only an infinite value reaches the threshold."""
