"""Where measurements go: the pipeline that `configure()` builds, or that the application's own MeterProvider gives.

There is one current pipeline, or None. An operation keeps the one it began under, and a pipeline that has been
replaced (by another `configure()`, or in a forked child) no longer takes the end of any operation.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry.metrics import CallbackOptions, Observation

from clew.__about__ import __version__
from clew.attributes import CARDINALITY_LIMIT, OPERATION_CARDINALITY_LIMIT, OVERFLOW, Key, Value
from clew.diagnostics import Account, DeferredWarnings, count, warn_once
from clew.failures import NOTHING_EXPECTED, OTHER, Expected
from clew.interpreter import forks
from clew.interpreter.weak import WeakCollection
from clew.metrics import reentry

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Tracer

    from clew.metrics.lookup import InstrumentBinding
    from clew.metrics.recorder import OperationRecorder, Recorder, SeriesRecorder

_OPERATION_OVERFLOW: Key = ((OVERFLOW, bool, "operation"),)
_INSTRUMENT_OVERFLOW: Key = ((OVERFLOW, bool, "instrument"),)
"""The keys of series that stand for attribute sets past the operation's limit, and past the instrument's."""


class Pipeline:
    """A recorder, and what an operation needs to know while it runs."""

    def __init__(
        self,
        meter_provider: MeterProvider,
        recorder: Recorder,
        *,
        tracer: Tracer | None = None,
        spans: bool = False,
        expected: Expected = NOTHING_EXPECTED,
        cardinality_limit: int = OPERATION_CARDINALITY_LIMIT,
        tracks_requests: bool = False,
    ) -> None:
        self.meter_provider = meter_provider
        self.recorder = recorder
        self.tracer = tracer
        self.spans = spans
        self.expected = expected
        self.cardinality_limit = cardinality_limit
        self.tracks_requests = tracks_requests
        """Whether each run has to tell its request how it ends; then all take the slow path."""
        self.is_open = True
        """Whether it takes the end of operations that began under it."""
        self.lock = threading.RLock()  # the handler of a signal may measure too, in the middle of what it interrupts
        self.series_count = 0
        self._operations: dict[str, Operation] = {}
        self._overflow: Operation | None = None
        self.instrument_bindings: dict[Any, InstrumentBinding] = {}
        """Of the instruments that are recorded into in shards."""
        self.block_bindings: dict[str, Any] = {}
        """Of blocks, by name: a `bindings.Binding`, or None where they take the slow path."""
        _export_events(meter_provider)

    def renewed(self) -> Pipeline:
        """Return a pipeline like this one, into which nothing has been recorded and no operation has begun."""
        return Pipeline(
            self.meter_provider,
            self.recorder.renewed(),
            tracer=self.tracer,
            spans=self.spans,
            expected=self.expected,
            cardinality_limit=self.cardinality_limit,
            tracks_requests=self.tracks_requests,
        )

    def operation(self, name: str) -> Operation:
        """Return the operation of that name; past the instrument's limit, the one that stands for all further ones."""
        found = self._operations.get(name)
        if found is not None:
            return found
        with DeferredWarnings(), self.lock:
            found = self._operations.get(name)
            if found is None:
                if len(self._operations) >= CARDINALITY_LIMIT:
                    return self._further_operation()
                found = self._operations.setdefault(name, Operation(self, name))
            return found

    def _further_operation(self) -> Operation:
        count("operation.overflow")
        warn_once(
            "operation.overflow",
            "More than %d operation names; the further ones are measured as one",
            CARDINALITY_LIMIT,
        )
        if self._overflow is None:
            self._overflow = Operation(self, None)
        return self._overflow


class Operation:
    """A named piece of work under one pipeline: the series of its attribute sets, each made at its first use.

    Past the operation's limit of attribute sets the user's attributes are dropped, and the point has
    ``otel.metric.overflow``; totals per operation and per error type stay exact.
    """

    def __init__(self, pipeline: Pipeline, name: str | None) -> None:
        self.pipeline = pipeline
        self._name = name
        self._series: dict[Key, SeriesRecorder] = {}
        self._failed: dict[tuple[Key, str], SeriesRecorder] = {}
        self._only_failed: set[Key] = set()
        self._error_types: set[str] = set()
        self._overflow: dict[str | None, SeriesRecorder] = {}
        self._instrument_overflow: SeriesRecorder | None = None
        self.recorder: OperationRecorder = pipeline.recorder.operation(self._identity())

    def _identity(self) -> dict[str, Value]:
        return {OVERFLOW: True} if self._name is None else {"operation.name": self._name}

    def series(self, key: Key, attributes: Mapping[str, Value], error_type: str | None) -> SeriesRecorder:
        """Return what records runs with these attributes, whose key is `key`, and this error type."""
        found = self._series.get(key) if error_type is None else self._failed.get((key, error_type))
        return found or self._find(key, attributes, error_type)

    def _find(self, key: Key, attributes: Mapping[str, Value], error_type: str | None) -> SeriesRecorder:
        pipeline = self.pipeline
        with DeferredWarnings(), pipeline.lock:
            error_type = self._limited(error_type)
            if self._name is None or key is _INSTRUMENT_OVERFLOW:
                return self._overflow_of_instrument()
            if key is _OPERATION_OVERFLOW:
                return self._overflow_of_operation(error_type)
            if self._is_past_limit(key):
                count("attributes.overflow")
                warn_once(
                    ("attributes.overflow", self._name),
                    "The operation %s has more than %d attribute sets; further ones are measured without their "
                    "attributes, marked %s",
                    self._name,
                    pipeline.cardinality_limit,
                    OVERFLOW,
                )
                return self._overflow_of_operation(error_type)
            series = self._series.get(key) if error_type is None else self._failed.get((key, error_type))
            if series is None:
                if pipeline.series_count >= CARDINALITY_LIMIT:
                    count("attributes.overflow")
                    return self._overflow_of_instrument()
                pipeline.series_count += 1
                series = self.recorder.series(self._named(attributes, error_type), key)
                if error_type is None:
                    self._only_failed.discard(key)
                    series = self._series.setdefault(key, series)
                else:
                    if key and key not in self._series:
                        self._only_failed.add(key)
                    series = self._failed.setdefault((key, error_type), series)
            return series

    def _is_past_limit(self, key: Key) -> bool:
        if not key or key in self._series or key in self._only_failed:
            return False
        number = len(self._series) - (() in self._series) + len(self._only_failed)
        return number >= self.pipeline.cardinality_limit

    def _overflow_of_operation(self, error_type: str | None) -> SeriesRecorder:
        """Return the series of all attribute sets past the operation's limit."""
        series = self._overflow.get(error_type)
        if series is None:
            self.pipeline.series_count += 1
            series = self.recorder.series({**self._named({}, error_type), OVERFLOW: True}, _OPERATION_OVERFLOW)
            series = self._overflow.setdefault(error_type, series)
        return series

    def _overflow_of_instrument(self) -> SeriesRecorder:
        """Return the series of all attribute sets past the instrument's limit."""
        if self._instrument_overflow is None:
            self._instrument_overflow = self.recorder.series({OVERFLOW: True}, _INSTRUMENT_OVERFLOW)
        return self._instrument_overflow

    def _named(self, attributes: Mapping[str, Value], error_type: str | None) -> dict[str, Value]:
        failed: dict[str, Value] = {} if error_type is None else {"error.type": error_type}
        return {**attributes, **self._identity(), **failed}

    def _limited(self, error_type: str | None) -> str | None:
        """Return the error type, or ``_OTHER`` where the operation has had too many different ones."""
        if error_type is None or error_type in self._error_types:
            return error_type
        if len(self._error_types) >= self.pipeline.cardinality_limit:
            count("error_type.overflow")
            warn_once(
                ("error_type.overflow", self._name),
                "The operation %s has failed with more than %d different error types; further ones are named %s",
                self._name,
                self.pipeline.cardinality_limit,
                OTHER,
            )
            return OTHER
        self._error_types.add(error_type)
        return error_type


own_providers: weakref.WeakSet[Any] = weakref.WeakSet()
"""The providers that `configure()` has built; OpenTelemetry's global ones stay the first of them."""

_observed: weakref.WeakSet[Any] = weakref.WeakSet()


def _export_events(provider: MeterProvider) -> None:
    """Export the counts of `clew.diagnostics` as the metric ``clew.events`` of a provider."""
    if provider in _observed:
        return
    _observed.add(provider)
    account = Account(lambda: _tells_deltas(provider))

    def observe(options: CallbackOptions) -> Iterable[Observation]:
        reentry.begin_collection()
        return [Observation(number, {"event.name": event}) for event, number in account.counts().items()]

    provider.get_meter("clew", __version__).create_observable_counter(
        "clew.events",
        callbacks=[observe],
        unit="{event}",
        description="What clew has dropped, replaced or ignored.",
    )


def _tells_deltas(provider: MeterProvider) -> bool:
    """Tell whether a forked child's provider adds what it is given to its parent's total."""
    if provider in own_providers:
        return False
    from clew.metrics.sdk.providers import tells_deltas

    return tells_deltas(provider)


current: Pipeline | None = None


class Bound(Protocol):
    """An object that holds on to something of the current pipeline."""

    def unbind(self) -> None:
        """Let go of it: the pipeline has changed."""


bound: WeakCollection[Bound] = WeakCollection()
"""What is bound to a pipeline; it checks afterwards whether that is still the current one, and lets go of it if not."""


def use(pipeline: Pipeline | None) -> None:
    """Make `pipeline` the current one; no lock is taken, since this thread may have interrupted what has it.

    What began under the one before ends there if that has a provider of the application's own, which goes on;
    otherwise it is no longer recorded.
    """
    global current
    before, current = current, pipeline
    if before is not None and before.meter_provider in own_providers:
        before.is_open = False
    for one in bound:
        one.unbind()


def _renew_in_child() -> None:
    """Give a forked child a pipeline of its own; what began in the parent ends there."""
    if current is not None:
        current.is_open = False
        use(current.renewed())


forks.after_in_child(_renew_in_child)
