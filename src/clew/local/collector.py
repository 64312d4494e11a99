"""`clew local`: the store, its writer and the receiver, from start to a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from clew.local.receiver import Receiver
from clew.local.retention import Retention
from clew.local.store import WritableStore
from clew.local.writer import Writer

_QUIET = 10.0  # seconds before a line that begins alike is printed again
_GRACE = 2  # seconds for exports under way when the end comes


class ListenError(Exception):
    """A port cannot be opened; the message names it."""


@dataclass(frozen=True)
class Settings:
    """The options of `clew local`: ports (0 picks a free one), seconds, bytes."""

    store: Path
    host: str
    grpc_port: int
    http_port: int
    max_age: float | None
    max_size: int
    request_id_attribute: str


def serve(settings: Settings) -> None:
    """Receive until SIGINT or SIGTERM, then commit what is there and return.

    Prints one line a listener on standard output once both are ready.

    Raises:
        StoreError: the store cannot be used.
        ListenError: a port cannot be opened.
    """
    warn = _Warnings()
    store = WritableStore(settings.store)
    try:
        writer = Writer(store, Retention(settings.max_age, settings.max_size, warn), warn)
        try:
            receiver = Receiver(writer.write, settings.request_id_attribute, warn)
            try:
                asyncio.run(_listen(settings, receiver))
            finally:
                receiver.close()
        finally:
            writer.close()
            warn.close()
    finally:
        store.close()


async def _listen(settings: Settings, receiver: Receiver) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        _on_signal(loop, number, ended)
    listener = _bind(settings.host, settings.http_port)
    address = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        grpc_server, grpc_port = receiver.grpc_server(f"{address}:{settings.grpc_port}")
    except OSError as error:
        listener.close()
        raise ListenError(f"gRPC cannot listen on {address}:{settings.grpc_port}: {error}") from error
    http_server = _HttpServer(
        uvicorn.Config(
            receiver.http_application(),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_GRACE,
            server_header=False,
        )
    )
    grpc_server.start()
    serving = asyncio.create_task(http_server.serve(sockets=[listener]))
    while not http_server.started and not serving.done():
        await asyncio.sleep(0.01)
    print(f"OTLP/gRPC listens on http://{address}:{grpc_port}", flush=True)
    print(f"OTLP/HTTP listens on http://{address}:{listener.getsockname()[1]}", flush=True)
    await ended.wait()
    http_server.should_exit = True
    stopped = grpc_server.stop(_GRACE)
    await serving
    await loop.run_in_executor(None, stopped.wait)


class _HttpServer(uvicorn.Server):
    """uvicorn without signal handlers of its own, which would raise the signal again after a clean end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _on_signal(loop: asyncio.AbstractEventLoop, number: int, ended: asyncio.Event) -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(ended.set)

    signal.signal(number, end)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if sys.platform != "win32":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ListenError(f"HTTP cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener


class _Warnings:
    """Lines on standard error, those that begin alike at most once in ten seconds, with how many came meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._printed: dict[str, tuple[float, int]] = {}

    def __call__(self, line: str) -> None:
        like = line[:40]
        now = time.monotonic()
        with self._lock:
            last, held_back = self._printed.get(like, (-_QUIET, 0))
            if now - last < _QUIET:
                self._printed[like] = (last, held_back + 1)
                return
            if len(self._printed) > 1000:
                self._printed.clear()
            self._printed[like] = (now, 0)
        self._print(line, held_back)

    def close(self) -> None:
        """Print how many lines were held back."""
        for like, (_, held_back) in self._printed.items():
            if held_back:
                self._print(f"{like}…", held_back)

    def _print(self, line: str, held_back: int) -> None:
        line = "".join(character if character.isprintable() else " " for character in line)
        more = f" (and {held_back} times more like it)" if held_back else ""
        print(f"clew local: {line}{more}", file=sys.stderr, flush=True)
