"""The exporters and the sampler that the settings name: ``OTEL_METRICS_EXPORTER`` and the others like it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any

from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter, LogRecordExporter
from opentelemetry.sdk.metrics import Counter, Histogram, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    MetricExporter,
    MetricReader,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from clew.exporters.otlp import OtlpLogExporter, OtlpMetricExporter, OtlpSpanExporter
from clew.settings import ConfigurationError, Problem, Settings, Signal
from clew.settings.otel_variables import OTLP_PROTOCOLS

_DELTA: dict[str, tuple[type, ...]] = {
    "cumulative": (),
    "delta": (Counter, ObservableCounter, Histogram),
    "lowmemory": (Counter, Histogram),
}


def metric_exporters(settings: Settings) -> list[MetricExporter | MetricReader]:
    """Build what ``OTEL_METRICS_EXPORTER`` names. An installed plug-in may be a reader itself, as Prometheus's is.

    Raises:
        ConfigurationError: Where an installed plug-in cannot be made.
    """
    return _exporters(
        "metrics",
        settings.metric_exporters,
        lambda: _otlp_metric_exporter(settings),
        lambda: ConsoleMetricExporter(out=sys.stdout),
        (MetricExporter, MetricReader),
    )


def span_exporters(settings: Settings) -> list[SpanExporter]:
    """Build what ``OTEL_TRACES_EXPORTER`` names; raises as `metric_exporters` does."""
    return _exporters(
        "traces",
        settings.span_exporters,
        lambda: OtlpSpanExporter(settings.traces_otlp),
        lambda: ConsoleSpanExporter(out=sys.stdout),
        (SpanExporter,),
    )


def log_exporters(settings: Settings) -> list[LogRecordExporter]:
    """Build what ``OTEL_LOGS_EXPORTER`` names; raises as `metric_exporters` does."""
    return _exporters(
        "logs",
        settings.log_exporters,
        lambda: OtlpLogExporter(settings.logs_otlp),
        lambda: ConsoleLogRecordExporter(out=sys.stdout),
        (LogRecordExporter,),
    )


def make_sampler(settings: Settings) -> Sampler:
    """Build the sampler that ``OTEL_TRACES_SAMPLER`` and its argument name.

    Raises:
        ConfigurationError: Where an installed plug-in cannot be made.
    """
    points = entry_points(group="opentelemetry_traces_sampler", name=settings.sampler)
    argument: Any = settings.sampler_argument
    if argument is not None and settings.sampler.endswith("traceidratio"):
        argument = float(argument)
    try:
        (point,) = points
        sampler = point.load()(argument)
    except Exception as error:
        raise _cannot_be_made("OTEL_TRACES_SAMPLER", settings.sampler, error) from error
    if not isinstance(sampler, Sampler):
        raise _cannot_be_made("OTEL_TRACES_SAMPLER", settings.sampler, TypeError(f"it makes {type(sampler).__name__}"))
    return sampler


def _otlp_metric_exporter(settings: Settings) -> OtlpMetricExporter:
    delta = dict.fromkeys(_DELTA[settings.temporality_preference], AggregationTemporality.DELTA)
    exponential = settings.default_histogram_aggregation.startswith("base2")
    return OtlpMetricExporter(
        settings.metrics_otlp,
        preferred_temporality=delta or None,
        preferred_aggregation={Histogram: ExponentialBucketHistogramAggregation()} if exponential else None,
    )


def _exporters(
    signal: Signal,
    names: Sequence[str],
    make_otlp: Callable[[], Any],
    make_console: Callable[[], Any],
    kinds: tuple[type, ...],
) -> list[Any]:
    found: list[Any] = []
    for name in names:
        if name in OTLP_PROTOCOLS:
            found.append(make_otlp())
        elif name == "console":
            found.append(make_console())
        else:
            found.append(_installed(signal, name, kinds))
    return found


def _installed(signal: Signal, name: str, kinds: tuple[type, ...]) -> Any:
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    try:
        exporter = next(iter(entry_points(group=f"opentelemetry_{signal}_exporter", name=name))).load()()
    except Exception as error:
        raise _cannot_be_made(variable, name, error) from error
    if not isinstance(exporter, kinds):
        raise _cannot_be_made(variable, name, TypeError(f"it makes {type(exporter).__name__}"))
    return exporter


def _cannot_be_made(variable: str, name: str, error: Exception) -> ConfigurationError:
    reason = f"one that can be made; this fails: {type(error).__name__}: {error}"
    return ConfigurationError([Problem(variable, repr(name), reason)])
