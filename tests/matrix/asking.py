"""Asks a real server in a process of its own once, ends it, and keeps all that it sent and printed."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delivery.listeners import HttpEndpoint
from matrix.stacks import APPLICATIONS, Stack, require
from real_parts import Program, environment_without_settings, free_port
from serving import Address, Response, parse, serve_wsgi

TAKEN = "item-1"
FAILED = "failed-1"
REFUSED = "refused-1"
STREAMED = "streamed-1"
SPOKEN = "spoken-1"

HEADER = "x-request-id"

_AT_A_TIME = 4  # they wait more than they compute


@dataclass
class Answer:
    """What a client got: the ID that came back (None: none did), the body, the HTTP status or the gRPC code."""

    echoed: str | None
    body: str
    status: int | str


@dataclass
class Outcome:
    """All that came of one server.

    Attributes:
        answers: By the word for the request: ``item``, ``fresh`` (the same, brought no ID), ``fails``, ``refuses``,
            ``stream`` and, where there are websockets, ``socket``.
        outgoing: The IDs that the service behind was asked with, in order.
        endpoint: What was sent by OTLP.
        lines: What the server printed, of the form of logging.json.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    outgoing: list[str | None] = field(default_factory=list)
    endpoint: HttpEndpoint = field(default_factory=HttpEndpoint)
    lines: list[str] = field(default_factory=list)

    @property
    def fresh(self) -> str:
        """The ID of the request that brought none."""
        return self.answers["fresh"].body


class Asking:
    """Asks each server once, some at a time; one that cannot be asked fails each of its cells with the same words.

    Args:
        folder: Makes a folder of this name.
        stacks: All that will be asked for.
        variables: Of the environment of the servers.
    """

    def __init__(self, folder: Callable[[str], Path], stacks: Iterable[Stack], **variables: str) -> None:
        self._pool = ThreadPoolExecutor(_AT_A_TIME)
        self._outcomes = {
            stack: self._pool.submit(outcome_of, stack, folder(str(stack)), **variables)
            for stack in dict.fromkeys(stacks)
        }

    def __call__(self, stack: Stack) -> Outcome:
        """Return what came of a server, as soon as it has ended."""
        return self._outcomes[stack].result()

    def close(self) -> None:
        """Ask none that has not begun, and wait until all that runs has ended."""
        self._pool.shutdown(cancel_futures=True)


def outcome_of(stack: Stack, folder: Path, **variables: str) -> Outcome:
    """Serve, ask and end it."""
    with served(stack, folder, **variables) as (outcome, port):
        outcome.answers.update(_asked_grpc(port) if stack.protocol == "grpc" else _asked_http(port))
        if stack.has_websockets:
            outcome.answers["socket"] = _asked_socket(port)
    return outcome


@contextlib.contextmanager
def served(stack: Stack, folder: Path, **variables: str) -> Iterator[tuple[Outcome, int]]:
    """Serve it until the block ends: what comes of it, and its port. All has been sent and printed afterwards."""
    require(*stack.packages, *(["websockets"] if stack.has_websockets else []))
    outcome = Outcome()
    port = free_port()
    with contextlib.closing(outcome.endpoint), serve_wsgi(_stock(outcome)) as stock:
        environment = {
            **environment_without_settings(),
            "PYTHONPATH": os.pathsep.join([str(APPLICATIONS), os.environ.get("PYTHONPATH", "")]),
            "PYTHONUNBUFFERED": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": outcome.endpoint.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "CLEW_SHUTDOWN_TIMEOUT": "20",
            "STOCK_URL": stock.url,
            **variables,
        }
        command = [str(APPLICATIONS / part) if part.endswith(".py") else part for part in stack.command(port)]
        server = Program(str(stack), command, folder, environment)
        try:
            server.wait_until(lambda: _listens(port), timeout=60)
            yield outcome, port
        finally:
            server.stop(timeout=30)
            outcome.lines = server.log().splitlines()


def _stock(outcome: Outcome) -> Any:
    def stock(environ: Any, start_response: Any) -> Iterable[bytes]:
        outcome.outgoing.append(environ.get("HTTP_X_REQUEST_ID"))
        start_response("200 OK", [("Content-Length", "0")])
        return []

    return stock


def _listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


_REQUESTS: tuple[tuple[str, str, str | None], ...] = (
    ("item", "/items/7", TAKEN),
    ("fresh", "/items/7", None),
    ("fails", "/fails", FAILED),
    ("refuses", "/refuses", REFUSED),
    ("stream", "/stream", STREAMED),
)


def _asked_http(port: int) -> Iterator[tuple[str, Answer]]:
    address = Address("127.0.0.1", port)
    for word, path, name in _REQUESTS:
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
        if name is not None:
            lines.append(f"X-Request-ID: {name}")
        response = parse(address.send("\r\n".join([*lines, "", ""]).encode(), timeout=60))
        yield word, Answer(_one(response), unchunked(response), response.status)


def _one(response: Response) -> str | None:
    found = response.all(HEADER)
    assert len(found) <= 1, found
    return found[0] if found else None


def unchunked(response: Response) -> str:
    """Return the body without the sizes of its chunks."""
    if "chunked" not in ",".join(response.all("transfer-encoding")).lower():
        return response.body.decode("latin-1")
    body, rest = b"", response.body
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body, rest = body + rest[:length], rest[length + 2 :]
    return body.decode("latin-1")


def _asked_socket(port: int) -> Answer:
    from websockets.sync.client import connect

    with connect(
        f"ws://127.0.0.1:{port}/socket", additional_headers={"X-Request-ID": SPOKEN}, open_timeout=60
    ) as connection:
        connection.send("who am I?")
        text = connection.recv(timeout=60)
        response = connection.response
        assert response is not None
        return Answer(response.headers.get(HEADER), str(text), response.status_code)


def _asked_grpc(port: int) -> Iterator[tuple[str, Answer]]:
    import grpc

    methods = {"item": "ReadItem", "fresh": "ReadItem", "fails": "Fail", "refuses": "Refuse"}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for word, _, name in _REQUESTS:
            metadata = () if name is None else ((HEADER, name),)
            body = b""
            if word == "stream":
                call: Any = channel.unary_stream("/shop.Shop/Stream")(b"7", metadata=metadata, timeout=60)
                body = b"".join(call)
            else:
                try:
                    body, call = channel.unary_unary(f"/shop.Shop/{methods[word]}").with_call(
                        b"7", metadata=metadata, timeout=60
                    )
                except grpc.RpcError as error:
                    call = error
            echoed = dict(call.trailing_metadata() or ()).get(HEADER)
            yield word, Answer(echoed, body.decode(), call.code().name)
