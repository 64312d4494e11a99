"""`follow`: what one request did, its spans and log lines from every service, in order of time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from clew.answers.source import LogLine, Source, Span
from clew.answers.timestamps import rfc3339

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
        """Whether it tells of a failure."""
        return self.severity in ("ERROR", "FATAL")

    def as_json(self) -> dict[str, Any]:
        """Return what the machine reads."""
        return {
            "time": rfc3339(self.time),
            "kind": self.kind,
            "service": self.service,
            "instance": self.instance,
            "text": self.text,
            "duration": self.duration,
            "severity": self.severity,
            "attributes": self.attributes,
        }


@dataclass(frozen=True)
class Followed:
    """One request from its first event to the end of its last, in nanoseconds; None where nothing was found.

    `several` are the services that had more than one instance then.
    """

    request_id: str
    start: int | None
    end: int | None
    events: list[Event]
    several: frozenset[str | None] = frozenset()

    def as_json(self) -> dict[str, Any]:
        """Return what the machine reads."""
        return {
            "version": 1,
            "request_id": self.request_id,
            "start": None if self.start is None else rfc3339(self.start),
            "end": None if self.end is None else rfc3339(self.end),
            "events": [event.as_json() for event in self.events],
        }


def follow(source: Source, request_id: str) -> Followed:
    """Collect the events of a request.

    Those that carry its ID; and in the same traces those without any ID whose nearest ancestor with one has this (a
    service that knows nothing of request IDs), or which stand in a trace that knows no other ID.
    """
    spans, log_lines = rows_of(source, request_id)
    events = [*map(span_event, spans), *map(log_event, log_lines)]
    events.sort(key=lambda event: (event.time, -(event.duration or -1.0)))  # at one instant the longer span comes first
    if not events:
        return Followed(request_id, None, None, [])
    end = max(*(span.end for span in spans), *(line.time for line in log_lines), events[0].time)
    return Followed(request_id, events[0].time, end, events, several_instances(source, events, events[0].time, end))


def several_instances(source: Source, events: Iterable[Event], start: int, end: int) -> frozenset[str | None]:
    """Return the services of which more than one instance was there in a stretch of time."""
    instances = source.instances(start, end)
    for event in events:
        if event.instance is not None:
            instances.setdefault(event.service, set()).add(event.instance)
    return frozenset(service for service, found in instances.items() if len(found) > 1)


def rows_of(source: Source, request_id: str) -> tuple[list[Span], list[LogLine]]:
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
