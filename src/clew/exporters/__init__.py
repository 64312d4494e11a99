"""The exporters: OTLP for each signal, others by name. Libraries for gRPC and HTTP are imported with the first one."""

from clew.exporters.from_settings import log_exporters, make_sampler, metric_exporters, span_exporters
from clew.exporters.otlp import OtlpLogExporter, OtlpMetricExporter, OtlpSpanExporter

__all__ = [
    "OtlpLogExporter",
    "OtlpMetricExporter",
    "OtlpSpanExporter",
    "log_exporters",
    "make_sampler",
    "metric_exporters",
    "span_exporters",
]
