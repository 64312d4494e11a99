"""What a measurement is handed to: the door that every recorder stands behind, and the portable one.

A recorder is asked once for each attribute set of an operation and answers with a function that only takes durations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider

from clew.__about__ import __version__
from clew.attributes import Value

DURATION_BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Upper bounds of the buckets of ``operation.duration`` in seconds: a database call, or a night's job."""

Record = Callable[[float, Context | None], None]
"""Records one duration in seconds, in the given Context or else the current one."""

Add = Callable[[int], None]
"""Adds to the number of running operations."""


class Recorder(Protocol):
    """What an operation asks for the places of its measurements."""

    def duration(self, attributes: Mapping[str, Value]) -> Record:
        """Return what records into the point of ``operation.duration`` with these attributes."""

    def active(self, attributes: Mapping[str, Value]) -> Add:
        """Return what adds to the point of ``operation.active`` with these attributes."""


class PortableRecorder:
    """Records by plain OpenTelemetry instruments, so under any MeterProvider."""

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter("clew", __version__)
        self._duration = meter.create_histogram(
            "operation.duration",
            unit="s",
            description="How long operations took, failed ones included.",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDS,
        )
        self._active = meter.create_up_down_counter(
            "operation.active", unit="{operation}", description="How many operations are running."
        )

    def duration(self, attributes: Mapping[str, Value]) -> Record:
        """Return what records into the point of ``operation.duration`` with these attributes."""
        record = self._duration.record

        def record_duration(seconds: float, context: Context | None) -> None:
            record(seconds, attributes, context)

        return record_duration

    def active(self, attributes: Mapping[str, Value]) -> Add:
        """Return what adds to the point of ``operation.active`` with these attributes."""
        add = self._active.add

        def add_active(amount: int) -> None:
            add(amount, attributes)

        return add_active
