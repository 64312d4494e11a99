"""The metric reader that collects at an interval and exports within deadlines."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from opentelemetry.context import get_current
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExporter, MetricReader, MetricsData

from clew.delivery.destination import Destination, Kind, LossDetails, count_lost
from clew.delivery.exporting import (
    DeadlineExporter,
    close_exporter,
    finish_exporter_by,
    label_of,
    measure_exporter,
    restart_exporter,
)
from clew.delivery.worker import Occasion, Order, Worker, deadlines, delivery_context
from clew.delivery.zeros import ZeroPoints, add_zeros
from clew.diagnostics import warn_once
from clew.interpreter.current_context import make_current


def count_points(data: MetricsData) -> int:
    """Count the data points of a collection."""
    return sum(
        len(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


def details_of(data: MetricsData) -> LossDetails:
    """Return what is lost for good of a collection that is not delivered."""
    repeated = exemplars = 0
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                points: Sequence[Any] = metric.data.data_points
                exemplars += sum(len(point.exemplars) for point in points)
                if getattr(metric.data, "aggregation_temporality", None) is not AggregationTemporality.DELTA:
                    repeated += len(points)
    return LossDetails(repeated, exemplars)


class PeriodicReader(MetricReader):
    """Collects and exports every `interval` seconds in a thread of its own; one export at a time.

    The thread starts with `start` or the first flush, not before, so a process that measures nothing pays nothing at
    its end: closing a reader that was never started exports nothing.

    Args:
        exporter: Any `MetricExporter`; its preferred temporality and aggregation are taken over.
        interval: Seconds between the starts of two exports.
        timeout: Seconds that one collection with its export may take.
        shutdown_timeout: Seconds for `shutdown` where its caller names none.
        label: The name of the endpoint in messages.
        zero_points: Whether series begin with a point of zero; only for an exporter that settles them (`Zero`).
    """

    kind: Kind = "metric points"

    def __init__(
        self,
        exporter: MetricExporter,
        *,
        interval: float = 60.0,
        timeout: float = 30.0,
        shutdown_timeout: float = 3.0,
        label: str | None = None,
        zero_points: bool = False,
    ) -> None:
        super().__init__(
            preferred_temporality=getattr(exporter, "_preferred_temporality", None),
            preferred_aggregation=getattr(exporter, "_preferred_aggregation", None),
        )
        self._exporter = exporter
        self._interval = interval
        self._timeout = timeout
        self._shutdown_timeout = shutdown_timeout
        self._zero_points = zero_points
        self._destination = Destination(self.kind, label or label_of(exporter), self._export)
        self._fresh()

    def _fresh(self) -> None:
        self._process = os.getpid()
        self._sending = threading.Lock()
        self._in_hand = 0
        self._undelivered = 0
        self._is_last = False
        self._trouble: str | None = None
        self._closed = False
        self._retired = False
        self._zeros = ZeroPoints() if self._zero_points else None
        self._worker = Worker("clew-metrics", self._interval, self._timeout, self._work)

    def measure_itself(self, provider: MeterProvider) -> None:
        """Have the exporter measure its exports with instruments of this provider, if it knows how."""
        measure_exporter(self._exporter, provider)

    def start(self) -> None:
        """Begin to collect at the interval; again is fine and cheap."""
        if self._zeros is not None and not self._worker.started:
            self._zeros.begin()
        self._worker.start()

    def restart_in_child(self) -> None:
        """Make this reader usable after a fork: new locks, no thread yet, a connection of its own."""
        closing = self._worker.closing
        self._fresh()
        restart_exporter(self._exporter)
        if closing is not None:
            self._worker.closing = Order.nothing("close")

    def renewed(self) -> PeriodicReader:
        """Return another reader like this one, not started, for a provider that has to begin from zero in a child.

        It has this one's exporter, with a new connection; this one exports nothing from now on, not at its end either.
        """
        restart_exporter(self._exporter)
        self._retired = True
        return PeriodicReader(
            self._exporter,
            interval=self._interval,
            timeout=self._timeout,
            shutdown_timeout=self._shutdown_timeout,
            label=self._destination.label,
            zero_points=self._zero_points,
        )

    def begin(self, occasion: Occasion, deadline: float) -> Order:
        """Begin a flush or the last export, without waiting for it."""
        if self._retired or os.getpid() != self._process:
            return Order.nothing(occasion)
        if occasion == "close":
            if not self._worker.wanted and self._worker.closing is None:
                self._worker.closing = Order.nothing(occasion)
            finish_exporter_by(self._exporter, deadline)
        return self._worker.order(occasion, deadline)

    def wait(self, order: Order, deadline: float) -> bool:
        """Wait for what was begun; True where everything was delivered in time."""
        if self._closed:
            return order.delivered  # it was waited for once, and given up then if it hangs
        delivered = self._worker.wait(order, deadline)
        if order is self._worker.closing and not self._closed:
            self._closed = True
            if not order.done.is_set():
                self._destination.give_up()
                self._undelivered = self._in_hand
                count_lost(self.kind, self._undelivered)
            close_exporter(self._exporter, deadline)
        return delivered

    @property
    def label(self) -> str:
        """The name of the endpoint, or else of the exporter, in messages."""
        return self._destination.label

    @property
    def interval(self) -> float:
        """Seconds between the starts of two exports."""
        return self._interval

    @property
    def undelivered(self) -> int:
        """How many points of the last delivery did not arrive."""
        return self._undelivered

    @property
    def reason(self) -> str | None:
        """Why the last collection or export failed, if it did."""
        return self._trouble or self._destination.reason

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Collect and export now; False where not all of it was delivered in time."""
        end, deadline = deadlines(timeout_millis / 1000)
        return self.wait(self.begin("flush", end), deadline)

    def shutdown(self, timeout_millis: float | None = None, **kwargs: Any) -> None:
        """Collect and export a last time and close the exporter, within `shutdown_timeout` unless told otherwise."""
        end, deadline = deadlines(self._shutdown_timeout if timeout_millis is None else timeout_millis / 1000)
        self.wait(self.begin("close", end), deadline)

    def _work(self, occasion: Occasion, deadline: float) -> bool:
        self._undelivered = 0
        self._is_last = occasion == "close"
        self._trouble = None
        began = time.time_ns()
        try:
            self.collect(timeout_millis=max(1.0, (deadline - time.monotonic()) * 1000))
        except Exception as error:
            self._trouble = f"not collected: {type(error).__name__}: {error}"
            warn_once(("collect", type(error)), "metrics were %s", self._trouble)
            return False
        if self._zeros is not None:
            self._zeros.collected(began)
        return self._undelivered == 0

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        number = count_points(metrics_data)
        if not number:
            return
        before = get_current()
        try:
            make_current(delivery_context())
            with self._sending:
                batch = metrics_data if self._zeros is None else add_zeros(self._zeros, metrics_data)
                self._in_hand = number
                self._undelivered = self._destination.send(
                    batch, number, timeout_millis / 1000, lambda _: details_of(metrics_data), is_last=self._is_last
                )
                self._in_hand = 0
        finally:
            make_current(before)

    def _export(self, data: MetricsData, timeout: float) -> Any:
        if isinstance(self._exporter, DeadlineExporter):
            return self._exporter.export_within(data, timeout)
        exporter: Any = self._exporter
        return exporter.export(data, timeout_millis=timeout * 1000)
