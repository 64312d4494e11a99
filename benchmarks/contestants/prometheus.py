"""`prometheus_client`, the way most Python services are measured today."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

import clew
from benchmarks.contestant import BOUNDS, REQUEST_ID, Contestant, Recorded
from benchmarks.contestants.hand_written import bare

GROUP = "prometheus_client"
NAME = "checkout"


class Metrics:
    """A counter and a histogram in a registry of their own."""

    def __init__(self, *labels: str) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter("calls", "Calls.", labels, registry=self.registry)
        self.duration = Histogram("duration", "How long.", labels, registry=self.registry, buckets=BOUNDS)

    def total(self, sample_name: str) -> int:
        return int(
            sum(
                sample.value
                for family in self.registry.collect()
                for sample in family.samples
                if sample.name == sample_name
            )
        )

    def has_request_id(self) -> bool:
        return any(
            sample.exemplar is not None and sample.exemplar.labels.get("request_id") == REQUEST_ID
            for family in self.registry.collect()
            for sample in family.samples
        )

    def recorded(self) -> Recorded:
        return Recorded({"counter": self.total("calls_total"), "histogram": self.total("duration_count")})

    def recorded_with_exemplars(self) -> Recorded:
        return Recorded(self.recorded().counts, self.has_request_id())

    def recorded_durations(self) -> Recorded:
        return Recorded({"histogram": self.total("duration_count")})


def bound(function: Callable[..., Any], metrics: Metrics) -> Callable[..., Any]:
    calls = metrics.calls.labels(NAME)
    duration = metrics.duration.labels(NAME)

    def measured(*args: Any, **kwargs: Any) -> Any:
        started = perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            calls.inc()
            duration.observe(perf_counter() - started)

    return measured


def labelled(function: Callable[..., Any], metrics: Metrics, labels_of: Callable[..., Any]) -> Callable[..., Any]:
    calls, duration = metrics.calls, metrics.duration

    def measured(*args: Any, **kwargs: Any) -> Any:
        tier, region = labels_of(*args, **kwargs)
        started = perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            calls.labels(NAME, tier, region).inc()
            duration.labels(NAME, tier, region).observe(perf_counter() - started)

    return measured


def with_exemplars(function: Callable[..., Any], metrics: Metrics) -> Callable[..., Any]:
    calls = metrics.calls.labels(NAME)
    duration = metrics.duration.labels(NAME)

    def measured(*args: Any, **kwargs: Any) -> Any:
        started = perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            exemplar = {"request_id": clew.request_id() or ""}
            calls.inc(1, exemplar)
            duration.observe(perf_counter() - started, exemplar)

    return measured


def labels_of(value: float) -> tuple[str, str]:
    """Return the values of two labels, the same as those of `clew`'s computed attributes."""
    return "gold" if value > 0.005 else "plain", "north" if value > 0.02 else "south"


def contestants() -> list[Contestant]:
    children, looked_up, exemplars, timer = (
        Metrics("operation"),
        Metrics("operation", "tier", "region"),
        Metrics("operation"),
        Metrics("operation"),
    )
    return [
        Contestant(
            "prometheus-bound",
            "children bound beforehand",
            GROUP,
            bound(bare, children),
            "counter, histogram",
            children.recorded,
        ),
        Contestant(
            "prometheus-labels",
            "labels(…) looked up per call, two computed",
            GROUP,
            labelled(bare, looked_up, labels_of),
            "counter, histogram",
            looked_up.recorded,
        ),
        Contestant(
            "prometheus-exemplar",
            "bound children, request ID exemplar",
            GROUP,
            with_exemplars(bare, exemplars),
            "counter, histogram, exemplar",
            exemplars.recorded_with_exemplars,
        ),
        Contestant(
            "prometheus-time",
            "Histogram.time() decorator",
            GROUP,
            timer.duration.labels(NAME).time()(bare),
            "histogram",
            timer.recorded_durations,
        ),
    ]
