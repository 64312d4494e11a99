"""Started by opentelemetry-instrument, or by `clew run` beside contrib's instrumentations."""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from lifetime.receiver import spans
from run.conftest import CLEW_RUN, Endpoint, endpoint, environment

from clew.run import distro

pytest.importorskip("opentelemetry.instrumentation.auto_instrumentation", reason="contrib is not installed")

__all__ = ["endpoint", "environment"]  # fixtures

INSTRUMENT = ("opentelemetry-instrument",)
NAMED = {"OTEL_PYTHON_DISTRO": "clew", "OTEL_PYTHON_CONFIGURATOR": "clew"}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Run:
    def end(start: tuple[str, ...], program: str, **variables: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "program.py").write_text(textwrap.dedent(program))
        return subprocess.run(
            [*start, "python", "program.py"],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=100,
        )

    return end


FLASK = """
import logging
from flask import Flask

app = Flask("shop")

@app.get("/orders/<number>")
def show(number):
    logging.getLogger("shop").warning("served")
    return "shown"

for number in range(3):
    response = app.test_client().get(f"/orders/{number}", headers={"X-Request-ID": f"order-{number}"})
    response.close()
    print(response.headers["X-Request-ID"])
"""
STARLETTE = """
import asyncio, logging
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def show(request):
    logging.getLogger("shop").warning("served")
    return PlainTextResponse("shown")

app = Starlette(routes=[Route("/orders/{number}", show)])

async def ask(number):
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}
    async def send(message):
        if message["type"] == "http.response.start":
            print(dict(message["headers"])[b"x-request-id"].decode())
    headers = [(b"host", b"test"), (b"x-request-id", f"order-{number}".encode())]
    await app({"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
        "method": "GET", "scheme": "http", "path": f"/orders/{number}", "raw_path": b"/", "query_string": b"",
        "root_path": "", "headers": headers, "server": ("test", 80), "client": ("test", 1)}, receive, send)

for number in range(3):
    asyncio.run(ask(number))
"""


@pytest.mark.parametrize("program", [FLASK, STARLETTE], ids=["flask", "starlette"])
@pytest.mark.parametrize(
    ("start", "variables"),
    [(INSTRUMENT, NAMED), (INSTRUMENT, {"OTEL_PYTHON_DISTRO": "clew"}), (CLEW_RUN, {}), ((*CLEW_RUN, *INSTRUMENT), {})],
    ids=["both named", "the distro named", "clew run", "both starts"],
)
def test_a_request_is_measured_once_and_has_its_id_everywhere(
    start: tuple[str, ...], variables: dict[str, str], program: str, run: Run, endpoint: Endpoint
) -> None:
    ended = run(start, program, **variables)
    assert ended.stdout == "order-0\norder-1\norder-2\n", ended.stderr
    assert sum(endpoint.counts("http.server.request.duration").values()) == 3
    assert endpoint.request_ids("http.server.request.duration") <= {"order-0", "order-1", "order-2"}
    assert endpoint.request_ids("http.server.request.duration")
    assert [found["request_id"] for found in endpoint.logged("served")] == ["order-0", "order-1", "order-2"]
    assert len([name for _, name in spans(endpoint) if "/orders/" in name]) >= 3


def test_without_contrib_s_instrumentations_ours_measure(run: Run, endpoint: Endpoint) -> None:
    ended = run(CLEW_RUN, FLASK, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="*")
    assert ended.stdout == "order-0\norder-1\norder-2\n", ended.stderr
    assert sum(endpoint.counts("http.server.request.duration").values()) == 3
    assert spans(endpoint) == []


OTHERS = """
class Configurator:
    def configure(self, **kwargs):
        print("others configure", sorted(kwargs), flush=True)
"""
LOADED = "import sys; print('clew.telemetry' in sys.modules)"


@pytest.fixture
def others(tmp_path: Path) -> str:
    """A folder with another configurator, installed."""
    folder = tmp_path / "others"
    (folder / "others-1.0.dist-info").mkdir(parents=True)
    (folder / "others-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (folder / "others-1.0.dist-info" / "entry_points.txt").write_text(
        "[opentelemetry_configurator]\nothers = others_configurator:Configurator\n"
    )
    (folder / "others_configurator.py").write_text(OTHERS)
    return str(folder)


def test_installed_and_not_named_it_takes_over_nobody_s_start(others: str, run: Run) -> None:
    assert run(INSTRUMENT, LOADED).stdout == "False\n"
    ended = run(INSTRUMENT, LOADED, PYTHONPATH=others)
    assert ended.stdout == "others configure ['auto_instrumentation_version']\nFalse\n"
    ended = run(INSTRUMENT, LOADED, PYTHONPATH=others, OTEL_PYTHON_CONFIGURATOR="others")
    assert ended.stdout == "others configure ['auto_instrumentation_version']\nFalse\n"
    ended = run(INSTRUMENT, LOADED, PYTHONPATH=others, **NAMED)
    assert ended.stdout == "True\n"


def test_found_first_and_not_named_it_leaves_the_start_to_the_next(
    others: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [
        EntryPoint("clew", "clew.run.distro:Configurator", "opentelemetry_configurator"),
        EntryPoint("others", "others_configurator:Configurator", "opentelemetry_configurator"),
    ]
    monkeypatch.setattr(distro, "entry_points", lambda group: points)
    monkeypatch.delenv("OTEL_PYTHON_CONFIGURATOR", raising=False)
    monkeypatch.delenv("OTEL_PYTHON_DISTRO", raising=False)
    monkeypatch.syspath_prepend(others)
    distro.Configurator().configure(auto_instrumentation_version="1")
    assert capsys.readouterr().out == "others configure ['auto_instrumentation_version']\n"
    assert distro.distro() is None


def test_the_tracker_of_multiprocessing_is_left_alone(run: Run, endpoint: Endpoint) -> None:
    program = """
        import multiprocessing

        def work(queue):
            queue.put(1)

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            queue = context.Queue()
            child = context.Process(target=work, args=(queue,))
            child.start()
            print(queue.get(timeout=60))
            child.join(30)
    """
    ended = run(INSTRUMENT, program, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="*", **NAMED)
    assert ended.stdout == "1\n"
    assert "Traceback" not in ended.stderr


def test_nothing_is_logged_of_configurators_that_nobody_has_asked_for(others: str, run: Run) -> None:
    ended = run(CLEW_RUN, "print('done')", PYTHONPATH=others)
    assert ended.stdout == "done\n"
    assert "Configuration of" not in ended.stderr


def test_wrong_settings_are_logged_once_and_the_program_runs(run: Run) -> None:
    ended = run(INSTRUMENT, "print('runs')", OTEL_METRIC_EXPORT_INTERVAL="soon", **NAMED)
    assert ended.stdout == "runs\n"
    assert ended.stderr.count("OTEL_METRIC_EXPORT_INTERVAL is ") == 1
