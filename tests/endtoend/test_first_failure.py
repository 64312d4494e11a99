"""The first failure of an operation is seen by the query of an alert, in Prometheus by OTLP and by remote write."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from delivery.listeners import HttpEndpoint
from endtoend.deployment import ask
from real_parts import ROOT, Parts, Prometheus, environment_without_settings, eventually, free_port, get
from shop.running import local_collector

pytestmark = pytest.mark.real

ALERT = 'sum by (error_type) (increase(operation_duration_seconds_count{{job="{job}",error_type!=""}}[5m])) > 0'
"""As docs/metrics.md has it, for one job."""

EVENTS_ALERT = (
    'sum by (job, event_name) (increase(clew_events_total{event_name!~"request_id.replaced|exemplars.lost"}[5m])) > 0'
)

ONLY_FAILURE = """
import clew

clew.configure()

@clew.measure("night's job")
def job():
    raise ValueError("for the first time")

job()
"""

FIRST_FAILURE_AFTER_SUCCESSES = """
import clew

telemetry = clew.configure()

@clew.measure("night's job")
def job(number):
    clew.counter("orders").add(1)
    if number == 4:
        raise ValueError("for the first time")

for number in range(4):
    job(number)
    assert telemetry.force_flush(60)
job(4)
"""


@dataclass
class Deployment:
    """Prometheus, and the settings that lead a program's metrics to it."""

    prometheus: Prometheus
    settings: dict[str, str]

    def run(self, program: str, job: str, **settings: str) -> str:
        """Runs a program to its end; what it has logged."""
        ended = subprocess.run(
            [sys.executable, "-c", program],
            env=environment_for(job, self.settings, **settings),
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        return ended.stderr

    def answers(self, expression: str) -> list[dict[str, Any]]:
        """What a query comes to, once there is anything."""
        return eventually(lambda: self.prometheus.query(expression), what=expression)

    def samples(self, selector: str) -> list[float]:
        """All samples of the one series."""
        (series,) = self.answers(f"{selector}[10m]")
        return [float(value) for _, value in series["values"]]


def environment_for(job: str, *settings: dict[str, str], **more: str) -> dict[str, str]:
    """What a program is started with."""
    environment = environment_without_settings() | {
        "OTEL_SERVICE_NAME": job,
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "CLEW_SHUTDOWN_TIMEOUT": "60",
    }
    for each in (*settings, more):
        environment |= each
    return environment


WAYS = ("OTLP", "remote write, sent over HTTP", "remote write, sent over gRPC")


def through_the_collector(collector: Any, way: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc_endpoint if way.endswith("gRPC") else collector.http_endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc" if way.endswith("gRPC") else "http/protobuf",
    }


def straight(prometheus: Prometheus) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": prometheus.otlp_url}


@pytest.fixture(scope="module", params=WAYS)
def deployment(request: pytest.FixtureRequest, shared_parts: Parts) -> Deployment:
    if request.param == "OTLP":
        prometheus = shared_parts.prometheus(takes_otlp=True)
        return Deployment(prometheus, straight(prometheus))
    prometheus = shared_parts.prometheus()
    collector = shared_parts.collector("prometheus.yaml", COLLECTOR_REMOTE_WRITE_URL=prometheus.remote_write_url)
    return Deployment(prometheus, through_the_collector(collector, request.param))


@pytest.mark.parametrize("program", [ONLY_FAILURE, FIRST_FAILURE_AFTER_SUCCESSES], ids=["only", "after successes"])
def test_the_failure_in_the_last_line_of_a_program_is_seen_once(deployment: Deployment, program: str) -> None:
    job = f"first-{len(program)}"
    assert "for the first time" in deployment.run(program, job)
    (failed,) = deployment.answers(ALERT.format(job=job))
    assert failed["metric"] == {"error_type": "ValueError"}
    assert deployment.samples(f'operation_duration_seconds_count{{job="{job}",error_type="ValueError"}}') == [0, 1]
    if program is FIRST_FAILURE_AFTER_SUCCESSES:
        assert deployment.samples(f'orders_total{{job="{job}"}}') == [0, 1, 2, 3, 4, 5]
        assert deployment.samples(f'operation_active{{job="{job}"}}') == [0] * 5


def test_of_an_exponential_histogram_it_is_seen_too(shared_parts: Parts) -> None:
    prometheus = shared_parts.prometheus(takes_otlp=True)
    Deployment(prometheus, straight(prometheus)).run(ONLY_FAILURE, "exponential", **SETTINGS["exponential"])
    (failed,) = prometheus.query('histogram_count(increase(operation_duration_seconds{error_type!=""}[5m])) > 0')
    assert failed["metric"]["error_type"] == "ValueError"


def test_without_zeros_it_is_not(deployment: Deployment) -> None:
    deployment.run(ONLY_FAILURE, "without", CLEW_ZERO_POINTS="false")
    assert deployment.samples('operation_duration_seconds_count{job="without"}') == [1]
    assert deployment.prometheus.query(ALERT.format(job="without")) == []


def test_the_first_failure_of_each_forked_child_is_seen(deployment: Deployment) -> None:
    program = """
import os, sys
import clew

clew.configure()

@clew.measure("work")
def work():
    raise ValueError

def fail():
    try:
        work()
    except ValueError:
        pass

fail()
for _ in range(2):
    child = os.fork()
    if child == 0:
        fail()
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    logged = deployment.run(program, "forks")
    series = 'operation_duration_seconds_count{job="forks"}'
    eventually(lambda: len(deployment.prometheus.query(series)) == 3, what=f"three instances, {logged}")
    assert len(deployment.prometheus.query(f"increase({series}[5m]) > 0")) == 3
    assert {value["value"][1] for value in deployment.prometheus.query(series)} == {"1"}


def test_the_advised_alert_on_what_clew_has_dropped_answers(deployment: Deployment) -> None:
    program = "import clew\nclew.configure()\nfor _ in range(5): clew.counter('orders').add(1, {'request_id': 'x'})\n"
    deployment.run(program, "dropped")
    assert EVENTS_ALERT in (ROOT / "docs" / "metrics.md").read_text()
    found = [one["metric"] for one in deployment.answers(EVENTS_ALERT) if one["metric"]["job"] == "dropped"]
    assert found == [{"job": "dropped", "event_name": "attribute.ignored"}]


AN_OUTAGE = """
import sys, time
real, ahead = time.time_ns, 0
time.time_ns = lambda: real() + ahead * 10**9
import clew

telemetry = clew.configure()

@clew.measure("work")
def work(error):
    raise error

def fail(error):
    try:
        work(error)
    except type(error):
        pass

ahead = -3 * 3600
assert telemetry.force_flush(60)  # with nothing to send
fail(ValueError())
assert not telemetry.force_flush(0.5)
print("AWAY", flush=True)
sys.stdin.readline()
ahead = 0
assert telemetry.force_flush(60)
fail(KeyError())
print("BACK", telemetry.force_flush(60), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("way", WAYS[:2])
def test_after_an_outage_of_hours_everything_is_taken_and_what_is_new_is_seen(
    parts: Parts, started: Callable[..., subprocess.Popen[str]], way: str
) -> None:
    port = free_port()
    path = "/api/v1/otlp/v1/metrics" if way == "OTLP" else "/v1/metrics"
    program = started(
        AN_OUTAGE,
        environment_for(
            "outage",
            {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{port}{path}"},
            OTEL_EXPORTER_OTLP_TIMEOUT="60000",
        ),
    )
    assert next_line(program.stdout) == "AWAY"
    if way == "OTLP":
        prometheus = parts.prometheus(takes_otlp=True, port=port)
    else:
        prometheus = parts.prometheus()
        parts.collector(
            "prometheus.yaml",
            COLLECTOR_REMOTE_WRITE_URL=prometheus.remote_write_url,
            COLLECTOR_HTTP_ENDPOINT=f"127.0.0.1:{port}",
        )
    answer(program.stdin)
    assert next_line(program.stdout) == "BACK True"
    answer(program.stdin)
    assert program.wait(90) == 0
    counted = 'sum by (error_type) (operation_duration_seconds_count{job="outage"})'
    eventually(lambda: len(prometheus.query(counted)) == 2, what="both failures")
    assert {one["metric"]["error_type"]: one["value"][1] for one in prometheus.query(counted)} == {
        "ValueError": "1",
        "KeyError": "1",
    }
    assert [one["metric"]["error_type"] for one in prometheus.query(ALERT.format(job="outage"))] == ["KeyError"]
    assert prometheus.query('clew_events_total{job="outage"}') == []


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts programs that a test talks to."""
    programs: list[subprocess.Popen[str]] = []

    def start(program: str, environment: dict[str, str]) -> subprocess.Popen[str]:
        programs.append(
            subprocess.Popen(
                [sys.executable, "-c", program],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return programs[-1]

    yield start
    for each in programs:
        each.kill()
        each.communicate()


def next_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


def answer(stream: IO[str] | None) -> None:
    assert stream is not None
    stream.write("\n")
    stream.flush()


# what else reads them: everything is counted once

COUNTED = """
import clew

telemetry = clew.configure()

@clew.measure("work")
def work(number):
    clew.counter("orders").add(2, {"kind": number % 3})
    clew.histogram("size").record(number)
    if number == 7:
        raise ValueError

for number in range(10):
    try:
        work(number)
    except ValueError:
        pass
    assert telemetry.force_flush(60)
"""
SETTINGS = {
    "explicit": {},
    "exponential": {"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"},
}


@pytest.mark.parametrize("buckets", SETTINGS)
@pytest.mark.parametrize("way", WAYS[1:])
def test_the_collector_s_deltas_add_up_to_what_was_counted(
    parts: Parts, tmp_path: Path, way: str, buckets: str
) -> None:
    endpoint = HttpEndpoint()
    try:
        configuration = tmp_path / "deltas.yaml"
        configuration.write_text(
            """
receivers:
  otlp:
    protocols:
      grpc: {endpoint: "${env:COLLECTOR_GRPC_ENDPOINT}"}
      http: {endpoint: "${env:COLLECTOR_HTTP_ENDPOINT}"}
processors:
  cumulative_to_delta: {}
exporters:
  otlp_http: {endpoint: "${env:COLLECTOR_BACKEND_URL}"}
service:
  pipelines:
    metrics: {receivers: [otlp], processors: [cumulative_to_delta], exporters: [otlp_http]}
  telemetry: {metrics: {level: none}}
"""
        )
        collector = parts.collector(str(configuration), COLLECTOR_BACKEND_URL=endpoint.url)
        deployment = Deployment(None, through_the_collector(collector, way))  # type: ignore[arg-type]
        logged = deployment.run(COUNTED, "deltas", **SETTINGS[buckets])
        expected = {"orders": 20, "size": 10, "operation.duration": 10}
        eventually(lambda: added_up(endpoint) == expected, what=f"{expected}: {logged}")
        assert collector.stop() == 0
        assert added_up(endpoint) == expected
    finally:
        endpoint.close()


def added_up(endpoint: HttpEndpoint) -> dict[str, float]:
    """The sum of the deltas that have arrived, by metric."""
    found: dict[str, float] = {}
    for message in endpoint.received.messages:
        for resource in message.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    data = getattr(metric, kind)
                    if kind == "sum" and not data.is_monotonic:
                        continue
                    for point in data.data_points:
                        number = point.as_int + point.as_double if kind == "sum" else point.count
                        found[metric.name] = found.get(metric.name, 0) + number
    return found


def test_the_page_to_scrape_has_the_last_totals(parts: Parts) -> None:
    prometheus = parts.prometheus()
    collector = parts.collector("prometheus.yaml", COLLECTOR_REMOTE_WRITE_URL=prometheus.remote_write_url)
    Deployment(prometheus, through_the_collector(collector, "HTTP")).run(COUNTED, "page")
    page = get(collector.scrape_url).text
    counted = re.findall(r"^operation_duration_seconds_count{.*} (\d+)", page, re.MULTILINE)
    assert sorted(counted) == ["1", "9"]
    assert sorted(re.findall(r"^orders_total{.*} (\d+)", page, re.MULTILINE)) == ["6", "6", "8"]


@pytest.mark.parametrize("buckets", SETTINGS)
def test_the_local_collector_counts_each_run_once(tmp_path: Path, buckets: str) -> None:
    with local_collector(tmp_path) as local:
        deployment = Deployment(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": local.http})  # type: ignore[arg-type]
        deployment.run(COUNTED, "once", **SETTINGS[buckets])
        (work,) = ask("report", "--store", str(local.store))["operations"]
    assert (work["name"], work["calls"], work["errors"]) == ("work", 10, {"ValueError": 1})


# two instruments of one name

TWO_SCOPES = """
import clew

telemetry = clew.configure()
clew.counter("orders", scope="shop.web").add(1)
clew.counter("orders", scope="shop.batch").add(10)
"""


def test_counters_of_one_name_in_two_scopes_are_two_series_where_prometheus_is_configured_so(parts: Parts) -> None:
    prometheus = parts.prometheus(takes_otlp=True, otlp={"promote_scope_metadata": True})
    Deployment(prometheus, straight(prometheus)).run(TWO_SCOPES, "scopes")
    assert of_each_scope(prometheus) == {"shop.web": "1", "shop.batch": "10"}
    untold = parts.prometheus(takes_otlp=True)
    Deployment(untold, straight(untold)).run(TWO_SCOPES, "scopes")
    assert len(of_each_scope(untold)) == 1


def test_by_remote_write_they_are_two_series_anyway(parts: Parts) -> None:
    prometheus = parts.prometheus()
    collector = parts.collector("prometheus.yaml", COLLECTOR_REMOTE_WRITE_URL=prometheus.remote_write_url)
    Deployment(prometheus, through_the_collector(collector, "HTTP")).run(TWO_SCOPES, "scopes")
    eventually(lambda: len(of_each_scope(prometheus)) == 2, what="both series")
    assert of_each_scope(prometheus) == {"shop.web": "1", "shop.batch": "10"}


def of_each_scope(prometheus: Prometheus) -> dict[str, str]:
    """The orders by their scope's label."""
    return {one["metric"].get("otel_scope_name", ""): one["value"][1] for one in prometheus.query("orders_total")}
