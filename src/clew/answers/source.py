"""What a question asks of a source: the protocol that every source implements, and the rows that it answers with.

Times are nanoseconds since 1970 in UTC, identifiers lower-case hexadecimal, attributes as in OTLP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from clew.answers.histogram import Explicit, Exponential, Histogram

_FAILED = 2  # a span's status
_ERROR = 17  # the least severity of an error


class SourceError(Exception):
    """The source cannot be used; the message says which one, and why."""


@dataclass(frozen=True)
class Series:
    """One series of histograms; `number` and `resource` are numbers that the source gives."""

    number: int
    resource: int
    service: str | None
    name: str
    unit: str
    kind: str
    temporality: str
    attributes: dict[str, Any]
    resource_attributes: dict[str, Any]
    bounds: tuple[float, ...]
    start: int

    def empty(self) -> Histogram:
        """Return the value from which this series began."""
        return Explicit(self.bounds) if self.kind == "histogram" else Exponential(20)


class Point(NamedTuple):
    """One point of a series of histograms."""

    time: int
    start: int
    histogram: Histogram


class Exemplar(NamedTuple):
    """One exemplar; `request_id` is None where neither it nor its span has one."""

    time: int
    value: float
    request_id: str | None


class ExportTimes(NamedTuple):
    """When a series was exported: the last time at or before a window, the first and last in it; None: never."""

    resource: int
    start: int
    delta: bool
    before: int | None
    first: int | None
    last: int | None


@dataclass(frozen=True)
class Span:
    """One span; `status` is 0 (unset), 1 (ok) or 2 (error), what is absent is the empty text."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start: int
    end: int
    status: int
    message: str
    request_id: str
    service: str | None
    instance: str | None
    attributes: dict[str, Any]
    resource_attributes: dict[str, Any]

    @property
    def failed(self) -> bool:
        """Whether its status is an error."""
        return self.status == _FAILED


@dataclass(frozen=True)
class LogLine:
    """One log line; `severity` is OTLP's number (0 to 24), what is absent is the empty text."""

    trace_id: str
    span_id: str
    time: int
    severity: int
    severity_text: str
    body: str
    event: str
    request_id: str
    service: str | None
    instance: str | None
    attributes: dict[str, Any]
    resource_attributes: dict[str, Any]

    @property
    def failed(self) -> bool:
        """Whether its severity is that of an error."""
        return self.severity >= _ERROR


class Source(Protocol):
    """Where the telemetry of a system is kept and can be asked for. Every method may raise `SourceError`."""

    def close(self) -> None:
        """Close what the source holds open."""
        ...

    def refusals(self) -> list[tuple[str, str, int]]:
        """Return what was sent and is not in the source: signal, reason, count."""
        ...

    # metrics

    def last_export(self, until: int) -> int | None:
        """Return the time of the newest point of any metric, not after `until`."""
        ...

    def histograms(self, names: Sequence[str]) -> list[Series]:
        """Return every series of histograms with one of these names."""
        ...

    def export_times(self, resources: Iterable[int], start: int, end: int) -> list[ExportTimes]:
        """Return when each series, of any kind, of these resources was exported, seen from the window (start, end]."""
        ...

    def first_export(self, resource: int, start: int) -> int | None:
        """Return the time of the first export ever of this resource with this start time."""
        ...

    def instances(self, start: int, end: int) -> dict[str | None, set[str]]:
        """Return, by service, the instances that exported metrics in [start, end] or a few minutes around it."""
        ...

    def points(self, series: Series, start: int, end: int) -> list[Point]:
        """Return the points in (start, end], in order of time."""
        ...

    def last_point(self, series: Series, until: int) -> Point | None:
        """Return the last point at or before a time."""
        ...

    def next_time(self, series: Series, since: int) -> int | None:
        """Return the time of the first point at or after a time."""
        ...

    def exemplars(self, series: Series, start: int, end: int) -> list[Exemplar]:
        """Return the exemplars in (start, end]; one without a request ID takes its span's."""
        ...

    def exemplar_times_of(self, request_id: str) -> list[int]:
        """Return the times of the exemplars that carry this request ID."""
        ...

    # spans

    def spans_of(self, request_id: str) -> list[Span]:
        """Return the spans that carry this request ID."""
        ...

    def spans_of_trace(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace."""
        ...

    def spans_between(self, start: int, end: int) -> list[Span]:
        """Return the spans that were under way at any time in [start, end] and ended within an hour after it."""
        ...

    # log lines

    def log_lines_of(self, request_id: str) -> list[LogLine]:
        """Return the log lines that carry this request ID."""
        ...

    def log_lines_without_request_id(self, trace_id: str) -> list[LogLine]:
        """Return the log lines of a trace that carry no request ID."""
        ...

    def log_lines_between(self, start: int, end: int) -> list[LogLine]:
        """Return the log lines in [start, end]."""
        ...
