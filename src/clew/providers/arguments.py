"""The arguments of `clew.configure()` that its providers are built with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk._logs import LogRecordProcessor
from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.trace import SpanProcessor

from clew.settings import Problem
from clew.settings.problems import shown


@dataclass(frozen=True)
class ProviderArguments:
    """What `clew.configure()` was given for its providers; None stands for what the environment names."""

    views: Sequence[View] = ()
    metric_exporters: Sequence[MetricExporter] | None = None
    metric_readers: Sequence[MetricReader] | None = None
    span_processors: Sequence[SpanProcessor] | None = None
    log_processors: Sequence[LogRecordProcessor] | None = None

    @property
    def metrics(self) -> list[MetricExporter | MetricReader] | None:
        """Readers and exporters, or None where neither was given."""
        if self.metric_readers is None and self.metric_exporters is None:
            return None
        return [*(self.metric_readers or ()), *(self.metric_exporters or ())]

    def problems(self) -> list[Problem]:
        """Find what is not of the kind that its argument takes."""
        kinds: dict[str, type] = {
            "views": View,
            "metric_exporters": MetricExporter,
            "metric_readers": MetricReader,
            "span_processors": SpanProcessor,
            "log_processors": LogRecordProcessor,
        }
        return [
            Problem(f"configure({name}=…)", shown(getattr(self, name)), f"{kind.__name__}s, a sequence of them")
            for name, kind in kinds.items()
            if not _are(getattr(self, name), kind)
        ]


def _are(value: Any, kind: type) -> bool:
    if not isinstance(value, Sequence):
        return value is None
    items: Sequence[object] = value  # pyright: ignore[reportUnknownVariableType]
    return all(isinstance(item, kind) for item in items)
