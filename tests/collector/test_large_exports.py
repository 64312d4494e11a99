"""Exports that are longer than the Collector's receiver accepts in one request, with the receiver's defaults."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from real_parts import Parts, environment_without_settings, eventually

pytestmark = pytest.mark.real

COUNTING = """
receivers:
  otlp:
    protocols:
      grpc: {endpoint: "${env:COLLECTOR_GRPC_ENDPOINT}"}
      http: {endpoint: "${env:COLLECTOR_HTTP_ENDPOINT}"}
exporters:
  debug: {verbosity: basic, use_internal_logger: false}
service:
  pipelines:
    metrics: {receivers: [otlp], exporters: [debug]}
    logs: {receivers: [otlp], exporters: [debug]}
  telemetry: {metrics: {level: none}}
"""


SENDING = """
import logging
import clew

telemetry = clew.configure(resource={"service.name": "large"})
for number in range(100):
    histogram = clew.histogram(f"large.{number}")
    for place in range(1_000):
        histogram.record(place, {"place": place})
for _ in range(600):
    logging.getLogger("large").warning("x" * 9_000)
print(telemetry.force_flush(timeout=120))
telemetry.shutdown(timeout=0)  # all has been sent once
"""


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_hundred_thousand_series_and_long_log_lines_arrive(parts: Parts, tmp_path: Path, protocol: str) -> None:
    (tmp_path / "counting.yaml").write_text(COUNTING)
    collector = parts.collector(str(tmp_path / "counting.yaml"))
    environment = {
        **environment_without_settings(),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "120000",
        "OTEL_TRACES_EXPORTER": "none",
        "CLEW_ZERO_POINTS": "false",
    }
    # in a process of its own, since so many objects slow down all that comes after them
    command = [sys.executable, "-c", SENDING]
    sender = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert sender.stdout == "True\n", sender.stderr[-4000:]
    eventually(lambda: counted(collector.log(), "data points") >= 100_000, what="all series are there")
    eventually(lambda: counted(collector.log(), "log records") >= 600, what="all log lines are there")


def counted(printed: str, what: str) -> int:
    """How many of these the Collector has printed that it got."""
    return sum(map(int, re.findall(rf'"{what}": (\d+)', printed)))
