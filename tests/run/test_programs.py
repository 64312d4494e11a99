"""Programs under `clew run`: they stay what they are, and what they do is measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from delivery.listeners import silence, talking
from lifetime.receiver import instances
from real_parts import Program, eventually
from run.conftest import CLEW_RUN, Endpoint

from clew.run.command import STARTUP, environment_for

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Run a program to its end: `run("python", "app.py", VARIABLE=value)`."""

    def end(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLEW_RUN, *command],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return end


ORDERS = """
def place():
    return 1
"""

APP = """
import sys
from shop import orders

for _ in range(3):
    orders.place()
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("command", [("python", "app.py"), ("python", "-m", "app"), ("./app",)])
def test_a_program_is_measured_and_its_exit_status_is_its_own(
    command: tuple[str, ...], run: Run, write: Callable[..., None], endpoint: Endpoint, tmp_path: Path
) -> None:
    write(shop__orders=ORDERS, app=APP)
    script = tmp_path / "app"
    script.write_text("#!/usr/bin/env python\n" + APP)
    script.chmod(0o755)
    ended = run(*command, "7", CLEW_MEASURE="shop.orders:place")
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "", "")
    assert endpoint.operations() == {"shop.orders.place": 3}


def test_the_streams_are_the_program_s_own(tmp_path: Path, environment: dict[str, str]) -> None:
    program = "import sys; print(sys.stdin.read().upper(), end=''); print('an error', file=sys.stderr)"
    command = [*CLEW_RUN, "python", "-c", program]
    ended = subprocess.run(
        command, input="ab\n", cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (ended.stdout, ended.stderr) == ("AB\n", "an error\n")


SLEEPS = """
import signal, sys, time
from shop import orders

def ends(number, frame):
    orders.place()
    print("ended by", number, flush=True)
    sys.exit(5)

signal.signal(signal.SIGINT, ends)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_signal_reaches_the_program_and_its_handler(
    start: Callable[..., Program], write: Callable[..., None], endpoint: Endpoint
) -> None:
    write(shop__orders=ORDERS, app=SLEEPS)
    program = start("python", "app.py", CLEW_MEASURE="shop.orders:place")
    program.wait_until(lambda: "ready" in program.log())
    program.process.send_signal(signal.SIGINT)
    assert program.process.wait(30) == 5
    assert f"ended by {int(signal.SIGINT)}" in program.log()
    assert endpoint.operations() == {"shop.orders.place": 1}


def test_a_program_without_a_handler_dies_of_its_signal(
    start: Callable[..., Program], write: Callable[..., None], endpoint: Endpoint
) -> None:
    write(
        shop__orders=ORDERS,
        app="import time\nfrom shop import orders\norders.place()\nprint('ready', flush=True)\ntime.sleep(60)",
    )
    program = start("python", "app.py", CLEW_MEASURE="shop.orders:place", OTEL_METRIC_EXPORT_INTERVAL="60000")
    program.wait_until(lambda: "ready" in program.log())
    program.process.terminate()
    assert program.process.wait(30) == -signal.SIGTERM
    assert endpoint.operations() == {"shop.orders.place": 1}


def test_a_module_that_was_never_imported_is_logged_where_sigterm_ends_the_program(
    start: Callable[..., Program], write: Callable[..., None], endpoint: Endpoint
) -> None:
    write(app="import time\nprint('ready', flush=True)\ntime.sleep(60)")
    program = start("python", "app.py", CLEW_MEASURE="shop.nowhere:*")
    program.wait_until(lambda: "ready" in program.log())
    program.process.terminate()
    assert program.process.wait(30) == -signal.SIGTERM
    assert program.log().count("shop.nowhere was never imported, so nothing in it was measured") == 1


# ------------------------------------------------------------------------------------------------- short processes


@contextmanager
def connections() -> Iterator[tuple[int, list[object]]]:
    """A port, and who has connected to it."""
    seen: list[object] = []

    def look(connection: object) -> None:
        seen.append(connection)
        silence(connection)  # type: ignore[arg-type]

    with talking(look) as port:
        yield port, seen


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_process_that_measures_nothing_has_no_thread_and_connects_to_nobody(protocol: str, run: Run) -> None:
    program = "import threading; print([thread.name for thread in threading.enumerate()])"
    with connections() as (port, seen):
        ended = run(
            *("python", "-c", program),
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "['MainThread']\n", "")
        assert seen == []


def test_what_was_only_counted_is_sent_at_the_end_all_the_same(run: Run, endpoint: Endpoint) -> None:
    program = "import clew\nwith clew.request('not an ID!'): pass"
    assert run("python", "-c", program).returncode == 0
    assert "clew.events" in endpoint.received.counters


# ---------------------------------------------------------------------------------------------- further processes

FORKS = """
import os
from shop import orders

orders.place()
child = os.fork()
if not child:
    orders.place()
    orders.place()
    raise SystemExit(0)
os.waitpid(child, 0)
"""


def test_a_script_that_forks_counts_in_both_processes(run: Run, write: Callable[..., None], endpoint: Endpoint) -> None:
    write(shop__orders=ORDERS, app=FORKS)
    # from 3.12 on Python warns of a fork beside a thread, which there is since something has been measured
    ended = run("python", "-W", "ignore::DeprecationWarning", "app.py", CLEW_MEASURE="shop.orders:place")
    assert ended.stderr == ""
    assert endpoint.operations() == {"shop.orders.place": 3}
    assert len(instances(endpoint)) == 2


FORKED_BEFORE = """
import os, threading
from shop import orders

child = os.fork()
if not child:
    orders.place()
    raise SystemExit(0)
os.waitpid(child, 0)
"""


def test_a_child_forked_before_the_first_measurement_sends_its_own(
    run: Run, write: Callable[..., None], endpoint: Endpoint
) -> None:
    write(shop__orders=ORDERS, app=FORKED_BEFORE)
    assert run("python", "-W", "error::DeprecationWarning", "app.py", CLEW_MEASURE="shop.orders:place").stderr == ""
    assert endpoint.operations() == {"shop.orders.place": 1}


MULTIPROCESSING = """
import multiprocessing, os, sys

def work(queue):
    from shop import orders
    orders.place()
    queue.put(os.getpid())

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    queue = context.Queue()
    lock = context.Lock()  # brings the resource tracker
    children = [context.Process(target=work, args=(queue,)) for _ in range(2)]
    for child in children:
        child.start()
    assert len({queue.get(timeout=50) for _ in children} - {os.getpid()}) == 2
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    print("done")
"""


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_children_of_multiprocessing_are_measured_and_what_serves_them_is_not(
    method: str, run: Run, write: Callable[..., None], endpoint: Endpoint
) -> None:
    write(shop__orders=ORDERS, app=MULTIPROCESSING)
    ended = run("python", "app.py", method, CLEW_MEASURE="shop.orders:place")
    assert (ended.stdout, ended.stderr) == ("done\n", "")
    assert endpoint.operations() == {"shop.orders.place": 2}
    assert len(instances(endpoint)) == 2


SUBPROCESS = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "from shop import orders; orders.place()"], check=True)
"""


def test_a_python_that_the_program_starts_is_measured_too(
    run: Run, write: Callable[..., None], endpoint: Endpoint
) -> None:
    write(shop__orders=ORDERS, app=SUBPROCESS)
    assert run("python", "app.py", CLEW_MEASURE="shop.orders:place").stderr == ""
    assert endpoint.operations() == {"shop.orders.place": 1}


def test_a_python_without_clew_runs_as_it_would_and_the_program_itself_says_so(
    run: Run, tmp_path: Path, write: Callable[..., None]
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True, timeout=60)
    bare = str(tmp_path / "bare" / "bin" / "python")
    ended = run(bare, "-c", "print('as ever')")
    assert ended.stdout == "as ever\n"
    assert ended.stderr.startswith(f"clew: {bare} starts without telemetry: No module named 'clew'")
    write(app=f"import subprocess\nsubprocess.run([{bare!r}, '-c', 'print(1)'], check=True)")
    ended = run("python", "app.py")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1\n", "")


# ------------------------------------------------------------------------------------------------ the start itself


def test_a_sitecustomize_of_the_user_s_is_imported_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("mark = 'theirs'")
    program = "import clew.telemetry, sitecustomize; print(sitecustomize.mark, clew.telemetry._configured is not None)"
    assert run("python", "-c", program, PYTHONPATH=str(tmp_path / "site")).stdout == "theirs True\n"
    (tmp_path / "site" / "sitecustomize.py").write_text("raise RuntimeError('theirs is broken')")
    ended = run("python", "-c", "import clew.telemetry as t; print(t._configured is not None)", PYTHONPATH="site")
    assert ended.stdout == "True\n"
    assert "theirs is broken" in ended.stderr


def test_variables_that_are_set_stay_and_the_rest_of_the_path_too() -> None:
    environment = environment_for(
        {
            "PYTHONPATH": os.pathsep.join(["a", STARTUP, "b"]),
            "OTEL_PYTHON_DISTRO": "mine",
            "OTEL_PYTHON_CONFIGURATOR": " ",
        }
    )
    assert environment["PYTHONPATH"].split(os.pathsep) == [STARTUP, "a", "b"]
    assert environment["OTEL_PYTHON_DISTRO"] == "mine"
    assert environment["OTEL_PYTHON_CONFIGURATOR"] == "clew"
    assert environment["OTEL_SEMCONV_STABILITY_OPT_IN"] == "http"


def test_another_configurator_that_is_named_configures(run: Run) -> None:
    program = "import clew.telemetry; print(clew.telemetry._configured)"
    assert run("python", "-c", program, OTEL_PYTHON_CONFIGURATOR="mine").stdout == "None\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ((), "needs a program"),
        (("no-such-program",), "'no-such-program' is no program that can be run"),
        (("app.py",), "run `clew run -- python app.py`"),
    ],
)
def test_what_cannot_be_run_is_wrong_use(command: tuple[str, ...], message: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("")
    ended = run(*command)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_an_option_that_is_not_there_is_wrong_use(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "clew.cli", "run", "--fast", "python"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "run has no option --fast" in ended.stderr


# -------------------------------------------------------------------------------------------------------- settings

WRONG = {"OTEL_METRIC_EXPORT_INTERVAL": "soon", "CLEW_MEASURE": "shop", "CLEW_SPNAS": "true"}


def test_wrong_settings_are_logged_once_and_the_program_runs(run: Run, endpoint: Endpoint) -> None:
    program = "import clew\nwith clew.measure('work'): print('runs')"
    ended = run("python", "-c", program, **WRONG)
    assert (ended.returncode, ended.stdout) == (0, "runs\n")
    for name in WRONG:
        assert ended.stderr.count(f"{name} is ") == 1
    assert "treated as unset" in ended.stderr
    assert endpoint.operations() == {"work": 1}


def test_with_strict_a_program_with_wrong_settings_does_not_start(run: Run) -> None:
    ended = run("python", "-c", "print('runs')", CLEW_STRICT="true", **WRONG)
    assert (ended.returncode, ended.stdout) == (2, "")
    for name in WRONG:
        assert f"{name} is " in ended.stderr


def test_an_application_that_configures_gets_what_is_there(run: Run, endpoint: Endpoint) -> None:
    program = """
import clew, clew.telemetry
started = clew.telemetry._configured
assert clew.configure() is started
try:
    clew.configure(spans=True)
except clew.ConfigurationError as error:
    print(error)
with clew.measure("work"):
    pass
assert started.shutdown(60)
assert clew.configure(spans=True) is not started
"""
    ended = run("python", "-c", program)
    assert ended.stderr == ""
    assert (
        "configure(spans=…) is True; allowed: what `clew run` or opentelemetry-instrument has configured"
        in ended.stdout
    )
    assert endpoint.operations() == {"work": 1}


def test_with_the_sdk_disabled_nothing_is_measured_and_request_ids_work(run: Run, endpoint: Endpoint) -> None:
    program = "import clew\nwith clew.request('abc'), clew.measure('work'): print(clew.request_id())"
    assert run("python", "-c", program, OTEL_SDK_DISABLED="true").stdout == "abc\n"
    assert endpoint.received.paths == []


def test_a_log_record_of_a_program_is_sent(run: Run, endpoint: Endpoint) -> None:
    assert run("python", "-c", "import logging; logging.warning('look')").returncode == 0
    assert eventually(lambda: endpoint.logged("look"), what="the record has come", timeout=20)
