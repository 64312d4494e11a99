"""OpenTelemetry's providers as the settings want them, with `clew`'s readers, processors and Views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from opentelemetry.sdk._logs import LoggerProvider, LogRecordLimits, LogRecordProcessor
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    ExemplarFilter,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider

from clew import exporters
from clew.delivery import LogBatchProcessor, PeriodicReader, SpanBatchProcessor
from clew.logs_bridge.request_id_processor import RequestIdLogRecordProcessor
from clew.metrics.sharded_recorder import ShardedMeterProvider
from clew.metrics.views import exemplar_filter, views
from clew.propagation.spans import RequestIdSpanProcessor
from clew.providers.arguments import ProviderArguments
from clew.settings import BatchSettings, ConfigurationError, Problem, Settings
from clew.settings.problems import shown

_EXEMPLAR_FILTERS: dict[str | None, Callable[[], ExemplarFilter]] = {
    None: exemplar_filter,
    "always_on": AlwaysOnExemplarFilter,
    "always_off": AlwaysOffExemplarFilter,
    "trace_based": TraceBasedExemplarFilter,
}


@dataclass(frozen=True)
class BuiltProvider:
    """A provider, None where there is to be none, and what sends its telemetry."""

    provider: Any
    senders: Sequence[Any] = ()


def metric_readers(settings: Settings, given: Sequence[MetricExporter | MetricReader] | None) -> list[MetricReader]:
    """Make the readers of the exporters that are given, or else set; an exporter that is a reader stays as it is."""
    found = exporters.metric_exporters(settings) if given is None else given
    return [
        exporter
        if isinstance(exporter, MetricReader)
        else PeriodicReader(
            exporter,
            interval=settings.metric_export_interval,
            timeout=settings.metric_export_timeout,
            shutdown_timeout=settings.shutdown_timeout,
            zero_points=settings.zero_points and isinstance(exporter, exporters.OtlpMetricExporter),
        )
        for exporter in found
    ]


def span_processors(settings: Settings, given: Sequence[SpanProcessor] | None) -> list[SpanProcessor]:
    """Make the processors of the exporters that are set, unless some are given."""
    if given is not None:
        return list(given)
    arguments = _batch_arguments(settings, settings.spans_batch)
    return [SpanBatchProcessor(exporter, **arguments) for exporter in exporters.span_exporters(settings)]


def log_processors(settings: Settings, given: Sequence[LogRecordProcessor] | None) -> list[LogRecordProcessor]:
    """Make the processors of the exporters that are set, unless some are given."""
    if given is not None:
        return list(given)
    arguments = _batch_arguments(settings, settings.logs_batch)
    return [LogBatchProcessor(exporter, **arguments) for exporter in exporters.log_exporters(settings)]


def _batch_arguments(settings: Settings, batch: BatchSettings) -> dict[str, Any]:
    return {**asdict(batch), "shutdown_timeout": settings.shutdown_timeout}


class ProvidersFromSettings:
    """Builds the providers that the settings describe; raises ConfigurationError where one cannot be built."""

    def __init__(self, settings: Settings, arguments: ProviderArguments) -> None:
        self.disabled = settings.disabled
        self.resource: Resource = settings.resource
        self.instance_id_given = settings.instance_id_given
        self._settings = settings
        self._arguments = arguments

    def metrics(self) -> BuiltProvider:
        """Build the MeterProvider whose exemplars carry request IDs."""
        settings, arguments = self._settings, self._arguments
        readers = metric_readers(settings, arguments.metrics)
        try:
            provider = ShardedMeterProvider(
                metric_readers=readers,
                resource=self.resource,
                views=views(*arguments.views),
                exemplar_filter=_EXEMPLAR_FILTERS[settings.exemplar_filter](),
                shutdown_on_exit=False,
            )
        except Exception as error:  # a reader that belongs to another provider
            raise unusable("metric_readers", arguments.metric_readers, error) from error
        return BuiltProvider(provider, readers)

    def spans(self) -> BuiltProvider:
        """Build the TracerProvider whose spans carry request IDs."""
        settings = self._settings
        limits = settings.limits
        processors = span_processors(settings, self._arguments.span_processors)
        provider = TracerProvider(
            resource=self.resource,
            sampler=exporters.make_sampler(settings),
            span_limits=SpanLimits(
                max_span_attributes=limits.span_attributes,
                max_span_attribute_length=limits.span_attribute_length,
                max_events=limits.span_events,
                max_links=limits.span_links,
                max_event_attributes=limits.event_attributes,
                max_link_attributes=limits.link_attributes,
            ),
            shutdown_on_exit=False,
        )
        for processor in (RequestIdSpanProcessor(), *processors):
            provider.add_span_processor(processor)
        return BuiltProvider(provider, processors)

    def logs(self) -> BuiltProvider:
        """Build the LoggerProvider that the log records of the program go to, where they go anywhere."""
        limits = self._settings.limits
        processors = log_processors(self._settings, self._arguments.log_processors)
        if not processors:
            return BuiltProvider(None)
        provider = LoggerProvider(
            resource=self.resource,
            shutdown_on_exit=False,
            log_record_limits=LogRecordLimits(
                max_attributes=limits.log_attributes, max_attribute_length=limits.log_attribute_length
            ),
        )
        for processor in (RequestIdLogRecordProcessor(), *processors):
            provider.add_log_record_processor(processor)
        return BuiltProvider(provider, processors)

    def propagator(self) -> None:
        """Return None: ``OTEL_PROPAGATORS`` has its own default."""

    def instrument(self) -> None:
        """Do nothing: the environment names no instrumentations to `clew.configure()`."""


def unusable(argument: str, value: object, error: Exception) -> ConfigurationError:
    """Return the error for an argument of `clew.configure()` that the SDK does not take."""
    return ConfigurationError(
        [Problem(f"configure({argument}=…)", shown(value), f"what OpenTelemetry takes; it says: {error}")]
    )
