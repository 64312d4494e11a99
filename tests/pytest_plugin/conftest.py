"""The tests of the pytest plugin run pytest on small test modules, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Run pytest on a test module and the files beside it, as a user does."""
    others = ("cacheprovider", "hypothesispytest", "randomly")  # they take time, or change what these tests are about
    options = " ".join(f"-p no:{plugin}" for plugin in others)
    pytester.makeini(f"[pytest]\nlog_level = INFO\naddopts = {options}\n")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(tests: str, *arguments: str, **modules: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=tests, **modules)
        return pytester.runpytest_subprocess(*arguments, timeout=180)

    return run
