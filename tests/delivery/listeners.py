"""Endpoints on loopback: one that speaks OTLP over HTTP, one over gRPC, and some that do not answer as they should."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from real_parts import free_port

REQUESTS = {
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": ExportMetricsServiceRequest,
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": ExportTraceServiceRequest,
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export": ExportLogsServiceRequest,
}

Value = TypeVar("Value")


def eventually(ask: Callable[[], Value], timeout: float = 60.0) -> Value:
    """The first truthy answer; an AssertionError with the last one after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"still {answer!r} after {timeout} s"
        time.sleep(0.01)
    return answer


class Received:
    """What arrived at an endpoint, in order: paths, headers and messages."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.messages: list[Any] = []

    def add(self, path: str, headers: dict[str, str], body: bytes) -> None:
        kind = next(REQUESTS[known] for known in REQUESTS if path.endswith(known))
        self.headers.append(headers)
        self.paths.append(path)
        self.messages.append(kind.FromString(body))

    @property
    def counters(self) -> dict[str, list[int]]:
        """The values of integer sums by name, one for each time that they came."""
        found: dict[str, list[int]] = {}
        for message in self.messages:
            for resource in getattr(message, "resource_metrics", ()):
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        found.setdefault(metric.name, []).extend(point.as_int for point in metric.sum.data_points)
        return found

    @property
    def spans(self) -> list[str]:
        return [
            span.name
            for message in self.messages
            for resource in getattr(message, "resource_spans", ())
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def logs(self) -> list[str]:
        return [
            record.body.string_value
            for message in self.messages
            for resource in getattr(message, "resource_logs", ())
            for scope in resource.scope_logs
            for record in scope.log_records
        ]


Answer = tuple[int, dict[str, str], bytes]


class HttpEndpoint:
    """Receives OTLP over HTTP; `answers` come first, one a request, each a status, headers and a body; after `seconds`.

    `pauses` come first too, one a request, in the place of `seconds`.
    """

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.received = Received()
        self.answers: list[Answer] = []
        self.seconds = 0.0
        self.pauses: list[float] = []
        self.always: Answer = (200, {"content-type": "application/x-protobuf"}, b"")
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                encoding = self.headers.get("content-encoding", "")
                plain = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(encoding, bytes)(body)
                time.sleep(endpoint.pauses.pop(0) if endpoint.pauses else endpoint.seconds)
                status, headers, answer = endpoint.answers.pop(0) if endpoint.answers else endpoint.always
                if 200 <= status < 300:
                    known = {name.lower(): value for name, value in self.headers.items()}
                    endpoint.received.add(self.path, known, plain)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that gave up

        self._server = Server(("127.0.0.1", port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class GrpcEndpoint:
    """Receives OTLP over gRPC; `answers` are given first, after `seconds`: bytes, or a status and its text.

    `pauses` come first too, one a request, in the place of `seconds`.
    """

    def __init__(self, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        self.received = Received()
        self.answers: list[bytes | tuple[grpc.StatusCode, str]] = []
        self.seconds = 0.0
        self.pauses: list[float] = []
        endpoint = self

        class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
            def service(self, details: Any) -> Any:
                def export(body: bytes, context: Any) -> bytes:
                    time.sleep(endpoint.pauses.pop(0) if endpoint.pauses else endpoint.seconds)
                    answer = endpoint.answers.pop(0) if endpoint.answers else b""
                    if isinstance(answer, tuple):
                        context.abort(*answer)
                    endpoint.received.add(details.method, dict(context.invocation_metadata()), body)
                    assert isinstance(answer, bytes)
                    return answer

                return grpc.unary_unary_rpc_method_handler(export)

        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((Handler(),))
        address = f"127.0.0.1:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self.url = f"http{'s' if credentials else ''}://127.0.0.1:{self.port}"
        self._server.start()

    def close(self) -> None:
        self._server.stop(None).wait()


@contextmanager
def refusing() -> Iterator[int]:
    """A port on which nothing listens, kept so that nothing else can."""
    with socket.socket() as taken:
        port = free_port()
        taken.bind(("127.0.0.1", port))
        yield port


@contextmanager
def talking(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port whose listener does `talk` with each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=_talk, args=(talk, connection), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # a close alone would leave the thread in `accept`, and the port open
        listener.close()
        for connection in connections:
            connection.close()


def _talk(talk: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with suppress(OSError):  # the other side has gone
        talk(connection)


def silence(connection: socket.socket) -> None:
    """Read everything and answer nothing."""
    while connection.recv(65536):
        pass


def garbage(connection: socket.socket) -> None:
    """Answer with something that no protocol knows."""
    connection.recv(65536)
    connection.sendall(b"\x00\xffSSH-2.0-what?\r\n\r\n" * 10)
    connection.close()


def drip(connection: socket.socket) -> None:
    """Answer so slowly that it never ends."""
    connection.recv(65536)
    for letter in b"HTTP/1.1 200 OK\r\n" + b"x-slow: " + b"y" * 10_000:
        connection.sendall(bytes([letter]))
        time.sleep(0.2)
