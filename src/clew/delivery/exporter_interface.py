"""What is asked of an exporter beyond OpenTelemetry's interface, and what is done where it does not have that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from opentelemetry.metrics import MeterProvider

from clew.delivery.worker import in_thread
from clew.diagnostics import warn_once


@runtime_checkable
class DeadlineExporter(Protocol):
    """An exporter that keeps deadlines and survives forks, as `clew`'s own OTLP exporters do."""

    label: str
    """The endpoint, for messages."""

    def export_within(self, batch: Any, timeout: float) -> None:
        """Export within `timeout` seconds, retries included; raise `UndeliveredError` where that failed."""
        ...

    def finish_by(self, deadline: float) -> None:
        """End what is under way by the deadline (of `time.monotonic`); do not wait for an endpoint never reached."""
        ...

    def measure_itself(self, provider: MeterProvider) -> None:
        """Measure exports with instruments of this provider from now on."""
        ...

    def abandon_connection(self) -> None:
        """Use a new connection from now on, and leave the one there is as it is."""
        ...

    def restart_in_child(self) -> None:
        """Forget, after a fork, the connection that belongs to the parent."""
        ...


def label_of(exporter: object) -> str:
    """Name an exporter for messages: its endpoint, or its class."""
    return exporter.label if isinstance(exporter, DeadlineExporter) else type(exporter).__name__


def finish_exporter_by(exporter: object, deadline: float) -> None:
    """Have the exporter, if it can, finish by the deadline."""
    if isinstance(exporter, DeadlineExporter):
        exporter.finish_by(deadline)


def abandon_connection(exporter: object) -> None:
    """Have the exporter, if it can, use a new connection from now on."""
    if isinstance(exporter, DeadlineExporter):
        exporter.abandon_connection()


def restart_exporter(exporter: object) -> None:
    """Have the exporter, if it can, use a new connection in a forked child."""
    if isinstance(exporter, DeadlineExporter):
        exporter.restart_in_child()


def measure_exporter(exporter: object, provider: MeterProvider) -> None:
    """Have the exporter, if it can, measure its exports with instruments of this provider."""
    if isinstance(exporter, DeadlineExporter):
        exporter.measure_itself(provider)


def close_exporter(exporter: Any, deadline: float) -> None:
    """Shut an exporter down; one that takes longer is left behind at the deadline."""
    name = type(exporter).__name__

    def close() -> None:
        try:
            exporter.shutdown()
        except Exception as error:
            warn_once(("exporter", name), "%s did not shut down: %s: %s", name, type(error).__name__, error)

    if isinstance(exporter, DeadlineExporter):
        close()
    elif not run_until(close, deadline):
        warn_once(("exporter", name), "%s did not shut down in time", name)


def run_until(target: Callable[[], None], deadline: float) -> bool:
    """Run `target` in a thread that is left behind at the deadline, or in this one where no more can be started."""
    done = threading.Event()

    def run() -> None:
        try:
            target()
        finally:
            done.set()

    if not in_thread(run, "clew-close"):
        run()
    return done.wait(max(0.0, deadline - time.monotonic()))
