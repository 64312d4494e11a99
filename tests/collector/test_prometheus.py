"""collector-config/prometheus.yaml: remote write keeps counts and request IDs, the page to scrape keeps the counts."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from otlp_sender import Protocol, Sender, logs_message, send, traces_message
from real_parts import Collector, Parts, Prometheus, eventually, free_port, get

pytestmark = pytest.mark.real

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


@dataclass
class Deployment:
    """Collector and Prometheus with remote write between them."""

    collector: Collector
    prometheus: Prometheus


@pytest.fixture(scope="module")
def deployment(shared_parts: Parts) -> Deployment:
    prometheus = shared_parts.prometheus()
    return Deployment(
        shared_parts.collector("prometheus.yaml", COLLECTOR_REMOTE_WRITE_URL=prometheus.remote_write_url), prometheus
    )


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_counts_in_prometheus_are_exactly_those_sent_by_several_processes_over_several_exports(
    deployment: Deployment, protocol: Protocol
) -> None:
    job = f"counted-{protocol}"
    processes = [Sender(protocol, deployment.collector, service=job, instance=f"{job}-{number}") for number in range(3)]
    sent = 0
    for export in range(5):
        for number, process in enumerate(processes):
            for call in range(10 + 7 * number + export):
                process.record(f"{job}-{export}-{number}-{call}", 0.01 * (call + 1))
                sent += 1
            process.export()
    for process in processes:
        process.end()

    total = f'sum(operation_duration_seconds_count{{job="{job}"}})'
    eventually(lambda: deployment.prometheus.value(total) == sent, what=f"Prometheus has all {sent} calls")
    assert deployment.prometheus.value(f'sum(orders_total{{job="{job}"}})') == sent
    assert deployment.prometheus.value(f'sum(operation_duration_seconds_bucket{{job="{job}",le="+Inf"}})') == sent
    assert deployment.prometheus.value(f'count(operation_duration_seconds_count{{job="{job}"}})') == 3


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_every_bucket_has_an_exemplar_of_a_request_that_was_sent_with_its_own_trace_and_value(
    deployment: Deployment, protocol: Protocol
) -> None:
    job = f"exemplars-{protocol}"
    process = Sender(protocol, deployment.collector, service=job, instance=job)
    recorded = [
        process.record(f"{job}-{number}", seconds) for number, seconds in enumerate([0.001, 0.02, 0.3, 4, 50] * 3)
    ]
    process.end()

    found = eventually(
        lambda: _of_all_buckets(deployment.prometheus, job, buckets=5), what="an exemplar in each of the five buckets"
    )
    by_id = {one.request_id: one for one in recorded}
    for exemplar in found:
        one = by_id[exemplar["labels"]["request_id"]]
        assert exemplar["labels"] == {"request_id": one.request_id, "trace_id": one.trace_id, "span_id": one.span_id}
        assert float(exemplar["value"]) == one.seconds


def test_a_business_counter_has_request_ids_too(deployment: Deployment) -> None:
    process = Sender("http", deployment.collector, service="counter", instance="counter")
    recorded = process.record("order-1", 0.1)
    process.end()
    [exemplar] = eventually(
        lambda: deployment.prometheus.exemplars('orders_total{job="counter"}'), what="the counter's exemplar"
    )
    assert exemplar["labels"]["request_id"] == "order-1"
    assert exemplar["labels"]["trace_id"] == recorded.trace_id


def test_the_request_id_is_no_label_of_any_series(deployment: Deployment) -> None:
    process = Sender("grpc", deployment.collector, service="labels", instance="labels")
    process.record("label-1", 0.1)
    process.end()
    eventually(lambda: deployment.prometheus.query('{job="labels"}'), what="the series are there")
    assert deployment.prometheus.query('{request_id!=""}') == []


@pytest.mark.parametrize(("length", "kept"), [(55, True), (56, False)])
def test_a_request_id_of_up_to_55_characters_fits_beside_the_trace_and_a_longer_one_goes(
    deployment: Deployment, length: int, kept: bool
) -> None:
    job = f"long-{length}"
    process = Sender("grpc", deployment.collector, service=job, instance=job)
    recorded = process.record("r" * length, 0.1)
    process.end()
    [exemplar] = eventually(
        lambda: deployment.prometheus.exemplars(f'{{job="{job}",__name__=~"operation_.*"}}'), what="the exemplar"
    )
    assert exemplar["labels"].get("request_id") == (recorded.request_id if kept else None)
    assert exemplar["labels"]["trace_id"] == recorded.trace_id


def test_a_request_id_of_118_characters_fits_where_there_is_no_span(deployment: Deployment) -> None:
    process = Sender("grpc", deployment.collector, service="longest", instance="longest")
    process.record("r" * 118, 0.1, span=False)
    process.end()
    [exemplar] = eventually(
        lambda: deployment.prometheus.exemplars('{job="longest",__name__=~"operation_.*"}'), what="the exemplar"
    )
    assert exemplar["labels"] == {"request_id": "r" * 118}


def test_resource_attributes_are_on_target_info_and_not_on_every_series(deployment: Deployment) -> None:
    process = Sender(
        "grpc",
        deployment.collector,
        service="info",
        instance="info-1",
        resource={"service.version": "1.2.3", "host.name": "box"},
    )
    process.record("info", 0.1)
    process.end()
    [info] = eventually(lambda: deployment.prometheus.query('target_info{job="info"}'), what="target_info is there")
    assert info["metric"]["service_version"] == "1.2.3"
    assert info["metric"]["host_name"] == "box"
    assert info["metric"]["instance"] == "info-1"
    [series] = deployment.prometheus.query('operation_duration_seconds_count{job="info"}')
    assert "service_version" not in series["metric"]
    [joined] = deployment.prometheus.query(
        'operation_duration_seconds_count{job="info"} * on (job, instance) group_left (service_version) target_info'
    )
    assert joined["metric"]["service_version"] == "1.2.3"


@pytest.mark.parametrize("span", [True, False], ids=["with a span", "without a span"])
def test_the_page_to_scrape_keeps_the_counts_and_loses_the_request_ids(deployment: Deployment, span: bool) -> None:
    job = f"scraped-{span}".lower()
    process = Sender("grpc", deployment.collector, service=job, instance=job)
    recorded = [process.record(f"{job}-{number}", 0.3, span=span) for number in range(7)]
    process.end()

    page = eventually(lambda: _page_with(deployment.collector, job), what="the series are on the page")
    [count] = re.findall(rf'^operation_duration_seconds_count{{.*job="{job}".*}} (\S+)', page, re.MULTILINE)
    assert float(count) == 7
    lines = [
        line
        for line in page.splitlines()
        if line.startswith("operation_duration_seconds_bucket") and f'job="{job}"' in line
    ]
    exemplars = [dict(re.findall(r'(\w+)="([^"]*)"', line.split(" # ", 1)[1])) for line in lines if " # " in line]
    if span:
        [labels] = exemplars
        assert set(labels) == {"trace_id", "span_id"}
        assert (labels["trace_id"], labels["span_id"]) in {(one.trace_id, one.span_id) for one in recorded}
    else:
        assert exemplars == []
    assert "request_id" not in page
    assert recorded[0].request_id not in page


def test_a_prometheus_that_scrapes_the_page_has_the_exact_counts_and_traces_without_request_ids(parts: Parts) -> None:
    page = f"127.0.0.1:{free_port()}"
    prometheus = parts.prometheus(scrape=[page])
    collector = parts.collector(
        "prometheus.yaml",
        COLLECTOR_SCRAPE_ENDPOINT=page,
        COLLECTOR_REMOTE_WRITE_URL=f"{prometheus.url}/nowhere",  # this one is scraped only
    )
    process = Sender("http", collector, service="scraped", instance="scraped-1")
    recorded = [process.record(f"scraped-{number}", 0.3) for number in range(11)]
    process.end()
    eventually(
        lambda: prometheus.value('operation_duration_seconds_count{job="scraped",instance="scraped-1"}') == 11,
        what="the page has been scraped",
    )
    found = eventually(
        lambda: prometheus.exemplars('operation_duration_seconds_bucket{job="scraped"}'), what="exemplars"
    )
    assert {frozenset(one["labels"]) for one in found} == {frozenset({"trace_id", "span_id"})}
    assert {one["labels"]["trace_id"] for one in found} <= {one.trace_id for one in recorded}


def test_an_ended_process_s_last_export_arrives_though_prometheus_was_unreachable_for_longer_than_one_attempt(
    parts: Parts,
) -> None:
    port = free_port()
    with _starting_up(port) as attempts:
        collector = parts.collector(
            "prometheus.yaml", COLLECTOR_REMOTE_WRITE_URL=f"http://127.0.0.1:{port}/api/v1/write"
        )
        process = Sender("grpc", collector, service="patient", instance="patient")
        process.record("patient-1", 0.1)
        process.end()
        # The fifth attempt comes eight seconds or so after the first: past the five that the exporter waits by default.
        eventually(lambda: len(attempts) >= 5, what="five attempts", timeout=90)
    prometheus = parts.prometheus(port=port)
    eventually(
        lambda: prometheus.value('operation_duration_seconds_count{job="patient"}') == 1,
        what="the export arrives",
        timeout=120,
    )
    assert [one["labels"]["request_id"] for one in prometheus.exemplars('orders_total{job="patient"}')] == ["patient-1"]


def test_delta_senders_have_exact_counts_and_only_the_first_export_s_exemplars(deployment: Deployment) -> None:
    process = Sender("grpc", deployment.collector, service="delta", instance="delta", delta=True)
    for export in range(3):
        for call in range(4):
            process.record(f"delta-{export}-{call}", 0.3)
        process.export()
    process.end()
    eventually(
        lambda: deployment.prometheus.value('operation_duration_seconds_count{job="delta"}') == 12,
        what="the sum of three exports",
    )
    found = deployment.prometheus.exemplars('operation_duration_seconds_bucket{job="delta"}')
    assert [one["labels"]["request_id"] for one in found] == ["delta-0-3"]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_spans_and_log_lines_are_received_and_their_dropping_is_logged(
    deployment: Deployment, protocol: Protocol
) -> None:
    assert send(protocol, deployment.collector, traces_message("dropped")) == "taken"
    assert send(protocol, deployment.collector, logs_message("dropped")) == "taken"
    for signal in ("traces", "logs"):
        line = rf'"otelcol.component.id": "debug/dropped".*"otelcol.signal": "{signal}"'
        eventually(
            lambda line=line: re.search(line, deployment.collector.log()),
            what=f"the log says that {signal} were dropped",
        )


def test_the_collector_s_log_has_no_warning(deployment: Deployment) -> None:
    warnings = [line for line in deployment.collector.log().splitlines() if re.search(r"\t(warn|error)\t", line)]
    assert warnings == []


def _of_all_buckets(prometheus: Prometheus, job: str, *, buckets: int) -> list[dict[str, object]] | None:
    found = prometheus.exemplars(f'operation_duration_seconds_bucket{{job="{job}"}}')
    by_bucket: dict[str, int] = defaultdict(int)
    for exemplar in found:
        by_bucket[exemplar["series"]["le"]] += 1
    return found if len(by_bucket) == buckets else None


def _page_with(collector: Collector, job: str) -> str | None:
    page = get(collector.scrape_url, accept=OPEN_METRICS).text
    return page if f'job="{job}"' in page else None


@contextmanager
def _starting_up(port: int) -> Iterator[list[str]]:
    """A Prometheus that is still reading its log after a restart: answers 503. The list grows with each attempt."""
    attempts: list[str] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            attempts.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Refusing)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield attempts
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
