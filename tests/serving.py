"""Real servers on loopback for tests, and raw connections to them."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer


@dataclass(frozen=True)
class Response:
    """An HTTP response as it came over the wire."""

    status: int
    raw_headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Return the values of all headers of that name."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self.raw_headers if key.lower() == wanted]

    def one(self, name: str) -> str:
        """Return the value of the only header of that name."""
        (value,) = self.all(name)
        return value


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The URL of its root, without a slash at the end."""
        return f"http://{self.host}:{self.port}"

    def get(self, path: str = "/", *headers: tuple[bytes | str, bytes | str]) -> Response:
        """Send one GET over a connection of its own, its headers as they are given, and read to the end."""
        lines = [f"GET {path} HTTP/1.1".encode(), b"Host: test", b"Connection: close"]
        lines += [_bytes(name) + b": " + _bytes(value) for name, value in headers]
        return parse(self.send(b"\r\n".join([*lines, b"", b""])))

    def send(self, data: bytes, timeout: float = 60) -> bytes:
        """Send bytes and read until the server closes the connection."""
        with socket.create_connection((self.host, self.port), timeout=timeout) as connection:
            connection.sendall(data)
            received = b""
            while True:
                try:
                    part = connection.recv(65536)
                except ConnectionResetError:
                    return received
                if not part:
                    return received
                received += part


def _bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def parse(data: bytes) -> Response:
    """Take an HTTP/1.1 response to pieces."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = tuple((name, value.strip()) for name, _, value in (line.partition(b":") for line in lines))
    return Response(int(first.split()[1]), headers, body)


@contextmanager
def serve_asgi(app: Any, **options: Any) -> Iterator[Address]:
    """Serve `app` with uvicorn in a thread."""
    import uvicorn

    settings = {"lifespan": "off", "log_level": "critical", "ws": "auto", **options}
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, **settings))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, "uvicorn has not started")
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield Address(host, port)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


class _ThreadedServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def serve_wsgi(app: Any) -> Iterator[Address]:
    """Serve `app` with the standard library's WSGI server, a thread for each connection."""
    with _ThreadedServer(("127.0.0.1", 0), _Quiet) as server:
        server.set_app(app)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield Address("127.0.0.1", server.server_port)
        finally:
            server.shutdown()
            thread.join(60)


def wait_until(condition: Callable[[], object], otherwise: str, seconds: float = 60.0) -> None:
    """Return when the condition holds; fail with `otherwise` when it does not in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.002)
