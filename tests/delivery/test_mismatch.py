"""An endpoint that speaks another protocol than the one set is named as such by the first message, at once."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority
from delivery.listeners import GrpcEndpoint, HttpEndpoint

TLS = "TLS is spoken there, so the endpoint is one that begins with https://"
NO_TLS = "no TLS is spoken there, so the endpoint is one that begins with http://"
HTTP = "HTTP/1 is spoken there and not gRPC: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
GRPC = "gRPC is spoken there and not HTTP/1: OTEL_EXPORTER_OTLP_PROTOCOL=grpc"

SAID = {
    ("http", "http"): (),
    ("http", "https"): (TLS,),
    ("http", "grpc"): (GRPC,),
    ("http", "grpcs"): (TLS,),
    ("https", "http"): (NO_TLS,),
    ("https", "https"): (),
    ("https", "grpc"): (NO_TLS, GRPC),
    ("https", "grpcs"): (GRPC,),
    ("grpc", "http"): (HTTP,),
    ("grpc", "https"): (TLS, HTTP),
    ("grpc", "grpc"): (),
    ("grpc", "grpcs"): (TLS,),
    ("grpcs", "http"): (NO_TLS, HTTP),
    ("grpcs", "https"): (HTTP,),
    ("grpcs", "grpc"): (NO_TLS,),
    ("grpcs", "grpcs"): (),
}
"""What is logged of an endpoint (second) that was set as the first."""


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def endpoints(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    server = authority.server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*server.write(tmp_path_factory.mktemp("tls"), "server"))
    credentials = grpc.ssl_server_credentials([(server.key, server.certificate)])
    found = {
        "http": HttpEndpoint(),
        "https": HttpEndpoint(tls=context),
        "grpc": GrpcEndpoint(),
        "grpcs": GrpcEndpoint(credentials=credentials),
    }
    yield found
    for endpoint in found.values():
        endpoint.close()


@pytest.mark.parametrize(("client", "server"), SAID)
def test_the_first_message_names_what_is_wrong(
    telemetry: Any,
    endpoints: dict[str, Any],
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    client: str,
    server: str,
) -> None:
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    made = telemetry(
        {
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc" if "grpc" in client else "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http{'s' * client.endswith('s')}://127.0.0.1:{endpoints[server].port}",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.crt"),
            "OTEL_EXPORTER_OTLP_TIMEOUT": "60000",
        }
    )
    for _ in range(20):  # a long body is cut off by a reset before an answer can be read
        with made.tracers.get_tracer("test").start_as_current_span("a", attributes={"what": "x" * 20_000}):
            pass
    started = time.monotonic()
    wrong = SAID[client, server]
    assert made.spans.force_flush(60_000) == (not wrong)
    if not wrong:
        assert not caplog.records
        return
    assert time.monotonic() - started < 30, "it was tried again and again"
    (logged,) = [record.getMessage() for record in caplog.records]
    for what in wrong:
        assert what in logged
