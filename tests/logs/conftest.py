"""Telemetry whose log records are read in memory, with records held or canonical lines written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lifetime.conftest import http, run, start  # noqa: F401 - fixtures
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from recorded import Recorded

from clew import diagnostics

NEVER = 3600.0
"""In seconds: no request of a test lasts that long."""


class Sent:
    """The log records that have been sent, and the telemetry that they are part of."""

    def __init__(self) -> None:
        self.exporter = InMemoryLogRecordExporter()
        self.recorded: Recorded

    def all(self) -> list[Any]:
        return [found.log_record for found in self.exporter.get_finished_logs()]

    def texts(self) -> list[Any]:
        return [record.body for record in self.all()]

    def one(self, text: str) -> Any:
        (found,) = [record for record in self.all() if record.body == text]
        return found

    def canonical(self) -> list[Any]:
        return [
            found.log_record
            for found in self.exporter.get_finished_logs()
            if found.instrumentation_scope is not None and found.instrumentation_scope.name == "clew.canonical"
        ]

    def line(self) -> dict[str, Any]:
        """The attributes of the only canonical line."""
        (found,) = self.canonical()
        return dict(found.attributes)


@pytest.fixture(autouse=True)
def every_level(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """A logger that lets everything pass, and nothing that was logged before."""
    monkeypatch.setattr(diagnostics, "_warned", set())
    monkeypatch.setattr(diagnostics, "_counts", {})
    monkeypatch.setattr(diagnostics, "_reported", {})
    logger = logging.getLogger("shop")
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def follow(configured: Callable[..., Recorded]) -> Callable[..., Sent]:
    """`clew.configure(…)` with these settings."""

    def begin(**settings: Any) -> Sent:
        sent = Sent()
        sent.recorded = configured(log_processors=[SimpleLogRecordProcessor(sent.exporter)], **settings)
        return sent

    return begin


@pytest.fixture
def hold(follow: Callable[..., Sent]) -> Callable[..., Sent]:
    """The same, with the records of requests held."""
    return lambda **settings: follow(**{"logs": "interesting", "logs_slow": NEVER, **settings})


@pytest.fixture
def held(hold: Callable[..., Sent]) -> Sent:
    return hold()
