"""The Collector is killed under load and comes back: the programs go on, and in the end the counts are exact."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from endtoend.deployment import Day, http_counts, operation_counts, running_deployment
from real_parts import Parts, eventually
from shop.load import AT_ONCE

pytestmark = pytest.mark.real

REQUESTS = 300


def test_a_collector_that_is_killed_under_load_and_comes_back_costs_no_count(parts: Parts, tmp_path: Path) -> None:
    answered = Answered(held_at=REQUESTS // 3)
    with (
        running_deployment(parts, tmp_path, "grpc", OTEL_METRIC_EXPORT_INTERVAL="200") as deployment,
        ThreadPoolExecutor(1) as background,
    ):
        driven = background.submit(
            deployment.shop.drive, requests=REQUESTS, seconds=5.0, seed=2, progress=answered.tell
        )
        total = "sum(http_server_request_duration_seconds_count{job='front'})"
        eventually(lambda: (deployment.prometheus.value(total) or 0) > REQUESTS / 5, what="a fifth has been counted")
        deployment.collector.kill()
        killed_at = answered.number
        answered.go_on()
        answered.wait_for(killed_at + REQUESTS // 3)  # so the load goes on while nothing receives what is measured
        assert (deployment.prometheus.value(total) or 0) <= killed_at + AT_ONCE < answered.number
        deployment.collector.start()
        sent = driven.result(180)
        deployment.shop.wait_until_idle()
    day = Day(deployment.shop, sent, deployment.prometheus, deployment.local.store)

    assert len(sent.requests) == REQUESTS
    labels = "http_request_method", "http_route", "http_response_status_code", "error_type"
    assert day.counts("http_server_request_duration_seconds_count", *labels, job="front") == http_counts(sent)
    of_operations = day.counts("operation_duration_seconds_count", "job", "operation_name", "error_type")
    assert of_operations == operation_counts(sent)
    reported = {(one["service"], one["name"]): one["calls"] for one in day.report() if one["kind"] == "operation"}
    assert reported == day.counts("operation_duration_seconds_count", "job", "operation_name")

    assert day.shop.exit_statuses == {"front": -15, "payments-1": -15, "payments-2": -15, "worker": 0}
    logged = {request.request_id for request in sent.requests if f"[{request.request_id}]" in day.log("front")}
    named = {one["labels"]["request_id"] for one in day.prometheus.exemplars('{job="front"}')}
    assert named
    assert named <= logged


class Answered:
    """How many requests have been answered so far, reported by one thread, waited for by another.

    The thread that reports is held when so many have been answered: so the load is not over before the other is ready.
    """

    def __init__(self, *, held_at: int) -> None:
        self.number = 0
        self._held_at = held_at
        self._changed = threading.Condition()
        self._gone_on = threading.Event()

    def tell(self, number: int) -> None:
        with self._changed:
            self.number = number
            self._changed.notify_all()
        if number >= self._held_at:
            self._gone_on.wait(90)

    def go_on(self) -> None:
        self._gone_on.set()

    def wait_for(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.number >= number, timeout=90), self.number
