"""`report`: load, errors and duration of operations, against the same window before, and their requests."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, NamedTuple

from clew.answers.questions.operations import INSTRUMENTS, Operation, error_of, operation_of, seconds_per_unit
from clew.answers.questions.window import Increase, Window, buckets_in_seconds, export_interval
from clew.answers.source import Series, Source
from clew.answers.statistics import Quantile, Side, Trend, block_count, compare, quantile
from clew.answers.timestamps import to_rfc3339

SHOWN = 10
"""How many of the slowest and how many of the failed requests an operation shows."""

_AHEAD = 60 * 10**9  # nanoseconds that a sender's clock may be ahead of ours


class Sample(NamedTuple):
    """A request that an exemplar kept: `duration` in seconds, `time` in nanoseconds, `error_type` if it failed."""

    request_id: str | None
    duration: float
    time: int
    error_type: str | None


@dataclass(frozen=True)
class OperationReport:
    """One operation in a window. `rate` is in calls a second, quantiles and trends as in `statistics`.

    `mixed` as in `Increase`: several writers send as one, and `calls` are far too many.
    """

    operation: Operation
    calls: int
    rate: float | None
    errors: dict[str, int]
    p50: Quantile | None
    p95: Quantile | None
    p99: Quantile | None
    load: Trend
    errors_trend: Trend
    duration: Trend
    slowest: list[Sample]
    failed: list[Sample]
    mixed: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return this as ``--format json`` shows it."""
        quantiles = {"p50": self.p50, "p95": self.p95, "p99": self.p99}
        return {
            "name": self.operation.name,
            "kind": self.operation.kind,
            "service": self.operation.service,
            "calls": self.calls,
            "rate": self.rate,
            "errors": self.errors,
            **{name: found.value if found else None for name, found in quantiles.items()},
            **{f"{name}_bounds": [found.low, found.high] if found else None for name, found in quantiles.items()},
            "trend": {
                "load": self.load._asdict(),
                "errors": self.errors_trend._asdict(),
                "duration": self.duration._asdict(),
            },
            "slowest": [
                {"request_id": sample.request_id, "duration": sample.duration, "time": to_rfc3339(sample.time)}
                for sample in self.slowest
            ],
            "failed": [
                {"request_id": sample.request_id, "error_type": sample.error_type, "time": to_rfc3339(sample.time)}
                for sample in self.failed
            ],
        }


@dataclass(frozen=True)
class Report:
    """All operations in a window: `start` and `end` in nanoseconds, None where the source has no metrics at all."""

    start: int | None
    end: int | None
    observed: float
    compare: float
    operations: list[OperationReport]
    refusals: list[tuple[str, str, int]]

    def as_json(self) -> dict[str, Any]:
        """Return this as ``--format json`` shows it."""
        return {
            "version": 1,
            "start": None if self.start is None else to_rfc3339(self.start),
            "end": None if self.end is None else to_rfc3339(self.end),
            "observed": self.observed,
            "operations": [operation.as_json() for operation in self.operations],
        }


def report(
    source: Source,
    window: float,
    compare_with: float,
    *,
    services: Sequence[str] = (),
    operations: Sequence[str] = (),
) -> Report:
    """Return the load, errors and durations of every operation that was called in the window or in the one before.

    Args:
        source: what is asked.
        window: its length in seconds; it ends at the last export.
        compare_with: how many seconds earlier the window before ends.
        services: names or shell patterns; only operations of services that match one, or of all where there are none.
        operations: the same for the names of operations. What is reported of an operation does not depend on either.
    """
    end = source.last_export(time.time_ns() + _AHEAD)
    if end is None:
        return Report(None, None, 0.0, compare_with, [], source.refusals())
    start = end - round(window * 1e9)
    every: dict[Operation, list[Series]] = defaultdict(list)
    for series in source.histograms(INSTRUMENTS):
        every[operation_of(series)].append(series)
    resources = {series.resource for group in every.values() for series in group}
    now = Window(source, resources, start, end)
    shift = round(compare_with * 1e9)
    before = Window(source, resources, start - shift, end - shift)
    found = [
        one
        for operation, group in every.items()
        if _matches(operation.service or "", services)
        and _matches(operation.name, operations)
        and (one := _operation(source, operation, group, now, before)) is not None
    ]
    found.sort(key=lambda one: (one.operation.service or "", one.operation.kind, -one.calls, one.operation.name))
    return Report(start, end, now.observed, compare_with, found, source.refusals())


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _operation(
    source: Source, operation: Operation, group: Sequence[Series], now: Window, before: Window
) -> OperationReport | None:
    increases = [increase for series in group if (increase := now.increase(series)) is not None]
    earlier = [increase for series in group if (increase := before.increase(series)) is not None]
    calls = sum(increase.total.count for increase in increases)
    if not calls and not any(increase.total.count for increase in earlier):
        return None
    errors: dict[str, int] = defaultdict(int)
    for increase in increases:
        if (error := error_of(increase.series)) is not None and increase.total.count:
            errors[error] += increase.total.count
    samples = [sample for increase in increases for sample in _samples(source, increase, now.end)]
    buckets = buckets_in_seconds(increases)
    durations = [sample.duration for sample in samples]
    load, errors_trend, duration = _trends(now, increases, before, earlier)
    return OperationReport(
        operation=operation,
        calls=calls,
        rate=calls / now.observed if now.observed else None,
        errors=dict(sorted(errors.items(), key=lambda item: (-item[1], item[0]))),
        p50=quantile(0.5, buckets, durations),
        p95=quantile(0.95, buckets, durations),
        p99=quantile(0.99, buckets, durations),
        load=load,
        errors_trend=errors_trend,
        duration=duration,
        slowest=sorted(samples, key=lambda sample: -sample.duration)[:SHOWN],
        failed=sorted((sample for sample in samples if sample.error_type), key=lambda sample: -sample.time)[:SHOWN],
        mixed=any(increase.mixed for increase in increases),
    )


def _samples(source: Source, increase: Increase, end: int) -> list[Sample]:
    unit, error = seconds_per_unit(increase.series), error_of(increase.series)
    return [
        Sample(exemplar.request_id, exemplar.value * unit, exemplar.time, error)
        for exemplar in source.exemplars(increase.series, increase.since, end)
    ]


def _trends(
    now: Window, increases: Sequence[Increase], before: Window, earlier: Sequence[Increase]
) -> tuple[Trend, Trend, Trend]:
    interval, other = export_interval(increases), export_interval(earlier)
    sides = _sides(now, increases, interval or other), _sides(before, earlier, other or interval)
    return compare(sides[0].load, sides[1].load), compare(sides[0].errors, sides[1].errors), _durations(*sides)


class _Sides(NamedTuple):
    load: Side
    errors: Side
    duration: Side | None


def _durations(now: _Sides, before: _Sides) -> Trend:
    nothing = Side((), ())
    return compare(now.duration or nothing, before.duration or nothing)


def _sides(window: Window, increases: Sequence[Increase], interval: float | None) -> _Sides:
    """Cut a window into blocks, or into one where there are too few exports for more."""
    edges = window.edges(max(block_count(window.observed, interval), 1))
    if not edges:
        nothing = Side((), ())
        return _Sides(nothing, nothing, nothing)

    def blocks(until: Callable[[Increase], Sequence[float]], chosen: Sequence[Increase]) -> list[float]:
        sums = [0.0] * len(edges)
        for increase in chosen:
            sums = [a + b for a, b in zip(sums, until(increase), strict=True)]
        return [sums[1], *(b - a for a, b in pairwise(sums[1:]))]

    observed = [window.observed_between(a, b) for a, b in pairwise(edges)]
    calls = blocks(lambda increase: increase.calls_until(edges), increases)
    failed = blocks(
        lambda increase: increase.calls_until(edges),
        [increase for increase in increases if error_of(increase.series) is not None],
    )
    duration = None
    if all(increase.sums is not None for increase in increases):
        total = blocks(
            lambda increase: [value * seconds_per_unit(increase.series) for value in increase.sums_until(edges) or ()],
            increases,
        )
        duration = Side(total, calls)
    return _Sides(Side(calls, observed), Side(failed, calls), duration)
