"""Programs that configure `clew` as a user's do, run in processes of their own, and the endpoints they send to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from delivery.listeners import GrpcEndpoint, HttpEndpoint

SLACK = 1.5
"""Seconds that a busy machine may add, at the least, to what the contract allows: see `durations.assert_within`."""

PROMPTLY = 45.0
"""Seconds within which everything is done that waits for nothing."""

PATIENCE = 90.0
"""Seconds that a program, and what it prints, is waited for; and what it has itself to deliver at its end, where a test
does not say otherwise: so what arrives does not depend on how busy the machine is."""


class Program:
    """A running program; what it prints is read line by line, by a thread."""

    def __init__(self, command: list[str], folder: Path, environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            env=environ,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # what it leaves behind is ended with it
        )
        self.printed: list[str] = []
        self.logged: list[str] = []
        self.ended_at = 0.0
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.printed), (self.process.stderr, self.logged))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))

    @property
    def errors(self) -> str:
        """What it wrote to standard error so far."""
        return "\n".join(self.logged)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until so many lines begin with `text`."""
        deadline = time.monotonic() + PATIENCE
        while sum(line.startswith(text) for line in list(self.printed)) < times:
            ended = self.process.poll() is not None and not any(reader.is_alive() for reader in self._readers)
            assert not ended, f"the program ended without printing {text!r}: {self.printed} {self.errors}"
            assert time.monotonic() < deadline, f"the program does not print {text!r}: {self.printed} {self.errors}"
            time.sleep(0.005)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, timeout: float = 2 * PATIENCE) -> int:
        """Wait until it has ended, and return its status."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the program hangs: {self.printed} {self.errors}") from None
        self.ended_at = time.monotonic()
        for reader in self._readers:
            reader.join(PATIENCE)
        return status

    def values(self, word: str) -> list[str]:
        """The rest of each printed line that begins with a word."""
        return [line[len(word) :].strip() for line in list(self.printed) if line.startswith(f"{word} ")]

    @property
    def ending(self) -> float:
        """Seconds from the last line ``ENDING <time.monotonic()>`` to the end of the process."""
        return self.ended_at - float(self.values("ENDING")[-1])


PREAMBLE = """
import logging, os, signal, sys, threading, time
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="LOG %(message)s")
from opentelemetry import metrics, trace
import clew

def ending():
    print("ENDING", time.monotonic(), flush=True)

@clew.measure("work")
def work():
    clew.counter("orders").add(1)
    plain.add(1)
    with trace.get_tracer("library").start_as_current_span("step"):
        logging.getLogger("program").info("worked in %d", os.getpid())
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start a program: `start(code, endpoint, VARIABLE=value…)`. It has `work()`, which uses all three signals."""
    begun: list[Program] = []

    def begin(
        code: str,
        port: int | None = None,
        *,
        preamble: str = PREAMBLE,
        command: tuple[str, ...] = (sys.executable, "{program}"),
        **variables: str,
    ) -> Program:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "CLEW_"))}
        if port is not None:
            environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{port}"
            environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
        environ["OTEL_SERVICE_NAME"] = "program"
        environ["OTEL_EXPORTER_OTLP_TIMEOUT"] = f"{PATIENCE * 1000:.0f}"
        environ["CLEW_SHUTDOWN_TIMEOUT"] = f"{PATIENCE:g}"
        path = tmp_path / f"program{len(begun)}.py"
        path.write_text(preamble + textwrap.dedent(code))
        begun.append(Program([part.format(program=path) for part in command], tmp_path, {**environ, **variables}))
        return begun[-1]

    yield begin
    for program in begun:
        with suppress(ProcessLookupError):
            os.killpg(program.process.pid, signal.SIGKILL)
        program.process.wait()


@pytest.fixture
def run(start: Callable[..., Program]) -> Callable[..., Program]:
    """Run a program to its end; it ends with status 0 unless `status` says otherwise."""

    def to_its_end(code: str, port: int | None = None, *, status: int = 0, **arguments: Any) -> Program:
        program = start(code, port, **arguments)
        found = program.end()
        assert found == status, f"status {found}: {program.printed} {program.errors}"
        return program

    return to_its_end


@pytest.fixture
def http() -> Iterator[HttpEndpoint]:
    endpoint = HttpEndpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def grpc_endpoint() -> Iterator[GrpcEndpoint]:
    endpoint = GrpcEndpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture(params=["http/protobuf", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def endpoint(protocol: str, request: pytest.FixtureRequest) -> Any:
    """An endpoint of either protocol."""
    return request.getfixturevalue("grpc_endpoint" if protocol == "grpc" else "http")
