"""The processors of spans and log records: a bounded queue, exported in batches within deadlines."""

from __future__ import annotations

import copy
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

from clew.delivery.background_export import BackgroundExport
from clew.delivery.destination import Kind, count_lost
from clew.delivery.worker import LONGEST_WAIT, Order, Trigger
from clew.diagnostics import warn_once
from clew.interpreter import forks

if TYPE_CHECKING:
    from clew.delivery.internal_metrics import ProcessorMetrics

Item = TypeVar("Item")


class BatchProcessor(BackgroundExport, Generic[Item]):
    """A bounded queue whose items are exported in batches.

    `put` never blocks and never waits for an export. Where the queue is full the new item is dropped and counted, and
    the first such drop is logged.

    Args:
        kind: What the items are, for messages and counts.
        exporter: A `SpanExporter` or `LogRecordExporter`.
        delay: Seconds between two exports, unless a batch is full earlier.
        timeout: Seconds that the export of one batch may take.
        queue_size: How many items may wait.
        batch_size: How many items go in one export, at most.
        shutdown_timeout: Seconds for `shutdown`.
        label: The name of the endpoint in messages.
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
        self._queue_size = queue_size
        self._batch_size = batch_size
        self._metrics: ProcessorMetrics | None = None
        super().__init__(
            kind, exporter, interval=delay, timeout=timeout, shutdown_timeout=shutdown_timeout, label=label
        )

    def _reset(self) -> None:
        super()._reset()
        self._queue: deque[Item] = deque()

    def measure_itself(self, provider: MeterProvider) -> None:
        """Measure, with instruments of this provider, the queue and the exporter's exports."""
        from clew.delivery.internal_metrics import ProcessorMetrics

        signal: Literal["traces", "logs"] = "traces" if self.kind == "spans" else "logs"
        self._metrics = ProcessorMetrics(provider, signal, lambda: len(self._queue), self._queue_size)
        super().measure_itself(provider)

    def put(self, item: Item) -> None:
        """Queue an item for the next export."""
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
                self.label,
            )
            return
        self._queue.append(item)
        if not self._worker.is_running:
            self._worker.start()
        if waiting + 1 >= self._batch_size:
            self._worker.wake()

    def _drop(self, reason: Literal["queue_full", "already_shutdown"]) -> None:
        count_lost(self.kind, 1)
        if self._metrics is not None:
            self._metrics.dropped(reason)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export all that waits; return False where not all of it was delivered in time."""
        return self._run("flush", timeout_millis / 1000)

    def shutdown(self) -> None:
        """Export all that waits and close the exporter, within `shutdown_timeout`; may be called again."""
        self._run("close", self._shutdown_timeout)

    def _has_nothing_for(self, trigger: Trigger) -> bool:
        return not self._worker.started and not self._queue

    def _count_rest(self, order: Order, *, delivered: bool) -> bool:
        left = len(self._queue)
        self._queue.clear()
        is_done = order.done.is_set()
        if not is_done:
            left += self._in_hand
        order.delivered = not left and (delivered or not is_done)
        count_lost(self.kind, left)
        self._undelivered += left
        return order.delivered

    def _work(self, trigger: Trigger, deadline: float) -> bool:
        self._undelivered = 0
        least = self._batch_size if trigger == "full" else 1
        is_ordered = trigger in ("flush", "close")
        until = len(self._queue)  # what comes meanwhile is for the next time, so that a flush has an end
        while until > 0 and len(self._queue) >= least and not self._closed:
            left = deadline - time.monotonic() if is_ordered else min(self._timeout, LONGEST_WAIT)
            if left <= 0:
                return False
            batch = self._next_batch()
            until -= len(batch)
            self._in_hand = len(batch)
            if self._metrics is not None:
                self._metrics.handed_over(len(batch))
            self._undelivered += self._destination.send(batch, len(batch), left)
            self._in_hand = 0
        return self._undelivered == 0

    def _next_batch(self) -> list[Item]:
        batch: list[Item] = []
        with suppress(IndexError):  # emptied meanwhile, at the end of a shutdown that has run out of time
            while len(batch) < self._batch_size:
                batch.append(self._queue.popleft())
        return batch


class SpanBatchProcessor(BatchProcessor[ReadableSpan], SpanProcessor):
    """A `SpanProcessor` that exports sampled spans; further arguments as in `BatchProcessor`."""

    def __init__(self, exporter: SpanExporter, *, delay: float = 5.0, **arguments: Any) -> None:
        super().__init__("spans", exporter, delay=delay, **arguments)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: spans are exported when they have ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that has ended."""
        if span.context is not None and span.context.trace_flags.sampled:
            self.put(span)


class LogBatchProcessor(BatchProcessor[ReadableLogRecord], LogRecordProcessor):
    """A `LogRecordProcessor` that exports log records; further arguments as in `BatchProcessor`."""

    def __init__(self, exporter: LogRecordExporter, *, delay: float = 1.0, **arguments: Any) -> None:
        super().__init__("log records", exporter, delay=delay, **arguments)

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Queue a copy of a log record without its Context, so that nothing of the request is kept alive."""
        record = copy.copy(log_record.log_record)
        record.context = Context()
        self.put(
            ReadableLogRecord(
                log_record=record,
                resource=log_record.resource or Resource.get_empty(),
                instrumentation_scope=log_record.instrumentation_scope,
                limits=log_record.limits,
            )
        )
