"""The metric reader that collects at an interval and exports within deadlines."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from opentelemetry.context import get_current
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExporter, MetricReader, MetricsData

from clew.delivery.background_export import BackgroundExport
from clew.delivery.destination import LossDetails, count_lost
from clew.delivery.exporter_interface import restart_exporter
from clew.delivery.worker import Order, Trigger, delivery_context
from clew.delivery.zero_points import ZeroPointTracker, add_zeros
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


class PeriodicReader(BackgroundExport, MetricReader):
    """Collects and exports every `interval` seconds in a thread of its own; one export at a time.

    The thread starts with `start` or the first flush, not before, so that a process that measures nothing loses no
    time at its end: a reader that was never started exports nothing when it is closed.

    Args:
        exporter: Any `MetricExporter`, whose preferred temporality and aggregation the reader has too.
        interval: Seconds between the starts of two exports.
        timeout: Seconds that one collection with its export may take.
        shutdown_timeout: Seconds for `shutdown` where its caller names none.
        label: The name of the endpoint in messages.
        zero_points: Whether series begin with a point of zero; only for an exporter that settles them (`ZeroPoint`).
    """

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
        MetricReader.__init__(
            self,
            preferred_temporality=getattr(exporter, "_preferred_temporality", None),
            preferred_aggregation=getattr(exporter, "_preferred_aggregation", None),
        )
        self._zero_points = zero_points
        BackgroundExport.__init__(
            self,
            "metric points",
            exporter,
            interval=interval,
            timeout=timeout,
            shutdown_timeout=shutdown_timeout,
            label=label,
        )

    def _reset(self) -> None:
        super()._reset()
        self._sending = threading.Lock()
        self._is_last = False
        self._collection_error: str | None = None
        self._is_replaced = False
        self._zeros = ZeroPointTracker() if self._zero_points else None

    @property
    def reason(self) -> str | None:
        """Why the last collection or export failed, if it did."""
        return self._collection_error or super().reason

    def start(self) -> None:
        """Begin to collect at the interval; may be called again, and is cheap then."""
        if self._zeros is not None and not self._worker.started:
            self._zeros.begin()
        self._worker.start()

    def renewed(self) -> PeriodicReader:
        """Return another reader like this one, not started, for a provider that begins from zero in a forked child.

        It has this one's exporter, with a new connection. This one exports nothing from now on, not even at its end.
        """
        restart_exporter(self._exporter)
        self._is_replaced = True
        return PeriodicReader(
            self._exporter,
            interval=self.interval,
            timeout=self._timeout,
            shutdown_timeout=self._shutdown_timeout,
            label=self.label,
            zero_points=self._zero_points,
        )

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Collect and export now; return False where not all of it was delivered in time."""
        return self._run("flush", timeout_millis / 1000)

    def shutdown(self, timeout_millis: float | None = None, **kwargs: Any) -> None:
        """Collect and export for the last time, and close the exporter, by default within `shutdown_timeout`."""
        self._run("close", self._shutdown_timeout if timeout_millis is None else timeout_millis / 1000)

    def _has_nothing_for(self, trigger: Trigger) -> bool:
        return trigger == "close" and not self._worker.wanted

    def begin(self, trigger: Trigger, deadline: float) -> Order:
        """Begin a flush or the last export, without waiting for it."""
        return Order.nothing(trigger) if self._is_replaced else super().begin(trigger, deadline)

    def _count_rest(self, order: Order, *, delivered: bool) -> bool:
        if not order.done.is_set():
            self._undelivered = self._in_hand
            count_lost(self.kind, self._undelivered)
        return delivered

    def _work(self, trigger: Trigger, deadline: float) -> bool:
        self._undelivered = 0
        self._is_last = trigger == "close"
        self._collection_error = None
        began = time.time_ns()
        try:
            self.collect(timeout_millis=max(1.0, (deadline - time.monotonic()) * 1000))
        except Exception as error:
            self._collection_error = f"not collected: {type(error).__name__}: {error}"
            warn_once(("collect", type(error)), "metrics were %s", self._collection_error)
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

    def _export_without_deadline(self, batch: MetricsData, timeout: float) -> Any:
        return self._exporter.export(batch, timeout_millis=timeout * 1000)
