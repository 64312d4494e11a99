"""The ``OTEL_*`` variables, but for those of the resource and of the OTLP exporters, which have modules of their own.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from clew.settings import parsers
from clew.settings.model import BatchSettings, Limits
from clew.settings.otlp import GRPC, HTTP, Signal, otlp_settings
from clew.settings.reader import InvalidValueError, SettingsReader

OTLP_PROTOCOLS = {"otlp": None, "otlp_proto_grpc": GRPC, "otlp_proto_http": HTTP}
"""Exporter names that mean OTLP, and the protocol that a name itself asks for."""

_EXPORTERS = (*OTLP_PROTOCOLS, "console", "none")
_PROPAGATORS = ("tracecontext", "baggage", "request_id", "none")
_SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)


def read_otel_variables(reader: SettingsReader, max_export_bytes: int) -> dict[str, Any]:
    """Return the settings of these variables, and of the OTLP exporters, as arguments of `Settings`."""
    metric_exporters = _exporters(reader, "metrics")
    span_exporters = _exporters(reader, "traces")
    log_exporters = _exporters(reader, "logs")
    sampler, sampler_argument = _sampler(reader)
    return {
        "disabled": reader.read("OTEL_SDK_DISABLED", parsers.boolean, False),
        "propagators": _propagators(reader),
        "exemplar_filter": reader.read(
            "OTEL_METRICS_EXEMPLAR_FILTER", parsers.one_of("always_on", "always_off", "trace_based"), None
        ),
        "internal_metrics": reader.read("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", parsers.boolean, False),
        "metric_exporters": metric_exporters,
        "span_exporters": span_exporters,
        "log_exporters": log_exporters,
        "metrics_otlp": otlp_settings(reader, "metrics", _protocol_of(metric_exporters), max_export_bytes),
        "traces_otlp": otlp_settings(reader, "traces", _protocol_of(span_exporters), max_export_bytes),
        "logs_otlp": otlp_settings(reader, "logs", _protocol_of(log_exporters), max_export_bytes),
        "metric_export_interval": reader.read("OTEL_METRIC_EXPORT_INTERVAL", parsers.interval, 60.0),
        "metric_export_timeout": reader.read("OTEL_METRIC_EXPORT_TIMEOUT", parsers.timeout, 30.0),
        "temporality_preference": reader.read(
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            parsers.one_of("cumulative", "delta", "lowmemory"),
            "cumulative",
        ),
        "default_histogram_aggregation": reader.read(
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            parsers.one_of("explicit_bucket_histogram", "base2_exponential_bucket_histogram"),
            "explicit_bucket_histogram",
        ),
        "sampler": sampler,
        "sampler_argument": sampler_argument,
        "spans_batch": _batch(reader, "OTEL_BSP", 5.0),
        "logs_batch": _batch(reader, "OTEL_BLRP", 1.0),
        "limits": _limits(reader),
    }


def _exporters(reader: SettingsReader, signal: Signal) -> tuple[str, ...]:
    parse = _names_of(f"opentelemetry_{signal}_exporter", _EXPORTERS, otlp_once=True)
    default: tuple[str, ...] = ("otlp",)
    return reader.read(f"OTEL_{signal.upper()}_EXPORTER", parse, default)


def _protocol_of(exporters: tuple[str, ...]) -> str | None:
    return next((OTLP_PROTOCOLS[name] for name in exporters if name in OTLP_PROTOCOLS), None)


def _propagators(reader: SettingsReader) -> tuple[str, ...] | None:
    unset: tuple[str, ...] | None = None
    parse: Callable[[str], tuple[str, ...] | None] = _names_of("opentelemetry_propagator", _PROPAGATORS)
    return reader.read("OTEL_PROPAGATORS", parse, unset)


def _sampler(reader: SettingsReader) -> tuple[str, str | None]:
    default = "parentbased_always_on"

    def parse(text: str) -> str:
        name = text.lower() if text.lower() in _SAMPLERS else text
        if name not in _SAMPLERS:
            installed = {point.name for point in entry_points(group="opentelemetry_traces_sampler")}
            if name not in installed:
                raise InvalidValueError(f"one of {', '.join(sorted(installed.union(_SAMPLERS)))}")
        return name

    sampler = reader.read("OTEL_TRACES_SAMPLER", parse, default)
    if reader.text("OTEL_TRACES_SAMPLER") is None:
        return sampler, None
    if sampler.endswith("traceidratio"):
        ratio = reader.read("OTEL_TRACES_SAMPLER_ARG", parsers.decimal(0, 1), 1.0)
        return sampler, repr(ratio)
    return sampler, reader.text("OTEL_TRACES_SAMPLER_ARG")


def _batch(reader: SettingsReader, prefix: str, delay: float) -> BatchSettings:
    positive = parsers.whole_number(1)
    queue_size = reader.read(f"{prefix}_MAX_QUEUE_SIZE", positive, 2048)
    name = f"{prefix}_MAX_EXPORT_BATCH_SIZE"
    batch_size = reader.read(name, positive, min(512, queue_size))
    if batch_size > queue_size:
        reader.add_problem(name, str(batch_size), f"at most {prefix}_MAX_QUEUE_SIZE, which is {queue_size}")
        batch_size = min(512, queue_size)
    return BatchSettings(
        delay=reader.read(f"{prefix}_SCHEDULE_DELAY", parsers.interval, delay),
        timeout=reader.read(f"{prefix}_EXPORT_TIMEOUT", parsers.timeout, 30.0),
        queue_size=queue_size,
        batch_size=batch_size,
    )


def _limits(reader: SettingsReader) -> Limits:
    def number(name: str, default: Any) -> Any:
        return reader.read(f"OTEL_{name}_LIMIT", parsers.whole_number(0), default)

    most = number("ATTRIBUTE_COUNT", 128)
    longest = number("ATTRIBUTE_VALUE_LENGTH", None)
    return Limits(
        span_attributes=number("SPAN_ATTRIBUTE_COUNT", most),
        span_attribute_length=number("SPAN_ATTRIBUTE_VALUE_LENGTH", longest),
        span_events=number("SPAN_EVENT_COUNT", 128),
        span_links=number("SPAN_LINK_COUNT", 128),
        event_attributes=number("EVENT_ATTRIBUTE_COUNT", most),
        link_attributes=number("LINK_ATTRIBUTE_COUNT", most),
        log_attributes=number("LOGRECORD_ATTRIBUTE_COUNT", most),
        log_attribute_length=number("LOGRECORD_ATTRIBUTE_VALUE_LENGTH", longest),
    )


def _names_of(group: str, known: tuple[str, ...], *, otlp_once: bool = False) -> Callable[[str], tuple[str, ...]]:
    """Return a parser of a list of known names and installed entry points, which are looked up only if needed.

    ``none`` gives an empty tuple.
    """

    def parse(text: str) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for item in parsers.listed(text):
            name = item if item.lower() not in known else item.lower()
            if name not in known:
                installed = {point.name for point in entry_points(group=group)}
                if name not in installed:
                    raise InvalidValueError(f"a list of {', '.join(sorted(installed.union(known)))}")
            found[name] = None
        if not found or ("none" in found and len(found) > 1):
            raise InvalidValueError(f"a list of {', '.join(known)} and other installed ones; none only by itself")
        if otlp_once and len(OTLP_PROTOCOLS.keys() & found.keys()) > 1:
            raise InvalidValueError(f"one of {', '.join(OTLP_PROTOCOLS)} at a time")
        return tuple(name for name in found if name != "none")

    return parse
