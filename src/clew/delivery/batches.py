"""Spans and log records on their way: collected in a bounded queue, exported in batches within deadlines."""

from __future__ import annotations

import copy
import os
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter

from clew.delivery.destination import Destination, Kind, count_lost
from clew.delivery.exporting import (
    DeadlineExporter,
    close_exporter,
    finish_exporter_by,
    label_of,
    measure_exporter,
    restart_exporter,
)
from clew.delivery.worker import LONGEST_WAIT, Occasion, Order, Worker, deadlines
from clew.diagnostics import warn_once
from clew.interpreter import forks

if TYPE_CHECKING:
    from clew.delivery.internal_metrics import ProcessorMetrics

Item = TypeVar("Item")


class Batches(Generic[Item]):
    """A bounded queue with a worker behind it.

    `put` never blocks and never waits for an export. Where the queue is full the new item is dropped, counted, and the
    first such drop is said.

    Args:
        kind: What the items are, for messages and counts.
        exporter: A `SpanExporter` or `LogRecordExporter`.
        delay: Seconds between two exports, unless a batch is full earlier.
        timeout: Seconds that one batch may take.
        queue_size: How many items may wait.
        batch_size: How many items go in one export, at most.
        shutdown_timeout: Seconds for `shutdown` where its caller names none.
    """

    def __init__(
        self,
        kind: Kind,
        exporter: Any,
        *,
        delay: float,
        timeout: float = 30.0,
        queue_size: int = 2048,
        batch_size: int = 512,
        shutdown_timeout: float = 3.0,
        label: str | None = None,
    ) -> None:
        self.kind: Kind = kind
        self._exporter = exporter
        self.delay = delay
        self._timeout = timeout
        self._queue_size = queue_size
        self._batch_size = batch_size
        self.shutdown_timeout = shutdown_timeout
        self._destination = Destination(kind, label or label_of(exporter), self._export)
        self._measured: ProcessorMetrics | None = None
        self._fresh()

    def measure_itself(self, provider: MeterProvider) -> None:
        """Measure, with instruments of this provider, what waits and goes on, and the exporter's exports."""
        from clew.delivery.internal_metrics import ProcessorMetrics

        signal: Literal["traces", "logs"] = "traces" if self.kind == "spans" else "logs"
        self._measured = ProcessorMetrics(provider, signal, lambda: len(self._queue), self._queue_size)
        measure_exporter(self._exporter, provider)

    def _fresh(self) -> None:
        self._process = os.getpid()
        self._queue: deque[Item] = deque()
        self._in_hand = 0
        self._undelivered = 0
        self._closed = False
        self._worker = Worker(f"clew-{self.kind.replace(' ', '-')}", self.delay, self._timeout, self._work)

    def put(self, item: Item) -> None:
        """Have one item exported soon."""
        forks.notice()
        if self._worker.closing is not None:
            self._drop("already_shutdown")
            warn_once(("closed", self.kind), "%s that come after the shutdown are dropped", self.kind)
            return
        waiting = len(self._queue)
        if waiting >= self._queue_size:
            self._drop("queue_full")
            warn_once(
                ("full", self.kind),
                "%s are dropped: the queue of %d is full; they come faster than %s takes them",
                self.kind,
                self._queue_size,
                self._destination.label,
            )
            return
        self._queue.append(item)
        if not self._worker.is_at_it:
            self._worker.start()
        if waiting + 1 >= self._batch_size:
            self._worker.wake()

    def _drop(self, reason: Literal["queue_full", "already_shutdown"]) -> None:
        count_lost(self.kind, 1)
        if self._measured is not None:
            self._measured.dropped(reason)

    def begin(self, occasion: Occasion, deadline: float) -> Order:
        """Begin a flush or the last export, without waiting for it."""
        if os.getpid() != self._process:
            return Order.nothing(occasion)
        if not self._worker.started and not self._queue:
            if occasion == "flush":
                return Order.nothing(occasion)
            if self._worker.closing is None:
                self._worker.closing = Order.nothing(occasion)
        if occasion == "close":
            finish_exporter_by(self._exporter, deadline)
        return self._worker.order(occasion, deadline)

    def wait(self, order: Order, deadline: float) -> bool:
        """Wait for what was begun; True where everything was delivered in time."""
        if self._closed:
            return order.delivered  # it was waited for once, and given up then if it hangs
        delivered = self._worker.wait(order, deadline)
        if order is self._worker.closing and not self._closed:
            self._closed = True
            left = len(self._queue)
            self._queue.clear()
            if not order.done.is_set():
                self._destination.give_up()
                left += self._in_hand
            order.delivered = delivered = delivered or (not order.done.is_set() and not left)
            if left:
                count_lost(self.kind, left)
                self._undelivered += left
                order.delivered = delivered = False
            close_exporter(self._exporter, deadline)
        return delivered

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

    def flush(self, timeout: float) -> bool:
        """Export all that waits, within `timeout` seconds."""
        end, deadline = deadlines(timeout)
        return self.wait(self.begin("flush", end), deadline)

    def close(self) -> None:
        """Export all that waits, within `shutdown_timeout`, and close the exporter; again is fine."""
        end, deadline = deadlines(self.shutdown_timeout)
        self.wait(self.begin("close", end), deadline)

    def restart_in_child(self) -> None:
        """Make this usable after a fork: what the parent had waiting is the parent's, and a new connection."""
        closed = self._worker.closing
        self._fresh()
        restart_exporter(self._exporter)
        if closed is not None:
            self._worker.closing = Order.nothing("close")

    def _work(self, occasion: Occasion, deadline: float) -> bool:
        self._undelivered = 0
        least = self._batch_size if occasion == "full" else 1
        ending = occasion in ("flush", "close")
        until = len(self._queue)  # what comes meanwhile is for the next time, so that a flush has an end
        while until > 0 and len(self._queue) >= least and not self._closed:
            left = deadline - time.monotonic() if ending else min(self._timeout, LONGEST_WAIT)
            if left <= 0:
                return False
            batch = self._next_batch()
            until -= len(batch)
            self._in_hand = len(batch)
            if self._measured is not None:
                self._measured.handed_over(len(batch))
            self._undelivered += self._destination.send(batch, len(batch), left)
            self._in_hand = 0
        return self._undelivered == 0

    def _next_batch(self) -> list[Item]:
        batch: list[Item] = []
        with suppress(IndexError):  # emptied meanwhile: whoever waited has given up
            while len(batch) < self._batch_size:
                batch.append(self._queue.popleft())
        return batch

    def _export(self, batch: list[Item], timeout: float) -> Any:
        if isinstance(self._exporter, DeadlineExporter):
            return self._exporter.export_within(batch, timeout)
        return self._exporter.export(batch)


class _Processor(Generic[Item]):
    """What both processors share: the parts of their life that `deliver` asks for."""

    batches: Batches[Item]

    def begin(self, occasion: Occasion, deadline: float) -> Order:
        """Begin a flush or the last export, without waiting for it."""
        return self.batches.begin(occasion, deadline)

    def wait(self, order: Order, deadline: float) -> bool:
        """Wait for what was begun; True where everything was delivered in time."""
        return self.batches.wait(order, deadline)

    @property
    def kind(self) -> Kind:
        """What is delivered."""
        return self.batches.kind

    @property
    def undelivered(self) -> int:
        """How many items of the last flush or shutdown did not arrive."""
        return self.batches.undelivered

    @property
    def reason(self) -> str | None:
        """Why the last export failed, if it did."""
        return self.batches.reason

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export all that waits; False where not all of it was delivered in time."""
        return self.batches.flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Export all that waits and close the exporter, within the `shutdown_timeout` given."""
        self.batches.close()

    @property
    def label(self) -> str:
        """The name of the endpoint, or else of the exporter, in messages."""
        return self.batches.label

    @property
    def interval(self) -> float:
        """Seconds between two exports, unless a batch is full earlier."""
        return self.batches.delay

    def measure_itself(self, provider: MeterProvider) -> None:
        """Measure, with instruments of this provider, what waits and goes on, and the exporter's exports."""
        self.batches.measure_itself(provider)

    def restart_in_child(self) -> None:
        """Make this usable after a fork; what the parent had waiting is dropped here."""
        self.batches.restart_in_child()


class SpanBatches(_Processor[ReadableSpan], SpanProcessor):
    """A `SpanProcessor` that exports sampled spans in batches, within deadlines; arguments as in `Batches`."""

    def __init__(self, exporter: SpanExporter, *, delay: float = 5.0, **arguments: Any) -> None:
        self.batches = Batches("spans", exporter, delay=delay, **arguments)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: spans are taken when they end."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        if span.context is not None and span.context.trace_flags.sampled:
            self.batches.put(span)


class LogBatches(_Processor[ReadableLogRecord], LogRecordProcessor):
    """A `LogRecordProcessor` that exports log records in batches, within deadlines; arguments as in `Batches`."""

    def __init__(self, exporter: LogRecordExporter, *, delay: float = 1.0, **arguments: Any) -> None:
        self.batches = Batches("log records", exporter, delay=delay, **arguments)

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Take a log record; a copy without its Context waits, so that nothing of the request is kept alive."""
        record = copy.copy(log_record.log_record)
        record.context = Context()
        self.batches.put(
            ReadableLogRecord(
                log_record=record,
                resource=log_record.resource or Resource.get_empty(),
                instrumentation_scope=log_record.instrumentation_scope,
                limits=log_record.limits,
            )
        )
