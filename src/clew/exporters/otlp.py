"""The OTLP exporters: one for each signal, over gRPC or HTTP, as `OtlpSettings` describe it.

OpenTelemetry's own encoders and protobuf classes make the bytes. Its exporters are not used since they take no deadline
for an export, count any answer under 400 as a success, do not read how much the endpoint rejected, log each attempt,
read environment variables that were not handed over, and over gRPC do not survive a fork.

https://opentelemetry.io/docs/specs/otlp/ (retries, partial success, answers)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from clew.delivery.destination import LossDetails, UndeliveredError
from clew.delivery.zero_points import MetricsDataWithZeros
from clew.exporters.attempts import Delivery, PendingRequest
from clew.settings import OtlpSettings
from clew.settings.otlp import GRPC

if TYPE_CHECKING:
    from clew.delivery.internal_metrics import ExporterMetrics
    from clew.exporters.encoding import Encoded  # not imported here, since protobuf is for the first export


class _OtlpExporter:
    """What the three exporters have in common beyond OpenTelemetry's interface."""

    def __init__(self, settings: OtlpSettings) -> None:
        self.label = settings.label
        self._settings = settings
        self._delivery = Delivery(settings, self._response, self._rejected)
        self._operations: ExporterMetrics | None = None

    @staticmethod
    def _response() -> Any:
        """Make the message that the endpoint answers with."""
        raise NotImplementedError

    @staticmethod
    def _rejected(partial: Any) -> int:
        """Read how many items the endpoint did not take, by its partial success."""
        raise NotImplementedError

    def _deliver(
        self,
        batch: Any,
        timeout: float,
        encode: Callable[[Any], Encoded],
        details_of: Callable[[PendingRequest], LossDetails],
    ) -> None:
        """Encode a batch and send it within `timeout` seconds; raise `UndeliveredError` where not all arrived."""
        from clew.exporters.splitting import ExportRequest, split

        end = time.monotonic() + timeout
        encoded = encode(batch)
        requests = split(encoded.message, self._settings.max_export_bytes)
        zeros = [request.zeros for request in requests]
        items = sum(request.items for request in requests) + encoded.left_out
        measured = nullcontext() if self._operations is None else self._operations.export(items)
        with measured as outcome:
            failed = self._delivery.deliver([each for each in requests if each.items], end - time.monotonic())
            if encoded.left_out:
                unsent = ExportRequest(None, encoded.left_out)
                failed.append(PendingRequest(unsent, missing=unsent.items, reason=encoded.reason, refused=True))
            error = undelivered(failed, len(requests), items, details_of) if failed else None
            if outcome is not None:
                outcome.error = error
        if isinstance(batch, MetricsDataWithZeros):
            batch.settle([(request.taken, number) for request, number in zip(requests, zeros, strict=True)])
        if error is not None:
            raise error

    def measure_itself(self, provider: MeterProvider) -> None:
        """Measure exports with instruments of this provider from now on."""
        from clew.delivery.internal_metrics import ExporterMetrics

        settings = self._settings
        is_grpc = settings.protocol == GRPC
        self._operations = ExporterMetrics(provider, settings.signal, grpc=is_grpc, endpoint=settings.endpoint)

    def finish_by(self, deadline: float) -> None:
        """End what is under way by the deadline (of `time.monotonic`); do not wait for an endpoint never reached."""
        self._delivery.finish_by(deadline)

    def abandon_connection(self) -> None:
        """Use a new connection from now on, and leave the one there is as it is."""
        self._delivery.abandon_connection()

    def restart_in_child(self) -> None:
        """Forget, after a fork, the connection that belongs to the parent."""
        self._delivery.restart_in_child()

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
        """Close the connection; nothing is buffered here."""
        self._delivery.close()

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

    @staticmethod
    def _response() -> Any:
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

        return ExportMetricsServiceResponse()

    @staticmethod
    def _rejected(partial: Any) -> int:
        return int(partial.rejected_data_points)

    def export_within(self, batch: MetricsData, timeout: float) -> None:
        """Export within `timeout` seconds, retries included; raise `UndeliveredError` where that failed."""
        from clew.exporters.encoding import encoded_metrics

        self._deliver(batch, timeout, encoded_metrics, _details_of_points)

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Export; raise `UndeliveredError` where that failed."""
        self.export_within(metrics_data, timeout_millis / 1000)
        return MetricExportResult.SUCCESS


class OtlpSpanExporter(_OtlpExporter, SpanExporter):
    """Sends spans over OTLP."""

    @staticmethod
    def _response() -> Any:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

        return ExportTraceServiceResponse()

    @staticmethod
    def _rejected(partial: Any) -> int:
        return int(partial.rejected_spans)

    def export_within(self, batch: Sequence[ReadableSpan], timeout: float) -> None:
        """Export within `timeout` seconds, retries included; raise `UndeliveredError` where that failed."""
        from clew.exporters.encoding import encoded_spans

        self._deliver(batch, timeout, encoded_spans, _no_details)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export; raise `UndeliveredError` where that failed."""
        self.export_within(spans, math.inf)
        return SpanExportResult.SUCCESS


class OtlpLogExporter(_OtlpExporter, LogRecordExporter):
    """Sends log records over OTLP."""

    @staticmethod
    def _response() -> Any:
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

        return ExportLogsServiceResponse()

    @staticmethod
    def _rejected(partial: Any) -> int:
        return int(partial.rejected_log_records)

    def export_within(self, batch: Sequence[ReadableLogRecord], timeout: float) -> None:
        """Export within `timeout` seconds, retries included; raise `UndeliveredError` where that failed."""
        from clew.exporters.encoding import encoded_logs

        self._deliver(batch, timeout, encoded_logs, _no_details)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Export; raise `UndeliveredError` where that failed."""
        self.export_within(batch, math.inf)
        return LogRecordExportResult.SUCCESS


def undelivered(
    failed: Sequence[PendingRequest], requests: int, items: int, details_of: Callable[[PendingRequest], LossDetails]
) -> UndeliveredError:
    """Return the error for an export of which something did not arrive."""
    reason, missing = failed[0].reason, sum(pending.missing for pending in failed)
    is_refused = all(pending.refused for pending in failed)
    if requests > 1 and not is_refused:
        reason = f"{missing} of {items}, in {len(failed)} of {requests} requests: {reason}"
    details = [details_of(pending) for pending in failed]
    return UndeliveredError(
        reason,
        missing,
        refused=is_refused,
        details=LossDetails(sum(each.repeated for each in details), sum(each.exemplars for each in details)),
    )


def _no_details(pending: PendingRequest) -> LossDetails:
    return LossDetails()


def _details_of_points(pending: PendingRequest) -> LossDetails:
    if pending.missing < pending.request.items:
        return LossDetails()  # which of them the endpoint did not take is not known
    from clew.exporters.splitting import count_exemplars, count_once

    message = pending.request.message
    if message is None:
        return LossDetails()
    repeated = 0 if pending.refused else pending.missing - count_once(message)
    return LossDetails(repeated, count_exemplars(message))
