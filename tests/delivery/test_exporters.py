"""Data arrives at real endpoints as it was configured, and what does not arrive is logged once and counted."""

from __future__ import annotations

import logging
import ssl
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority
from delivery.listeners import GrpcEndpoint, HttpEndpoint, garbage, refusing, silence, talking
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from clew.delivery import SpanBatchProcessor
from clew.exporters import make_sampler, metric_exporters
from clew.exporters.attempts import Delivery
from clew.settings import ConfigurationError, load_settings


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """No export is retried: the pause before that is longer than any deadline."""
    monkeypatch.setattr(Delivery, "_pause", lambda delivery, attempt: 3600.0)


def test_all_three_signals_arrive(telemetry: Any, environ: dict[str, str], endpoint: Any) -> None:
    made = telemetry(environ)
    made.record("first")
    made.record("second")
    assert made.deliver()
    assert endpoint.received.counters == {"orders": [2]}
    assert endpoint.received.spans == ["first", "second"]
    assert endpoint.received.logs == ["first", "second"]
    made.record("third")
    assert made.deliver(closing=True)
    assert endpoint.received.counters == {"orders": [2, 3]}
    assert endpoint.received.spans[2:] == endpoint.received.logs[2:] == ["third"]
    assert not any(made.lost.values())


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
def test_headers_and_compression_are_those_of_the_settings(
    telemetry: Any, environ: dict[str, str], endpoint: Any, compression: str
) -> None:
    environ["OTEL_EXPORTER_OTLP_HEADERS"] = "Authorization=Bearer%20abc,x-tenant=shop"
    environ["OTEL_EXPORTER_OTLP_COMPRESSION"] = compression
    made = telemetry(environ)
    made.record()
    assert made.deliver()
    assert len(endpoint.received.headers) == 3
    for headers in endpoint.received.headers:
        assert headers["authorization"] == "Bearer abc"
        assert headers["x-tenant"] == "shop"
        assert "clew/" in headers["user-agent"]
        if isinstance(endpoint, HttpEndpoint):
            assert headers.get("content-encoding", "none") == compression


def test_what_the_environment_of_the_process_says_is_not_read_again(
    telemetry: Any, environ: dict[str, str], endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "COMPRESSION": "none",
        "TIMEOUT": "nonsense",
        "METRICS_TIMEOUT": "nonsense",
        "CERTIFICATE": "/no/such/file",
        "HEADERS": "from=environment",
        "ENDPOINT": "http://127.0.0.1:1",
        "METRICS_TEMPORALITY_PREFERENCE": "nonsense",
    }.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    made = telemetry(environ)
    made.record()
    assert made.deliver()
    assert len(endpoint.received.paths) == 3
    assert all("from" not in headers for headers in endpoint.received.headers)


def test_each_signal_goes_to_its_own_endpoint(telemetry: Any, http: HttpEndpoint, grpc_endpoint: GrpcEndpoint) -> None:
    made = telemetry(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"{http.url}/gateway/",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{http.url}/insert/v1/logs",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": grpc_endpoint.url,
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc",
        }
    )
    made.record()
    assert made.deliver()
    assert sorted(http.received.paths) == ["/gateway/v1/traces", "/insert/v1/logs"]
    assert grpc_endpoint.received.counters == {"orders": [1]}


def test_delta_temporality_and_exponential_histograms_are_asked_for(telemetry: Any, http: HttpEndpoint) -> None:
    made = telemetry(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": http.url,
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "BASE2_EXPONENTIAL_BUCKET_HISTOGRAM",
        }
    )
    made.record()
    made.meters.get_meter("test").create_histogram("duration").record(1.5)
    assert made.deliver()
    made.record()
    assert made.deliver()
    assert http.received.counters["orders"] == [1, 1]
    kinds = [
        metric.WhichOneof("data")
        for message in http.received.messages
        for resource in getattr(message, "resource_metrics", ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "duration"
    ]
    assert kinds == ["exponential_histogram"]


def tls_environment(tmp_path: Path, authority: Authority) -> dict[str, str]:
    certificate = tmp_path / "ca.crt"
    certificate.write_bytes(authority.certificate)
    return {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate)}


def test_the_certificate_counts_over_https_even_where_requests_is_told_another_bundle(
    telemetry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server().write(tmp_path, "server"))
    other = tmp_path / "other.crt"
    other.write_bytes(Authority("Another").certificate)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
    endpoint = HttpEndpoint(tls=context)
    made = telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, **tls_environment(tmp_path, authority)})
    made.record()
    assert made.deliver()
    assert endpoint.received.counters == {"orders": [1]}
    endpoint.close()


def test_an_unknown_authority_is_refused_over_https_with_a_reason(
    telemetry: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority().server().write(tmp_path, "server"))
    endpoint = HttpEndpoint(tls=context)
    environment = tls_environment(tmp_path, Authority("Another"))
    made = telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, **environment})
    made.record()
    assert not made.deliver()
    assert len([text for text in warnings_of(caplog) if "certificate verify failed" in text]) == 3
    endpoint.close()


def test_the_certificate_counts_over_grpc(telemetry: Any, tmp_path: Path) -> None:
    authority = Authority()
    server = authority.server()
    credentials = grpc.ssl_server_credentials([(server.key, server.certificate)])
    endpoint = GrpcEndpoint(credentials=credentials)
    made = telemetry(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            **tls_environment(tmp_path, authority),
        }
    )
    made.record()
    assert made.deliver()
    assert endpoint.received.counters == {"orders": [1]}
    endpoint.close()


def test_the_client_shows_its_certificate(telemetry: Any, tmp_path: Path, protocol: str, one_attempt: None) -> None:
    authority = Authority()
    server, client = authority.server(), authority.client().write(tmp_path, "client")
    endpoint: GrpcEndpoint | HttpEndpoint
    if protocol == "grpc":
        pair = [(server.key, server.certificate)]
        endpoint = GrpcEndpoint(credentials=grpc.ssl_server_credentials(pair, authority.certificate, True))
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*server.write(tmp_path, "server"))
        context.load_verify_locations(cadata=authority.certificate.decode())
        context.verify_mode = ssl.CERT_REQUIRED
        endpoint = HttpEndpoint(tls=context)
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        **tls_environment(tmp_path, authority),
    }
    stranger = telemetry(environ)
    stranger.record()
    assert not stranger.deliver()
    certificate, key = client
    known = telemetry(
        {**environ, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": certificate, "OTEL_EXPORTER_OTLP_CLIENT_KEY": key}
    )
    known.record()
    assert known.deliver()
    assert endpoint.received.counters == {"orders": [1]}
    endpoint.close()


def test_a_refusing_endpoint_is_logged_once_a_signal_and_again_when_it_works(
    telemetry: Any, protocol: str, one_attempt: None, caplog: pytest.LogCaptureFixture
) -> None:
    with refusing() as port:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        made = telemetry(environ)
        for _ in range(3):
            made.record()
            assert not made.deliver()
    logged = warnings_of(caplog)
    assert len(logged) == 3
    for kind, path in [("metric points", "metrics"), ("spans", "traces"), ("log records", "logs")]:
        where = f"127.0.0.1:{port}" if protocol == "grpc" else f"http://127.0.0.1:{port}/v1/{path}"
        (one,) = [text for text in logged if text.startswith(kind)]
        assert f"{kind} cannot be delivered to {where}: " in one
        assert "refused" in one
    assert made.lost == {"metric points": 0, "spans": 3, "log records": 3}  # the totals come with the next export
    caplog.clear()
    endpoint = GrpcEndpoint(port) if protocol == "grpc" else HttpEndpoint(port)
    made.record("late")
    assert made.deliver()
    assert endpoint.received.spans == ["late"]
    assert endpoint.received.counters == {"orders": [4]}
    assert sorted(text.partition(" are delivered to ")[0] for text in warnings_of(caplog)) == [
        "log records",
        "metric points",
        "spans",
    ]
    assert all("again; lost so far: " in text for text in warnings_of(caplog))
    endpoint.close()


def test_a_silent_endpoint_is_given_up_at_the_timeout(
    telemetry: Any, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    with talking(silence) as port:
        made = telemetry(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_EXPORTER_OTLP_TIMEOUT": "200",
            }
        )
        made.record()
        started = time.monotonic()
        assert not made.deliver()
        assert time.monotonic() - started < 30
    assert len(warnings_of(caplog)) == 3
    assert made.lost == {"metric points": 0, "spans": 1, "log records": 1}


def test_an_endpoint_that_speaks_another_protocol_is_logged_once(
    telemetry: Any, protocol: str, one_attempt: None, caplog: pytest.LogCaptureFixture
) -> None:
    with talking(garbage) as port:
        made = telemetry(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        )
        for _ in range(2):
            made.record()
            assert not made.deliver()
    assert len(warnings_of(caplog)) == 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, {"content-type": "text/html"}, b"<html>a login page</html>"), "something that is not OTLP: '<html>a lo"),
        ((200, {"content-type": "application/json"}, b"[1"), "something that is not OTLP: '[1'"),
        (
            (302, {"location": "https://login.example?token=x"}, b""),
            "HTTP 302 Found to 'https://login.example?***'; redirects are",
        ),
        ((401, {"content-type": "text/plain"}, b"who are you?"), "HTTP 401 Unauthorized: 'who are you?'"),
        ((404, {}, b""), "HTTP 404 Not Found"),
        ((400, {"content-type": "application/x-protobuf"}, b"\x12\x07too old"), "HTTP 400 Bad Request: too old"),
    ],
)
def test_an_http_answer_that_is_no_success_is_a_failure_with_its_reason(
    telemetry: Any, http: HttpEndpoint, caplog: pytest.LogCaptureFixture, answer: Any, reason: str
) -> None:
    http.always = answer
    made = telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": http.url})
    made.record()
    assert not made.deliver()
    assert [reason in text for text in warnings_of(caplog)] == [True] * 3
    is_refused = answer[0] == 400  # the others may accept the totals the next time
    assert made.lost == {"metric points": int(is_refused), "spans": 1, "log records": 1}


def test_what_an_endpoint_says_beside_a_success_is_logged_once(
    telemetry: Any, http: HttpEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    told = ExportMetricsServiceResponse(partial_success=ExportMetricsPartialSuccess(error_message="use delta"))
    http.always = (200, {"content-type": "application/x-protobuf"}, told.SerializeToString())
    made = telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": http.url})
    made.counter.add(1)
    assert made.reader.force_flush()
    assert made.reader.force_flush()
    assert [text.endswith("took everything, and says: 'use delta'") for text in warnings_of(caplog)] == [True]
    assert not any(made.lost.values())


@pytest.mark.parametrize("body", [b"{}", b'{"partialSuccess":{}}'])
def test_a_backend_that_answers_in_json_is_understood(telemetry: Any, http: HttpEndpoint, body: bytes) -> None:
    http.always = (200, {"content-type": "application/json"}, body)
    made = telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": http.url})
    made.record()
    assert made.deliver()


def test_an_endpoint_that_is_busy_is_retried(telemetry: Any, http: HttpEndpoint) -> None:
    http.answers = [(503, {"retry-after": "0"}, b""), (429, {"retry-after": "0.05"}, b"")]
    made = telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": http.url})
    made.counter.add(1)
    assert made.reader.force_flush()
    assert http.received.counters == {"orders": [1]}
    assert not any(made.lost.values())


def test_a_call_that_grpc_says_may_be_repeated_is_repeated(telemetry: Any, grpc_endpoint: GrpcEndpoint) -> None:
    grpc_endpoint.answers = [(grpc.StatusCode.UNAVAILABLE, "not yet")]
    made = telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": grpc_endpoint.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    made.counter.add(1)
    assert made.reader.force_flush()
    assert grpc_endpoint.received.counters == {"orders": [1]}


def test_a_call_that_grpc_refuses_for_good_is_not_repeated(
    telemetry: Any, grpc_endpoint: GrpcEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    grpc_endpoint.answers = [(grpc.StatusCode.UNAUTHENTICATED, "who are you?")]
    made = telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": grpc_endpoint.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    made.counter.add(1)
    assert not made.reader.force_flush()
    assert "gRPC UNAUTHENTICATED: who are you?" in warnings_of(caplog)[0]


def test_what_the_endpoint_rejects_of_a_batch_is_counted_and_logged_once(
    telemetry: Any, endpoint: Any, environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    partial = ExportMetricsPartialSuccess(rejected_data_points=1, error_message="too many series")
    body = ExportMetricsServiceResponse(partial_success=partial).SerializeToString()
    grpc_answer = [body, body]
    http_answer = [(200, {"content-type": "application/x-protobuf"}, body)] * 2
    endpoint.answers = grpc_answer if isinstance(endpoint, GrpcEndpoint) else list(http_answer)
    made = telemetry(environ)
    made.counter.add(1)
    made.counter.add(1, {"tier": "gold"})
    assert not made.reader.force_flush()
    assert not made.reader.force_flush()
    assert made.lost["metric points"] == 2
    (logged,) = warnings_of(caplog)
    assert "took 1 of 2 metric points and refused the rest: too many series" in logged


def test_the_exporters_of_opentelemetry_are_quiet_in_our_hands_and_loud_in_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with refusing() as port:
        target = f"http://127.0.0.1:{port}"
        ours = TracerProvider(shutdown_on_exit=False)
        ours.add_span_processor(SpanBatchProcessor(OTLPSpanExporter(endpoint=target, timeout=1)))
        with ours.get_tracer("test").start_as_current_span("a"):
            pass
        assert not ours.force_flush(60_000)
        (logged,) = warnings_of(caplog)
        assert logged.startswith("spans cannot be delivered to OTLPSpanExporter: Failed to export traces")
        caplog.clear()
        theirs = TracerProvider(shutdown_on_exit=False)
        theirs.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=target, timeout=0.2)))
        with theirs.get_tracer("test").start_as_current_span("b"):
            pass
        assert [record.name for record in caplog.records if "Failed to export" in record.getMessage()]
        ours.shutdown()
        theirs.shutdown()


PLUG_IN = """
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, InMemoryMetricReader
class Broken(ConsoleMetricExporter):
    def __init__(self):
        raise RuntimeError("no licence")
def not_an_exporter():
    return 3
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution with exporters of its own."""
    (tmp_path / "plugged.py").write_text(PLUG_IN)
    metadata = tmp_path / "plugged-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[opentelemetry_metrics_exporter]\n"
        "memory = plugged:InMemoryMetricReader\nbroken = plugged:Broken\nnonsense = plugged:not_an_exporter\n"
        "[opentelemetry_traces_sampler]\nbad = plugged:not_an_exporter\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_an_installed_exporter_may_be_a_reader(plug_in: None) -> None:
    (reader,) = metric_exporters(load_settings({"OTEL_METRICS_EXPORTER": "memory"}))
    assert type(reader).__name__ == "InMemoryMetricReader"


@pytest.mark.parametrize(("name", "reason"), [("broken", "RuntimeError: no licence"), ("nonsense", "it makes int")])
def test_an_installed_exporter_that_cannot_be_made_is_a_configuration_error(
    plug_in: None, name: str, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"OTEL_METRICS_EXPORTER is '{name}'.*{reason}"):
        metric_exporters(load_settings({"OTEL_METRICS_EXPORTER": name}))


def test_none_makes_no_exporter() -> None:
    assert metric_exporters(load_settings({"OTEL_METRICS_EXPORTER": "none"})) == []


@pytest.mark.parametrize(
    ("environ", "described"),
    [
        ({}, "ParentBased{root:AlwaysOnSampler"),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "AlwaysOffSampler"),
        ({"OTEL_TRACES_SAMPLER": "TraceIdRatio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, "TraceIdRatioBased{0.25}"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, "TraceIdRatioBased{1.0}"),
    ],
)
def test_the_sampler_is_the_one_that_is_named(environ: dict[str, str], described: str) -> None:
    assert make_sampler(load_settings(environ)).get_description().startswith(described)


def test_a_sampler_that_cannot_be_made_is_a_configuration_error(plug_in: None) -> None:
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_SAMPLER is 'bad'"):
        make_sampler(load_settings({"OTEL_TRACES_SAMPLER": "bad"}))
