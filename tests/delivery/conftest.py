"""Endpoints, and the parts that deliver to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from delivery.listeners import GrpcEndpoint, HttpEndpoint
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from clew import diagnostics
from clew.delivery import LogBatchProcessor, PeriodicReader, SpanBatchProcessor, deliver, lost
from clew.exporters import log_exporters, metric_exporters, span_exporters
from clew.settings import load_settings


class Telemetry:
    """All three signals over the exporters that an environment names; lost counts are from its making on."""

    def __init__(self, environ: Mapping[str, str], **batch: Any) -> None:
        settings = load_settings(environ)
        (exporter,) = metric_exporters(settings)
        self.reader = PeriodicReader(exporter, interval=settings.metric_export_interval)
        self.meters = MeterProvider(metric_readers=[self.reader], resource=settings.resource, shutdown_on_exit=False)
        self.counter = self.meters.get_meter("test").create_counter("orders")
        self.spans = SpanBatchProcessor(span_exporters(settings)[0], **batch)
        self.tracers = TracerProvider(resource=settings.resource, shutdown_on_exit=False)
        self.tracers.add_span_processor(self.spans)
        self.logs = LogBatchProcessor(log_exporters(settings)[0], **batch)
        self.loggers = LoggerProvider(resource=settings.resource, shutdown_on_exit=False)
        self.loggers.add_log_record_processor(self.logs)
        self.parts = [self.reader, self.spans, self.logs]
        self._lost_before = lost()

    def record(self, name: str = "work") -> None:
        self.counter.add(1)
        self.reader.start()
        with self.tracers.get_tracer("test").start_as_current_span(name):
            pass
        self.loggers.get_logger("test").emit(LogRecord(body=name))

    def deliver(self, *, closing: bool = False, timeout: float = 60.0) -> bool:
        return deliver(self.parts, closing=closing, timeout=timeout)

    @property
    def lost(self) -> dict[str, int]:
        return {kind: number - self._lost_before[kind] for kind, number in lost().items()}


@pytest.fixture(autouse=True)
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged once a process is logged once a test."""
    monkeypatch.setattr(diagnostics, "_warned", set())


@pytest.fixture
def telemetry() -> Iterator[Any]:
    """Makes `Telemetry`, and ends it."""
    made: list[Telemetry] = []

    def make(environ: Mapping[str, str], **batch: Any) -> Telemetry:
        made.append(Telemetry(environ, **batch))
        return made[-1]

    yield make
    for each in made:
        each.deliver(closing=True, timeout=0.0)


@pytest.fixture
def http() -> Iterator[HttpEndpoint]:
    endpoint = HttpEndpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def grpc_endpoint() -> Iterator[GrpcEndpoint]:
    endpoint = GrpcEndpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture(params=["http/protobuf", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def endpoint(protocol: str, request: pytest.FixtureRequest) -> Any:
    """An endpoint of either protocol."""
    return request.getfixturevalue("grpc_endpoint" if protocol == "grpc" else "http")


@pytest.fixture
def environ(protocol: str, endpoint: Any) -> dict[str, str]:
    """The environment that leads to the endpoint."""
    return {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
