"""The pytest plugin ``clew``: the fixture `telemetry`, and what it recorded under the report of a failed test.

A module of its own beside the package `clew`, since importing a module of the package imports the package, and with it
OpenTelemetry: that is done when a test first asks for the fixture. See `clew.testing` for what the fixture is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from clew.testing import CapturedTelemetry

_EXPORTERS = ("OTEL_METRICS_EXPORTER", "OTEL_TRACES_EXPORTER", "OTEL_LOGS_EXPORTER")

_set_here = pytest.StashKey[dict[str, "str | None"]]()
_captured = pytest.StashKey["CapturedTelemetry"]()
_requests = pytest.StashKey[Any]()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Let tests send nothing, unless the environment says where to; before any module of the application is imported.

    A configuration file names its exporters itself.
    """
    if os.environ.get("OTEL_CONFIG_FILE", "").strip():
        return
    before = early_config.stash[_set_here] = {}
    for name in _EXPORTERS:
        if not os.environ.get(name, "").strip():
            before[name] = os.environ.get(name)
            os.environ[name] = "none"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave the environment as it was found."""
    before = config.stash.get(_set_here, None)
    for name, value in () if before is None else before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Learn of the requests of a test that uses the fixture before its other fixtures begin some."""
    if "telemetry" in getattr(item, "fixturenames", ()):
        from clew.testing.watch import RequestWatch

        item.stash[_requests] = RequestWatch()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Learn of no further requests."""
    watch = item.stash.get(_requests, None)
    if watch is not None:
        watch.end()


@pytest.fixture
def telemetry(request: pytest.FixtureRequest) -> Iterator[CapturedTelemetry]:
    """What clew and OpenTelemetry record during the test: calls of operations, metrics, spans, log lines."""
    from clew.testing.capture import capture

    with capture(request.node.stash.get(_requests, None)) as captured:
        request.node.stash[_captured] = captured
        yield captured


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test that asked for names that nothing has, unless it fails anyhow."""
    said = ""
    try:
        yield
    finally:  # asked in any case, so that they are not told again when the fixture ends
        captured = item.stash.get(_captured, None)
        if captured is not None:
            said = captured.unknown_names()
    if said:
        pytest.fail(said, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the requests of a failed test under its report, with their log lines and spans."""
    report = yield
    captured = item.stash.get(_captured, None)
    if report.failed and captured is not None:
        text = captured.report()
        if text:
            report.sections.append(("Telemetry", text))
    return report


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain a comparison with something that the fixture returned by the table that it comes from."""
    tables = sys.modules.get("clew.testing.tables")
    return None if tables is None else tables.explained(left, op, right)
