"""What ends a process sends all three signals, with no call by the user, within ``CLEW_SHUTDOWN_TIMEOUT``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from delivery.listeners import refusing, silence, talking
from durations import assert_within
from lifetime.conftest import PROMPTLY, SLACK
from lifetime.receiver import logs, points, spans, totals

START = """
clew.configure()
plain = metrics.get_meter("library").create_counter("plain")
work()
"""

ENDS: dict[str, tuple[str, int]] = {
    "the end of main": ("ending()", 0),
    "sys.exit": ("ending(); sys.exit(3)", 3),
    "an unhandled exception": ("ending(); raise RuntimeError('on purpose')", 1),
    "the end of its last thread": (
        "def last():\n    time.sleep(0.1)\n    work()\n    ending()\nthreading.Thread(target=last).start()",
        0,
    ),
    "sys.exit while a daemon thread works": (
        "def ever():\n    while True: work(); time.sleep(0.01)\n"
        "threading.Thread(target=ever, daemon=True).start(); time.sleep(0.05); ending(); sys.exit(4)",
        4,
    ),
}


def all_three_signals_arrived(endpoint: Any) -> bool:
    operations = sum(totals(endpoint, "operation.duration").values())
    return (
        operations > 0
        and sum(totals(endpoint, "orders").values()) == operations
        and sum(totals(endpoint, "plain").values()) == operations
        and len(spans(endpoint)) >= operations
        and len(logs(endpoint)) >= operations
    )


@pytest.mark.parametrize("end", ENDS)
def test_a_program_that_ends_has_sent_all_three_signals(end: str, run: Callable[..., Any], http: Any) -> None:
    code, status = ENDS[end]
    program = run(START + code, http.port, status=status)
    assert "LOG worked in" in program.errors
    if "daemon" in end:  # what it does between its signals is cut anywhere
        assert totals(http, "operation.duration")
        assert spans(http)
        assert logs(http)
    else:
        assert all_three_signals_arrived(http)
    assert program.ending < PROMPTLY


def test_a_program_that_ends_has_sent_all_three_signals_over_either_protocol(
    run: Callable[..., Any], protocol: str, endpoint: Any
) -> None:
    program = run(START + "ending()", endpoint.port, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    assert all_three_signals_arrived(endpoint)
    assert program.ending < PROMPTLY
    assert "not delivered" not in program.errors


@pytest.mark.parametrize("end", ENDS)
def test_a_program_ends_in_time_though_the_collector_hangs(end: str, run: Callable[..., Any]) -> None:
    code, status = ENDS[end]

    def attempt() -> float:
        with talking(silence) as port:
            program = run(START + code, port, status=status, CLEW_SHUTDOWN_TIMEOUT="1")
        (last,) = [line for line in program.errors.splitlines() if "not delivered at the end" in line]
        for what in ("metric points", "spans", "log records"):
            assert what in last
        return float(program.ending)

    assert_within(1.0 + SLACK, attempt)


@pytest.mark.parametrize("place", ["refuses", "hangs"])
def test_a_program_ends_within_three_seconds_by_default(run: Callable[..., Any], protocol: str, place: str) -> None:
    def attempt() -> float:
        with refusing() if place == "refuses" else talking(silence) as port:
            program = run(START + "ending()", port, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, CLEW_SHUTDOWN_TIMEOUT="")
        (last,) = [line for line in program.errors.splitlines() if "not delivered at the end" in line]
        # operation.duration, operation.active, orders, plain
        assert "4 metric points" in last
        assert "1 spans" in last
        assert "1 log records" in last
        assert "Traceback" not in program.errors
        return float(program.ending)

    assert_within(3.0 + SLACK, attempt)


def test_a_program_ends_in_time_though_a_processor_of_its_own_hangs(run: Callable[..., Any]) -> None:
    def attempt() -> float:
        with talking(silence) as port:
            program = run(
                """
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import BatchSpanProcessor
clew.configure(span_processors=[BatchSpanProcessor(OTLPSpanExporter())])
plain = metrics.get_meter("library").create_counter("plain")
work()
ending()
""",
                port,
                OTEL_METRICS_EXPORTER="none",
                OTEL_LOGS_EXPORTER="none",
                CLEW_SHUTDOWN_TIMEOUT="1",
            )
        assert "what BatchSpanProcessor delivers" in program.errors
        return float(program.ending)

    assert_within(1.0 + SLACK, attempt)


def test_a_program_that_measured_nothing_sends_nothing_and_ends_at_once(run: Callable[..., Any]) -> None:
    with talking(silence) as port:
        program = run("clew.configure()\nending()", port)
    assert program.ending < PROMPTLY
    assert "not delivered" not in program.errors


def test_no_operation_runs_after_the_end(run: Callable[..., Any], http: Any) -> None:
    run(START + "ending()", http.port)
    assert [point.as_int for _, _, point in points(http, "operation.active")] == [0]
