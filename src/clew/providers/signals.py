"""The providers of the three signals that `clew.configure()` works with, built by `clew` or by the application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from opentelemetry import metrics, propagate, trace
from opentelemetry._logs import get_logger_provider, set_logger_provider
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from clew import lifetime
from clew.delivery import LogBatchProcessor, PeriodicReader, Sender, SpanBatchProcessor
from clew.delivery.foreign import ForeignSender
from clew.diagnostics import warn_once
from clew.logs_bridge.request_id_processor import RequestIdLogRecordProcessor
from clew.metrics.sdk.forked_child import restart_metrics_in_child
from clew.metrics.sdk.providers import put_first, update_resource
from clew.operations import pipeline
from clew.propagation.spans import RequestIdSpanProcessor
from clew.providers import from_settings
from clew.providers.adoption import ForeignProvider, is_foreign, warn_of_missing_request_ids
from clew.providers.arguments import ProviderArguments
from clew.providers.from_settings import BuiltProvider, ProvidersFromSettings
from clew.settings import ConfigurationError, Problem, Settings, identity_in_child

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader

    from clew.providers.from_file import ProvidersFromFile

_DEFAULT_PROPAGATORS = ("tracecontext", "baggage", "request_id")


@dataclass
class Signals:
    """What is measured, traced and logged with.

    Attributes:
        enabled: False where OpenTelemetry is turned off.
        senders: Readers and processors of ours or given in code, and providers that a file describes.
        foreign: The providers that the application built, which are flushed and never shut down.
        readers_added: The readers given in code for a MeterProvider that the application built.
    """

    resource: Resource
    instance_id_given: bool
    enabled: bool = True
    meter_provider: metrics.MeterProvider = field(default_factory=metrics.NoOpMeterProvider)
    tracer_provider: trace.TracerProvider = field(default_factory=trace.NoOpTracerProvider)
    logger_provider: Any = None
    senders: list[Sender] = field(default_factory=list[Sender])
    foreign: list[ForeignProvider] = field(default_factory=list[ForeignProvider])
    readers_added: list[MetricReader] = field(default_factory=list["MetricReader"])

    def restart_in_child(self) -> None:
        """Count from zero in a forked child, under a resource of its own, and deliver over connections of its own."""
        # only these attributes: others of a process are renewed by the SDK
        identity = identity_in_child(self.resource, instance_id_given=self.instance_id_given)
        if isinstance(self.meter_provider, MeterProvider) and self.meter_provider in pipeline.own_providers:
            restart_metrics_in_child(self.meter_provider, identity)
        for provider in (self.tracer_provider, self.logger_provider):
            if provider in pipeline.own_providers:
                update_resource(provider, identity)
        for sender in self.senders:
            restart: Callable[[], None] | None = getattr(sender, "restart_in_child", None)
            if restart is not None:
                restart()

    def take(self, built: BuiltProvider) -> bool:
        """Use what was built; return False where there is no provider."""
        if built.provider is None:
            return False
        pipeline.own_providers.add(built.provider)
        self.add(*built.senders)
        return True

    def add(self, *senders: Any) -> None:
        """Add senders: ours as they are, all others with a thread that flushes and shuts them down within deadlines."""
        self.senders += [sender if isinstance(sender, Sender) else ForeignSender(sender) for sender in senders]

    def destinations(self, settings: Settings) -> str:
        """Return which service sends what where, how, and how often, in one line."""
        protocols = {
            (kind, otlp.label): otlp.protocol
            for kind, otlp in (
                ("metric points", settings.metrics_otlp),
                ("spans", settings.traces_otlp),
                ("log records", settings.logs_otlp),
            )
        }
        ways: list[str] = []
        for sender in self.senders:
            if isinstance(sender, (PeriodicReader, SpanBatchProcessor, LogBatchProcessor)):
                protocol = protocols.get((sender.kind, sender.label))
                how = f" ({protocol})" if protocol else ""
                ways.append(f"{sender.kind} to {sender.label}{how} every {sender.interval:g} s")
            elif not isinstance(sender, ForeignSender):
                ways.append(f"what {type(sender).__name__} takes")
        service = self.resource.attributes.get("service.name")
        return f"{service} sends {', '.join(ways) or 'nothing'}"

    def remove_added_readers(self) -> None:
        """Take the readers given in code out of the application's MeterProvider."""
        for reader in self.readers_added:
            try:
                self.meter_provider.remove_metric_reader(reader)  # type: ignore[attr-defined]
            except Exception as error:
                warn_once("remove reader", "A reader could not be taken from the application's provider: %s", error)


def build(settings: Settings, arguments: ProviderArguments, resource: Any) -> Signals:
    """Build the providers that the application has not set, and set them and the propagators.

    Raises:
        ConfigurationError: Something cannot be built; nothing is set then.
    """
    source: ProvidersFromSettings | ProvidersFromFile = ProvidersFromSettings(settings, arguments)
    if settings.config_file is not None and not settings.disabled:
        from clew.providers.from_file import ProvidersFromFile

        source = ProvidersFromFile(settings, arguments, resource)
    signals = Signals(source.resource, source.instance_id_given, enabled=not source.disabled)
    if source.disabled:
        propagate.set_global_textmap(propagator(settings))
        return signals
    if signals.instance_id_given and lifetime.is_multiprocessing_child():
        own = identity_in_child(signals.resource, instance_id_given=True)
        signals.resource = source.resource = signals.resource.merge(own)
    meters, tracers, loggers = metrics.get_meter_provider(), trace.get_tracer_provider(), get_logger_provider()
    problems: list[Problem] = []

    def built(provider: Any, make: Callable[[], BuiltProvider]) -> BuiltProvider | None:
        try:
            return None if is_foreign(provider) else make()
        except ConfigurationError as error:
            problems.extend(error.problems)
            return None

    of_metrics = built(meters, source.metrics)
    of_spans = built(tracers, source.spans)
    of_logs = built(loggers, source.logs)
    propagators: TextMapPropagator | None = None
    try:
        propagators = source.propagator()
    except ConfigurationError as error:
        problems.extend(error.problems)
    if problems:
        raise ConfigurationError(dict.fromkeys(problems))

    if of_metrics is None:
        _use_meters(signals, meters, settings, arguments)
    elif signals.take(of_metrics):
        signals.meter_provider = of_metrics.provider
        if meters not in pipeline.own_providers:
            metrics.set_meter_provider(of_metrics.provider)
    if of_spans is None:
        _use_tracers(signals, tracers, arguments)
    elif signals.take(of_spans):
        signals.tracer_provider = of_spans.provider
        if tracers not in pipeline.own_providers:
            trace.set_tracer_provider(of_spans.provider)
    if of_logs is None:
        _use_loggers(signals, loggers, arguments)
    elif signals.take(of_logs):
        signals.logger_provider = of_logs.provider
        if loggers not in pipeline.own_providers:
            set_logger_provider(of_logs.provider)
    if settings.internal_metrics:
        for sender in signals.senders:
            measure: Callable[[metrics.MeterProvider], None] | None = getattr(sender, "measure_itself", None)
            if measure is not None:
                measure(signals.meter_provider)
    propagate.set_global_textmap(propagators or propagator(settings))
    source.instrument()
    return signals


def propagator(settings: Settings) -> CompositePropagator:
    """Make the propagators that ``OTEL_PROPAGATORS`` names, or else `clew`'s."""
    names = settings.propagators if settings.propagators is not None else _DEFAULT_PROPAGATORS
    found = [entry_points(group="opentelemetry_propagator", name=name) for name in names]
    return CompositePropagator([next(iter(points)).load()() for points in found])


# providers that the application built

_with_request_ids: WeakSet[Any] = WeakSet()
"""The application's providers to which a processor for request IDs has been added."""


def _use_meters(signals: Signals, provider: Any, settings: Settings, arguments: ProviderArguments) -> None:
    warn_of_missing_request_ids(provider)
    signals.meter_provider = provider
    signals.foreign.append(ForeignProvider(provider))
    if arguments.views:
        _warn_unused("views", "MeterProvider")
    if arguments.metrics is not None:
        if not isinstance(provider, MeterProvider):
            _warn_unused("metric_exporters and metric_readers", "MeterProvider")
            return
        for reader in from_settings.metric_readers(settings, arguments.metrics):
            provider.add_metric_reader(reader)
            signals.readers_added.append(reader)
        signals.add(*signals.readers_added)


def _use_tracers(signals: Signals, provider: Any, arguments: ProviderArguments) -> None:
    signals.tracer_provider = provider
    signals.foreign.append(ForeignProvider(provider))
    if not isinstance(provider, TracerProvider):
        if arguments.span_processors:
            _warn_unused("span_processors", "TracerProvider")
        return
    if provider not in _with_request_ids:
        _with_request_ids.add(provider)
        provider.add_span_processor(RequestIdSpanProcessor())
    for processor in arguments.span_processors or ():
        provider.add_span_processor(processor)
        signals.add(processor)


def _use_loggers(signals: Signals, provider: Any, arguments: ProviderArguments) -> None:
    signals.logger_provider = provider
    signals.foreign.append(ForeignProvider(provider))
    if not isinstance(provider, LoggerProvider):
        if arguments.log_processors:
            _warn_unused("log_processors", "LoggerProvider")
        return
    if provider not in _with_request_ids:
        _with_request_ids.add(provider)
        put_first(provider, RequestIdLogRecordProcessor())
    for processor in arguments.log_processors or ():
        provider.add_log_record_processor(processor)
        signals.add(processor)


def _warn_unused(names: str, kind: str) -> None:
    warn_once(
        ("unused", names),
        "The application has set a %s of its own, which clew works with; the %s given to clew.configure() are not used",
        kind,
        names,
    )
