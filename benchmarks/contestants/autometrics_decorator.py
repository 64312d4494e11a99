"""autometrics: a decorator over either `prometheus_client` or the OpenTelemetry SDK."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import autometrics
from autometrics.tracker import set_tracker
from autometrics.tracker.opentelemetry import OpenTelemetryTracker
from autometrics.tracker.prometheus import PrometheusTracker
from prometheus_client import REGISTRY

from benchmarks.contestant import BOUNDS, Contestant, Recorded
from benchmarks.reading import Reading

GROUP = "autometrics"
EMITS = "counter, histogram"


def contestants() -> tuple[list[Contestant], list[Reading]]:
    """Return one contestant for each tracker. The tracker is global: it is set before each turn, unmeasured."""
    autometrics.init(tracker="prometheus", service_name="benchmarks", histogram_buckets=list(BOUNDS))
    prometheus = PrometheusTracker()
    reading = Reading()
    with _quiet("opentelemetry.metrics._internal"):  # it sets a global provider, where there is one already
        opentelemetry = OpenTelemetryTracker(reading.reader)
    return [
        Contestant(
            "autometrics-prometheus",
            "decorator, Prometheus tracker",
            GROUP,
            _decorated(prometheus, "with_prometheus"),
            EMITS,
            _recorded_by_prometheus,
            before=lambda: set_tracker(prometheus),
        ),
        Contestant(
            "autometrics-opentelemetry",
            "decorator, OpenTelemetry tracker",
            GROUP,
            _decorated(opentelemetry, "with_opentelemetry"),
            EMITS,
            lambda: Recorded(
                {
                    "counter": reading.total("function.calls", function="with_opentelemetry"),
                    "histogram": reading.total("function.calls.duration", function="with_opentelemetry"),
                }
            ),
            before=lambda: set_tracker(opentelemetry),
        ),
    ], [reading]


def _decorated(tracker: Any, name: str) -> Callable[..., Any]:
    def function(value: float) -> float:
        return value

    function.__name__ = function.__qualname__ = name
    set_tracker(tracker)
    decorated: Callable[..., Any] = autometrics.autometrics(function)
    return decorated


def _recorded_by_prometheus() -> Recorded:
    def total(sample_name: str) -> int:
        return int(
            sum(
                sample.value
                for family in REGISTRY.collect()
                for sample in family.samples
                if sample.name == sample_name and sample.labels.get("function") == "with_prometheus"
            )
        )

    return Recorded(
        {"counter": total("function_calls_total"), "histogram": total("function_calls_duration_seconds_count")}
    )


class _quiet:
    """Silences one logger for a while."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self._logger.disabled = True

    def __exit__(self, *_: object) -> None:
        self._logger.disabled = False
