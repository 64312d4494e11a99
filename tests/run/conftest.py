"""Programs that never import clew, started by `clew run`, and what they have sent."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from delivery.listeners import HttpEndpoint
from lifetime.receiver import points
from real_parts import Program, environment_without_settings, show_logs

CLEW_RUN = (sys.executable, "-m", "clew.cli", "run", "--")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    show_logs(outcome.get_result())  # type: ignore[attr-defined]


class Endpoint(HttpEndpoint):
    """Where the programs send by OTLP, asked by operation and request."""

    def counts(self, metric: str, *names: str) -> dict[tuple[str, ...], int]:
        """How often each combination of these attributes was measured, all processes added up."""
        last: dict[Any, tuple[tuple[str, ...], int]] = {}
        for instance, attributes, point in points(self, metric):
            series = (instance, point.start_time_unix_nano, *sorted(attributes.items()))
            last[series] = (tuple(attributes.get(name, "") for name in names), point.count)
        found: dict[tuple[str, ...], int] = {}
        for key, count in last.values():
            found[key] = found.get(key, 0) + count
        return found

    def operations(self) -> dict[str, int]:
        """How often each operation ran."""
        return {name: count for (name,), count in self.counts("operation.duration", "operation.name").items()}

    def request_ids(self, metric: str) -> set[str]:
        """The request IDs on the exemplars of a metric."""
        return {
            attribute.value.string_value
            for _, _, point in points(self, metric)
            for exemplar in point.exemplars
            for attribute in exemplar.filtered_attributes
            if attribute.key == "request_id"
        }

    def logged(self, text: str) -> list[dict[str, str]]:
        """The attributes of the log records that have this text."""
        return [
            {attribute.key: attribute.value.string_value for attribute in record.attributes}
            for message in list(self.received.messages)
            for resource in getattr(message, "resource_logs", ())
            for scope in resource.scope_logs
            for record in scope.log_records
            if record.body.string_value == text
        ]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def environment(tmp_path: Path, endpoint: Endpoint) -> dict[str, str]:
    return {
        **environment_without_settings(),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRIC_EXPORT_INTERVAL": "300",
        "CLEW_SHUTDOWN_TIMEOUT": "60",
        "OTEL_SERVICE_NAME": "program",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    """Write files: `write(app="…", shop__orders="…")` makes ``app.py`` and ``shop/orders.py``."""

    def files(**texts: str) -> None:
        for name, text in texts.items():
            path = tmp_path / (name.replace("__", "/") + ".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(text))

    return files


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., Program]]:
    """Start a program by `clew run` and leave it running: `start("gunicorn", …, VARIABLE=value)`."""
    begun: list[Program] = []

    def begin(*command: str, **variables: str) -> Program:
        program = Program(f"program-{len(begun)}", [*CLEW_RUN, *command], tmp_path, {**environment, **variables})
        begun.append(program)
        return program

    yield begin
    for program in begun:
        program.stop()
