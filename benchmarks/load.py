"""Load on a real server over sockets, and what the server's processes spend on it.

The client is a plain one: some connections that stay open, one request on each at a time, all in one thread of the
benchmark. It reads a response just far enough to know that it is whole, so it needs a `Content-Length`. It costs a core
of its own, about 10 us a request, and cannot ask a server for more than that allows; what is compared are servers that
answer more slowly.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import ROOT, clean_environment

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Burst:
    """What came of some time of load.

    Attributes:
        requests: How many were answered.
        seconds: How long that took.
        processor_seconds: What the server's processes spent meanwhile.
    """

    requests: int
    seconds: float
    processor_seconds: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def cost(self) -> float:
        """Microseconds of processor time a request, of the server alone."""
        return self.processor_seconds / self.requests * 1e6


class Server:
    """A server in processes of its own, on a port of loopback.

    Args:
        command: What to start, ``{port}`` in it replaced.
        variables: Of its environment, beside those of this process.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port: int = listener.getsockname()[1]
        self._process = subprocess.Popen(
            [sys.executable, *(part.format(port=self.port) for part in command)],
            cwd=ROOT,
            env={**clean_environment(), **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self, seconds: float = 60.0) -> None:
        """Wait until it listens.

        Raises:
            RuntimeError: It ended, or does not listen in that time.
        """
        deadline = time.monotonic() + seconds
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"a server ended with status {self._process.returncode} instead of starting")
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if time.monotonic() > deadline:
                raise RuntimeError("a server does not listen")
            time.sleep(0.02)

    def processor_seconds(self) -> float:
        """Return what all its processes have spent so far."""
        return sum(_spent(process) for process in _family(self._process.pid))

    def stop(self) -> None:
        """End it, its workers too."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _spent(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _family(process: int) -> list[int]:
    found = [process]
    with suppress(OSError):
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        for child in children:
            found += _family(int(child))
    return found


class Client:
    """Connections to one server that stay open, each with one request at a time.

    Args:
        port: Of the server, on loopback.
        connections: How many.
        headers: Lines to send beside the usual ones.
    """

    def __init__(self, port: int, connections: int, headers: Sequence[str] = ()) -> None:
        lines = ["GET /orders/7 HTTP/1.1", "Host: 127.0.0.1", "User-Agent: bench/1", "Accept: */*", *headers]
        self._request = "\r\n".join([*lines, "", ""]).encode()
        self._sockets = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(connections)]
        for each in self._sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    def answer(self) -> bytes:
        """Ask once, and return the response."""
        self._sockets[0].sendall(self._request)
        received = b""
        while not _is_whole(received):
            received += self._sockets[0].recv(65536)
        return received

    def burst(self, server: Server, seconds: float) -> Burst:
        """Ask for so long; each answer is followed by the next question on its connection.

        Raises:
            RuntimeError: The server closed a connection.
        """
        request, answered = self._request, 0
        received = dict.fromkeys(self._sockets, b"")
        spent = server.processor_seconds()
        with selectors.DefaultSelector() as selector:
            for each in self._sockets:
                selector.register(each, selectors.EVENT_READ)
                each.sendall(request)
            started = time.perf_counter()
            deadline = started + seconds
            waiting = len(self._sockets)
            while waiting:
                for key, _ in selector.select(30):
                    connection = key.fileobj
                    assert isinstance(connection, socket.socket)
                    part = connection.recv(65536)
                    if not part:
                        raise RuntimeError("the server closed a connection that was to stay open")
                    so_far = received[connection] + part
                    if not _is_whole(so_far):
                        received[connection] = so_far
                        continue
                    received[connection] = b""
                    answered += 1
                    if time.perf_counter() < deadline:
                        connection.sendall(request)
                    else:
                        waiting -= 1
            took = time.perf_counter() - started
        return Burst(answered, took, server.processor_seconds() - spent)


def _is_whole(response: bytes) -> bool:
    head, found, body = response.partition(b"\r\n\r\n")
    if not found:
        return False
    lowered = head.lower()
    start = lowered.index(b"content-length:") + len(b"content-length:")
    end = lowered.find(b"\r", start)
    return len(body) >= int(lowered[start : end if end >= 0 else None])
