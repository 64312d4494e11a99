"""What a measurement is handed to: the protocol of all recorders, and the portable one.

A recorder is asked once for each operation, and that once for each attribute set; the answer only takes durations, in
seconds. Recorders differ in speed, never in what arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry.context import Context, create_key, set_value
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider

from clew.__about__ import __version__
from clew.attributes import Key, Value
from clew.metrics.sdk.forked_child import renew_locks
from clew.metrics.sdk.recording import guard_recording

if TYPE_CHECKING:
    from clew.metrics.shards import Series

DURATION_BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Upper bounds of the buckets of ``operation.duration`` in seconds: a database call, or a night's job."""

OWN_SCOPE = "clew"
"""The instrumentation scope of what is measured by `clew` itself."""

NO_REQUEST = set_value(create_key("clew-no-request"), True, Context())
"""The Context of measurements that are nobody's, so that they become no exemplars."""


class SeriesRecorder(Protocol):
    """One attribute set of an operation."""

    def record(self, seconds: float, context: Context | None) -> None:
        """Record one run that has ended, in the given Context or else the current one."""


class OperationRecorder(Protocol):
    """One operation."""

    def begin(self) -> None:
        """One more run is under way; it ends when a series of the operation records it, or when it is abandoned."""

    def abandon(self) -> None:
        """One run less is under way, without a duration."""

    def series(self, attributes: Mapping[str, Value], key: Key) -> SeriesRecorder:
        """Return what records into the point of ``operation.duration`` with these attributes.

        `key` is the key of the user's among them, by which the same series is found with an error type.
        """
        ...


class InstrumentRecorder(Protocol):
    """One of the user's instruments, in shards."""

    def new_series(self, attributes: Mapping[str, Value], key: Key) -> Series:
        """Make the series of one attribute set, whose key is `key`."""
        ...


class Recorder(Protocol):
    """What operations and instruments are recorded by."""

    def operation(self, attributes: Mapping[str, Value]) -> OperationRecorder:
        """Return the recorder of the operation that has these attributes on ``operation.active``."""
        ...

    def instrument(self, instrument: Any, bounds: Sequence[float] | None) -> InstrumentRecorder | None:
        """Return the recorder of one of the user's instruments; None where it has to be recorded into as it is.

        `bounds` are those of a histogram's buckets; None for an instrument that sums.
        """

    def renewed(self) -> Recorder:
        """Return a recorder like this one for a forked child, into which nothing has been recorded."""
        ...


RunObserver = Callable[[Mapping[str, Value], float, "Context | None"], object]
"""Is told of each run that has been recorded: its attributes, its seconds, its Context or None for the current one."""


class PortableRecorder:
    """Records by plain OpenTelemetry instruments, so under any MeterProvider.

    Args:
        provider: Where the instruments are made.
        observer: Told of each run, as `clew.testing` is.
    """

    def __init__(self, provider: MeterProvider, observer: RunObserver | None = None) -> None:
        self._provider = provider
        self._observer = observer
        self._operations: list[_PortableOperation] = []
        guard_recording(provider)
        meter = provider.get_meter(OWN_SCOPE, __version__)
        self.duration = meter.create_histogram(
            "operation.duration",
            unit="s",
            description="How long operations took, failed ones included.",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDS,
        )
        self.active = meter.create_up_down_counter(
            "operation.active", unit="{operation}", description="How many operations are running."
        )

    def operation(self, attributes: Mapping[str, Value]) -> OperationRecorder:
        """Return the recorder of one operation."""
        operation = _PortableOperation(self.duration, self.active, attributes, self._observer)
        self._operations.append(operation)
        return operation

    def instrument(self, instrument: Any, bounds: Sequence[float] | None) -> None:
        """Return None: every instrument is recorded into as it is."""

    def renewed(self) -> PortableRecorder:
        """Return this one; the SDK goes on from the parent's totals, without what is under way there."""
        renew_locks(self._provider)
        operations, self._operations = self._operations, []
        if isinstance(self._provider, SdkMeterProvider):
            for operation in operations:
                operation.leave_to_parent()
        return self


class _PortableOperation:
    __slots__ = ("_active", "_attributes", "_duration", "_observer", "_under_way")

    def __init__(
        self, duration: Any, active: Any, attributes: Mapping[str, Value], observer: RunObserver | None
    ) -> None:
        self._duration = duration
        self._active = active
        self._attributes = attributes
        self._observer = observer
        self._under_way: list[None] = []  # one for each run: many threads may add and take at a time

    def begin(self) -> None:
        self._under_way.append(None)
        self._active.add(1, self._attributes, NO_REQUEST)

    def abandon(self) -> None:
        self._active.add(-1, self._attributes, NO_REQUEST)
        self._under_way.pop()

    def leave_to_parent(self) -> None:
        """Take what is under way in a forked child's parent out of the child's count."""
        if self._under_way:
            self._active.add(-len(self._under_way), self._attributes, NO_REQUEST)

    def series(self, attributes: Mapping[str, Value], key: Key) -> SeriesRecorder:
        return _PortableSeries(self, self._duration, attributes, self._observer)


class _PortableSeries:
    __slots__ = ("_attributes", "_duration", "_observer", "_operation")

    def __init__(
        self,
        operation: _PortableOperation,
        duration: Any,
        attributes: Mapping[str, Value],
        observer: RunObserver | None,
    ) -> None:
        self._operation = operation
        self._duration = duration
        self._attributes = attributes
        self._observer = observer

    def record(self, seconds: float, context: Context | None) -> None:
        self._operation.abandon()
        self._duration.record(seconds, self._attributes, context)
        if self._observer is not None:
            self._observer(self._attributes, seconds, context)
