"""``OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED``: what `clew` has in the place of the SDK's parts measures itself too."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from delivery.listeners import refusing

PROGRAM = """
import logging, os
import clew
from opentelemetry import trace

telemetry = clew.configure()
tracer = trace.get_tracer("test")

def work(number):
    for _ in range(number):
        with tracer.start_as_current_span("work"):
            pass
    logging.getLogger("shop").warning("worked")

work(int(os.environ["SPANS"]))
telemetry.force_flush(60)
if os.fork() == 0:
    work(1)
    telemetry.force_flush(60)
    telemetry.force_flush(60)
    os._exit(0)
os.wait()
telemetry.force_flush(60)
"""
COMPONENTS = {"grpc": "otlp_grpc", "http/protobuf": "otlp_http"}


def run(environ: dict[str, str], **more: str) -> None:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "CLEW_"))}
    asked = {"OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true", "SPANS": "3", "CLEW_SHUTDOWN_TIMEOUT": "30"}
    subprocess.run([sys.executable, "-c", PROGRAM], env={**known, **environ, **asked, **more}, check=True, timeout=180)


def measured(endpoint: Any) -> list[dict[tuple[str, str, str], float]]:
    """The last value of each metric of the SDK's own by component type and error, one mapping a process."""
    found: dict[str, dict[tuple[str, str, str], float]] = {}
    for message in endpoint.received.messages:
        for resource in getattr(message, "resource_metrics", ()):
            attributes = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            process = found.setdefault(attributes["service.instance.id"], {})
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                for point in [*metric.sum.data_points, *metric.histogram.data_points]:
                    attributes = {pair.key: pair.value.string_value for pair in point.attributes}
                    if metric.name.startswith("otel.sdk.") and "otel.component.name" in attributes:
                        value = point.count if metric.HasField("histogram") else point.as_int
                        process[metric.name, attributes["otel.component.type"], attributes.get("error.type", "")] = (
                            value
                        )
    return list(found.values())


def test_exporters_and_processors_measure_themselves_in_forked_children_too(
    environ: dict[str, str], endpoint: Any, protocol: str
) -> None:
    run(environ)
    parent, child = measured(endpoint)
    otlp = COMPONENTS[protocol]
    for process, spans in ((parent, 3), (child, 1)):
        assert process["otel.sdk.processor.span.processed", "batching_span_processor", ""] == spans
        assert process["otel.sdk.processor.span.queue.size", "batching_span_processor", ""] == 0
        assert process["otel.sdk.processor.span.queue.capacity", "batching_span_processor", ""] == 2048
        assert process["otel.sdk.exporter.span.exported", f"{otlp}_span_exporter", ""] == spans
        assert process["otel.sdk.exporter.span.inflight", f"{otlp}_span_exporter", ""] == 0
        assert process["otel.sdk.exporter.operation.duration", f"{otlp}_span_exporter", ""] == 1
        assert process["otel.sdk.processor.log.processed", "batching_log_processor", ""] == 1
        assert process["otel.sdk.exporter.log.exported", f"{otlp}_log_exporter", ""] == 1
        assert process["otel.sdk.exporter.metric_data_point.exported", f"{otlp}_metric_exporter", ""] > 0
        assert process["otel.sdk.exporter.operation.duration", f"{otlp}_metric_exporter", ""] >= 1
    assert not any(error for process in (parent, child) for *_, error in process)


def test_what_fails_and_what_is_dropped_has_its_error(environ: dict[str, str], endpoint: Any, protocol: str) -> None:
    with refusing() as port:
        environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = f"http://127.0.0.1:{port}"
        environ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"] = "200"
        run(environ, SPANS="50", OTEL_BSP_MAX_QUEUE_SIZE="5")
    parent, _ = measured(endpoint)
    processor, exporter = "batching_span_processor", f"{COMPONENTS[protocol]}_span_exporter"
    dropped = parent["otel.sdk.processor.span.processed", processor, "queue_full"]
    handed_over = parent["otel.sdk.processor.span.processed", processor, ""]
    assert dropped > 0
    assert dropped + handed_over == 50
    assert parent["otel.sdk.exporter.span.exported", exporter, "_OTHER"] == handed_over
    assert ("otel.sdk.exporter.span.exported", exporter, "") not in parent


@pytest.mark.parametrize("protocol", ["http/protobuf"])
def test_nobody_who_does_not_ask_for_them_has_them(environ: dict[str, str], endpoint: Any) -> None:
    run(environ, OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED="")
    assert all(not process for process in measured(endpoint))
    assert "otel.sdk.exporter.span.exported" not in endpoint.received.counters
