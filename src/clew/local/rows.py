"""What the store keeps, a tuple a row. Times are nanoseconds since 1970 in UTC; identifiers are lower-case hexadecimal.

Attributes are canonical JSON (sorted keys, no blanks), so that equal attributes are equal text and ``True``, ``1`` and
``1.0`` stay three values. What is absent in an identity is the empty text, never NULL, since NULLs are never equal.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class Resource(NamedTuple):
    """The sender: a service's instance, by its attributes."""

    attributes: str
    service: str | None
    instance: str | None


class Series(NamedTuple):
    """What all points of a series have in common; ``start`` is 0 for delta, whose points have their own."""

    resource: Resource
    scope: str
    name: str
    unit: str
    kind: str
    temporality: str
    monotonic: bool
    attributes: str
    bounds: str
    start: int


class Point(NamedTuple):
    """One data point: ``value`` of a sum or gauge, or the rest of a histogram (``buckets`` is JSON, see `otlp`)."""

    series: Series
    time: int
    start: int
    value: int | float | None
    observations: int | None
    sum: float | None
    min: float | None
    max: float | None
    buckets: str | None


class Exemplar(NamedTuple):
    """One real measurement kept beside a point."""

    series: Series
    time: int
    value: float
    trace_id: str
    span_id: str
    request_id: str
    attributes: str


class Span(NamedTuple):
    """One span; ``events`` and ``links`` are JSON lists, ``status`` is 0 (unset), 1 (ok) or 2 (error)."""

    resource: Resource
    scope: str
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    start: int
    end: int
    status: int
    message: str
    request_id: str
    attributes: str
    events: str
    links: str


class LogLine(NamedTuple):
    """One log record; ``digest`` is a hash of everything in it and around it, ``severity`` OTLP's number (0 to 24)."""

    resource: Resource
    scope: str
    digest: bytes
    time: int
    severity: int
    severity_text: str
    body: str
    event: str
    trace_id: str
    span_id: str
    request_id: str
    attributes: str


@dataclass
class Batch:
    """One export: the rows that can be stored, and what cannot, with the reasons counted."""

    signal: str
    points: list[Point] = field(default_factory=list[Point])
    exemplars: list[Exemplar] = field(default_factory=list[Exemplar])
    spans: list[Span] = field(default_factory=list[Span])
    log_lines: list[LogLine] = field(default_factory=list[LogLine])
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])

    def reject(self, reason: str) -> None:
        """Count one data point, span or log line that is not stored."""
        self.rejected += 1
        self.reasons[reason] += 1

    def explain(self) -> str:
        """Return in one line what was not stored and why; empty if all was."""
        return "; ".join(f"{reason} ({count})" for reason, count in self.reasons.most_common())
