"""``clew.events``: each event is exported once, by the provider of its time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from recorded import Recorded

import clew


def replace_request_ids(number: int) -> None:
    for _ in range(number):
        with clew.request("not valid"):
            pass


def test_a_new_configuration_exports_what_has_not_been_exported(configured: Callable[..., Recorded]) -> None:
    configured().telemetry.shutdown()
    first = configured()
    before = first.events()  # what earlier tests have left unexported
    replace_request_ids(3)
    told = {**before, "request_id.replaced": before.get("request_id.replaced", 0) + 3}
    assert first.events() == first.events() == told
    first.telemetry.shutdown()
    replace_request_ids(2)

    second = configured()
    assert second.events() == {"request_id.replaced": 2}
    replace_request_ids(1)
    assert second.events() == {"request_id.replaced": 3}
    second.telemetry.shutdown()

    third = configured()
    assert third.events() == {}
    replace_request_ids(1)
    assert third.events() == {"request_id.replaced": 1}


PROGRAM = """
import json, os, sys
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
import clew

temporality = AggregationTemporality.DELTA if "delta" in sys.argv else AggregationTemporality.CUMULATIVE
reader = InMemoryMetricReader(preferred_temporality={ObservableCounter: temporality})
if "foreign" in sys.argv:
    metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
    telemetry = clew.configure()
else:
    telemetry = clew.configure(metric_readers=[reader])

def replace(number):
    for _ in range(number):
        with clew.request("not valid"):
            pass

def tell(who):
    data = reader.get_metrics_data()
    found = [
        point.value
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "clew.events"
        for point in metric.data.data_points
    ]
    print(json.dumps([who, sum(found)]), flush=True)

replace(5)
tell("parent")
child = os.fork()
if child == 0:
    tell("child")
    replace(2)
    tell("child")
    replace(1)
    tell("child")
    os._exit(0)
os.waitpid(child, 0)
replace(3)
tell("parent")
"""

CUMULATIVE = [["parent", 5], ["child", 0], ["child", 2], ["child", 3], ["parent", 8]]
DELTA = [["parent", 5], ["child", 0], ["child", 2], ["child", 1], ["parent", 3]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("provider", ["ours", "foreign"])
@pytest.mark.parametrize(("temporality", "expected"), [("cumulative", CUMULATIVE), ("delta", DELTA)])
def test_a_forked_child_exports_its_own(provider: str, temporality: str, expected: list[Any]) -> None:
    nowhere = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("METRICS", "TRACES", "LOGS")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, provider, temporality],
        env=nowhere,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected
