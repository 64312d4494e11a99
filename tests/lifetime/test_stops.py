"""Ways of starting a server and of stopping it: all that was measured until a graceful stop is sent, each time."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from delivery.listeners import eventually
from lifetime.conftest import PATIENCE
from lifetime.receiver import totals
from lifetime.test_forks import COUNTERS
from lifetime.test_servers import ASGI, CONFIGURED, WSGI, ask, ask_often, exactly
from real_parts import free_port, uwsgi_binary

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and forks")

TERM, INT, QUIT = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT
MODULE = (sys.executable, "-m")
UVICORN = (*MODULE, "uvicorn", "program0:application", "--port", "{port}")
HYPERCORN = (*MODULE, "hypercorn", "program0:application", "--bind", "127.0.0.1:{port}")
GRANIAN = (*MODULE, "granian", "program0:application", "--port", "{port}", "--workers", "2", "--interface")
GUNICORN = (*MODULE, "gunicorn", "program0:application", "--bind", "127.0.0.1:{port}", "--workers", "2")
GUNICORN += ("--timeout", "90", "--no-control-socket", "--config", "gunicorn_hooks.py", "--worker-class")
UWSGI = ("uwsgi", "--http-socket", "127.0.0.1:{port}", "--master")
UWSGI += ("--processes", "2", "--master-fifo", "stop", "--module", "program0:application")


@dataclass(frozen=True)
class Way:
    """A way of starting a server, and the signal that stops it; uWSGI reads from a pipe: its signals are brutal.

    One that is renewed gets a SIGHUP in the middle, for new workers in the place of the first ones.
    """

    command: tuple[str, ...]
    code: str
    number: int = TERM
    status: int = 0
    is_renewed: bool = False


WAYS = {
    "uvicorn": Way(UVICORN, ASGI, status=-TERM),
    "uvicorn with workers": Way((*UVICORN, "--workers", "2", "--timeout-worker-healthcheck", "90"), ASGI),
    "uvicorn with workers, by SIGINT": Way((*UVICORN, "--workers", "2"), ASGI, INT),
    "uvicorn with reload": Way((*UVICORN, "--reload"), ASGI),
    "uvicorn with reload, by SIGINT": Way((*UVICORN, "--reload"), ASGI, INT),
    "hypercorn": Way(HYPERCORN, ASGI),
    "hypercorn with workers": Way((*HYPERCORN, "--workers", "2"), ASGI),
    "hypercorn with reload": Way((*HYPERCORN, "--reload"), ASGI, INT),
    "granian with workers": Way((*GRANIAN, "asgi"), ASGI),
    "granian with workers, WSGI": Way((*GRANIAN, "wsgi"), WSGI, INT),
    "gunicorn gevent": Way((*GUNICORN, "gevent"), WSGI),
    "gunicorn gevent with preload": Way((*GUNICORN, "gevent", "--preload"), WSGI),
    "gunicorn gevent with preload, by SIGQUIT": Way((*GUNICORN, "gevent", "--preload"), WSGI, QUIT),
    "gunicorn that replaces its workers": Way((*GUNICORN, "gthread", "--threads", "2", "--max-requests", "7"), WSGI),
    "gunicorn, with new workers by SIGHUP": Way((*GUNICORN, "sync"), WSGI, is_renewed=True),
    "granian, with new workers by SIGHUP": Way((*GRANIAN, "asgi", "--respawn-failed-workers"), ASGI, is_renewed=True),
    "gunicorn uvicorn": Way((*GUNICORN, "uvicorn_worker.UvicornWorker"), ASGI),
    "gunicorn uvicorn with preload": Way((*GUNICORN, "uvicorn_worker.UvicornWorker", "--preload"), ASGI),
    "waitress": Way(
        (*MODULE, "waitress", "--listen", "127.0.0.1:{port}", "program0:application"),
        WSGI,
        status=-TERM,
    ),
    "uwsgi": Way(UWSGI, WSGI),
    "uwsgi that measures in the master": Way(UWSGI, WSGI + "\nMEASURED_EARLY = True\n"),
    "uwsgi with a hook of its own": Way((*UWSGI, "--import", "uwsgidecorators"), WSGI),
    "uwsgi whose hook is taken away": Way(UWSGI, WSGI + "\nimport uwsgi\nTAKEN = True\n"),
    "uwsgi with threads": Way((*UWSGI, "--threads", "4"), WSGI),
    "uwsgi with lazy apps": Way((*UWSGI, "--lazy-apps", "--enable-threads"), WSGI),
    "uwsgi with Python's hooks": Way((*UWSGI, "--py-call-osafterfork"), WSGI),
}

STARTED = {"gunicorn": "READY", "granian": "[INFO] Started worker"}
"""What each of the two workers has printed when a signal that comes to it is not lost any more."""

FURTHER = """
if globals().get("MEASURED_EARLY"):
    work()
if globals().get("TAKEN"):
    uwsgi.post_fork_hook = lambda: None
"""


@pytest.mark.parametrize("name", WAYS)
def test_all_is_sent(name: str, start: Callable[..., Any], http: Any, tmp_path: Path) -> None:
    way = WAYS[name]
    command = (uwsgi_binary(), *way.command[1:]) if way.command[0] == "uwsgi" else way.command
    port = free_port()
    deadline = time.monotonic() + PATIENCE
    (tmp_path / "gunicorn_hooks.py").write_text("def post_worker_init(worker):\n    print('READY', flush=True)\n")
    command = tuple(part.replace("{port}", str(port)) for part in command)
    program = start(way.code + CONFIGURED + FURTHER, http.port, command=command)
    started = next((line for server, line in STARTED.items() if server in way.command), None)
    if started is not None:
        program.wait_for(started, 2)
    answers = ask_often(port)
    while way.command[0] == "uwsgi" and len(set(answers)) < 2:
        assert time.monotonic() < deadline, "one of uWSGI's workers does not answer"
        answers += ask_often(port)  # one that has not answered yet may lose what tells it to stop, and hang
    if way.is_renewed:
        before = set(answers)
        program.signal(signal.SIGHUP)
        while answers[-1] in before:
            answers.append(eventually(lambda: ask(port)))
        answers += ask_often(port)
        if "granian" in way.command:
            program.wait_for(STARTED["granian"], 4)
    if way.command[0] == "uwsgi":
        (tmp_path / "stop").write_text("q")
    else:
        program.signal(way.number)
    assert program.end() == way.status, program.errors
    if "MEASURED_EARLY" in way.code:  # what the master has done is the master's own
        for counter in COUNTERS:
            workers = sorted(answers.count(worker) for worker in set(answers))
            assert sorted(totals(http, counter).values()) == workers, counter
    else:
        exactly(http, answers)
    assert not [line for line in program.logged if "xception ignored" in line], program.errors


RAISED = {
    "raise_signal": "signal.raise_signal(number)",
    "kill": "os.kill(os.getpid(), number)",
    "kill of the group": "os.kill(0, number)",
    "killpg": "os.killpg(os.getpgrp(), number)",
    "pthread_kill": "signal.pthread_kill(threading.get_ident(), number)",
    "in another thread": "t = threading.Thread(target=signal.raise_signal, args=(number,)); t.start(); t.join()",
}

HANDLED = """
stopped = threading.Event()
number = signal.{name}
signal.signal(number, lambda *_: stopped.set())
telemetry = clew.configure()
plain = metrics.get_meter("library").create_counter("plain")
work()
print("READY", flush=True)
while not stopped.wait(0.05): pass
work()
signal.signal(number, signal.SIG_DFL)
"""


@pytest.mark.parametrize("how", RAISED)
@pytest.mark.parametrize("number", [TERM, INT, signal.SIGHUP, QUIT], ids=lambda number: number.name)
def test_a_signal_that_a_process_raises_to_die_of_it_sends_all_before(
    how: str, number: signal.Signals, start: Callable[..., Any], http: Any
) -> None:
    program = start(HANDLED.format(name=number.name) + RAISED[how] + "\nprint('ALIVE', 1)", http.port)
    program.wait_for("READY")
    program.signal(number)
    assert program.end() == -number, program.errors
    assert not program.values("ALIVE")
    for name in COUNTERS:
        assert list(totals(http, name).values()) == [2], name


def test_a_signal_that_is_blocked_ends_nothing(start: Callable[..., Any], http: Any) -> None:
    program = start(
        HANDLED.format(name="SIGTERM")
        + "signal.pthread_sigmask(signal.SIG_BLOCK, [number])\nsignal.raise_signal(number)\nwork()\nprint('ALIVE', 1)",
        http.port,
    )
    program.wait_for("READY")
    program.signal(TERM)
    assert program.end() == 0, program.errors
    assert program.values("ALIVE") == ["1"]
    for name in COUNTERS:
        assert list(totals(http, name).values()) == [3], name


def test_what_raises_signals_is_python_s_own_before_and_after(run: Callable[..., Any]) -> None:
    program = run(
        """
before = signal.raise_signal, os.kill, os.killpg, signal.pthread_kill
telemetry = clew.configure(metric_readers=[], span_processors=[], log_processors=[])
assert signal.raise_signal is not before[0]
try:
    os.kill(os.getpid(), "TERM")
except TypeError:
    telemetry.shutdown()
assert (signal.raise_signal, os.kill, os.killpg, signal.pthread_kill) == before
print("SAME", 1)
"""
    )
    assert program.values("SAME") == ["1"]
