"""All the settings of one `clew.configure()`, read and checked at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from opentelemetry.sdk.resources import Resource

from clew.diagnostics import warn_once
from clew.settings import values
from clew.settings.otlp import GRPC, HTTP, OtlpSettings, Signal, otlp_settings
from clew.settings.own import OWN_SETTINGS, find_unknown, read_own
from clew.settings.problems import ConfigurationError, InvalidValueError, SettingsReader, shown
from clew.settings.resource import read_resource

OTLP_PROTOCOLS = {"otlp": None, "otlp_proto_grpc": GRPC, "otlp_proto_http": HTTP}
"""Exporter names that mean OTLP, and the protocol that a name itself asks for."""

_GIVEN = ("views", "metric_exporters", "metric_readers", "span_processors", "log_processors")
"""The arguments of `clew.configure()` that are no settings."""

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


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How spans or log records are collected into batches; `delay` and `timeout` in seconds (infinity: no limit)."""

    delay: float
    timeout: float
    queue_size: int
    batch_size: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How many attributes, events and links are kept, and how many characters of a value; None is no limit."""

    span_attributes: int
    span_attribute_length: int | None
    span_events: int
    span_links: int
    event_attributes: int
    link_attributes: int
    log_attributes: int
    log_attribute_length: int | None


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that configures `clew`, resolved; durations are in seconds, infinity where there is no limit.

    `propagators` and `exemplar_filter` are None where their variables are unset, since `clew`'s defaults depart from
    the specification's there. `expected` holds exception types, dotted names that are not looked up yet, and callables.
    """

    disabled: bool
    strict: bool
    config_file: str | None
    resource: Resource
    instance_id_given: bool
    propagators: tuple[str, ...] | None
    exemplar_filter: str | None
    internal_metrics: bool
    metric_exporters: tuple[str, ...]
    span_exporters: tuple[str, ...]
    log_exporters: tuple[str, ...]
    metrics_otlp: OtlpSettings
    traces_otlp: OtlpSettings
    logs_otlp: OtlpSettings
    metric_export_interval: float
    metric_export_timeout: float
    temporality_preference: str
    default_histogram_aggregation: str
    sampler: str
    sampler_argument: str | None
    spans_batch: BatchSettings
    logs_batch: BatchSettings
    limits: Limits
    request_id_header: str
    request_id_attribute: str
    trust_request_id: bool
    request_id_hosts: tuple[str, ...] | None
    request_id_baggage: bool
    expected: tuple[type[BaseException] | str | Callable[[BaseException], object], ...]
    measure: tuple[str, ...]
    spans: bool
    logs: str
    logs_slow: float
    logs_sample_ratio: float
    logs_canonical: bool
    cardinality_limit: int
    max_export_bytes: int
    zero_points: bool
    shutdown_timeout: float


def load_settings(environ: Mapping[str, str], **overrides: Any) -> Settings:
    """Read the settings from `environ`, with keyword arguments of `clew.configure()` over them.

    Args:
        environ: The environment, `os.environ` as a rule.
        overrides: One keyword argument for each setting of `clew`'s own (``spans=True``), and `resource` (a `Resource`
            or a mapping of attributes). None is the same as not given.

    Raises:
        ConfigurationError: With all the wrong settings. Without `strict` (a setting as well) wrong variables are logged
            instead, all in one text, and treated as unset.
        TypeError: For a keyword argument that is no setting.
    """
    unknown = sorted(set(overrides) - set(OWN_SETTINGS) - {"resource"})
    if unknown:
        allowed = ", ".join((*OWN_SETTINGS, "resource", *_GIVEN))
        raise TypeError(f"no settings: {', '.join(unknown)}; clew.configure() takes {allowed}")
    reading = SettingsReader(environ)
    config_file = reading.take("OTEL_CONFIG_FILE", _readable, None)
    if config_file is not None:
        reading.leave_out(_ignored_with_a_file)
    own = read_own(reading, overrides)
    resource, instance_id_given = read_resource(reading, _given_resource(reading, overrides.get("resource")))
    metric_exporters = _exporters(reading, "metrics")
    span_exporters = _exporters(reading, "traces")
    log_exporters = _exporters(reading, "logs")
    sampler, sampler_argument = _sampler(reading)
    settings = Settings(
        disabled=reading.take("OTEL_SDK_DISABLED", values.boolean, False),
        config_file=config_file,
        resource=resource,
        instance_id_given=instance_id_given,
        propagators=_propagators(reading),
        exemplar_filter=reading.take(
            "OTEL_METRICS_EXEMPLAR_FILTER", values.one_of("always_on", "always_off", "trace_based"), None
        ),
        internal_metrics=reading.take("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", values.boolean, False),
        metric_exporters=metric_exporters,
        span_exporters=span_exporters,
        log_exporters=log_exporters,
        metrics_otlp=otlp_settings(reading, "metrics", _asked_protocol(metric_exporters), own["max_export_bytes"]),
        traces_otlp=otlp_settings(reading, "traces", _asked_protocol(span_exporters), own["max_export_bytes"]),
        logs_otlp=otlp_settings(reading, "logs", _asked_protocol(log_exporters), own["max_export_bytes"]),
        metric_export_interval=reading.take("OTEL_METRIC_EXPORT_INTERVAL", values.interval, 60.0),
        metric_export_timeout=reading.take("OTEL_METRIC_EXPORT_TIMEOUT", values.timeout, 30.0),
        temporality_preference=reading.take(
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            values.one_of("cumulative", "delta", "lowmemory"),
            "cumulative",
        ),
        default_histogram_aggregation=reading.take(
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            values.one_of("explicit_bucket_histogram", "base2_exponential_bucket_histogram"),
            "explicit_bucket_histogram",
        ),
        sampler=sampler,
        sampler_argument=sampler_argument,
        spans_batch=_batch(reading, "OTEL_BSP", 5.0),
        logs_batch=_batch(reading, "OTEL_BLRP", 1.0),
        limits=_limits(reading),
        **own,
    )
    find_unknown(reading, environ)
    if reading.problems:
        error = ConfigurationError(reading.problems)
        if settings.strict or any(problem.name not in environ for problem in reading.problems):
            raise error
        warn_once(("settings", str(error)), "%s\nthese are treated as unset", error)
    for note in reading.notes:
        warn_once(("settings", note), "%s", note)
    return settings


def _ignored_with_a_file(name: str) -> bool:
    """Tell whether a variable means nothing beside ``OTEL_CONFIG_FILE``, as the specification has it.

    ``OTEL_SDK_DISABLED`` goes on to count, since the SDK reads it by itself.
    """
    return name.startswith("OTEL_") and name not in ("OTEL_CONFIG_FILE", "OTEL_SDK_DISABLED")


def _given_resource(reading: SettingsReader, given: Any) -> Resource | Mapping[str, Any] | None:
    if given is None or isinstance(given, Resource):
        return given
    if isinstance(given, Mapping):
        attributes: Mapping[str, Any] = given  # pyright: ignore[reportUnknownVariableType]
        return attributes
    reading.wrong("configure(resource=…)", shown(given), "a Resource or a mapping of attributes")
    return None


def _exporters(reading: SettingsReader, signal: Signal) -> tuple[str, ...]:
    parse = _names_of(f"opentelemetry_{signal}_exporter", _EXPORTERS, otlp_once=True)
    default: tuple[str, ...] = ("otlp",)
    return reading.take(f"OTEL_{signal.upper()}_EXPORTER", parse, default)


def _asked_protocol(exporters: tuple[str, ...]) -> str | None:
    return next((OTLP_PROTOCOLS[name] for name in exporters if name in OTLP_PROTOCOLS), None)


def _names_of(group: str, known: tuple[str, ...], *, otlp_once: bool = False) -> Callable[[str], tuple[str, ...]]:
    """Return a parser of a list of known names and installed entry points, which are looked up only if needed.

    ``none`` gives an empty tuple.
    """

    def parse(text: str) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for item in values.listed(text):
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


def _propagators(reading: SettingsReader) -> tuple[str, ...] | None:
    unset: tuple[str, ...] | None = None
    parse: Callable[[str], tuple[str, ...] | None] = _names_of("opentelemetry_propagator", _PROPAGATORS)
    return reading.take("OTEL_PROPAGATORS", parse, unset)


def _sampler(reading: SettingsReader) -> tuple[str, str | None]:
    default = "parentbased_always_on"

    def parse(text: str) -> str:
        name = text.lower() if text.lower() in _SAMPLERS else text
        if name not in _SAMPLERS:
            installed = {point.name for point in entry_points(group="opentelemetry_traces_sampler")}
            if name not in installed:
                raise InvalidValueError(f"one of {', '.join(sorted(installed.union(_SAMPLERS)))}")
        return name

    sampler = reading.take("OTEL_TRACES_SAMPLER", parse, default)
    if reading.text("OTEL_TRACES_SAMPLER") is None:
        return sampler, None
    if sampler.endswith("traceidratio"):
        ratio = reading.take("OTEL_TRACES_SAMPLER_ARG", values.decimal(0, 1), 1.0)
        return sampler, repr(ratio)
    return sampler, reading.text("OTEL_TRACES_SAMPLER_ARG")


def _batch(reading: SettingsReader, prefix: str, delay: float) -> BatchSettings:
    positive = values.whole_number(1)
    queue_size = reading.take(f"{prefix}_MAX_QUEUE_SIZE", positive, 2048)
    name = f"{prefix}_MAX_EXPORT_BATCH_SIZE"
    batch_size = reading.take(name, positive, min(512, queue_size))
    if batch_size > queue_size:
        reading.wrong(name, str(batch_size), f"at most {prefix}_MAX_QUEUE_SIZE, which is {queue_size}")
        batch_size = min(512, queue_size)
    return BatchSettings(
        delay=reading.take(f"{prefix}_SCHEDULE_DELAY", values.interval, delay),
        timeout=reading.take(f"{prefix}_EXPORT_TIMEOUT", values.timeout, 30.0),
        queue_size=queue_size,
        batch_size=batch_size,
    )


def _limits(reading: SettingsReader) -> Limits:
    def number(name: str, default: Any) -> Any:
        return reading.take(f"OTEL_{name}_LIMIT", values.whole_number(0), default)

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


def _readable(path: str) -> str | None:
    try:
        with open(path, "rb"):
            return os.path.abspath(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidValueError(f"a file that can be read ({reason})") from None
