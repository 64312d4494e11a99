"""Spans and log lines as events, and which of them belong to one request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from clew.answers.source import LogLine, Source, Span
from clew.answers.timestamps import to_rfc3339

_SEVERITIES = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")


@dataclass(frozen=True)
class Event:
    """One span or log line: `time` in nanoseconds, `duration` in seconds for spans; a failed span is an ``ERROR``."""

    time: int
    kind: str
    service: str | None
    instance: str | None
    text: str
    duration: float | None
    severity: str | None
    attributes: dict[str, Any]

    @property
    def failed(self) -> bool:
        """Whether it is a failed span or a log line of an error."""
        return self.severity in ("ERROR", "FATAL")

    def as_json(self) -> dict[str, Any]:
        """Return this as ``--format json`` shows it."""
        return {
            "time": to_rfc3339(self.time),
            "kind": self.kind,
            "service": self.service,
            "instance": self.instance,
            "text": self.text,
            "duration": self.duration,
            "severity": self.severity,
            "attributes": self.attributes,
        }


def span_event(span: Span) -> Event:
    """Turn a span into an event at its start."""
    told = {"otel.status_description": span.message} if span.message else {}
    return Event(
        time=span.start,
        kind="span",
        service=span.service,
        instance=span.instance,
        text=span.name,
        duration=(span.end - span.start) / 1e9,
        severity="ERROR" if span.failed else None,
        attributes=span.attributes | told,
    )


def log_event(line: LogLine) -> Event:
    """Turn a log line into an event."""
    return Event(
        time=line.time,
        kind="log",
        service=line.service,
        instance=line.instance,
        text=line.body or line.event,
        duration=None,
        severity=_severity(line),
        attributes=line.attributes,
    )


def telemetry_of(source: Source, request_id: str) -> tuple[list[Span], list[LogLine]]:
    """Return the spans and log lines of a request, in no order."""
    own_spans, log_lines = source.spans_of(request_id), source.log_lines_of(request_id)
    spans = {(span.trace_id, span.span_id): span for span in own_spans}
    traces = ({span.trace_id for span in own_spans} | {line.trace_id for line in log_lines}) - {""}
    for trace in sorted(traces):
        members = source.spans_of_trace(trace)
        mine = _spans_of_request(members, request_id)
        spans |= {(span.trace_id, span.span_id): span for span in mine}
        identifiers = {span.span_id for span in mine}
        log_lines += [line for line in source.log_lines_without_request_id(trace) if line.span_id in identifiers]
    return list(spans.values()), log_lines


def several_instances(source: Source, events: Iterable[Event], start: int, end: int) -> frozenset[str | None]:
    """Return the services of which more than one instance was there in a stretch of time."""
    instances = source.instances(start, end)
    for event in events:
        if event.instance is not None:
            instances.setdefault(event.service, set()).add(event.instance)
    return frozenset(service for service, found in instances.items() if len(found) > 1)


def _spans_of_request(members: list[Span], request_id: str) -> list[Span]:
    by_identifier = {span.span_id: span for span in members}
    only = {span.request_id for span in members if span.request_id} == {request_id}

    def owner(span: Span) -> str:
        seen: set[str] = set()
        at: Span | None = span
        while at is not None and at.span_id not in seen:
            if at.request_id:
                return at.request_id
            seen.add(at.span_id)
            at = by_identifier.get(at.parent_id)
        return request_id if only else ""

    return [span for span in members if owner(span) == request_id]


def _severity(line: LogLine) -> str | None:
    if line.severity:
        return _SEVERITIES[(line.severity - 1) // 4]
    return line.severity_text.upper() or None
