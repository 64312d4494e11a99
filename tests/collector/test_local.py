"""collector-config/local.yaml: OTLP in, everything printed."""

from __future__ import annotations

import re

import pytest
from otlp_sender import Protocol, Sender, logs_message, send, traces_message
from real_parts import Collector, Parts, eventually

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def collector(shared_parts: Parts) -> Collector:
    return shared_parts.collector("local.yaml")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_measurement_is_printed_with_its_exemplar_request_id_and_trace(
    collector: Collector, protocol: Protocol
) -> None:
    sender = Sender(protocol, collector, service=f"shop-{protocol}", instance="1")
    recorded = sender.record(f"req-{protocol}", 0.25)
    sender.end()

    printed = eventually(lambda: _resource(collector, f"shop-{protocol}"), what="the export is printed")
    duration = printed.split("Name: operation.duration", 1)[1].split("Metric #", 1)[0]
    assert "Count: 1\n" in duration
    assert "operation.name: Str(checkout)" in duration
    [exemplar] = duration.split("Exemplar #")[1:]
    assert f"request_id: Str({recorded.request_id})" in exemplar
    assert recorded.trace_id in exemplar
    assert recorded.span_id in exemplar
    assert "Value: 0.25" in exemplar


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_spans_and_log_lines_are_printed_with_their_request_id(collector: Collector, protocol: Protocol) -> None:
    assert send(protocol, collector, traces_message(f"span-{protocol}")) == "taken"
    assert send(protocol, collector, logs_message(f"line-{protocol}")) == "taken"
    eventually(lambda: f"request_id: Str(span-{protocol})" in collector.log(), what="the span is printed")
    eventually(lambda: f"request_id: Str(line-{protocol})" in collector.log(), what="the log line is printed")


def test_every_export_of_a_burst_is_printed(collector: Collector) -> None:
    sent = {f"burst-{number}" for number in range(300)}
    for request_id in sent:
        assert send("http", collector, logs_message(request_id)) == "taken"
    eventually(
        lambda: sent <= set(re.findall(r"request_id: Str\((burst-\d+)\)", collector.log())), what="all 300 are printed"
    )


def test_it_ends_cleanly_when_asked_to(parts: Parts) -> None:
    collector = parts.collector("local.yaml")
    # it handles signals only after it has logged that it is ready
    assert send("http", collector, logs_message("last")) == "taken"
    eventually(lambda: "request_id: Str(last)" in collector.log(), what="the log line is printed")
    assert collector.stop() == 0


def _resource(collector: Collector, service: str) -> str | None:
    """What was printed of one service's metrics, up to the next export."""
    found = re.search(rf"service\.name: Str\({service}\)(.*?)(?=ResourceMetrics #|\Z)", collector.log(), re.DOTALL)
    return (
        found.group(1)
        if found and "Name: operation.duration" in found.group(1) and "Exemplar #" in found.group(1)
        else None
    )
