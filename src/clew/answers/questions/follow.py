"""`follow`: what one request did, its spans and log lines from every service, in order of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clew.answers.questions.events import Event, log_event, several_instances, span_event, telemetry_of
from clew.answers.source import Source
from clew.answers.timestamps import to_rfc3339


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
        """Return this as ``--format json`` shows it."""
        return {
            "version": 1,
            "request_id": self.request_id,
            "start": None if self.start is None else to_rfc3339(self.start),
            "end": None if self.end is None else to_rfc3339(self.end),
            "events": [event.as_json() for event in self.events],
        }


def follow(source: Source, request_id: str) -> Followed:
    """Return the events of a request.

    Those are the spans and log lines that carry its ID; and in the same traces those without any ID whose nearest
    ancestor with an ID has this one (a service that knows nothing of request IDs), or whose trace has no other ID.
    """
    spans, log_lines = telemetry_of(source, request_id)
    events = [*map(span_event, spans), *map(log_event, log_lines)]
    events.sort(key=lambda event: (event.time, -(event.duration or -1.0)))  # at one instant the longer span comes first
    if not events:
        return Followed(request_id, None, None, [])
    end = max(*(span.end for span in spans), *(line.time for line in log_lines), events[0].time)
    return Followed(request_id, events[0].time, end, events, several_instances(source, events, events[0].time, end))
