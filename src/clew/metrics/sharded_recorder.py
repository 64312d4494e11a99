"""The pre-aggregating recorder: each thread counts for itself, and a collection adds up.

Only under a provider that `clew` built, since every reader's collection has to be joined with what the shards hold.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Metric, MetricReader
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from clew.attributes import Value
from clew.metrics.deferred import run_deferred
from clew.metrics.recorder import DURATION_BOUNDS, OWN_SCOPE, OperationRecorder, PortableRecorder
from clew.metrics.sdk.collection import join_collection
from clew.metrics.sdk.forked_child import renew_locks
from clew.metrics.sdk.providers import readers_of
from clew.metrics.sharded_instruments import ActiveOperations, ShardedInstrument
from clew.metrics.sharded_operation import ShardedOperation


class ShardedMeterProvider(MeterProvider):
    """A MeterProvider whose readers, those added later too, see what the shards hold.

    It calls back, once, when something is about to be measured. Until then it need not have a thread, nor has it
    anything to send at its end: a process that was started without code may be a short helper that measures nothing.
    """

    recorder: ShardedRecorder | None = None
    _callback: Callable[[], None] | None = None

    def on_first_measurement(self, callback: Callable[[], None]) -> None:
        """Call `callback` before an operation or an instrument is first measured; only the last one given counts."""
        self._callback = callback

    def begin_measuring(self) -> None:
        """Make the call that waits for the first measurement."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,
    ) -> Meter:
        """Return a meter, as any MeterProvider does."""
        if name != OWN_SCOPE:  # whose instruments are there before anything is measured
            self.begin_measuring()
        return super().get_meter(name, version, schema_url, attributes)

    def add_metric_reader(self, metric_reader: MetricReader) -> None:
        """Register a reader, as any MeterProvider does."""
        super().add_metric_reader(metric_reader)
        if self.recorder is not None:
            self.recorder.serve_another(metric_reader)


class ShardedRecorder:
    """Counts in shards what can be, and records by the portable recorder what cannot.

    What cannot is what a reader or a View wants by an aggregation that only the SDK itself has.
    """

    def __init__(self, provider: ShardedMeterProvider) -> None:
        self._provider = provider
        self._portable = PortableRecorder(provider)
        self._lock = threading.RLock()
        self._instruments: list[ShardedInstrument] = []
        self._sharded: dict[Any, ShardedInstrument] = {}
        self._operations: tuple[ShardedInstrument, ActiveOperations] | None = None
        readers = readers_of(provider)
        self._is_joined = all(join_collection(reader, provider, self.collect) for reader in readers)
        if self._is_joined:
            durations = ShardedInstrument(provider, self._portable.duration, DURATION_BOUNDS)
            active = ActiveOperations(provider, self._portable.active, None)
            if durations.serve(readers) and active.serve(readers):
                self._operations = durations, active
                self._instruments += [durations, active]
        provider.recorder = self if self._is_joined else None

    def operation(self, attributes: Mapping[str, Value]) -> OperationRecorder:
        """Return the recorder of one operation."""
        self._provider.begin_measuring()
        if self._operations is None:
            return self._portable.operation(attributes)
        return ShardedOperation(self._operations[0].new_series, attributes)

    def instrument(self, instrument: Any, bounds: Sequence[float] | None) -> ShardedInstrument | None:
        """Return one of the user's instruments in shards, always the same; None where it is recorded into as it is.

        No lock is taken: a thread that is in the middle of a collection may come here.
        """
        self._provider.begin_measuring()
        if not self._is_joined:
            return None
        found = self._sharded.get(instrument)
        if found is not None:
            return found
        sharded = ShardedInstrument(self._provider, instrument, bounds)
        if not sharded.serve(readers_of(self._provider)):
            return None
        found = self._sharded.setdefault(instrument, sharded)
        if found is sharded:
            self._instruments.append(sharded)
            for reader in readers_of(self._provider):  # one that was added meanwhile
                if not sharded.serves(reader):
                    sharded.serve_another(reader)
        return found

    def renewed(self) -> ShardedRecorder:
        """Return a recorder for a forked child, which the readers are joined to instead of this one."""
        renew_locks(self._provider, with_storages=False)
        return ShardedRecorder(self._provider)

    def serve_another(self, reader: MetricReader) -> None:
        """Serve a reader that is added later."""
        with self._lock:
            self._distribute()
            for instrument in self._instruments:
                instrument.serve_another(reader)
            if self._operations is not None:  # what is under way now will end for this reader too
                durations, active = self._operations
                active.add({each: each.running for each in durations.operations() if each.running}, reader)
        join_collection(reader, self._provider, self.collect)

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
