"""An export is over within its timeout, however slowly an endpoint answers or reads it, and the next ones go on."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from delivery.listeners import GrpcEndpoint, HttpEndpoint, drip, silence, talking

from clew.exporters import http_connections

TIMEOUT = "500"
PROMPTLY = 30.0
"""Seconds within which an export is over that has half a second, on a machine that does other things too."""

Talk = Callable[[socket.socket], None]


def slowly(head: bytes, body: bytes, pause: float = 0.1) -> Talk:
    """Answers at once with the head, and then byte by byte."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head)
        for byte in body:
            connection.sendall(bytes([byte]))
            time.sleep(pause)

    return talk


def endless(head: bytes, piece: bytes) -> Talk:
    """Answers and never stops."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            time.sleep(0.01)

    return talk


def deaf(connection: socket.socket) -> None:
    """Never read."""
    threading.Event().wait(120)


OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n"
SLOW: dict[str, Talk] = {
    "a head byte by byte": drip,
    "a body byte by byte": slowly(OK + b"content-length: 5000\r\n\r\n", b"x" * 5000),
    "a chunked body byte by byte": slowly(OK + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000),
    "a body that ends with the connection": slowly(OK + b"\r\n", b"x" * 5000),
    "endless answers in between": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "endless header lines": endless(OK, b"x-more: y\r\n"),
    "an endless body": endless(OK + b"transfer-encoding: chunked\r\n\r\n", b"400\r\n" + b"x" * 1024 + b"\r\n"),
    "no answer": silence,
    "nothing is read": deaf,
    "a head of HTTP/2 byte by byte": slowly(b"", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" * 1000),
}


def environment(port: int, protocol: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_TIMEOUT": TIMEOUT,
        "CLEW_MAX_EXPORT_BYTES": "100000000",
    }


@pytest.mark.parametrize("talk", SLOW)
def test_an_export_is_over_in_time_is_logged_and_the_next_one_arrives(
    telemetry: Any, protocol: str, talk: str, caplog: pytest.LogCaptureFixture
) -> None:
    with talking(SLOW[talk]) as port:
        made = telemetry(environment(port, protocol))
        for _ in range(30):  # more than the buffers of a connection hold
            with made.tracers.get_tracer("test").start_as_current_span("early", attributes={"what": "x" * 1_000_000}):
                pass
        made.counter.add(1)
        started = time.monotonic()
        assert not made.deliver()
        assert time.monotonic() - started < PROMPTLY
    assert len([record for record in caplog.records if "cannot be delivered" in record.getMessage()]) == 2
    endpoint = GrpcEndpoint(port) if protocol == "grpc" else HttpEndpoint(port)
    made.record("late")
    assert made.deliver()
    assert endpoint.received.spans == ["late"]
    assert endpoint.received.counters == {"orders": [2]}
    endpoint.close()


def test_a_handshake_of_tls_byte_by_byte_is_given_up_in_time(
    telemetry: Any, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    with talking(slowly(b"\x16\x03\x03\x40\x00", b"\x02" * 5000)) as port:
        made = telemetry({**environment(port, protocol), "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://127.0.0.1:{port}"})
        made.record()
        started = time.monotonic()
        assert not made.deliver()
        assert time.monotonic() - started < PROMPTLY
    assert len(caplog.records) == 3


def test_an_upload_over_tls_that_is_taken_slowly_is_given_up_in_time(telemetry: Any, tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server().write(tmp_path, "server"))

    def sip(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            while secured.recv(1024):
                time.sleep(0.05)

    with talking(sip) as port:
        made = telemetry(
            {
                **environment(port, "http/protobuf"),
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://127.0.0.1:{port}",
                "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.crt"),
            }
        )
        for _ in range(30):
            with made.tracers.get_tracer("test").start_as_current_span("long", attributes={"what": "x" * 1_000_000}):
                pass
        started = time.monotonic()
        assert not made.deliver()
        assert time.monotonic() - started < PROMPTLY


def test_a_name_whose_look_up_hangs_is_given_up_in_time_and_looked_up_once(
    telemetry: Any, http: HttpEndpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer, asked, real = threading.Event(), [], socket.getaddrinfo

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "slow.example":
            return real(host, *args, **kwargs)
        asked.append(host)
        answer.wait(120)
        return real("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(http_connections.socket, "getaddrinfo", look_up)
    made = telemetry(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://slow.example:{http.port}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": TIMEOUT,
        }
    )
    for _ in range(3):
        made.counter.add(1)
        started = time.monotonic()
        assert not made.reader.force_flush()
        assert time.monotonic() - started < PROMPTLY
    assert asked == ["slow.example"]
    assert "the name slow.example was not found in time" in caplog.records[0].getMessage()
    answer.set()
    assert made.reader.force_flush()
    assert http.received.counters == {"orders": [3]}
