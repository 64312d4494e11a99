"""A process ends in time, whatever its endpoint does, and quickly where all is well."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from delivery import programs
from delivery.listeners import HttpEndpoint, drip, garbage, refusing, silence, talking
from durations import assert_within

SLACK = 1.5
"""Seconds that a busy machine may add, at the least, to what the contract allows."""

PROMPTLY = 30.0
"""Seconds within which everything is done that waits for nothing, half of what it would be waited for."""


class Ended:
    """How a program ended: what it printed and logged, the seconds of its deliveries at the end and of the rest."""

    def __init__(self, program: str, environ: dict[str, str]) -> None:
        known = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "CLEW_"))}
        started = time.monotonic()
        process = subprocess.run(
            [sys.executable, "-c", program], env={**known, **environ}, capture_output=True, text=True, timeout=180
        )
        seconds = time.monotonic() - started
        self.status = process.returncode
        self.printed = process.stdout.splitlines()
        self.logged = [line.removeprefix("LOG ") for line in process.stderr.splitlines() if line.startswith("LOG ")]
        self.errors = process.stderr
        ends = [line.split() for line in self.printed if line.startswith("ENDED")]
        self.delivered = [end[1] == "True" for end in ends]
        self.took = [float(end[2]) for end in ends]
        self.other_seconds = seconds - sum(self.took)


def environment(port: int, protocol: str, *, shutdown_timeout: str = "60") -> dict[str, str]:
    """What leads to the endpoint, and waits for it longer than any of these programs may take."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "120000",
        "CLEW_SHUTDOWN_TIMEOUT": shutdown_timeout,
    }


BAD: dict[str, Callable[[], AbstractContextManager[int]]] = {
    "refuses": refusing,
    "is silent": lambda: talking(silence),
    "answers garbage": lambda: talking(garbage),
    "drips": lambda: talking(drip),
}


@pytest.mark.parametrize("endpoint", BAD)
def test_a_program_ends_within_three_seconds_though_its_endpoint_is_bad(endpoint: str, protocol: str) -> None:
    def attempt() -> float:
        with BAD[endpoint]() as port:
            ended = Ended(programs.ONE_REQUEST, environment(port, protocol, shutdown_timeout=""))
        assert ended.status == 0, ended.errors
        assert ended.delivered == [False]
        assert ended.other_seconds < PROMPTLY
        (last,) = [text for text in ended.logged if text.startswith("not delivered at the end")]
        for what in ("1 metric points", "1 spans", "1 log records"):
            assert f"{what} (" in last, "there is no reason"
        assert len(ended.logged) <= 4, ended.logged  # one a signal, and the last
        assert "Traceback" not in ended.errors
        return ended.took[0]

    assert_within(3.0 + SLACK, attempt)


def test_a_program_does_not_wait_for_an_endpoint_that_refuses_and_never_worked(protocol: str) -> None:
    with refusing() as port:
        ended = Ended(programs.ONE_REQUEST, environment(port, protocol))
    assert ended.took[0] < PROMPTLY


def test_a_program_ends_at_once_where_all_is_delivered(protocol: str, endpoint: Any) -> None:
    ended = Ended(programs.ONE_REQUEST, environment(endpoint.port, protocol))
    assert ended.delivered == [True], ended.errors
    assert ended.took[0] < PROMPTLY
    assert not ended.logged
    assert endpoint.received.counters == {"orders": [1]}
    assert endpoint.received.spans == endpoint.received.logs == ["work"]


def test_what_is_measured_at_the_very_end_is_delivered_too(protocol: str, endpoint: Any) -> None:
    ended = Ended(programs.NO_THREAD_YET, environment(endpoint.port, protocol))
    assert ended.status == 0, ended.errors
    assert ended.delivered == [True], ended.errors
    assert endpoint.received.counters == {"orders": [1]}
    assert endpoint.received.spans == endpoint.received.logs == ["at the end"]
    assert "Traceback" not in ended.errors


def test_what_is_measured_at_the_very_end_delays_it_no_longer_than_allowed(protocol: str) -> None:
    def attempt() -> float:
        with talking(silence) as port:
            ended = Ended(programs.NO_THREAD_YET, environment(port, protocol, shutdown_timeout="1"))
        assert ended.status == 0, ended.errors
        assert ended.delivered == [False]
        return ended.took[0]

    assert_within(1.0 + SLACK, attempt)


def test_an_export_that_hangs_when_the_end_comes_is_cut_off_and_counted(protocol: str) -> None:
    def attempt() -> float:
        with talking(silence) as port:
            ended = Ended(programs.UNDER_WAY, environment(port, protocol, shutdown_timeout="1"))
        assert ended.delivered == [False], ended.errors
        start = "not delivered at the end, for which there are 1 s"
        (last,) = [text for text in ended.logged if text.startswith(start)]
        for what in ("1 metric points", "1 spans", "1 log records"):
            assert f"{what} (" in last, "there is no reason"
        return ended.took[0]

    assert_within(1.0 + SLACK, attempt)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_delivers_its_own_over_its_own_connection(protocol: str, endpoint: Any) -> None:
    ended = Ended(programs.FORKED, environment(endpoint.port, protocol))
    assert ended.status == 0, ended.errors
    assert "CHILD 0" in ended.printed
    assert ended.delivered == [True, True], ended.errors
    assert sorted(endpoint.received.spans) == ["after", "before", "in the child", "inherited"]
    assert sorted(endpoint.received.logs) == ["after", "before", "in the child", "inherited"]
    assert max(ended.took) < PROMPTLY


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_in_the_middle_of_an_export_harms_neither_side(protocol: str, endpoint: Any) -> None:
    endpoint.seconds = 0.6
    ended = Ended(programs.FORKED_DURING_AN_EXPORT, environment(endpoint.port, protocol))
    assert ended.status == 0, ended.errors
    assert "CHILD 0" in ended.printed, ended.errors
    assert ended.delivered == [True, True], ended.errors
    assert {"child's", "parent's"} == set(endpoint.received.spans) == set(endpoint.received.logs)
    assert endpoint.received.spans.count("child's") == 1


def test_the_endpoint_may_start_after_the_program(telemetry: Any) -> None:
    with refusing() as port:
        made = telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"})
        made.record("early")
        assert not made.deliver(timeout=0.3)
    endpoint = HttpEndpoint(port)
    made.record("late")
    assert made.deliver(closing=True)
    assert endpoint.received.spans == ["late"]
    endpoint.close()
