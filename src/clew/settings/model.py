"""All settings of one `clew.configure()`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry.sdk.resources import Resource

from clew.settings.otlp import OtlpSettings


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
