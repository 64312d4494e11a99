"""What the tests of integrations share: real servers on loopback, raw connections, log records read in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from recorded import Recorded
from serving import Address, serve_asgi, serve_wsgi

from clew import diagnostics
from clew.policy import policy


@pytest.fixture(autouse=True)
def own_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test configures for request IDs is not there in the next."""
    for name, value in (("header", "X-Request-ID"), ("attribute", "request_id"), ("trust", True), ("hosts", None)):
        monkeypatch.setattr(policy, name, value)
    monkeypatch.setattr(policy, "baggage", False)
    monkeypatch.setattr(diagnostics, "_warned", set())


@pytest.fixture
def asgi_server() -> Iterator[Callable[..., Address]]:
    """Serve an ASGI application with a real uvicorn until the test ends."""
    with ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(serve_asgi(app, **options))


@pytest.fixture
def wsgi_server() -> Iterator[Callable[..., Address]]:
    """Serve a WSGI application with the standard library's server until the test ends."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(serve_wsgi(app))


class LogRecords:
    """The OpenTelemetry log records that have been sent."""

    def __init__(self) -> None:
        self.exporter = InMemoryLogRecordExporter()
        self.processor = SimpleLogRecordProcessor(self.exporter)

    def all(self) -> list[Any]:
        """Return the records, in order."""
        return [found.log_record for found in self.exporter.get_finished_logs()]

    def bodies(self) -> list[Any]:
        """Return what they say."""
        return [record.body for record in self.all()]

    def one(self, body: str) -> Any:
        """Return the only record that says `body`."""
        (found,) = [record for record in self.all() if record.body == body]
        return found


@pytest.fixture
def log_records() -> LogRecords:
    """An exporter of log records in memory."""
    return LogRecords()


@pytest.fixture
def logged(configured: Callable[..., Recorded], log_records: LogRecords) -> LogRecords:
    """Telemetry with the default settings whose log records are read in memory."""
    configured(log_processors=[log_records.processor])
    return log_records
