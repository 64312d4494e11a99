"""The benchmark of the middlewares runs, and every contestant does its duty. No time is ever asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

OURS = {
    "asgi": {"asgi-bare", "asgi-by-hand", "clew-asgi", "clew-asgi-full"},
    "wsgi": {"wsgi-bare", "wsgi-by-hand", "clew-wsgi", "clew-wsgi-full"},
    "django": {
        *("django-bare", "clew-django", "clew-django-full"),
        *("clew-django-outside", "clew-django-outside-full"),
    },
}
OTHERS = {
    "asgi_correlation_id": "asgi-correlation-id",
    "starlette_context": "starlette-context",
    "django_guid": "django-guid",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("middleware") / "found.json"
    command = [sys.executable, "-m", "benchmarks.middleware", "--quick", "--turn", "1", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every middleware did its duty, and every request was counted." in done.stdout
    return dict(json.loads(file.read_text()))


def test_every_contestant_is_there_with_an_id_that_comes_in_and_without(found: dict[str, Any]) -> None:
    for interface, keys in OURS.items():
        rows = [row for row in found["costs"] if row["interface"] == interface]
        others = {key for package, key in OTHERS.items() if find_spec(package)}
        assert {row["key"] for row in rows} - others == keys
        assert {row["case"] for row in rows} == {"an ID comes in", "none comes in"}


def test_what_is_not_installed_is_named(found: dict[str, Any]) -> None:
    assert set(found["missing"]) == {key for package, key in OTHERS.items() if not find_spec(package)}
    assert found["mistakes"] == []


def test_both_servers_answered_with_and_without_a_middleware(found: dict[str, Any]) -> None:
    served = {(row["server"], row["key"]) for row in found["served"]}
    assert {("uvicorn", "asgi-bare"), ("uvicorn", "clew-asgi"), ("uvicorn", "clew-asgi-full")} <= served
    assert {("gunicorn", "wsgi-bare"), ("gunicorn", "clew-wsgi"), ("gunicorn", "clew-wsgi-full")} <= served
    for row in found["served"]:
        assert row["requests_per_second"]["median"] > 0
        if row["key"].endswith("-bare"):
            assert row["rate_over_none"]["median"] == 1
