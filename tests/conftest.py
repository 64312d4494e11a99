"""What all tests share: a clean environment, and telemetry that is read in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from recorded import Recorded

import clew
from clew.operations import pipeline
from clew.policy import policy

pytest_plugins = ["pytester"]  # for the tests of our own plugin; pytest takes it in this file only

# How long an example takes depends on the machine alone.
settings.register_profile("clew", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("clew")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Twice as many test processes as there are cores for them, since they wait half of the time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 2 * (cores or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The modules about workers come first: they wait the longest, and nothing would run beside the last ones."""
    items.sort(key=lambda item: "workers" not in item.path.stem)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """What tests log may be no text that can be encoded; what they report is sent between processes all the same."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(name): _encodable(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_encodable, value))
    return value


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine that runs the tests configures them."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "CLEW_")) and not name.startswith("CLEW_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Recorded]]:
    """`clew.configure(…)` that sends nothing and lets metrics, spans and log records be read in memory."""
    for signal in ("METRICS", "TRACES", "LOGS"):
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "none")
    made: list[clew.Telemetry] = []

    def configure(**arguments: Any) -> Recorded:
        recorded = Recorded()
        telemetry = clew.configure(**{**recorded.arguments, **arguments})
        recorded.telemetry = telemetry
        made.append(telemetry)
        return recorded

    yield configure
    for telemetry in made:
        telemetry.shutdown()
    policy.__init__()  # type: ignore[misc]
    assert pipeline.current is None


@pytest.fixture
def recorded(configured: Callable[..., Recorded]) -> Recorded:
    """Telemetry with the default settings, read in memory."""
    return configured()
