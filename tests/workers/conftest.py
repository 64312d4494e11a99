"""What the tests of workers share: a real redis-server, worker processes, and what they have sent by OTLP.

A part that is not on this machine skips the test, or fails it where the environment variable ``CI`` is set.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from delivery.listeners import HttpEndpoint
from lifetime.receiver import points
from real_parts import Program, environment_without_settings, free_port, listens, show_logs

from clew import diagnostics
from clew.policy import policy


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    show_logs(outcome.get_result())  # type: ignore[attr-defined]


@pytest.fixture(autouse=True, scope="module")
def own_log_level() -> Iterator[None]:
    """A worker that runs in this process sets the level of the root logger, for itself only."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)


@pytest.fixture(autouse=True)
def own_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test configures for request IDs is not there in the next."""
    for name, value in (("header", "X-Request-ID"), ("attribute", "request_id"), ("trust", True), ("hosts", None)):
        monkeypatch.setattr(policy, name, value)
    monkeypatch.setattr(diagnostics, "_warned", set())


def missing(sentence: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(sentence + " (CI is set, so a missing part is a failure)", pytrace=False)
    pytest.skip(sentence)


def needs(*packages: str) -> None:
    """Skip the test, or with CI fail it, unless these packages can be imported."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            missing(f"{package} is not installed")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a redis-server on loopback that keeps nothing on disk."""
    binary = shutil.which("redis-server")
    if binary is None:
        missing("redis-server is not on this machine: install it (Debian has it as redis-server)")
        raise AssertionError
    port = free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = Program("redis", command, tmp_path_factory.mktemp("redis"), environment_without_settings())
    try:
        server.wait_until(lambda: listens(f"127.0.0.1:{port}"))
        yield port
    finally:
        server.stop()


@pytest.fixture
def redis_url(redis_server: int) -> str:
    """The URL of a redis-server that is empty."""
    needs("redis")
    import redis

    with redis.Redis(port=redis_server) as client:
        client.flushall()
    return f"redis://127.0.0.1:{redis_server}/0"


class Endpoint(HttpEndpoint):
    """Where workers send by OTLP, asked by operation."""

    def runs(self) -> dict[str, dict[str | None, int]]:
        """How many runs of each operation there were by error type, all processes added up."""
        found: dict[str, dict[str | None, int]] = {}
        for attributes, count, _ in self._last("operation.duration"):
            of_name = found.setdefault(attributes["operation.name"], {})
            error_type = attributes.get("error.type")
            of_name[error_type] = of_name.get(error_type, 0) + count
        return found

    def waited(self) -> dict[str, tuple[int, float]]:
        """How many runs of each operation waited in a queue, and how many seconds in all."""
        found: dict[str, tuple[int, float]] = {}
        for attributes, count, seconds in self._last("operation.time_in_queue"):
            before = found.get(attributes["operation.name"], (0, 0.0))
            found[attributes["operation.name"]] = (before[0] + count, before[1] + seconds)
        return found

    def request_ids(self, operation: str, metric: str = "operation.duration") -> set[str]:
        """The request IDs on the exemplars of an operation."""
        return {
            attribute.value.string_value
            for _, attributes, point in points(self, metric)
            if attributes["operation.name"] == operation
            for exemplar in point.exemplars
            for attribute in exemplar.filtered_attributes
            if attribute.key == "request_id"
        }

    def instances(self, metric: str = "operation.duration") -> set[str]:
        """The processes that have sent that metric."""
        return {instance for instance, _, _ in points(self, metric)}

    def counters_of(self, metric: str) -> dict[str, int]:
        """The counts of a metric by its attribute ``event.name``, all processes added up."""
        last = {
            (instance, attributes["event.name"]): point.as_int for instance, attributes, point in points(self, metric)
        }
        found: dict[str, int] = {}
        for (_, name), count in last.items():
            found[name] = found.get(name, 0) + count
        return found

    def _last(self, metric: str) -> Iterator[tuple[dict[str, str], int, float]]:
        last = {
            (instance, *sorted(attributes.items())): (attributes, point.count, point.sum)
            for instance, attributes, point in points(self, metric)
        }
        yield from last.values()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def start(tmp_path: Path, redis_url: str, endpoint: Endpoint) -> Iterator[Callable[..., Program]]:
    """Start a worker: `start(code, "-m", "celery", …, VARIABLE=value)`; `code` becomes the module ``tasks``."""
    begun: list[Program] = []

    def begin(code: str, *command: str, **variables: str) -> Program:
        (tmp_path / "tasks.py").write_text(textwrap.dedent(code))
        environment = {
            **environment_without_settings(),
            "REDIS_URL": redis_url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_SERVICE_NAME": "worker",
            "CLEW_SHUTDOWN_TIMEOUT": "60",  # what arrives does not depend on how busy the machine is
            "PYTHONPATH": str(tmp_path),
            **variables,
        }
        program = Program(f"worker-{len(begun)}", [sys.executable, *command], tmp_path, environment)
        begun.append(program)
        return program

    yield begin
    for program in begun:
        program.stop()
