"""The running shop under load, measured by clew, kept by the local collector: counts are exact, requests are found."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from shop.load import Sent
from shop.running import CLEW, PAYMENTS_INSTANCES, RunningShop, local_collector, running_shop

DEMO = Path(__file__).resolve().parents[2] / "examples" / "shop" / "demo.py"
CHECKOUT = "POST /carts/{cart_id}/checkout"
CLOCKS_DIFFER = 0.005
"""In seconds: spans are timed by the wall clock, everything else by a monotonic one."""


@dataclass
class Day:
    """A day of the shop that is over: what was sent, what the collector kept, what the services logged."""

    shop: RunningShop
    sent: Sent
    store: Path
    report: dict[str, Any]

    def operation(self, service: str, name: str) -> dict[str, Any]:
        [found] = [one for one in self.report["operations"] if (one["service"], one["name"]) == (service, name)]
        return dict(found)

    def log(self, service: str) -> str:
        names = PAYMENTS_INSTANCES if service == "payments" else (service,)
        return "".join(self.shop.log_files[name].read_text() for name in names)


def ask(*arguments: str) -> dict[str, Any]:
    answer = subprocess.run(
        [*CLEW, *arguments, "--format", "json"], capture_output=True, text=True, check=False, timeout=180
    )
    assert answer.returncode == 0, answer.stderr
    return dict(json.loads(answer.stdout))


@pytest.fixture(scope="module", params=["http/protobuf", "grpc"])
def day(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    folder = tmp_path_factory.mktemp("shop")
    with local_collector(folder) as collector:
        endpoint = collector.grpc if request.param == "grpc" else collector.http
        with running_shop(endpoint, folder, protocol=request.param) as shop:
            sent = shop.drive(requests=200, seconds=3.0, seed=1)
            shop.wait_until_idle()
        yield Day(shop, sent, collector.store, ask("report", "--store", str(collector.store)))


def test_every_request_was_answered_and_each_kind_of_end_was_among_them(day: Day) -> None:
    assert len(day.sent.requests) == 200
    assert all(request.status.isdecimal() for request in day.sent.requests)
    for status in ("201", "402", "500"):
        assert day.sent.count(CHECKOUT, status) > 0
    assert 0 < sum(request.was_named for request in day.sent.requests) < 200


def test_the_report_counts_exactly_the_requests_that_were_sent_by_route_and_failure(day: Day) -> None:
    for route, statuses in day.sent.outcomes().items():
        reported = day.operation("front", route)
        assert reported["calls"] == sum(statuses.values()), route
        failed = sum(count for status, count in statuses.items() if status >= "500")
        assert sum(reported["errors"].values()) == failed, route
    http = [one for one in day.report["operations"] if (one["service"], one["kind"]) == ("front", "http")]
    assert {one["name"] for one in http} == day.sent.outcomes().keys()


def test_the_report_counts_exactly_what_each_service_did_for_these_requests(day: Day) -> None:
    count = day.sent.count
    paid, declined, away = count(CHECKOUT, "201"), count(CHECKOUT, "402"), count(CHECKOUT, "503")
    expected = {
        ("front", "search products"): (count("GET /search"), {}),
        ("front", "check out"): (
            count(CHECKOUT),
            {"ZeroDivisionError": count(CHECKOUT, "500"), "shop.till.PaymentsUnavailable": away},
        ),
        ("front", "charge card"): (
            paid + declined + away,
            {"declined": declined, "shop.till.PaymentsUnavailable": away},
        ),
        ("payments", "POST /payments"): (paid + declined + away, {"503": away}),
        ("payments", "take payment"): (
            paid + declined + away,
            {"declined": declined, "shop.provider.ProviderUnavailable": away},
        ),
        ("worker", "send order"): (paid, {}),
        ("worker", "pack order"): (paid, {}),
        ("worker", "hand over"): (paid, {}),
    }
    found = {
        (service, name): (operation["calls"], operation["errors"])
        for service, name in expected
        for operation in [day.operation(service, name)]
    }
    assert found == {
        name: (calls, {error: number for error, number in errors.items() if number})
        for name, (calls, errors) in expected.items()
    }


def test_the_requests_that_the_report_names_are_in_the_own_log_of_the_service(day: Day) -> None:
    for operation in day.report["operations"]:
        log = day.log(operation["service"])
        named = [sample["request_id"] for sample in operation["slowest"] + operation["failed"]]
        assert named, operation["name"]
        for request_id in named:
            assert f"[{request_id}]" in log, operation["name"]


def test_every_request_is_in_the_front_s_log_under_the_id_that_its_customer_got(day: Day) -> None:
    logged = set(re.findall(r" uvicorn\.access \[(\S+)\]", day.log("front")))
    assert {request.request_id for request in day.sent.requests} == logged
    assert all((request.request_id or "").startswith("app-1-") == request.was_named for request in day.sent.requests)


def test_the_slowest_checkout_of_the_report_lasted_longer_than_any_payment_and_not_longer_than_its_customer_waited(
    day: Day,
) -> None:
    with closing(sqlite3.connect(f"file:{day.store}?mode=ro", uri=True)) as store:
        [(payment,)] = store.execute("SELECT max(end - start) / 1e9 FROM spans WHERE name = 'take payment'")
    slowest = day.operation("front", CHECKOUT)["slowest"][0]
    [waited] = [one.duration for one in day.sent.requests if one.request_id == slowest["request_id"]]
    assert payment - CLOCKS_DIFFER < slowest["duration"] < waited + CLOCKS_DIFFER


def test_a_paid_checkout_is_followed_through_all_three_services_by_spans_and_log_lines(day: Day) -> None:
    paid = {one.request_id for one in day.sent.requests if one.route == CHECKOUT and one.status == "201"}
    request_id = next(
        sample["request_id"]
        for sample in day.operation("front", "check out")["slowest"]
        if sample["request_id"] in paid
    )
    events = ask("follow", request_id, "--store", str(day.store))["events"]
    for service in ("front", "payments", "worker"):
        kinds = {event["kind"] for event in events if event["service"] == service}
        assert kinds == {"log", "span"}, service
    [charging] = [event for event in events if event["text"] == "charge card"]
    assert re.fullmatch(r"[0-9a-f]{32}", charging["attributes"]["order.id"])
    assert {event["instance"] for event in events if event["service"] == "payments"} < set(PAYMENTS_INSTANCES)
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)


def test_a_checkout_that_the_bug_ended_is_followed_to_its_exception(day: Day) -> None:
    [request_id, *_] = [
        sample["request_id"]
        for sample in day.operation("front", "check out")["failed"]
        if sample["error_type"] == "ZeroDivisionError"
    ]
    events = ask("follow", request_id, "--store", str(day.store))["events"]
    errors = [event for event in events if event["kind"] == "log" and event["severity"] == "ERROR"]
    assert errors
    assert all(event["attributes"]["exception.type"] == "ZeroDivisionError" for event in errors)
    assert {event["service"] for event in events} == {"front"}


def test_the_programs_end_as_they_are_asked_to_and_clew_logs_no_warning(day: Day) -> None:
    # uvicorn ends its work on SIGTERM, and then ends the process by the same signal
    assert day.shop.exit_statuses == {"front": -15, "payments-1": -15, "payments-2": -15, "worker": 0}
    for name, log_file in day.shop.log_files.items():
        assert not re.findall(r"^.* (?:WARNING|ERROR) (?:clew|opentelemetry).*$", log_file.read_text(), re.M), name


def test_the_demo_runs_to_its_end_and_counts_exactly() -> None:
    demo = subprocess.run(
        [sys.executable, str(DEMO), "--requests", "200", "--seconds", "2"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "Sent by the customers: 200. Counted by clew at the front: 200." in demo.stdout
    for command in ("report", "follow", "around"):
        assert f"$ clew {command} " in demo.stdout
    assert demo.stderr == ""
