"""OpenTelemetry's providers as the settings want them, with `clew`'s readers, processors and Views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points

from opentelemetry.sdk._logs import LoggerProvider, LogRecordLimits, LogRecordProcessor
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, AlwaysOnExemplarFilter, ExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics import TraceBasedExemplarFilter as TraceBased
from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider, sampling

from clew import exporters
from clew.delivery import LogBatches, PeriodicReader, SpanBatches
from clew.metrics.views import exemplar_filter, views
from clew.settings import Settings
from clew.spans import RequestIdSpanProcessor

_EXEMPLAR_FILTERS: dict[str, Callable[[], ExemplarFilter]] = {
    "always_on": AlwaysOnExemplarFilter,
    "always_off": AlwaysOffExemplarFilter,
    "trace_based": TraceBased,
}


def metric_readers(settings: Settings, given: Sequence[MetricExporter] | None) -> list[MetricReader]:
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
        )
        for exporter in found
    ]


def meter_provider(settings: Settings, readers: Sequence[MetricReader], mine: Sequence[View]) -> MeterProvider:
    """Build the MeterProvider whose exemplars carry request IDs."""
    name = settings.exemplar_filter
    return MeterProvider(
        metric_readers=readers,
        resource=settings.resource,
        views=views(*mine),
        exemplar_filter=exemplar_filter() if name is None else _EXEMPLAR_FILTERS[name](),
        shutdown_on_exit=False,
    )


def span_processors(settings: Settings, given: Sequence[SpanProcessor] | None) -> list[SpanProcessor]:
    """Make the processors of the exporters that are set, unless some are given."""
    if given is not None:
        return list(given)
    batch = settings.spans_batch
    return [
        SpanBatches(
            exporter,
            delay=batch.delay,
            timeout=batch.timeout,
            queue_size=batch.queue_size,
            batch_size=batch.batch_size,
            shutdown_timeout=settings.shutdown_timeout,
        )
        for exporter in exporters.span_exporters(settings)
    ]


def tracer_provider(settings: Settings, processors: Sequence[SpanProcessor]) -> TracerProvider:
    """Build the TracerProvider whose spans carry request IDs."""
    limits = settings.limits
    provider = TracerProvider(
        resource=settings.resource,
        sampler=_sampler(settings),
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
    return provider


def _sampler(settings: Settings) -> sampling.Sampler:
    ratio = 1.0 if settings.sampler_argument is None else float(settings.sampler_argument)
    known: dict[str, Callable[[], sampling.Sampler]] = {
        "always_on": lambda: sampling.ALWAYS_ON,
        "always_off": lambda: sampling.ALWAYS_OFF,
        "traceidratio": lambda: sampling.TraceIdRatioBased(ratio),
        "parentbased_always_on": lambda: sampling.ParentBased(sampling.ALWAYS_ON),
        "parentbased_always_off": lambda: sampling.ParentBased(sampling.ALWAYS_OFF),
        "parentbased_traceidratio": lambda: sampling.ParentBasedTraceIdRatio(ratio),
    }
    if settings.sampler in known:
        return known[settings.sampler]()
    (installed,) = entry_points(group="opentelemetry_traces_sampler", name=settings.sampler)
    made: sampling.Sampler = installed.load()(settings.sampler_argument)
    return made


def log_processors(settings: Settings, given: Sequence[LogRecordProcessor] | None) -> list[LogRecordProcessor]:
    """Make the processors of the exporters that are set, unless some are given."""
    if given is not None:
        return list(given)
    batch = settings.logs_batch
    return [
        LogBatches(
            exporter,
            delay=batch.delay,
            timeout=batch.timeout,
            queue_size=batch.queue_size,
            batch_size=batch.batch_size,
            shutdown_timeout=settings.shutdown_timeout,
        )
        for exporter in exporters.log_exporters(settings)
    ]


def logger_provider(settings: Settings, processors: Sequence[LogRecordProcessor]) -> LoggerProvider:
    """Build the LoggerProvider that the log records of the program go to."""
    limits = settings.limits
    provider = LoggerProvider(
        resource=settings.resource,
        shutdown_on_exit=False,
        log_record_limits=LogRecordLimits(
            max_attributes=limits.log_attributes, max_attribute_length=limits.log_attribute_length
        ),
    )
    for processor in processors:
        provider.add_log_record_processor(processor)
    return provider
