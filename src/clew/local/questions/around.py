"""`around`: everything that happened in a stretch of time, and what the bad requests share that the others do not."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any, NamedTuple

from clew.local.questions.follow import Event, log_event, rows_of, span_event
from clew.local.questions.operations import INSTRUMENTS, Operation, error_of, operation_of, seconds
from clew.local.questions.report import in_seconds
from clew.local.questions.times import instant, rfc3339
from clew.local.questions.window import Increase, Window
from clew.local.source import Source, StoredLogLine, StoredSeries, StoredSpan
from clew.local.statistics import lift, quantile

SHOWN_EVENTS = 500
"""How many events an answer holds at most; failures stay, then what is nearest to the middle."""

_SHOWN_SHARED = 20
_BAD_NEEDED = 2  # bad requests that have to share a value
_SLOW = 4.0  # times a lower quartile: what lasts longer is slow
_TAIL = 0.01  # and so are the slowest calls up to this share
_ERROR_STATUS, _ERROR_SEVERITY = 2, 17
_FIRST = ("service.name", "service.instance.id", "operation.name", "http.route", "rpc.method")
_OUTCOMES = {  # what makes a request bad, and what only names it
    "request_id",
    "error",
    "level",
    "severity",
    "http.response.status_code",
    "http.status_code",
    "rpc.grpc.status_code",
    "rpc.response.status_code",
    "otel.metric.overflow",
}
_OUTCOME_PREFIXES = ("error.", "exception.", "severity.", "otel.status_", "code.")


@dataclass(frozen=True)
class Shared:
    """A value that bad requests have more often than the rest. `basis` is ``counts`` or ``samples``."""

    attribute: str
    value: Any
    share_of_bad: float
    share_of_rest: float
    lift: float
    lower: float
    basis: str

    def as_json(self) -> dict[str, Any]:
        """Return what the machine reads."""
        return {
            "attribute": self.attribute,
            "value": self.value,
            "share_of_bad": self.share_of_bad,
            "share_of_rest": self.share_of_rest,
            "lift": self.lift,
            "basis": self.basis,
        }


class RequestEvent(NamedTuple):
    """An event and the request it belongs to, None where that is not known."""

    event: Event
    request_id: str | None


@dataclass(frozen=True)
class Around:
    """A window (nanoseconds), how many requests were seen in it, what the bad ones share, and what happened."""

    start: int
    end: int
    requests: int
    failed: int
    shared: list[Shared]
    events: list[RequestEvent]
    events_left_out: int

    def as_json(self) -> dict[str, Any]:
        """Return what the machine reads."""
        return {
            "version": 1,
            "start": rfc3339(self.start),
            "end": rfc3339(self.end),
            "requests": self.requests,
            "failed": self.failed,
            "shared": [value.as_json() for value in self.shared],
            "events": [{**event.as_json(), "request_id": request_id} for event, request_id in self.events],
        }


@dataclass
class _Request:
    """What is known of one request; `seen` if a span or a log line of it is there."""

    failed: bool = False
    slow: bool = False
    seen: bool = False
    values: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])


class _Count(NamedTuple):
    """What one series counted in the window: of all its calls, the bad ones."""

    series: StoredSeries
    bad: float
    all: float


def around(source: Source, what: str, window: float) -> Around | None:
    """Answer for the window around a request or a time; None where `what` is neither.

    Args:
        source: the store.
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
    owners = _Owners(spans)
    requests = _requests(source, spans, log_lines, owners, increases, limits, start, end)
    counts = [_count(increase, limits[operation_of(increase.series)]) for increase in increases]
    counted = {name for count in counts for name in (*count.series.resource_attributes, *count.series.attributes)}
    shared = [*_shared_by_counts(counts), *_shared_by_samples(requests.values(), counted)]
    shared.sort(key=_strength)
    events = [RequestEvent(span_event(span), owners(span)) for span in spans]
    events += [RequestEvent(log_event(line), owners(line)) for line in log_lines]
    kept = sorted(events, key=lambda one: (not one.event.failed, abs(one.event.time - middle)))[:SHOWN_EVENTS]
    return Around(
        start=start,
        end=end,
        requests=len(requests),
        failed=sum(request.failed for request in requests.values()),
        shared=shared[:_SHOWN_SHARED],
        events=sorted(kept, key=lambda one: one.event.time),
        events_left_out=len(events) - len(kept),
    )


def _stretch_of(source: Source, what: str) -> tuple[int, int] | None:
    """Return when a request was under way, or a time twice."""
    spans, log_lines = rows_of(source, what)
    stretches = [*((span.start, span.end) for span in spans), *((line.time, line.time) for line in log_lines)]
    if not stretches:
        stretches = [(time, time) for time in source.exemplar_times_of(what)]
    if stretches:
        return min(first for first, _ in stretches), max(last for _, last in stretches)
    moment = instant(what)
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
        buckets = in_seconds(group)
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


def _count(increase: Increase, limit: float) -> _Count:
    total = float(increase.total.count)
    if error_of(increase.series) is not None:
        return _Count(increase.series, total, total)
    slow = sum(bucket.held for bucket in in_seconds([increase]) if bucket.low >= limit * (1 - 1e-9))
    return _Count(increase.series, min(float(slow), total), total)


class _Owners:
    """Whose a span or log line is: its own request ID, or the only one of its trace."""

    def __init__(self, spans: Iterable[StoredSpan]) -> None:
        self._of_trace: dict[str, set[str]] = defaultdict(set)
        for span in spans:
            if span.request_id:
                self._of_trace[span.trace_id].add(span.request_id)

    def __call__(self, row: StoredSpan | StoredLogLine) -> str | None:
        if row.request_id:
            return row.request_id
        known = self._of_trace.get(row.trace_id, set()) if row.trace_id else set[str]()
        return next(iter(known)) if len(known) == 1 else None


def _requests(
    source: Source,
    spans: Sequence[StoredSpan],
    log_lines: Sequence[StoredLogLine],
    owners: _Owners,
    increases: Sequence[Increase],
    limits: dict[Operation, float],
    start: int,
    end: int,
) -> dict[str, _Request]:
    requests: dict[str, _Request] = defaultdict(_Request)
    span_limits = _span_limits(spans)
    for span in spans:
        if (owner := owners(span)) is not None:
            request = requests[owner]
            request.seen = True
            request.failed |= span.status == _ERROR_STATUS
            request.slow |= span.end - span.start > span_limits.get((span.service, span.name), math.inf)
            request.values |= _values(span.attributes, span.resource_attributes)
    for line in log_lines:
        if (owner := owners(line)) is not None:
            request = requests[owner]
            request.seen = True
            request.failed |= line.severity >= _ERROR_SEVERITY
            request.values |= _values(line.attributes, line.resource_attributes)
    for increase in increases:
        unit, limit = seconds(increase.series), limits[operation_of(increase.series)]
        for exemplar in source.exemplars(increase.series.number, start - 1, end):
            if exemplar.request_id:
                request = requests[exemplar.request_id]
                request.failed |= error_of(increase.series) is not None
                request.slow |= exemplar.value * unit > limit
    return requests


def _span_limits(spans: Iterable[StoredSpan]) -> dict[tuple[str | None, str], float]:
    durations: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for span in spans:
        durations[span.service, span.name].append(span.end - span.start)
    return {key: _SLOW * quantiles(found, n=4)[0] for key, found in durations.items() if len(found) >= 8}


def _values(*attributes: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (key, json.dumps(value, sort_keys=True))
        for group in attributes
        for key, value in group.items()
        if not _is_no_cause(key)
    }


def _is_no_cause(attribute: str) -> bool:
    return attribute in _OUTCOMES or attribute.startswith(_OUTCOME_PREFIXES)


def _shared_by_counts(counts: Sequence[_Count]) -> list[Shared]:
    """Compare by what histograms counted: resource attributes, operation and metric attributes."""
    bad: dict[tuple[str, str], float] = defaultdict(float)
    every: dict[tuple[str, str], float] = defaultdict(float)
    for series, series_bad, series_all in counts:
        for value in _values(series.resource_attributes, series.attributes):
            bad[value] += series_bad
            every[value] += series_all
    all_bad = sum(count.bad for count in counts)
    return _standing_out(bad, every, all_bad, sum(count.all for count in counts), "counts")


def _shared_by_samples(requests: Iterable[_Request], counted: set[str]) -> list[Shared]:
    """Compare by the requests that were seen: the attributes of their spans and log lines.

    A request known from exemplars alone tells nothing of its attributes, and failed ones are kept more often.
    """
    bad: dict[tuple[str, str], float] = defaultdict(float)
    every: dict[tuple[str, str], float] = defaultdict(float)
    having: dict[str, int] = defaultdict(int)
    total = all_bad = 0
    for request in requests:
        if not request.seen:
            continue
        is_bad = request.failed or request.slow
        total += 1
        all_bad += is_bad
        for attribute in {attribute for attribute, _ in request.values}:
            having[attribute] += 1
        for value in request.values:
            every[value] += 1
            bad[value] += is_bad
    different: dict[str, int] = defaultdict(int)
    for attribute, _ in every:
        different[attribute] += 1
    identifiers = {name for name, values in different.items() if values >= 3 and values > having[name] / 2}
    return [
        shared
        for shared in _standing_out(bad, every, all_bad, total, "samples")
        if shared.attribute not in identifiers and shared.attribute not in counted
    ]


def _standing_out(
    bad: dict[tuple[str, str], float], every: dict[tuple[str, str], float], all_bad: float, total: float, basis: str
) -> list[Shared]:
    found: list[Shared] = []
    for (attribute, value), count in bad.items():
        if count < _BAD_NEEDED:
            continue
        compared = lift(count, all_bad, every[attribute, value] - count, total - all_bad)
        if compared.lower > 1:
            found.append(Shared(attribute, json.loads(value), *compared, basis))
    return found


def _strength(shared: Shared) -> tuple[float, int, str, str]:
    """Order by the lower bound of the lift, among equals service, instance and operation first."""
    rank = _FIRST.index(shared.attribute) if shared.attribute in _FIRST else len(_FIRST)
    return (-round(shared.lower, 9), rank, shared.attribute, json.dumps(shared.value))
