"""The whole shop as processes on loopback: started, driven, stopped; for the demo and for tests.

with running_shop("http://127.0.0.1:4318", folder) as shop:
    sent = shop.drive(requests=200, seconds=5)
    shop.wait_until_idle()
shop.log_files["front"].read_text()
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from shop import database, jobs, load, payments, seed

EXAMPLES = Path(__file__).resolve().parent.parent
CLEW = (sys.executable, "-m", "clew.cli")
"""The command ``clew`` of this interpreter, not that of the PATH."""
PAYMENTS_INSTANCES = ("payments-1", "payments-2")

START = 90.0
"""In seconds: how long a program may take to be ready."""
END = 60.0
"""In seconds: how long a program may take to end when asked to; after that it is killed."""

T = TypeVar("T")


class NotReady(Exception):
    """A program did not start, or something did not happen in time; the message says what, and shows the log's end."""


@dataclass
class Program:
    """One process of the shop, and the file that it logs into."""

    name: str
    process: subprocess.Popen[bytes]
    log_file: Path

    def wait_for(self, pattern: str) -> str:
        """Wait until the log has a match of `pattern`; returns the match's group 1, or all of it.

        Raises:
            NotReady: The program has ended, or `START` seconds are over.
        """

        def look() -> str | None:
            found = re.search(pattern, self.log_file.read_text(errors="replace"))
            if found is None and self.process.poll() is not None:
                raise NotReady(f"{self.name} ended with status {self.process.returncode}")
            return found and found[found.re.groups and 1]

        try:
            return wait_until(look, f"{self.name} is ready", START)
        except NotReady as error:
            raise NotReady(f"{error}; the end of {self.log_file.name}:\n{self._last_lines()}") from None

    def stop(self) -> int:
        """Ask it to end, kill it when it does not, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _last_lines(self) -> str:
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-20:])


@dataclass
class RunningShop:
    """The shop's four processes: `programs` are ``front``, ``worker`` and the two of payments, by instance."""

    folder: Path
    programs: dict[str, Program] = field(default_factory=dict[str, Program])
    addresses: dict[str, str] = field(default_factory=dict[str, str])
    exit_statuses: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def log_files(self) -> dict[str, Path]:
        """The file each program logs into, by the program's name."""
        return {name: program.log_file for name, program in self.programs.items()}

    def drive(self, *, sick: bool = True, **how: Any) -> load.Sent:
        """Send load to the front; `how` is what `load.drive` takes.

        With `sick` the last payments instance is sick for the middle third of the time.
        """
        return load.drive(self.addresses["front"], sick=self.addresses[PAYMENTS_INSTANCES[-1]] if sick else None, **how)

    def wait_until_idle(self, timeout: float = 120.0) -> None:
        """Wait until the worker has done every job.

        Raises:
            NotReady: It has not within `timeout` seconds.
        """
        with closing(database.connect(self.folder / "shop.sqlite")) as connection:
            wait_until(lambda: jobs.unfinished(connection) == 0, "the worker has done every job", timeout)

    def stop(self) -> None:
        """End all programs, each as it ends in production: asked to, with time to send what it has measured.

        The front goes first, so that what it asks of the others is still answered.
        """
        for name, program in reversed(self.programs.items()):
            if name not in self.exit_statuses:
                self.exit_statuses[name] = program.stop()


@contextmanager
def running_shop(
    endpoint: str,
    folder: Path,
    *,
    protocol: Literal["grpc", "http/protobuf"] = "http/protobuf",
    settings: Mapping[str, str] | None = None,
) -> Generator[RunningShop]:
    """Run the shop, sending its telemetry to an OTLP endpoint; it ends with the block.

    Args:
        endpoint: The address that receives OTLP by `protocol`, without a path.
        folder: An empty folder for its databases and log files.
        protocol: How OTLP is sent.
        settings: Further environment variables, such as ``{"OTEL_METRIC_EXPORT_INTERVAL": "500"}``.

    Raises:
        NotReady: One of the programs did not start.
    """
    shop = RunningShop(folder)
    seed.seed(folder / "shop.sqlite")
    database.create(folder / "payments.sqlite", payments.SCHEMA)
    environment = {
        **environment_without_settings(),
        "PYTHONPATH": str(EXAMPLES),
        "PYTHONUNBUFFERED": "1",
        "SHOP_DATABASE": str(folder / "shop.sqlite"),
        "SHOP_PAYMENTS_DATABASE": str(folder / "payments.sqlite"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        "CLEW_SPANS": "true",
        "CLEW_SHUTDOWN_TIMEOUT": "30",  # the counts are exact on a busy machine too
        **(settings or {}),
    }

    def start(name: str, command: str, service: str, **more: str) -> Program:
        own = {"OTEL_SERVICE_NAME": service, **_with_instance(environment, name), **more}
        program = start_program(name, [sys.executable, "-m", "shop", command], folder, environment | own)
        shop.programs[name] = program
        return program

    try:
        for instance in PAYMENTS_INSTANCES:
            start(instance, "payments", "payments")
        start("worker", "worker", "worker")
        for instance in PAYMENTS_INSTANCES:
            shop.addresses[instance] = shop.programs[instance].wait_for(r"running on (http://\S+)")
        front = start("front", "front", "front", SHOP_PAYMENTS=" ".join(shop.addresses.values()))
        shop.addresses["front"] = front.wait_for(r"running on (http://\S+)")
        shop.programs["worker"].wait_for("the worker is ready")
        yield shop
    finally:
        shop.stop()


@dataclass(frozen=True)
class LocalCollector:
    """A running ``clew local``: where it receives OTLP over HTTP and gRPC, and its store."""

    http: str
    grpc: str
    store: Path


@contextmanager
def local_collector(folder: Path) -> Generator[LocalCollector]:
    """Run ``clew local`` on free ports with a store in `folder`; it ends with the block.

    Raises:
        NotReady: It did not start.
    """
    store = folder / "clew.sqlite"
    command = [*CLEW, "local", "--store", str(store), "--grpc-port", "0", "--http-port", "0"]
    program = start_program("clew-local", command, folder, environment_without_settings() | {"PYTHONUNBUFFERED": "1"})
    try:
        yield LocalCollector(
            http=program.wait_for(r"OTLP/HTTP listens on (http://\S+)"),
            grpc=program.wait_for(r"OTLP/gRPC listens on (http://\S+)"),
            store=store,
        )
    finally:
        program.stop()


def start_program(name: str, command: list[str], folder: Path, environment: Mapping[str, str]) -> Program:
    """Start a program in `folder` that logs into a file of its name there."""
    log_file = folder / f"{name}.log"
    with log_file.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    return Program(name, process, log_file)


def environment_without_settings() -> dict[str, str]:
    """This process's environment without what would configure telemetry, or send loopback requests to a proxy."""
    unwanted = re.compile(r"(OTEL|CLEW|SHOP)_|(https?|all)_proxy$", re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if not unwanted.match(name)}


def wait_until(ask: Callable[[], T | None], what: str, timeout: float) -> T:
    """Ask until the answer is true, and return it.

    Raises:
        NotReady: It is not within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise NotReady(f"not within {timeout:g} s: {what}")
        time.sleep(0.05)
    return answer


def _with_instance(environment: Mapping[str, str], instance: str) -> dict[str, str]:
    given = environment.get("OTEL_RESOURCE_ATTRIBUTES")
    own = f"service.instance.id={instance}"
    return {"OTEL_RESOURCE_ATTRIBUTES": f"{given},{own}" if given else own}
