"""Real parts, and the shop of examples/, for the tests of a whole deployment."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
for folder in (TESTS, TESTS.parent / "examples"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from real_parts import Parts, show_logs  # noqa: E402


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows the real parts' logs beside a failed test."""
    report = yield
    show_logs(report)
    return report


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """Starts real parts for one test."""
    started = Parts(tmp_path)
    yield started
    started.stop_all()


@pytest.fixture(scope="module")
def shared_parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """Starts real parts for all tests of a module."""
    started = Parts(tmp_path_factory.mktemp("parts"))
    yield started
    started.stop_all()
