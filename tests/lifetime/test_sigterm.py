"""SIGTERM sends what there is where the application has no handler, and leaves the application's own handlers alone."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from delivery.listeners import HttpEndpoint, silence, talking
from durations import assert_within
from lifetime.conftest import PATIENCE, PROMPTLY, SLACK
from lifetime.receiver import logs, spans, totals
from lifetime.rights import may_unshare
from lifetime.test_exit import all_three_signals_arrived
from lifetime.test_forks import COUNTERS, exact

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no signals")

START = """
telemetry = clew.configure()
plain = metrics.get_meter("library").create_counter("plain")
work()
"""

WAITS: dict[str, str] = {
    "sleeps": "print('READY', flush=True); time.sleep(60)",
    "computes": "print('READY', flush=True)\nwhile True: pass",
    "waits for a thread": (
        "thread = threading.Thread(target=time.sleep, args=(60,), daemon=True); thread.start()\n"
        "print('READY', flush=True); thread.join()"
    ),
    "has ended while a thread goes on": (
        "def goes_on():\n    time.sleep(0.2); print('READY', flush=True); time.sleep(60)\n"
        "threading.Thread(target=goes_on).start()"
    ),
    "waits for a subprocess": (
        "import subprocess\nnowhere = subprocess.DEVNULL\n"
        "process = subprocess.Popen(['sleep', '60'], stdout=nowhere, stderr=nowhere)\n"
        "print('READY', flush=True); process.wait()"
    ),
    "runs asyncio": (
        "import asyncio\nasync def main():\n    print('READY', flush=True)\n    await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    ),
}


@pytest.mark.parametrize("wait", WAITS)
def test_a_program_without_a_handler_sends_all_and_dies_of_the_signal(
    wait: str, start: Callable[..., Any], http: Any
) -> None:
    program = start(START + WAITS[wait], http.port)
    program.wait_for("READY")
    asked = time.monotonic()
    program.signal(signal.SIGTERM)
    assert program.end() == -signal.SIGTERM, program.errors
    assert program.ended_at - asked < PROMPTLY
    assert all_three_signals_arrived(http)
    assert "Traceback" not in program.errors


def test_a_program_dies_in_time_though_the_collector_hangs(start: Callable[..., Any], protocol: str) -> None:
    def attempt() -> float:
        with talking(silence) as port:
            program = start(
                START + WAITS["sleeps"], port, CLEW_SHUTDOWN_TIMEOUT="1", OTEL_EXPORTER_OTLP_PROTOCOL=protocol
            )
            program.wait_for("READY")
            asked = time.monotonic()
            program.signal(signal.SIGTERM)
            assert program.end() == -signal.SIGTERM
        (last,) = [line for line in program.errors.splitlines() if "not delivered at the end" in line]
        for what in ("4 metric points", "1 spans", "1 log records"):
            assert what in last
        return float(program.ended_at - asked)

    assert_within(1.0 + SLACK, attempt)


def test_many_threads_that_measure_and_log_do_not_keep_a_program_from_dying(
    start: Callable[..., Any], http: Any
) -> None:
    program = start(
        START
        + """
def ever():
    while True: work()
for _ in range(8): threading.Thread(target=ever).start()
print("READY", flush=True)
while True: work()
""",
        http.port,
    )
    program.wait_for("READY")
    asked = time.monotonic()
    program.signal(signal.SIGTERM)
    assert program.end() == -signal.SIGTERM
    assert program.ended_at - asked < PROMPTLY
    assert sum(totals(http, "operation.duration").values()) > 0
    assert spans(http)
    assert logs(http)


HANDLER = """
def mine(number, frame):
    print("MINE", number, flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, mine)
"""


@pytest.mark.parametrize("code", [HANDLER + START, START + HANDLER], ids=["before", "after"])
def test_the_handler_of_the_application_is_the_only_one(code: str, start: Callable[..., Any], http: Any) -> None:
    program = start(
        code + 'assert signal.getsignal(signal.SIGTERM) is mine\nprint("READY", flush=True); time.sleep(60)', http.port
    )
    program.wait_for("READY")
    program.signal(signal.SIGTERM)
    assert program.end() == 7
    assert program.values("MINE") == ["15"]
    assert all_three_signals_arrived(http)


def test_a_signal_that_is_ignored_stays_ignored(run: Callable[..., Any], http: Any) -> None:
    program = run(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + START
        + 'os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.05)\nprint("ALIVE", 1)',
        http.port,
    )
    assert program.values("ALIVE") == ["1"]


def test_a_handler_that_goes_on_to_the_one_before_dies_of_the_signal(start: Callable[..., Any], http: Any) -> None:
    program = start(
        START
        + """
before = signal.getsignal(signal.SIGTERM)
def mine(number, frame):
    print("MINE", number, flush=True)
    before(number, frame)
signal.signal(signal.SIGTERM, mine)
print("READY", flush=True); time.sleep(60)
""",
        http.port,
    )
    program.wait_for("READY")
    program.signal(signal.SIGTERM)
    assert program.end() == -signal.SIGTERM
    assert program.values("MINE") == ["15"]
    assert all_three_signals_arrived(http)


def test_a_signal_during_the_end_waits_for_it_and_is_what_the_program_dies_of(start: Callable[..., Any]) -> None:
    delivering = threading.Event()

    def ask(connection: socket.socket) -> None:
        delivering.set()
        silence(connection)

    def attempt() -> float:
        delivering.clear()
        with talking(ask) as port:
            program = start(START + "ending()", port, CLEW_SHUTDOWN_TIMEOUT="4")
            assert delivering.wait(PATIENCE)
            program.signal(signal.SIGTERM)
            assert program.end() == -signal.SIGTERM
        assert "not delivered at the end" in program.errors
        assert program.ending > 3.5
        return float(program.ending)

    assert_within(4.0 + SLACK, attempt)


def test_a_signal_during_a_shutdown_by_the_application_cuts_nothing_off(
    start: Callable[..., Any], http: HttpEndpoint, tmp_path: Path
) -> None:
    program = start(
        START
        + """
from clew.exporters import http as transport
real = transport.HttpTransport.send
def slow(self, payload, timeout):
    print("SENDING", flush=True)
    while not os.path.exists("signalled"): time.sleep(0.01)
    return real(self, payload, timeout)
transport.HttpTransport.send = slow
telemetry.shutdown(60)
""",
        http.port,
    )
    program.wait_for("SENDING")
    program.signal(signal.SIGTERM)
    (tmp_path / "signalled").touch()
    assert program.end() == -signal.SIGTERM
    assert all_three_signals_arrived(http)


def test_where_it_cannot_be_handled_that_is_logged(run: Callable[..., Any], http: Any) -> None:
    program = run(
        """
thread = threading.Thread(target=clew.configure)
thread.start()
thread.join()
plain = metrics.get_meter("library").create_counter("plain")
work()
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
""",
        http.port,
    )
    assert program.errors.count("not called in the main thread") == 1
    assert all_three_signals_arrived(http)


def test_forked_workers_that_are_stopped_by_it_send_their_own(start: Callable[..., Any], http: Any) -> None:
    program = start(
        START
        + """
workers = []
for number in (2, 3):
    worker = os.fork()
    if worker == 0:
        for _ in range(number): work()
        os.write(1, b"WORKED\\n")
        time.sleep(60)
    workers.append(worker)
def stop(number, frame):
    for worker in workers: os.kill(worker, signal.SIGTERM)
    for worker in workers: assert os.waitpid(worker, 0)[1] == signal.SIGTERM
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
while True: time.sleep(60)
""",
        http.port,
    )
    program.wait_for("WORKED", 2)
    program.signal(signal.SIGTERM)
    assert program.end() == 0, program.errors
    exact(http, 1, 2, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_that_is_stopped_as_soon_as_it_is_forked_dies(run: Callable[..., Any], http: Any) -> None:
    run(
        START
        + """
for _ in range(100):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(1)
    os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found: break
        assert time.monotonic() < deadline, "the child has forgotten the signal"
        time.sleep(0.001)
    assert status == signal.SIGTERM, status
""",
        http.port,
    )
    exact(http, 1)


def test_after_a_shutdown_the_handler_is_gone(run: Callable[..., Any], http: Any) -> None:
    run(
        START
        + """
assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
telemetry.shutdown()
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
""",
        http.port,
    )


@pytest.mark.skipif(not may_unshare(), reason="a PID namespace needs rights")
def test_the_first_process_of_a_container_whom_the_kernel_spares_sends_all_and_goes_on(
    start: Callable[..., Any], http: Any
) -> None:
    program = start(
        START
        + """
assert os.getpid() == 1
os.kill(1, signal.SIGTERM)
work()
""",
        http.port,
        command=("unshare", "--pid", "--fork", sys.executable, "{program}"),
    )
    assert program.end() == 0, program.errors
    for name in COUNTERS:
        assert list(totals(http, name).values()) == [2], name
    assert len(spans(http)) == 2
