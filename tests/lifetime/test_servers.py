"""Servers that fork or spawn their workers: each worker sends its own at its graceful stop."""

from __future__ import annotations

import os
import re
import signal
import sys
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from delivery.listeners import eventually
from lifetime.receiver import logs, spans, totals
from lifetime.test_forks import COUNTERS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

WSGI = """
def application(environ, start_response):
    work()
    time.sleep(0.01)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("content-length", str(len(body)))])
    return [body]
"""

ASGI = """
async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    work()
    time.sleep(0.01)
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
"""

CONFIGURED = """
telemetry = clew.configure()
plain = metrics.get_meter("library").create_counter("plain")
"""


def port_of(program: Any) -> int:
    """The port that a server, left to choose, logs."""
    address = r"(?:Listening at:|Uvicorn running on) http://127\.0\.0\.1:(\d+)"
    return int(eventually(lambda: re.search(address, program.errors))[1])


def ask(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


def ask_often(port: int) -> list[str]:
    """Ask until there is an answer, then many times at once; return who answered each time."""
    first = eventually(lambda: ask(port))
    with ThreadPoolExecutor(8) as askers:
        answers = [first, *askers.map(ask, [port] * 39)]
    assert all(answers)
    return answers


def exactly(endpoint: Any, answers: list[str]) -> None:
    """Each worker has sent its own numbers under an instance of its own."""
    expected = sorted(answers.count(worker) for worker in set(answers))
    for name in COUNTERS:
        assert sorted(totals(endpoint, name).values()) == expected, name
    assert len(spans(endpoint)) == len(answers)
    assert len([text for _, text in logs(endpoint) if text.startswith("worked")]) == len(answers)


@pytest.mark.parametrize("worker", ["sync", "gthread"])
@pytest.mark.parametrize("preload", [False, True], ids=["workers configure", "the parent configures"])
def test_gunicorn(worker: str, preload: bool, start: Callable[..., Any], http: Any) -> None:
    pytest.importorskip("gunicorn")
    program = start(
        WSGI + CONFIGURED,
        http.port,
        GUNICORN_CMD_ARGS=f"--bind 127.0.0.1:0 --workers 2 --threads 2 --worker-class {worker} --timeout 90"
        f"{' --preload' if preload else ''} --no-control-socket",
        command=(sys.executable, "-m", "gunicorn", "program0:application"),
    )
    answers = ask_often(port_of(program))
    program.signal(signal.SIGTERM)
    assert program.end() == 0, program.errors
    exactly(http, answers)


def test_gunicorn_with_preload_and_workers_of_uvicorn_that_take_sigterm_away(
    start: Callable[..., Any], http: Any, tmp_path: Path
) -> None:
    pytest.importorskip("gunicorn")
    pytest.importorskip("uvicorn_worker")
    hook = tmp_path / "hook.py"
    hook.write_text("import clew\n\ndef post_worker_init(worker):\n    clew.configure()\n")
    program = start(
        ASGI + CONFIGURED,
        http.port,
        GUNICORN_CMD_ARGS="--bind 127.0.0.1:0 --workers 2 --worker-class uvicorn_worker.UvicornWorker --timeout 90"
        f" --preload --no-control-socket --config {hook}",
        command=(sys.executable, "-m", "gunicorn", "program0:application"),
    )
    answers = ask_often(port_of(program))
    program.signal(signal.SIGTERM)
    assert program.end() == 0, program.errors
    exactly(http, answers)


def test_uvicorn_with_workers(start: Callable[..., Any], http: Any) -> None:
    pytest.importorskip("uvicorn")
    program = start(
        ASGI
        + CONFIGURED
        + """
if __name__ == "__main__":
    import uvicorn
    uvicorn.run("program0:application", port=0, workers=2, timeout_worker_healthcheck=90)
""",
        http.port,
    )
    answers = ask_often(port_of(program))
    program.signal(signal.SIGTERM)
    program.end()
    exactly(http, answers)


def test_uvicorn_in_one_process(start: Callable[..., Any], http: Any) -> None:
    pytest.importorskip("uvicorn")
    program = start(
        ASGI
        + CONFIGURED
        + """
if __name__ == "__main__":
    import uvicorn
    uvicorn.run(application, port=0)
""",
        http.port,
    )
    port = port_of(program)
    eventually(lambda: ask(port))
    program.signal(signal.SIGTERM)
    program.end()
    for name in COUNTERS:
        assert list(totals(http, name).values()) == [1], name
    assert len(spans(http)) == 1
