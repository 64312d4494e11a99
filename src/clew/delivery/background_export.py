"""Exports in a thread of their own: what the metric reader and the batch processors have in common."""

from __future__ import annotations

import os
from typing import Any

from opentelemetry.metrics import MeterProvider

from clew.delivery.destination import Destination, Kind
from clew.delivery.exporter_interface import (
    DeadlineExporter,
    abandon_connection,
    close_exporter,
    finish_exporter_by,
    label_of,
    measure_exporter,
    restart_exporter,
)
from clew.delivery.worker import Order, Trigger, Worker, deadlines

_THREAD_NAMES: dict[Kind, str] = {
    "metric points": "clew-metrics",
    "spans": "clew-spans",
    "log records": "clew-log-records",
}


class BackgroundExport:
    """An exporter with a worker thread.

    Args:
        kind: What is exported, for messages and counts.
        exporter: An exporter of OpenTelemetry.
        interval: Seconds between the starts of two exports.
        timeout: Seconds that one export may take.
        shutdown_timeout: Seconds for the last export where the caller names none.
        label: The name of the endpoint in messages; by default that of the exporter.
    """

    def __init__(
        self, kind: Kind, exporter: Any, *, interval: float, timeout: float, shutdown_timeout: float, label: str | None
    ) -> None:
        self.kind: Kind = kind
        self.interval = interval
        """Seconds between the starts of two exports."""
        self._exporter = exporter
        self._timeout = timeout
        self._shutdown_timeout = shutdown_timeout
        self._destination = Destination(kind, label or label_of(exporter), self._export)
        self._reset()

    def _reset(self) -> None:
        """Set all that begins anew in a forked child."""
        self._process = os.getpid()
        self._in_hand = 0
        self._undelivered = 0
        self._closed = False
        self._worker = Worker(
            _THREAD_NAMES[self.kind],
            self.interval,
            self._timeout,
            self._work,
            lambda: abandon_connection(self._exporter),  # a socket of gevent belongs to the thread that has opened it
        )

    def _work(self, trigger: Trigger, deadline: float) -> bool:
        """Export what there is; return whether all of it was delivered."""
        raise NotImplementedError

    def _has_nothing_for(self, trigger: Trigger) -> bool:
        """Tell whether there has been nothing that a flush or the last export would have to deliver."""
        raise NotImplementedError

    def _count_rest(self, order: Order, *, delivered: bool) -> bool:
        """Count what the last export has left; return whether everything was delivered."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """The name of the endpoint, or else of the exporter, in messages."""
        return self._destination.label

    @property
    def undelivered(self) -> int:
        """How many items of the last flush or shutdown did not arrive."""
        return self._undelivered

    @property
    def reason(self) -> str | None:
        """Why the last export failed, if it did."""
        return self._destination.reason

    def measure_itself(self, provider: MeterProvider) -> None:
        """Have the exporter, if it can, measure its exports with instruments of this provider."""
        measure_exporter(self._exporter, provider)

    def begin(self, trigger: Trigger, deadline: float) -> Order:
        """Begin a flush or the last export, without waiting for it."""
        if os.getpid() != self._process:
            return Order.nothing(trigger)
        if self._has_nothing_for(trigger):
            if trigger == "flush":
                return Order.nothing(trigger)
            if self._worker.closing is None:
                self._worker.closing = Order.nothing(trigger)
        if trigger == "close":
            finish_exporter_by(self._exporter, deadline)
        return self._worker.order(trigger, deadline)

    def wait(self, order: Order, deadline: float) -> bool:
        """Wait for what was begun; return whether everything was delivered in time."""
        if self._closed:
            return order.delivered  # it was waited for once, and abandoned then if it took too long
        delivered = self._worker.wait(order, deadline)
        if order is self._worker.closing and not self._closed:
            self._closed = True
            if not order.done.is_set():
                self._destination.give_up()
            delivered = self._count_rest(order, delivered=delivered)
            close_exporter(self._exporter, deadline)
        return delivered

    def restart_in_child(self) -> None:
        """Begin anew after a fork: new locks, no thread yet, a connection of its own, nothing of the parent's."""
        closing = self._worker.closing
        self._reset()
        restart_exporter(self._exporter)
        if closing is not None:
            self._worker.closing = Order.nothing("close")

    def _run(self, trigger: Trigger, timeout: float) -> bool:
        """Flush, or export for the last time, within `timeout` seconds; return whether everything was delivered."""
        end, deadline = deadlines(timeout)
        return self.wait(self.begin(trigger, end), deadline)

    def _export(self, batch: Any, timeout: float) -> Any:
        if isinstance(self._exporter, DeadlineExporter):
            return self._exporter.export_within(batch, timeout)
        return self._export_without_deadline(batch, timeout)

    def _export_without_deadline(self, batch: Any, timeout: float) -> Any:
        """Export by the interface of OpenTelemetry's exporters."""
        return self._exporter.export(batch)
