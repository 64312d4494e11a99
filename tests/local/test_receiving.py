"""What comes in: real exporters over both protocols, both encodings, and everything that is not OTLP."""

from __future__ import annotations

import gzip
import json
import time
import zlib

import grpc
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

JSON = "application/json"
MIB = 2**20


def exporters(collector, protocol):
    if protocol == "grpc":
        return [kind(endpoint=collector.grpc, insecure=True) for kind in (GrpcMetrics, GrpcSpans, GrpcLogs)]
    compression = Compression.Gzip if protocol == "http gzip" else Compression.NoCompression
    return [
        kind(endpoint=f"{collector.http}/v1/{path}", compression=compression)
        for kind, path in ((HttpMetrics, "metrics"), (HttpSpans, "traces"), (HttpLogs, "logs"))
    ]


@pytest.mark.parametrize("protocol", ["grpc", "http", "http gzip"])
def test_what_the_sdk_exports_is_reported_and_followed(collector, clew, protocol):
    metric_exporter, span_exporter, log_exporter = exporters(collector, protocol)
    resource = Resource.create({"service.name": "shop", "service.instance.id": "shop-1"})
    meters = MeterProvider([PeriodicExportingMetricReader(metric_exporter, 3_600_000)], resource=resource)
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(span_exporter))
    loggers = LoggerProvider(resource=resource)
    loggers.add_log_record_processor(BatchLogRecordProcessor(log_exporter))

    duration = meters.get_meter("shop").create_histogram(
        "operation.duration", unit="s", explicit_bucket_boundaries_advisory=[0.01, 0.1, 1.0]
    )
    for number in range(40):
        failure = {"error.type": "shop.Declined"} if number < 3 else {}
        duration.record(0.05, {"operation.name": "checkout", **failure})
        if number == 20:
            meters.force_flush()
    with tracers.get_tracer("shop").start_as_current_span("POST /checkout", attributes={"request_id": "req-7"}):
        attributes = {"request_id": "req-7", "card": "visa"}
        line = LogRecord(severity_number=SeverityNumber.WARN, body="card is slow", attributes=attributes)
        loggers.get_logger("shop").emit(line)
    for provider in (meters, tracers, loggers):
        provider.shutdown()

    report = clew("report", "--store", collector.store, "--format", "json")
    assert report.status == 0, report.stderr
    (operation,) = report.json["operations"]
    assert operation["name"] == "checkout"
    assert operation["service"] == "shop"
    assert operation["kind"] == "operation"
    assert operation["calls"] == 40
    assert operation["errors"] == {"shop.Declined": 3}
    assert operation["p95_bounds"] == [0.01, 0.1]
    assert operation["rate"] == pytest.approx(40 / report.json["observed"])

    followed = clew("follow", "req-7", "--store", collector.store, "--format", "json").json
    span, line = followed["events"]
    assert (span["kind"], span["text"], span["service"], span["instance"]) == (
        "span",
        "POST /checkout",
        "shop",
        "shop-1",
    )
    assert (line["kind"], line["text"], line["severity"]) == ("log", "card is slow", "WARN")
    assert line["attributes"]["card"] == "visa"
    assert collector.stderr == ""


def test_exponential_histograms_of_the_sdk_give_calls_errors_and_narrow_quantiles(collector, clew):
    reader = PeriodicExportingMetricReader(exporters(collector, "http")[0], 3_600_000)
    view = View(instrument_name="*", aggregation=ExponentialBucketHistogramAggregation())
    meters = MeterProvider([reader], resource=Resource.create({"service.name": "shop"}), views=[view])
    duration = meters.get_meter("shop").create_histogram("operation.duration", unit="s")
    for number in range(1, 1001):
        duration.record(number / 1000, {"operation.name": "checkout"})
        if number % 300 == 0:
            meters.force_flush()
    meters.shutdown()
    (operation,) = clew("report", "--store", collector.store, "--format", "json").json["operations"]
    assert operation["calls"] == 1000
    assert operation["p50"] == pytest.approx(0.5, rel=0.03)
    assert operation["p99"] == pytest.approx(0.99, rel=0.03)


def test_json_is_read_with_hexadecimal_ids_and_answered_in_json(collector, clew, now):
    span = {
        "traceId": "5B8EFFF798038103D269B633813FC60C",
        "spanId": "EEE19B7EC3C1B174",
        "name": "GET /",
        "kind": 2,
        "startTimeUnixNano": str(now),
        "endTimeUnixNano": str(now + 1000),
        "fieldOfTomorrow": {"x": 1},
        "attributes": [{"key": "request_id", "value": {"stringValue": "req-json"}}],
    }
    line = {
        "timeUnixNano": str(now + 500),
        "body": {"stringValue": "inside"},
        "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": "eee19b7ec3c1b174",
    }
    sender = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    spans = {"resourceSpans": [{"resource": sender, "scopeSpans": [{"spans": [span]}]}]}
    lines = {"resourceLogs": [{"resource": sender, "scopeLogs": [{"logRecords": [line]}]}]}
    for path, message in (("/v1/traces", spans), ("/v1/logs", lines)):
        answer = collector.post(path, json.dumps(message).encode(), f"{JSON}; charset=utf-8")
        assert answer.status == 200
        assert answer.headers["Content-Type"] == JSON
        assert json.loads(answer.body) == {}
    # The log line carries no request ID: only its span ID, read right, leads to it.
    events = clew("follow", "req-json", "--store", collector.store, "--format", "json").json["events"]
    assert [event["text"] for event in events] == ["GET /", "inside"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "JSON"),
        (b"[]", "JSON object"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 100_000, "deeply"),
        (b'{"resourceSpans": 7}', "resourceSpans"),
        (b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"zz"}]}]}]}', "traceId"),
        (b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":"tomorrow"}]}]}]}', "JSON"),
        (b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"\\ud800"}]}]}]}', "JSON"),
    ],
)
def test_malformed_json_is_a_400_with_a_status_in_json(collector, body, says):
    answer = collector.post("/v1/traces", body, JSON)
    assert answer.status == 400
    assert says in json.loads(answer.body)["message"]
    assert collector.process.poll() is None


def test_malformed_protobuf_is_a_400_with_a_status_in_protobuf(collector, exports, now):
    whole = exports.histogram([0.1], at=now, start=now - 1).SerializeToString()
    for body in (b"\x00garbage", whole[:-3], b"\xff" * 5000):
        answer = collector.post("/v1/metrics", body)
        assert answer.status == 400
        assert answer.headers["Content-Type"] == "application/x-protobuf"
        assert "ExportMetricsServiceRequest" in Status.FromString(answer.body).message
    assert "metrics: an export was refused" in collector.stderr


def test_a_gzip_body_may_have_members_and_may_not_be_cut_off(collector, exports, now):
    body = exports.histogram([0.1] * 50, at=now, start=now - 1).SerializeToString()
    two_members = gzip.compress(body[:40]) + gzip.compress(body[40:])
    assert collector.post("/v1/metrics", two_members, Content_Encoding="gzip").status == 200
    for broken in (gzip.compress(body)[:-9], body, b"", zlib.compress(body)):
        answer = collector.post("/v1/metrics", broken, Content_Encoding="gzip")
        assert answer.status == 400
        assert "gzip" in Status.FromString(answer.body).message


def test_exports_over_64_mib_are_refused_before_they_are_in_memory(collector, clew):
    def peak() -> int:
        with open(f"/proc/{collector.process.pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

    bomb = zlib.compressobj(wbits=31)
    # each part is complete in itself, so that one can stand for all
    first, another = (bomb.compress(bytes(MIB)) + bomb.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    packed = first + another * 599
    assert len(packed) < MIB
    answer = collector.post("/v1/logs", packed, Content_Encoding="gzip")
    assert answer.status == 413
    assert "64 MiB" in Status.FromString(answer.body).message
    assert collector.post("/v1/logs", bytes(65 * MIB), JSON).status == 413
    assert peak() < 400 * 1024
    refused = clew("report", "--store", collector.store).stderr
    assert "logs: a whole export that could not be read (2)" in refused


def test_grpc_refuses_what_is_too_large_after_decompression(collector):
    with grpc.insecure_channel(collector.grpc.removeprefix("http://"), compression=grpc.Compression.Gzip) as channel:
        export = channel.unary_unary("/opentelemetry.proto.collector.logs.v1.LogsService/Export")
        with pytest.raises(grpc.RpcError) as refused:
            export(bytes(80 * MIB), timeout=60)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_grpc_answers_invalid_argument_to_what_it_cannot_read(collector):
    with grpc.insecure_channel(collector.grpc.removeprefix("http://")) as channel:
        for service in ("metrics.v1.MetricsService", "trace.v1.TraceService", "logs.v1.LogsService"):
            export = channel.unary_unary(f"/opentelemetry.proto.collector.{service}/Export")
            with pytest.raises(grpc.RpcError) as refused:
                export(b"\xff\xff\xff", timeout=60)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "Request" in refused.value.details()
            assert export(b"", timeout=60) == b""


def test_other_types_encodings_methods_and_paths_are_answered_as_http_has_it(collector):
    assert collector.post("/v1/traces", b"a: 1", "text/yaml").status == 415
    assert collector.post("/v1/traces", b"", Content_Encoding="br").status == 415
    assert collector.post("/v1/metric", b"").status == 404
    put = collector.post("/v1/traces", b"")
    assert put.status == 200
    import urllib.error
    import urllib.request

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{collector.http}/v1/traces", timeout=60)
    assert refused.value.code == 405
    assert refused.value.headers["Allow"] == "POST"
    refused.value.close()


def test_a_point_that_cannot_be_stored_is_counted_and_the_rest_is_kept(collector, clew, exports, now):
    message = exports.histogram([0.1] * 4, at=now, start=now - 10 * exports.second)
    for spoil in (
        lambda point: point.bucket_counts.append(1),
        lambda point: point.explicit_bounds.__setitem__(0, 99.0),
        lambda point: setattr(point, "time_unix_nano", 0),
        lambda point: setattr(point, "time_unix_nano", 2**64 - 1),
        lambda point: setattr(point, "count", 2**63),
    ):
        exports.histogram([0.1], at=now, start=now - 1, message=message, attributes={"operation.name": "bad"})
        spoil(message.resource_metrics[-1].scope_metrics[0].metrics[0].histogram.data_points[0])
    exports.histogram([0.1], at=now, start=now - 1, message=message, attributes={"operation.name": "bad"})
    message.resource_metrics[-1].scope_metrics[0].metrics[0].histogram.aggregation_temporality = 0

    answer = collector.post("/v1/metrics", message.SerializeToString())
    assert answer.status == 200
    partial = ExportMetricsServiceResponse.FromString(answer.body).partial_success
    assert partial.rejected_data_points == 6
    assert "bucket counts do not fit" in partial.error_message
    report = clew("report", "--store", collector.store, "--format", "json")
    assert [(one["name"], one["calls"]) for one in report.json["operations"]] == [("checkout", 4)]
    assert "metrics: a data point without a time (1)" in report.stderr
    assert "not stored" in collector.stderr


def test_spans_and_log_lines_without_what_names_them(collector, clew, exports, now):
    good = exports.span(
        "good", start=now, end=now + 5, trace_id=b"t" * 16, span_id=b"s" * 8, attributes={"request_id": "r"}
    )
    exports.span("no trace", start=now, end=now, trace_id=bytes(16), span_id=b"s" * 8, message=good)
    exports.span("short", start=now, end=now, trace_id=b"t" * 16, span_id=b"s", message=good)
    assert b"trace ID" in collector.post("/v1/traces", good.SerializeToString()).body
    # A log line needs no name, and no time: then it is the time it came.
    line = exports.log_line("timeless", at=0, attributes={"request_id": "r"})
    collector.send(line)
    events = clew("follow", "r", "--store", collector.store, "--format", "json").json["events"]
    assert [event["text"] for event in events] == ["good", "timeless"]


def test_a_retried_export_is_stored_once(collector, clew, exports, now):
    started = now - 60 * exports.second
    metrics = exports.histogram([0.5, 0.02], at=now, start=started, delta=True, exemplars=[(0.5, now - 5, "r1")])
    spans = exports.span("s", start=now, end=now, trace_id=b"t" * 16, span_id=b"s" * 8, attributes={"request_id": "r1"})
    lines = exports.log_line("same", at=now, attributes={"request_id": "r1"})
    exports.log_line("same", at=now + 1, attributes={"request_id": "r1"}, message=lines)
    for _ in range(3):
        collector.send(metrics, spans, lines)
    (operation,) = clew("report", "--store", collector.store, "--format", "json").json["operations"]
    assert operation["calls"] == 2
    assert [sample["request_id"] for sample in operation["slowest"]] == ["r1"]
    events = clew("follow", "r1", "--store", collector.store, "--format", "json").json["events"]
    assert [event["text"] for event in events] == ["s", "same", "same"]


def test_a_point_that_contradicts_a_stored_one_is_reported(collector, exports, now):
    collector.send(exports.histogram([0.5], at=now, start=now - 1))
    answer = collector.post("/v1/metrics", exports.histogram([0.5, 0.7], at=now, start=now - 1).SerializeToString())
    assert b"contradicts" in answer.body


def test_a_client_that_leaves_in_the_middle_harms_nobody(collector, exports, now):
    import socket

    host, port = collector.http.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
    collector.send(exports.log_line("after", at=now))
    started = time.monotonic()
    assert collector.stop() == 0
    assert time.monotonic() - started < 5
