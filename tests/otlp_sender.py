"""Senders of OTLP for tests: a program measured with the OpenTelemetry SDK alone, and messages made by hand."""

from __future__ import annotations

import math
import ssl
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import grpc
import httpx
from google.protobuf.message import Message
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetricExporter
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource
from real_parts import Collector

Protocol = Literal["grpc", "http"]


@dataclass(frozen=True)
class Recorded:
    """One measurement that was recorded, as it should be found again."""

    request_id: str
    trace_id: str
    span_id: str
    seconds: float


class Sender:
    """A program that records `operation.duration` and `orders`, and puts the request ID on their exemplars by a View.

    It exports only when asked to (`export`), to the Collector given, over gRPC or HTTP.
    """

    def __init__(
        self,
        protocol: Protocol,
        collector: Collector,
        *,
        service: str,
        instance: str,
        resource: Mapping[str, str] | None = None,
        delta: bool = False,
    ) -> None:
        temporality = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
        preferred = {Counter: temporality, Histogram: temporality}
        if protocol == "grpc":
            exporter: GrpcMetricExporter | HttpMetricExporter = GrpcMetricExporter(
                endpoint=collector.grpc_endpoint, insecure=True, preferred_temporality=preferred
            )
        else:
            exporter = HttpMetricExporter(
                endpoint=f"{collector.http_endpoint}/v1/metrics", preferred_temporality=preferred
            )
        self._provider = MeterProvider(
            [PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)],
            resource=Resource({"service.name": service, "service.instance.id": instance, **(resource or {})}),
            views=[View(instrument_name="*", attribute_keys={"operation.name"})],
            exemplar_filter=AlwaysOnExemplarFilter(),
            shutdown_on_exit=False,
        )
        meter = self._provider.get_meter("otlp_sender")
        self._duration = meter.create_histogram(
            "operation.duration", unit="s", explicit_bucket_boundaries_advisory=[0.005, 0.05, 0.5, 5]
        )
        self._orders = meter.create_counter("orders", unit="{order}")
        self._recorded = 0
        self._service = service

    def record(self, request_id: str, seconds: float, *, operation: str = "checkout", span: bool = True) -> Recorded:
        """One measured operation and one order, inside a sampled span by default."""
        self._recorded += 1
        trace_id, span_id = hash((self._service, request_id)) & (2**128 - 1) | 1, self._recorded
        inside = context.get_current()
        if span:
            flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
            current = trace.NonRecordingSpan(trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags))
            inside = trace.set_span_in_context(current, inside)
        attributes = {"operation.name": operation, "request_id": request_id}
        self._duration.record(seconds, attributes, inside)
        self._orders.add(1, attributes, inside)
        return Recorded(request_id, f"{trace_id:032x}" if span else "", f"{span_id:016x}" if span else "", seconds)

    def export(self) -> None:
        """Exports now; an AssertionError unless the Collector accepted it."""
        assert self._provider.force_flush(), "the export was not taken"

    def end(self) -> None:
        """Exports what is left and ends, as a program does."""
        self.export()
        self._provider.shutdown()


# --------------------------------------------------------------------------------------------- messages made by hand


def metrics_message(request_id: str, *, seconds: float = 0.25) -> metrics_service_pb2.ExportMetricsServiceRequest:
    """One process's export: a histogram with one measurement, its exemplar carrying `request_id`."""
    now = time.time_ns()
    message = metrics_service_pb2.ExportMetricsServiceRequest()
    resource = message.resource_metrics.add()
    resource.resource.attributes.extend(_attributes({"service.name": "shop", "service.instance.id": request_id}))
    metric = resource.scope_metrics.add().metrics.add(name="operation.duration", unit="s")
    metric.histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
    point = metric.histogram.data_points.add(
        start_time_unix_nano=now - 10**9,
        time_unix_nano=now,
        count=1,
        sum=seconds,
        explicit_bounds=[1.0],
        bucket_counts=[1, 0],
    )
    point.exemplars.add(
        as_double=seconds, time_unix_nano=now, filtered_attributes=_attributes({"request_id": request_id})
    )
    return message


def traces_message(request_id: str) -> trace_service_pb2.ExportTraceServiceRequest:
    """One span with the attribute `request_id`."""
    now = time.time_ns()
    message = trace_service_pb2.ExportTraceServiceRequest()
    message.resource_spans.add().scope_spans.add().spans.add(
        name="checkout",
        trace_id=bytes(range(1, 17)),
        span_id=bytes(range(1, 9)),
        start_time_unix_nano=now - 10**6,
        end_time_unix_nano=now,
        attributes=_attributes({"request_id": request_id}),
    )
    return message


def logs_message(request_id: str) -> logs_service_pb2.ExportLogsServiceRequest:
    """One log line with the attribute `request_id`."""
    message = logs_service_pb2.ExportLogsServiceRequest()
    message.resource_logs.add().scope_logs.add().log_records.add(
        time_unix_nano=time.time_ns(),
        body=AnyValue(string_value="an order"),
        attributes=_attributes({"request_id": request_id}),
    )
    return message


def _attributes(values: Mapping[str, str]) -> Iterable[KeyValue]:
    return [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in values.items()]


_PATHS: dict[type[Message], str] = {
    metrics_service_pb2.ExportMetricsServiceRequest: "/v1/metrics",
    trace_service_pb2.ExportTraceServiceRequest: "/v1/traces",
    logs_service_pb2.ExportLogsServiceRequest: "/v1/logs",
}
_STUBS: dict[type[Message], type] = {
    metrics_service_pb2.ExportMetricsServiceRequest: metrics_service_pb2_grpc.MetricsServiceStub,
    trace_service_pb2.ExportTraceServiceRequest: trace_service_pb2_grpc.TraceServiceStub,
    logs_service_pb2.ExportLogsServiceRequest: logs_service_pb2_grpc.LogsServiceStub,
}


@dataclass(frozen=True)
class Credentials:
    """What a client shows and trusts: PEM files' contents, and the bearer token."""

    authority: bytes
    token: str | None = None
    certificate: bytes | None = None
    key: bytes | None = None


def send(protocol: Protocol, collector: Collector, message: Message, credentials: Credentials | None = None) -> str:
    """Sends one message once: "taken", or what the Collector answered instead, a gRPC status or an HTTP status.

    A connection that fails at TLS or before it is "no connection".
    """
    if protocol == "grpc":
        return _send_grpc(collector, message, credentials)
    return _send_http(collector, message, credentials)


def _send_http(collector: Collector, message: Message, credentials: Credentials | None) -> str:
    headers = {"Content-Type": "application/x-protobuf"}
    verify: ssl.SSLContext | bool = False  # for http: URLs; making a context takes 30 ms
    if credentials:
        verify = ssl.create_default_context(cadata=credentials.authority.decode())
        if credentials.certificate and credentials.key:
            _load_client_certificate(verify, credentials.certificate + credentials.key)
        if credentials.token is not None:
            headers["Authorization"] = f"Bearer {credentials.token}"
    try:
        answer = httpx.post(
            collector.http_endpoint + _PATHS[type(message)],
            content=message.SerializeToString(),
            headers=headers,
            verify=verify,
            trust_env=False,
            timeout=60,
        )
    except httpx.TransportError:
        return "no connection"
    return "taken" if answer.status_code == 200 else str(answer.status_code)


def _load_client_certificate(verify: ssl.SSLContext, pem: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # ssl reads certificates of one's own from files only
        file.write(pem)
        file.flush()
        verify.load_cert_chain(file.name)


def _send_grpc(collector: Collector, message: Message, credentials: Credentials | None) -> str:
    target = collector.grpc_endpoint.split("://", 1)[1]
    options: Sequence[tuple[str, int]] = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    metadata: list[tuple[str, str]] = []
    if credentials:
        channel = grpc.secure_channel(
            target,
            grpc.ssl_channel_credentials(credentials.authority, credentials.key, credentials.certificate),
            options,
        )
        if credentials.token is not None:
            metadata = [("authorization", f"Bearer {credentials.token}")]
    else:
        channel = grpc.insecure_channel(target, options)
    with channel:
        if not _connects(channel):
            return "no connection"
        try:
            _STUBS[type(message)](channel).Export(message, timeout=60, metadata=metadata)
        except grpc.RpcError as refusal:
            return refusal.code().name
    return "taken"


def _connects(channel: grpc.Channel) -> bool:
    """Whether the channel's first attempt to connect succeeds."""
    settled = threading.Event()
    states: list[grpc.ChannelConnectivity] = []

    def note(state: grpc.ChannelConnectivity) -> None:
        states.append(state)
        if state in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE):
            settled.set()

    channel.subscribe(note, try_to_connect=True)
    settled.wait(60)
    channel.unsubscribe(note)
    return grpc.ChannelConnectivity.READY in states
