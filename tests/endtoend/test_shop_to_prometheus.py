"""The shop under load, through the real Collector into the real Prometheus: counts are exact, exemplars lead to logs.

The same data goes to the local collector, whose report has to say the same.
"""

from __future__ import annotations

import re

import httpx
import pytest
from endtoend.deployment import CHECKOUT, Day, ask, http_counts, operation_counts, running_deployment
from real_parts import Parts
from shop.load import Sent

pytestmark = pytest.mark.real

ENDS = ("201", "402", "409", "500", "503")
BUCKETS = '{__name__=~"(operation|http_server_request)_duration_seconds_bucket"}'
CLOCKS_DIFFER = 0.005
"""In seconds: spans are timed by the wall clock, everything else by a monotonic one."""
HTTP_LABELS = ("http_request_method", "http_route", "http_response_status_code", "error_type")


@pytest.fixture(scope="module", params=["grpc", "http/protobuf"])
def day(request: pytest.FixtureRequest, shared_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Day:
    folder = tmp_path_factory.mktemp("shop")
    with running_deployment(shared_parts, folder, request.param, OTEL_METRIC_EXPORT_INTERVAL="500") as deployment:
        provider = f"{deployment.shop.addresses['payments-2']}/provider"
        httpx.put(provider, json={"sick": True}, trust_env=False).raise_for_status()
        sent = Sent(seed=0)
        while not all(sent.count(CHECKOUT, status) for status in ENDS):  # chance decides which payments fail
            sent.seed += 1
            assert sent.seed < 20, sent.outcomes()
            sent.requests += deployment.shop.drive(requests=200, seconds=2.5, seed=sent.seed, sick=False).requests
        deployment.shop.wait_until_idle()
    return Day(deployment.shop, sent, deployment.prometheus, deployment.local.store)


def test_every_request_was_answered_and_each_kind_of_end_was_among_them(day: Day) -> None:
    assert len(day.sent.requests) == 200 * day.sent.seed
    for status in ENDS:
        assert day.sent.count(CHECKOUT, status) > 0, status


def test_prometheus_counts_exactly_the_requests_sent_by_route_status_and_error_type(day: Day) -> None:
    counted = day.counts("http_server_request_duration_seconds_count", *HTTP_LABELS, job="front")
    assert counted == http_counts(day.sent)


def test_prometheus_counts_exactly_the_operations_of_all_services_by_error_type(day: Day) -> None:
    counted = day.counts("operation_duration_seconds_count", "job", "operation_name", "error_type")
    assert counted == operation_counts(day.sent)


def test_the_buckets_hold_exactly_what_the_counts_say_and_nothing_is_under_way_any_more(day: Day) -> None:
    labels = "job", "instance", "operation_name", "error_type"
    by_bound = day.counts("operation_duration_seconds_bucket", "le", *labels)
    up_to_the_last = {key[1:]: number for key, number in by_bound.items() if key[0] == "+Inf"}
    assert up_to_the_last == day.counts("operation_duration_seconds_count", *labels)
    assert day.counts("operation_active", "job", "operation_name") == {}
    assert day.prometheus.query("operation_active") != []


def test_the_shop_s_own_counters_are_exact_too(day: Day) -> None:
    paid = day.sent.count(CHECKOUT, "201")
    assert sum(day.counts("shop_orders_total", "shop_tier").values()) == paid
    assert day.counts("shop_jobs_waited_seconds_count", "job") == {("worker",): paid}


def test_every_exemplar_in_prometheus_names_a_request_that_is_in_the_service_s_own_log(day: Day) -> None:
    exemplars = day.prometheus.exemplars(BUCKETS)
    assert {exemplar["series"]["job"] for exemplar in exemplars} == {"front", "payments", "worker"}
    logged = {job: set(re.findall(r"\[(\S+)\]", day.log(job))) - {"-"} for job in ("front", "payments", "worker")}
    for exemplar in exemplars:
        assert exemplar["labels"]["request_id"] in logged[exemplar["series"]["job"]], exemplar
        assert {"trace_id", "span_id"} < exemplar["labels"].keys(), exemplar


def test_an_exemplar_of_a_route_and_status_is_a_request_that_was_answered_so(day: Day) -> None:
    answered = {request.request_id: (request.route, request.status) for request in day.sent.requests}
    checked = 0
    for exemplar in day.prometheus.exemplars('http_server_request_duration_seconds_bucket{job="front"}'):
        series = exemplar["series"]
        route = f"{series['http_request_method']} {series['http_route']}"
        request_id = exemplar["labels"]["request_id"]
        assert answered[request_id] == (route, series["http_response_status_code"]), exemplar
        checked += 1
    assert checked > len(day.sent.outcomes())


def test_every_kind_of_failure_has_an_exemplar_whose_request_failed_so(day: Day) -> None:
    status_of = {"ZeroDivisionError": "500", "declined": "402"}  # else 503: payments could not say
    answered = {request.request_id: request.status for request in day.sent.requests}
    found = {
        (exemplar["series"]["job"], exemplar["series"]["operation_name"], exemplar["series"]["error_type"])
        for exemplar in day.prometheus.exemplars('operation_duration_seconds_bucket{error_type!=""}')
        if answered[exemplar["labels"]["request_id"]] == status_of.get(exemplar["series"]["error_type"], "503")
    }
    assert found == {key for key in operation_counts(day.sent) if key[2]}


def test_the_request_id_is_no_label_of_any_series(day: Day) -> None:
    assert day.prometheus.query('{request_id!=""}') == []


def test_the_local_report_has_the_same_numbers_as_prometheus(day: Day) -> None:
    operations = [one for one in day.report() if one["kind"] == "operation"]
    reported = {(one["service"], one["name"]): one for one in operations}
    of_calls = day.counts("operation_duration_seconds_count", "job", "operation_name")
    assert {name: one["calls"] for name, one in reported.items()} == of_calls

    of_errors = day.counts("operation_duration_seconds_count", "job", "operation_name", "error_type")
    assert {(*name, error): count for name, one in reported.items() for error, count in one["errors"].items()} == {
        key: count for key, count in of_errors.items() if key[2]
    }

    for (service, name), one in reported.items():
        selector = f'{{job="{service}",operation_name="{name}"}}'
        mean = f"sum(operation_duration_seconds_sum{selector}) / sum(operation_duration_seconds_count{selector})"
        assert one["trend"]["duration"]["now"] == pytest.approx(day.prometheus.value(mean)), name


@pytest.mark.parametrize(("quantile", "key"), [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")])
def test_the_local_quantiles_are_those_of_prometheus_cut_at_the_slowest_call_shown(
    day: Day, quantile: float, key: str
) -> None:
    for one in day.report():
        if one["kind"] != "operation":
            continue
        selector = f'operation_duration_seconds_bucket{{job="{one["service"]}",operation_name="{one["name"]}"}}'
        interpolated = day.prometheus.value(f"histogram_quantile({quantile}, sum by (le) ({selector}))")
        low, high = one[f"{key}_bounds"]
        kept = [float(exemplar["value"]) for exemplar in day.prometheus.exemplars(selector)]
        inside = [value for value in kept if low < value <= high]
        expected = min(interpolated, max(inside, default=interpolated))
        assert one[key] == pytest.approx(expected), one["name"]


def test_a_request_that_prometheus_names_is_followed_through_all_services(day: Day) -> None:
    paid = {one.request_id for one in day.sent.requests if one.route == CHECKOUT and one.status == "201"}
    slowest = max(
        (
            exemplar
            for exemplar in day.prometheus.exemplars('operation_duration_seconds_bucket{operation_name="check out"}')
            if exemplar["labels"]["request_id"] in paid
        ),
        key=lambda exemplar: float(exemplar["value"]),
    )
    events = ask("follow", slowest["labels"]["request_id"], "--store", str(day.store))["events"]
    assert {(event["service"], event["kind"]) for event in events} == {
        (service, kind) for service in ("front", "payments", "worker") for kind in ("log", "span")
    }
    [span] = [event for event in events if event["text"] == "check out"]
    [waited] = [one.duration for one in day.sent.requests if one.request_id == slowest["labels"]["request_id"]]
    # what is measured lies inside the span, and the span inside what the customer waited
    assert float(slowest["value"]) - CLOCKS_DIFFER < span["duration"] < waited + CLOCKS_DIFFER
