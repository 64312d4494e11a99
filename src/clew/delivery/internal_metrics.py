"""Metrics of exporters and processors about themselves, where ``OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED`` is true.

The SDK has them for its own; these are the same for those that `clew` uses instead, by the semantic conventions for
OpenTelemetry SDKs: https://opentelemetry.io/docs/specs/semconv/otel/sdk-metrics/
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

# the part of the semantic conventions that is in development; imported with the setting alone
from opentelemetry.semconv._incubating.attributes.otel_attributes import (  # pyright: ignore[reportMissingTypeStubs]
    OTEL_COMPONENT_NAME,
    OTEL_COMPONENT_TYPE,
    OtelComponentTypeValues,
)
from opentelemetry.semconv._incubating.metrics import otel_metrics  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT

from clew.delivery.destination import UndeliveredError

_SCOPE = "opentelemetry-sdk"  # the SDK's name for its own
_PORTS = {"http": 80, "https": 443}
_Types = OtelComponentTypeValues

_numbers: Counter[str] = Counter()


def _component(kind: OtelComponentTypeValues) -> dict[str, Any]:
    """Return the attributes of one more component of this kind."""
    number = _numbers[kind.value]
    _numbers[kind.value] = number + 1
    return {OTEL_COMPONENT_TYPE: kind.value, OTEL_COMPONENT_NAME: f"{kind.value}/{number}"}


@dataclass
class Outcome:
    """How an export ended; `error` is None where everything was delivered."""

    error: UndeliveredError | None


class ExporterMetrics:
    """The measurements of one OTLP exporter.

    Args:
        provider: Whose instruments to use.
        signal: What it exports.
        grpc: Whether it speaks gRPC; otherwise HTTP with protobuf.
        endpoint: A URL, or a gRPC target.
    """

    def __init__(
        self, provider: MeterProvider, signal: Literal["metrics", "traces", "logs"], *, grpc: bool, endpoint: str
    ) -> None:
        meter = provider.get_meter(_SCOPE)
        if signal == "traces":
            kind = _Types.OTLP_GRPC_SPAN_EXPORTER if grpc else _Types.OTLP_HTTP_SPAN_EXPORTER
            self._exported = otel_metrics.create_otel_sdk_exporter_span_exported(meter)
            self._inflight = otel_metrics.create_otel_sdk_exporter_span_inflight(meter)
        elif signal == "logs":
            kind = _Types.OTLP_GRPC_LOG_EXPORTER if grpc else _Types.OTLP_HTTP_LOG_EXPORTER
            self._exported = otel_metrics.create_otel_sdk_exporter_log_exported(meter)
            self._inflight = otel_metrics.create_otel_sdk_exporter_log_inflight(meter)
        else:
            kind = _Types.OTLP_GRPC_METRIC_EXPORTER if grpc else _Types.OTLP_HTTP_METRIC_EXPORTER
            self._exported = otel_metrics.create_otel_sdk_exporter_metric_data_point_exported(meter)
            self._inflight = otel_metrics.create_otel_sdk_exporter_metric_data_point_inflight(meter)
        self._duration = otel_metrics.create_otel_sdk_exporter_operation_duration(meter)
        self._attributes = {**_component(kind), **_server(endpoint)}

    @contextmanager
    def export(self, items: int) -> Generator[Outcome]:
        """Measure the export of that many items, made inside the block, which sets the outcome."""
        outcome = Outcome(UndeliveredError("it did not end"))
        begin = time.perf_counter()
        self._inflight.add(items, self._attributes)
        try:
            yield outcome
        finally:
            duration = time.perf_counter() - begin
            self._inflight.add(-items, self._attributes)
            failed = self._attributes
            missing = 0
            if outcome.error is not None:
                missing = items if outcome.error.undelivered is None else outcome.error.undelivered
                failed = {**failed, ERROR_TYPE: "rejected" if outcome.error.refused else "_OTHER"}
                self._exported.add(missing, failed)
            if missing < items:
                self._exported.add(items - missing, self._attributes)
            self._duration.record(duration, failed)


class ProcessorMetrics:
    """The measurements of one processor that collects batches.

    Args:
        provider: Whose instruments to use.
        signal: What it processes.
        waiting: Returns how many items wait.
        capacity: How many may wait.
    """

    def __init__(
        self, provider: MeterProvider, signal: Literal["traces", "logs"], waiting: Callable[[], int], capacity: int
    ) -> None:
        meter = provider.get_meter(_SCOPE)
        if signal == "traces":
            self._attributes = _component(_Types.BATCHING_SPAN_PROCESSOR)
            self._processed = otel_metrics.create_otel_sdk_processor_span_processed(meter)
            size, most = (
                otel_metrics.OTEL_SDK_PROCESSOR_SPAN_QUEUE_SIZE,
                otel_metrics.OTEL_SDK_PROCESSOR_SPAN_QUEUE_CAPACITY,
            )
        else:
            self._attributes = _component(_Types.BATCHING_LOG_PROCESSOR)
            self._processed = otel_metrics.create_otel_sdk_processor_log_processed(meter)
            size, most = (
                otel_metrics.OTEL_SDK_PROCESSOR_LOG_QUEUE_SIZE,
                otel_metrics.OTEL_SDK_PROCESSOR_LOG_QUEUE_CAPACITY,
            )
        unit = "{span}" if signal == "traces" else "{log_record}"
        self._observe(meter, size, unit, "The number of items in the queue of a given instance.", waiting)
        # observed too, so that it is there in a forked child, which counts from zero
        self._observe(
            meter, most, unit, "The most items that the queue of a given instance can hold.", lambda: capacity
        )

    def _observe(self, meter: Meter, name: str, unit: str, description: str, number: Callable[[], int]) -> None:
        def observed(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(number(), self._attributes)]

        meter.create_observable_up_down_counter(name, [observed], unit, description)

    def handed_over(self, items: int) -> None:
        """Count items that were handed to the exporter."""
        self._processed.add(items, self._attributes)

    def dropped(self, reason: Literal["queue_full", "already_shutdown"]) -> None:
        """Count an item that was not taken."""
        self._processed.add(1, {**self._attributes, ERROR_TYPE: reason})


def _server(endpoint: str) -> dict[str, Any]:
    """Return the server's address and port, as far as the endpoint names them."""
    found = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    try:
        port = found.port or _PORTS.get(found.scheme)
    except ValueError:  # a target of gRPC with no port in the usual sense
        return {}
    return {
        **({SERVER_ADDRESS: found.hostname} if found.hostname else {}),
        **({SERVER_PORT: port} if port else {}),
    }
