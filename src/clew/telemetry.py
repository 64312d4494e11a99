"""`clew.configure()`: from the settings to OpenTelemetry's providers, and what their life needs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, propagate, trace
from opentelemetry._logs import get_logger_provider, set_logger_provider
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from clew import lifetime, pipeline, providers
from clew.__about__ import __version__
from clew.adoption import say_what_lacks
from clew.delivery import PeriodicReader, deliver
from clew.diagnostics import say_once
from clew.failures import Expected
from clew.metrics import sdk
from clew.metrics.recorder import PortableRecorder
from clew.request import policy
from clew.settings import ConfigurationError, Problem, Settings, load_settings, resource_in_child
from clew.spans import RequestIdSpanProcessor

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.sdk._logs import LogRecordProcessor
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
    from opentelemetry.sdk.metrics.view import View
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor

_DEFAULT_PROPAGATORS = ("tracecontext", "baggage", "request_id")

_lock = threading.RLock()
_configured: Telemetry | None = None


class Telemetry:
    """What `clew.configure()` returns: it sends what has been measured, and ends it.

    Attributes:
        settings: The settings in force.
    """

    def __init__(self, settings: Settings, arguments: Mapping[str, Any]) -> None:
        self.settings = settings
        self._arguments = arguments
        self._parts: list[Any] = []  # what delivers: readers and processors of ours, or given
        self._meter_provider: metrics.MeterProvider | None = None
        self._tracer_provider: trace.TracerProvider | None = None
        self._logger_provider: LoggerProvider | None = None
        self._ended = False

    def force_flush(self, timeout: float = 10.0) -> bool:
        """Send all metrics, spans and log records there are, side by side.

        Args:
            timeout: In seconds; what has not been sent by then stays for the next time.

        Returns:
            False only where something was not delivered. It never raises, and may be called from any thread.
        """
        return deliver(self._parts, closing=False, timeout=timeout)

    def shutdown(self, timeout: float = 3.0) -> bool:
        """Send all that there is, as `force_flush` does, and measure no more; `clew.configure()` may begin anew.

        Args:
            timeout: In seconds; what has not been sent by then is dropped, which is said with its count.

        Returns:
            False only where something was not delivered. It never raises, and may be called again.
        """
        global _configured
        with _lock:
            if _configured is self:
                _configured = None
                pipeline.use(None)
            if not self._ended:
                self._ended = True
                if self._logger_provider is not None:
                    log_records().uninstall()
                lifetime.release(self)
        return deliver(self._parts, closing=True, timeout=timeout)

    def end(self) -> None:
        """Shut down at the end of the process, within ``CLEW_SHUTDOWN_TIMEOUT``."""
        self.shutdown(self.settings.shutdown_timeout)

    def begin_in_child(self) -> None:
        """Count from zero in a forked child, under its own resource; what the parent had is the parent's to send."""
        global _lock
        _lock = threading.RLock()
        resource = resource_in_child(self.settings.resource, instance_id_given=self.settings.instance_id_given)
        if isinstance(self._meter_provider, MeterProvider) and self._meter_provider in pipeline.ours:
            sdk.restart_metrics_in_child(self._meter_provider, resource)
        for provider in (self._tracer_provider, self._logger_provider):
            if provider in pipeline.ours:
                sdk.set_resource(provider, resource)
        for part in self._parts:
            if hasattr(part, "restart_in_child"):
                part.restart_in_child()
        if _configured is self:
            self._start()

    def _build(
        self,
        views: Sequence[View],
        metric_exporters: Sequence[MetricExporter] | None,
        metric_readers: Sequence[MetricReader] | None,
        span_processors: Sequence[SpanProcessor] | None,
        log_processors: Sequence[LogRecordProcessor] | None,
    ) -> None:
        self._build_metrics(views, metric_exporters, metric_readers)
        self._build_spans(span_processors)
        self._build_logs(log_processors)

    def _build_metrics(
        self,
        views: Sequence[View],
        metric_exporters: Sequence[MetricExporter] | None,
        metric_readers: Sequence[MetricReader] | None,
    ) -> None:
        found = metrics.get_meter_provider()
        if _is_foreign(found):
            self._meter_provider = found
            say_what_lacks(found)
            if views or metric_exporters or metric_readers:
                say_once(
                    "foreign metrics",
                    "The application has set a MeterProvider of its own, which clew records into; the views, exporters "
                    "and readers given to clew.configure() are not used",
                )
            return
        exporters = None if metric_exporters is None and metric_readers is None else (metric_exporters or ())
        readers = [*(metric_readers or ()), *providers.metric_readers(self.settings, exporters)]
        provider = providers.meter_provider(self.settings, readers, views)
        pipeline.ours.add(provider)
        self._parts += readers
        self._meter_provider = provider
        if found not in pipeline.ours:
            metrics.set_meter_provider(provider)

    def _build_spans(self, span_processors: Sequence[SpanProcessor] | None) -> None:
        found = trace.get_tracer_provider()
        if _is_foreign(found):
            self._tracer_provider = found
            if isinstance(found, TracerProvider):
                for processor in (RequestIdSpanProcessor(), *(span_processors or ())):
                    found.add_span_processor(processor)
            return
        processors = providers.span_processors(self.settings, span_processors)
        provider = providers.tracer_provider(self.settings, processors)
        pipeline.ours.add(provider)
        self._parts += processors
        self._tracer_provider = provider
        if found not in pipeline.ours:
            trace.set_tracer_provider(provider)

    def _build_logs(self, log_processors: Sequence[LogRecordProcessor] | None) -> None:
        found = get_logger_provider()
        if _is_foreign(found):
            self._logger_provider = found
        else:
            processors = providers.log_processors(self.settings, log_processors)
            if not processors:
                return
            provider = providers.logger_provider(self.settings, processors)
            pipeline.ours.add(provider)
            self._parts += processors
            self._logger_provider = provider
            if found not in pipeline.ours:
                set_logger_provider(provider)
        log_records().install(self._logger_provider)

    def _start(self) -> None:
        for part in self._parts:
            if isinstance(part, PeriodicReader):
                part.start()

    def _begin(self) -> None:
        """Let measurements go to the providers."""
        assert self._meter_provider is not None
        assert self._tracer_provider is not None
        settings = self.settings
        self._start()
        pipeline.use(
            pipeline.Pipeline(
                self._meter_provider,
                PortableRecorder(self._meter_provider),
                tracer=self._tracer_provider.get_tracer("clew", __version__),
                spans=settings.spans,
                expected=Expected(
                    tuple(kind for kind in settings.expected if not isinstance(kind, str)),
                    tuple(kind for kind in settings.expected if isinstance(kind, str)),
                ),
                attribute_sets=settings.attribute_sets,
            )
        )


def log_records() -> Any:
    """Import the handler of log records only where there is somewhere to send them."""
    from clew.integrations import logging

    return logging


def _is_foreign(provider: Any) -> bool:
    """Tell whether the application has set this provider itself; a proxy stands for one that is not set yet."""
    return provider not in pipeline.ours and not type(provider).__name__.lstrip("_").startswith("Proxy")


def _set_policy(settings: Settings) -> None:
    policy.header = settings.request_id_header
    policy.attribute = settings.request_id_attribute
    policy.trust = settings.trust_request_id
    policy.hosts = settings.request_id_hosts


def _set_propagators(settings: Settings) -> None:
    names = settings.propagators if settings.propagators is not None else _DEFAULT_PROPAGATORS
    found = [entry_points(group="opentelemetry_propagator", name=name) for name in names]
    propagate.set_global_textmap(CompositePropagator([next(iter(points)).load()() for points in found]))


def configure(
    *,
    resource: Resource | Mapping[str, Any] | None = None,
    views: Sequence[View] = (),
    metric_exporters: Sequence[MetricExporter] | None = None,
    metric_readers: Sequence[MetricReader] | None = None,
    span_processors: Sequence[SpanProcessor] | None = None,
    log_processors: Sequence[LogRecordProcessor] | None = None,
    **settings: Any,
) -> Telemetry:
    """Configure OpenTelemetry and `clew` from the environment, and begin to record.

    Reads the standard ``OTEL_*`` variables and a few ``CLEW_*`` ones, sets OTel's global MeterProvider, TracerProvider
    and LoggerProvider and puts a handler on the root logger. A provider that the application has set before is used as
    it is. What has been measured is sent at the end of the process by itself.

    Args:
        resource: Attributes of the resource, over those of the environment.
        views: The application's own Views.
        metric_exporters, metric_readers: Where metrics go, instead of ``OTEL_METRICS_EXPORTER``.
        span_processors: Where spans go, instead of ``OTEL_TRACES_EXPORTER``.
        log_processors: Where log records go, instead of ``OTEL_LOGS_EXPORTER``.
        settings: Each ``CLEW_*`` variable in lower case without its prefix, such as ``spans=True``.

    Returns:
        The `Telemetry` that `force_flush()` and `shutdown()` belong to. Called again with the same arguments, the same.

    Raises:
        ConfigurationError: Settings are wrong: all of them, each with its name, its value and what is allowed. Or it
            has been called before with other arguments and not been shut down since.
        TypeError: There is no setting of that name.
    """
    global _configured
    given = {
        "resource": resource,
        "views": list(views),
        "metric_exporters": metric_exporters,
        "metric_readers": metric_readers,
        "span_processors": span_processors,
        "log_processors": log_processors,
        **settings,
    }
    with _lock:
        if _configured is not None:
            if _configured._arguments != given:
                raise ConfigurationError(_differences(_configured._arguments, given))
            return _configured
        loaded = load_settings(os.environ, strict=True, resource=resource, **settings)
        telemetry = Telemetry(loaded, given)
        _set_policy(loaded)
        _set_propagators(loaded)
        if not loaded.disabled:
            telemetry._build(views, metric_exporters, metric_readers, span_processors, log_processors)
            telemetry._begin()
            lifetime.attend(telemetry)
        _configured = telemetry
        return telemetry


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[Problem]:
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            yield Problem(
                f"clew.configure({name}=…)",
                repr(now.get(name)),
                f"what the first call gave ({before.get(name)!r}), until shutdown() has been called",
            )
