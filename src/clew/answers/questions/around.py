"""`around`: everything that happened in a stretch of time, and what the bad requests share that the others do not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Any, NamedTuple

from clew.answers.questions.events import Event, log_event, several_instances, span_event, telemetry_of
from clew.answers.questions.operations import INSTRUMENTS, Operation, error_of, operation_of, seconds_per_unit
from clew.answers.questions.shared_values import Count, Request, SharedValue, shared_values, values
from clew.answers.questions.window import Increase, Window, buckets_in_seconds
from clew.answers.source import LogLine, Source, Span
from clew.answers.statistics import quantile
from clew.answers.timestamps import parse_time, to_rfc3339

SHOWN_EVENTS = 500
"""How many events an answer holds at most; failures stay, then what is nearest to the middle."""

_SHOWN_SHARED = 20
_SLOW = 4.0  # times a lower quartile: what lasts longer is slow
_TAIL = 0.01  # and so are the slowest calls up to this share


class RequestEvent(NamedTuple):
    """An event and the request it belongs to, None where that is not known."""

    event: Event
    request_id: str | None


@dataclass(frozen=True)
class FailureGroup:
    """Spans that failed alike in one place: how many, and the request of the last one."""

    service: str | None
    instance: str | None
    text: str
    error_type: str | None
    count: int
    request_id: str | None


@dataclass(frozen=True)
class Around:
    """A window (nanoseconds), how many requests were seen in it, what the bad ones share, and what happened.

    `several` are the services that had more than one instance then, `mixed` the operations of which too many calls are
    counted, since several writers send as one.
    """

    start: int
    end: int
    requests: int
    failed: int
    shared: list[SharedValue]
    events: list[RequestEvent]
    events_left_out: int
    failures: list[FailureGroup]
    several: frozenset[str | None] = frozenset()
    mixed: frozenset[Operation] = frozenset()

    def as_json(self) -> dict[str, Any]:
        """Return this as ``--format json`` shows it."""
        return {
            "version": 1,
            "start": to_rfc3339(self.start),
            "end": to_rfc3339(self.end),
            "requests": self.requests,
            "failed": self.failed,
            "shared": [value.as_json() for value in self.shared],
            "failures": [asdict(group) for group in self.failures],
            "events": [{**event.as_json(), "request_id": request_id} for event, request_id in self.events],
        }


def around(source: Source, what: str, window: float) -> Around | None:
    """Return what happened around a request or a time; None where `what` is neither.

    Args:
        source: what is asked.
        what: a request ID, looked up first, or a time: RFC 3339, or HH:MM:SS of today in the local zone.
        window: its length in seconds, the request or time in its middle; a longer request widens it to its own length.
    """
    stretch = _stretch_of(source, what)
    if stretch is None:
        return None
    middle = (stretch[0] + stretch[1]) // 2
    half = max(round(window * 1e9 / 2), (stretch[1] - stretch[0] + 1) // 2)
    start, end = middle - half, middle + half
    spans, log_lines = source.spans_between(start, end), source.log_lines_between(start, end)
    increases = _increases(source, start, end)
    limits = _limits(increases)
    request_ids = _RequestIds(spans)
    requests = _requests(source, spans, log_lines, request_ids, increases, limits, start, end)
    shared = shared_values(
        [_count(increase, limits[operation_of(increase.series)]) for increase in increases], requests.values()
    )
    events = [RequestEvent(span_event(span), request_ids.of(span)) for span in spans]
    events += [RequestEvent(log_event(line), request_ids.of(line)) for line in log_lines]
    kept = sorted(events, key=lambda one: (not one.event.failed, abs(one.event.time - middle)))[:SHOWN_EVENTS]
    return Around(
        start=start,
        end=end,
        requests=len(requests),
        failed=sum(request.failed for request in requests.values()),
        shared=shared[:_SHOWN_SHARED],
        events=sorted(kept, key=lambda one: one.event.time),
        events_left_out=len(events) - len(kept),
        failures=_failures(events),
        several=several_instances(source, (one.event for one in kept), start, end),
        mixed=frozenset(operation_of(increase.series) for increase in increases if increase.mixed),
    )


def _failures(events: Iterable[RequestEvent]) -> list[FailureGroup]:
    """Count the spans that failed by where and how, the most often first; log lines differ too much to be counted."""
    kinds: dict[tuple[str | None, str | None, str, str | None], FailureGroup] = {}
    for event, request_id in sorted(events, key=lambda one: one.event.time):
        if not event.failed or event.kind != "span":
            continue
        error = event.attributes.get("error.type")
        key = (event.service, event.instance, event.text, None if error is None else str(error))
        before = kinds.pop(key, None)
        kinds[key] = FailureGroup(*key, count=(before.count if before else 0) + 1, request_id=request_id)
    return sorted(kinds.values(), key=lambda group: -group.count)


def _stretch_of(source: Source, what: str) -> tuple[int, int] | None:
    """Return the first and last moment of a request; both are the time itself where `what` is one."""
    spans, log_lines = telemetry_of(source, what)
    stretches = [*((span.start, span.end) for span in spans), *((line.time, line.time) for line in log_lines)]
    if not stretches:
        stretches = [(time, time) for time in source.exemplar_times_of(what)]
    if stretches:
        return min(first for first, _ in stretches), max(last for _, last in stretches)
    moment = parse_time(what)
    return None if moment is None else (moment, moment)


def _increases(source: Source, start: int, end: int) -> list[Increase]:
    every = source.histograms(INSTRUMENTS)
    window = Window(source, {series.resource for series in every}, start, end)
    return [increase for series in every if (increase := window.increase(series, widened=True)) is not None]


def _limits(increases: Sequence[Increase]) -> dict[Operation, float]:
    """Return, per operation, the duration in seconds from which on a call is slow, at a bound of its buckets.

    That is four times the lower quartile's bucket; or less, as long as not more than a hundredth of the calls are slow.
    """
    groups: dict[Operation, list[Increase]] = defaultdict(list)
    for increase in increases:
        groups[operation_of(increase.series)].append(increase)
    limits: dict[Operation, float] = {}
    for operation, group in groups.items():
        buckets = buckets_in_seconds(group)
        quartile, middle = quantile(0.25, buckets), quantile(0.5, buckets)
        limit = float("inf")
        total, tail = sum(bucket.held for bucket in buckets), 0.0
        for bucket in reversed(buckets):
            tail += bucket.held
            if quartile is None or middle is None or quartile.high is None or middle.high is None:
                break
            if bucket.low < middle.high or (tail > _TAIL * total and bucket.low < _SLOW * quartile.high):
                break
            limit = bucket.low
        limits[operation] = limit
    return limits


def _count(increase: Increase, limit: float) -> Count:
    total = float(increase.total.count)
    if error_of(increase.series) is not None:
        return Count(increase.series, total, total)
    slow = sum(bucket.held for bucket in buckets_in_seconds([increase]) if bucket.low >= limit * (1 - 1e-9))
    return Count(increase.series, min(float(slow), total), total)


class _RequestIds:
    """The request IDs that spans and log lines belong to: their own, or the only one of their trace."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._of_trace: dict[str, set[str]] = defaultdict(set)
        for span in spans:
            if span.request_id:
                self._of_trace[span.trace_id].add(span.request_id)

    def of(self, row: Span | LogLine) -> str | None:
        if row.request_id:
            return row.request_id
        known = self._of_trace.get(row.trace_id, set()) if row.trace_id else set[str]()
        return next(iter(known)) if len(known) == 1 else None


def _requests(
    source: Source,
    spans: Sequence[Span],
    log_lines: Sequence[LogLine],
    request_ids: _RequestIds,
    increases: Sequence[Increase],
    limits: dict[Operation, float],
    start: int,
    end: int,
) -> dict[str, Request]:
    requests: dict[str, Request] = defaultdict(Request)
    span_limits = _span_limits(spans)
    for span in spans:
        if (request_id := request_ids.of(span)) is not None:
            request = requests[request_id]
            request.seen = True
            request.failed |= span.failed
            request.slow |= span.end - span.start > span_limits.get((span.service, span.name), math.inf)
            request.values |= values(span.attributes, span.resource_attributes)
    for line in log_lines:
        if (request_id := request_ids.of(line)) is not None:
            request = requests[request_id]
            request.seen = True
            request.failed |= line.failed
            request.values |= values(line.attributes, line.resource_attributes)
    for increase in increases:
        unit, limit = seconds_per_unit(increase.series), limits[operation_of(increase.series)]
        for exemplar in source.exemplars(increase.series, start - 1, end):
            if exemplar.request_id:
                request = requests[exemplar.request_id]
                request.failed |= error_of(increase.series) is not None
                request.slow |= exemplar.value * unit > limit
    return requests


def _span_limits(spans: Iterable[Span]) -> dict[tuple[str | None, str], float]:
    durations: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for span in spans:
        durations[span.service, span.name].append(span.end - span.start)
    return {key: _SLOW * quantiles(found, n=4)[0] for key, found in durations.items() if len(found) >= 8}
