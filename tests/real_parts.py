"""The real programs that tests talk to: the OpenTelemetry Collector, Prometheus.

Each part runs on loopback ports of its own and in a directory of its own, is waited for by asking it, and ended by its
process ID. Beside a failed test the logs of all that run are shown (`show_logs`). A part that is not on this machine
skips the test, or fails it where the environment variable ``CI`` is set.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATIONS = ROOT / "collector-config"

Value = TypeVar("Value")


def eventually(ask: Callable[[], Value], *, what: str, timeout: float = 60.0) -> Value:
    """The first truthy answer of `ask`; a failure that names `what` and shows the last answer after `timeout` seconds.

    An AssertionError or an OSError of `ask` (not there yet) counts as no answer.
    """
    deadline = time.monotonic() + timeout
    pause = 0.01
    while True:
        answer: object
        try:
            answer = value = ask()
            if value:
                return value
        except (AssertionError, OSError) as error:
            answer = error
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what}; the last answer was {answer!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


# Every part that runs in this test process; what a conftest.py shows the logs of when a test fails.
running: list[Program] = []

# For each port that was given away: the same number of UDP is taken, which nobody wants, until this process ends.
_reserved: list[socket.socket] = []


def free_port() -> int:
    """A loopback port that nobody listens on, below those of outgoing connections.

    It is never given twice, also not to the test processes that run beside this one.
    """
    while True:
        port = random.SystemRandom().randint(15_000, 31_000)
        with socket.socket() as attempt, suppress(OSError):
            attempt.bind(("127.0.0.1", port))
            reservation = socket.socket(type=socket.SOCK_DGRAM)
            try:
                reservation.bind(("127.0.0.1", port))
            except OSError:
                reservation.close()
                continue
            _reserved.append(reservation)
            return port


def collector_binary() -> str:
    """What CLEW_TEST_COLLECTOR names, or what `make collector` built, or a skip or, in CI, a failure."""
    named = os.environ.get("CLEW_TEST_COLLECTOR")
    if named:
        if not os.access(named, os.X_OK):
            pytest.fail(f"CLEW_TEST_COLLECTOR={named} is no program that can be run")
        return named
    built = ROOT / "build" / "collector" / "otelcol-clew"
    return str(built) if built.exists() else _missing("the OpenTelemetry Collector")


def prometheus_binary(name: str = "prometheus") -> str:
    """`prometheus` or `promtool`: from the PATH, or what `make parts` unpacked, or a skip or, in CI, a failure."""
    unpacked = ROOT / "build" / "prometheus" / "usr" / "bin"
    return shutil.which(name) or shutil.which(name, path=str(unpacked)) or _missing(name)


def prometheus3_binary() -> str:
    """The Prometheus 3 that `make parts` built, or a skip or, in CI, a failure."""
    built = ROOT / "build" / "prometheus3" / "prometheus"
    return str(built) if built.exists() else _missing("Prometheus 3")


def uwsgi_binary() -> str:
    """The uWSGI that `make parts` built beside this Python, or a skip or, in CI, a failure."""
    built = Path(sys.executable).with_name("uwsgi")
    return str(built) if built.exists() else _missing("uWSGI")


def _missing(part: str) -> str:
    sentence = f"{part} is not on this machine: run `make parts`"
    if os.environ.get("CI"):
        pytest.fail(sentence + " (CI is set, so a missing part is a failure)")
    pytest.skip(sentence)


class Program:
    """A running program, its output kept in a file."""

    def __init__(self, name: str, command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log_file = directory / f"{name}.log"
        self._output = self.log_file.open("ab")
        self.process = subprocess.Popen(
            list(command),
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
        )
        running.append(self)

    def log(self) -> str:
        """All it has printed so far."""
        return self.log_file.read_text(errors="replace")

    def wait_until(self, ready: Callable[[], object], *, timeout: float = 90.0) -> None:
        """Returns once `ready` says so; a failure that shows the log if the program ends before that."""

        def ready_or_ended() -> object:
            if self.process.poll() is not None:
                status = self.process.returncode
                pytest.fail(f"{self.name} ended with status {status} instead of starting:\n{self.log()[-4000:]}")
            return ready()

        eventually(ready_or_ended, what=f"{self.name} is ready", timeout=timeout)

    def stop(self, *, timeout: float = 90.0) -> int:
        """Asks it to end (SIGTERM), kills it after `timeout` seconds; returns its exit status."""
        return self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """Ends it as a power cut would (SIGKILL)."""
        self._end(signal.SIGKILL, 90.0)

    def _end(self, how: signal.Signals, timeout: float) -> int:
        if self._output.closed:
            return self.process.returncode
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._output.close()
        running.remove(self)
        return self.process.returncode


class Collector(Program):
    """The real Collector with one of the configurations in collector-config/.

    `grpc_endpoint` (for OTLP over gRPC) and `http_endpoint` (over HTTP) are URLs without a path, `scrape_url` is the
    page of prometheus.yaml, `health_url` and `own_metrics_url` are those of gateway.yaml.
    """

    def __init__(self, configuration: str, directory: Path, settings: Mapping[str, str]) -> None:
        secure = "COLLECTOR_TLS_CERT" in settings
        scheme = "https" if secure else "http"
        own = {
            "COLLECTOR_GRPC_ENDPOINT": f"127.0.0.1:{free_port()}",
            "COLLECTOR_HTTP_ENDPOINT": f"127.0.0.1:{free_port()}",
            "COLLECTOR_SCRAPE_ENDPOINT": f"127.0.0.1:{free_port()}",
            "COLLECTOR_HEALTH_ENDPOINT": f"127.0.0.1:{free_port()}",
            "COLLECTOR_OWN_METRICS_PORT": str(free_port()),
            **settings,
        }
        self.settings = own
        self.grpc_endpoint = f"{scheme}://{own['COLLECTOR_GRPC_ENDPOINT']}"
        self.http_endpoint = f"{scheme}://{own['COLLECTOR_HTTP_ENDPOINT']}"
        self.scrape_url = f"http://{own['COLLECTOR_SCRAPE_ENDPOINT']}/metrics"
        self.health_url = f"http://{own['COLLECTOR_HEALTH_ENDPOINT']}/"
        self.own_metrics_url = f"http://127.0.0.1:{own['COLLECTOR_OWN_METRICS_PORT']}/metrics"
        command = [collector_binary(), "--config", str(CONFIGURATIONS / configuration)]
        super().__init__(
            f"collector-{Path(configuration).stem}", command, directory, environment_without_settings() | own
        )

    def wait_until_ready(self) -> None:
        """Returns once every part of the Collector has started and both OTLP ports answer."""
        addresses = [self.settings["COLLECTOR_GRPC_ENDPOINT"], self.settings["COLLECTOR_HTTP_ENDPOINT"]]
        self.wait_until(lambda: "Everything is ready" in self.log() and all(listens(address) for address in addresses))


class Prometheus(Program):
    """The real Prometheus: takes remote writes, keeps exemplars, scrapes `scrape` ("host:port" each) every second.

    Where it `takes_otlp` it is Prometheus 3, otherwise either version; `otlp` goes into its configuration for that.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        scrape: Sequence[str] = (),
        takes_otlp: bool = False,
        otlp: Mapping[str, Any] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.otlp_url = f"{self.url}/api/v1/otlp/v1/metrics"
        self.remote_write_url = f"{self.url}/api/v1/write"
        directory.mkdir(parents=True, exist_ok=True)
        jobs = [
            {
                "job_name": "page",
                "honor_labels": True,
                "scrape_interval": "1s",
                "static_configs": [{"targets": list(scrape)}],
            }
        ]
        configuration = directory / "prometheus.yml"
        settings: dict[str, Any] = {"scrape_configs": jobs if scrape else []}
        if otlp is not None:
            settings["otlp"] = dict(otlp)
        configuration.write_text(json.dumps(settings))  # JSON is YAML
        command = [
            prometheus3_binary() if takes_otlp else prometheus_binary(),
            f"--config.file={configuration}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-remote-write-receiver",
            "--enable-feature=exemplar-storage",
            *(["--web.enable-otlp-receiver"] if takes_otlp else []),
        ]
        super().__init__("prometheus", command, directory, environment_without_settings())

    def wait_until_ready(self) -> None:
        """Returns once it answers that it is ready."""
        self.wait_until(lambda: get(f"{self.url}/-/ready").status == 200)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query: ``[{"metric": {label: value}, "value": [time, "number"]}]``."""
        return self._api("query", query=expression)["result"]

    def value(self, expression: str) -> float | None:
        """The number that an expression with a single series comes to, or None where there is no series."""
        series = self.query(expression)
        assert len(series) <= 1, f"{expression} is {len(series)} series, not one"
        return float(series[0]["value"][1]) if series else None

    def exemplars(self, selector: str) -> list[dict[str, Any]]:
        """The last hour's exemplars: ``[{"labels": {…}, "value": "number", "timestamp": seconds, "series": {…}}]``."""
        now = time.time()
        answer = self._api("query_exemplars", query=selector, start=str(now - 3600), end=str(now + 60))
        return [exemplar | {"series": one["seriesLabels"]} for one in answer for exemplar in one["exemplars"]]

    def _api(self, question: str, **parameters: str) -> Any:
        answer = get(f"{self.url}/api/v1/{question}?{urllib.parse.urlencode(parameters)}")
        body = json.loads(answer.text)
        assert body["status"] == "success", body
        return body["data"]


@dataclass(frozen=True)
class Answer:
    """What an HTTP server answered."""

    status: int
    text: str


def get(url: str, *, accept: str = "*/*") -> Answer:
    """A GET of a loopback URL, never by way of a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers={"Accept": accept}), timeout=60) as response:
            return Answer(response.status, response.read().decode())
    except urllib.error.HTTPError as refusal:
        with refusal:
            return Answer(refusal.code, refusal.read().decode(errors="replace"))


def listens(address: str) -> bool:
    """Whether something accepts connections at "host:port"."""
    host, port = address.rsplit(":", 1)
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=5):
        return True
    return False


def environment_without_settings() -> dict[str, str]:
    """This process's environment without what would configure a part or send its requests to a proxy."""
    unwanted = re.compile(r"COLLECTOR_|OTEL_|CLEW_|(https?|all)_proxy$", re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if not unwanted.match(name)}


def show_logs(report: pytest.TestReport) -> None:
    """Adds the end of each running part's log to a failed test's report; for `pytest_runtest_makereport`."""
    if report.failed:
        report.sections += [(f"the end of the log of {program.name}", program.log()[-4000:]) for program in running]


class Parts:
    """Starts parts for a test, each below a directory of its own, and stops those still running at its end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[Program] = []

    def collector(self, configuration: str, **settings: str) -> Collector:
        """The Collector with a configuration of collector-config/ and these COLLECTOR_… variables, ready."""
        collector = Collector(configuration, self._next_directory(), settings)
        self._running.append(collector)
        collector.wait_until_ready()
        return collector

    def prometheus(self, **arguments: Any) -> Prometheus:
        """Prometheus with empty storage and these arguments of `Prometheus`, ready."""
        prometheus = Prometheus(self._next_directory(), **arguments)
        self._running.append(prometheus)
        prometheus.wait_until_ready()
        return prometheus

    def stop_all(self) -> None:
        """Stops what still runs, the last started first."""
        for program in reversed(self._running):
            program.stop()

    def _next_directory(self) -> Path:
        return self._directory / f"part-{len(self._running) + 1}"
