"""The OTLP exporters: one for each signal, over gRPC or HTTP; all they need is handed over as `OtlpSettings`.

OpenTelemetry's own encoders and protobuf classes make the bytes. Its exporters are not used since they take no deadline
for an export, count any answer under 400 as a success, do not read how much the endpoint rejected, log each attempt,
read environment variables that were not handed over, and over gRPC do not survive a fork.

https://opentelemetry.io/docs/specs/otlp/ (retries, partial success, answers)
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from clew.delivery.destination import UndeliveredError
from clew.diagnostics import say_once
from clew.settings import OtlpSettings
from clew.settings.otlp import GRPC

_LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one attempt.

    `reason` is why it failed, None where the endpoint took it; `retry` whether another attempt may help; `pause` the
    seconds that the endpoint asked to wait before; `body` what it answered, of the media type `media`.
    """

    reason: str | None = None
    retry: bool = False
    pause: float | None = None
    body: bytes = b""
    media: str = ""


class Transport(Protocol):
    """A connection to an endpoint. Used by one thread, closed by another."""

    def send(self, payload: bytes, timeout: float) -> Answer:
        """Make one attempt within `timeout` seconds."""
        ...

    def close(self) -> None:
        """Give the connection up."""
        ...


class _Road:
    """The way of one signal's bytes to its endpoint: attempts, pauses between them, the answer's meaning."""

    def __init__(self, settings: OtlpSettings) -> None:
        self.settings = settings
        self._transport: Transport | None = None
        self._abandoned: list[Transport] = []
        self._worked = False
        self._closed = False
        self._closing = threading.Event()
        self._end = math.inf

    def deliver(self, payload: bytes, response: Any, number_rejected: Callable[[Any], int], timeout: float) -> None:
        """Send one export with its retries; raise `UndeliveredError` where it did not arrive whole."""
        deadline = time.monotonic() + min(timeout, self.settings.timeout)
        attempt = 0
        while True:
            if self._closed:
                raise UndeliveredError("it was shut down")
            left = min(deadline, self._end) - time.monotonic()
            if left <= 0:
                raise UndeliveredError("no time was left")
            if self._transport is None:
                self._transport = _connect(self.settings)
            answer = self._transport.send(payload, left)
            if answer.reason is None:
                self._worked = True
                self._read(answer, response, number_rejected)
                return
            if not answer.retry or (self._closing.is_set() and not self._worked):
                raise UndeliveredError(answer.reason)
            pause = answer.pause if answer.pause is not None else self._pause(attempt)
            if time.monotonic() + pause >= min(deadline, self._end):
                raise UndeliveredError(answer.reason)
            attempt += 1
            if self._closing.is_set():
                time.sleep(pause)
            else:
                self._closing.wait(pause)

    def _pause(self, attempt: int) -> float:
        if attempt == 0 and self._worked:
            return 0.0  # a connection that was kept open and has been closed at the other end
        base = 0.1 if self._closing.is_set() else 1.0
        return float(min(base * 2.0**attempt, _LONGEST_PAUSE) * random.uniform(0.8, 1.2))

    def _read(self, answer: Answer, response: Any, number_rejected: Callable[[Any], int]) -> None:
        rejected, reason = _understand(answer, response, number_rejected)
        if rejected > 0:
            raise UndeliveredError(reason or "it gave no reason", rejected)
        if reason:
            say_once(
                ("told", self.settings.label, reason), "%s took everything, and says: %r", self.settings.label, reason
            )

    def hurry(self, deadline: float) -> None:
        self._end = min(self._end, deadline)
        self._closing.set()

    def restart_in_child(self) -> None:
        if self._transport is not None:
            self._abandoned.append(self._transport)  # not closed, not collected: both would touch the parent's threads
            self._transport = None
        self._closing = threading.Event()
        self._end = math.inf

    def close(self) -> None:
        self._closed = True
        self._closing.set()
        if self._transport is not None:
            self._transport.close()


def _connect(settings: OtlpSettings) -> Transport:
    """Import what the protocol needs and connect; nobody pays for the other protocol."""
    if settings.protocol == GRPC:
        from clew.exporters.grpc import GrpcTransport

        return GrpcTransport(settings)
    from clew.exporters.http import HttpTransport

    return HttpTransport(settings)


def _understand(answer: Answer, response: Any, number_rejected: Callable[[Any], int]) -> tuple[int, str]:
    """Return how many items the endpoint says it has rejected, and what it says about the export."""
    if not answer.body:
        return 0, ""
    if "json" in answer.media:  # some backends answer so whatever they were sent in
        try:
            said = json.loads(answer.body)
            partial: Mapping[str, Any] = said.get("partialSuccess") or {}
            rejected = next((int(value) for name, value in partial.items() if name.startswith("rejected")), 0)
            reason = str(partial.get("errorMessage", ""))
        except (ValueError, TypeError, AttributeError):
            raise UndeliveredError(_garbage(answer)) from None
    else:
        try:
            response.ParseFromString(answer.body)
        except Exception:  # protobuf's DecodeError, which differs between its implementations
            raise UndeliveredError(_garbage(answer)) from None
        rejected = number_rejected(response.partial_success)
        reason = response.partial_success.error_message
    return rejected, reason


def _garbage(answer: Answer) -> str:
    return f"it answered with something that is not OTLP: {excerpt(answer.body)}"


def excerpt(body: bytes) -> str:
    """Return the beginning of an answer for a message."""
    text = body[:200].decode("utf-8", "replace")
    return repr(text if len(body) <= 200 else f"{text}…")


class _OtlpExporter:
    """What the three exporters share beyond OpenTelemetry's interface."""

    def __init__(self, settings: OtlpSettings) -> None:
        self.label = settings.label
        self._road = _Road(settings)

    def hurry(self, deadline: float) -> None:
        """End what is under way by the deadline (of `time.monotonic`), and wait for no endpoint that never worked."""
        self._road.hurry(deadline)

    def restart_in_child(self) -> None:
        """Forget, after a fork, the connection that belongs to the parent."""
        self._road.restart_in_child()

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
        """Close the connection; nothing is buffered here."""
        self._road.close()

    def force_flush(self, timeout_millis: float = 0) -> bool:
        """Nothing is buffered here."""
        return True


class OtlpMetricExporter(_OtlpExporter, MetricExporter):
    """Sends metrics over OTLP; `preferred_temporality` and `preferred_aggregation` as in `MetricExporter`."""

    def __init__(
        self,
        settings: OtlpSettings,
        preferred_temporality: dict[type, Any] | None = None,
        preferred_aggregation: dict[type, Any] | None = None,
    ) -> None:
        _OtlpExporter.__init__(self, settings)
        MetricExporter.__init__(self, preferred_temporality, preferred_aggregation)

    def export_within(self, batch: MetricsData, timeout: float) -> None:
        """Export within `timeout` seconds, retries included; raise `UndeliveredError` where that failed."""
        from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

        def rejected(partial: Any) -> int:
            return int(partial.rejected_data_points)

        payload = encode_metrics(batch).SerializeToString()
        self._road.deliver(payload, ExportMetricsServiceResponse(), rejected, timeout)

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Export; raise `UndeliveredError` where that failed."""
        self.export_within(metrics_data, timeout_millis / 1000)
        return MetricExportResult.SUCCESS


class OtlpSpanExporter(_OtlpExporter, SpanExporter):
    """Sends spans over OTLP."""

    def export_within(self, batch: Sequence[ReadableSpan], timeout: float) -> None:
        """Export within `timeout` seconds, retries included; raise `UndeliveredError` where that failed."""
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

        def rejected(partial: Any) -> int:
            return int(partial.rejected_spans)

        payload = encode_spans(batch).SerializeToString()
        self._road.deliver(payload, ExportTraceServiceResponse(), rejected, timeout)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export; raise `UndeliveredError` where that failed."""
        self.export_within(spans, math.inf)
        return SpanExportResult.SUCCESS


class OtlpLogExporter(_OtlpExporter, LogRecordExporter):
    """Sends log records over OTLP."""

    def export_within(self, batch: Sequence[ReadableLogRecord], timeout: float) -> None:
        """Export within `timeout` seconds, retries included; raise `UndeliveredError` where that failed."""
        from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

        def rejected(partial: Any) -> int:
            return int(partial.rejected_log_records)

        payload = encode_logs(batch).SerializeToString()
        self._road.deliver(payload, ExportLogsServiceResponse(), rejected, timeout)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Export; raise `UndeliveredError` where that failed."""
        self.export_within(batch, math.inf)
        return LogRecordExportResult.SUCCESS
