"""What a test has seen of its requests: log lines and spans, in order of time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from clew.policy import policy
from clew.testing.calls import Calls
from clew.testing.tables import Listed, attributes_text, seconds_text

_MOST_EVENTS = 200


@dataclass(frozen=True)
class LogLine:
    """One log record.

    Attributes:
        text: What it says.
        severity: Its severity text, ``INFO`` and so on.
        logger: The name of its logger.
        attributes: Its attributes, those of exceptions and of the place in the source included.
        request_id: The ID of its request, or None.
        time: In nanoseconds since the epoch.
        trace_id, span_id: Of the span that it was logged in, or None.
    """

    text: str
    severity: str
    logger: str
    attributes: Mapping[str, Any]
    request_id: str | None
    time: int
    trace_id: int | None
    span_id: int | None

    def __str__(self) -> str:
        return self.text


class CapturedRequest:
    """One request of a test.

    Attributes:
        request_id: Its ID.
        calls: The calls of operations in it.
        log_lines: Its log lines, in order of time.
        spans: Its spans that have ended, in the order that they ended in.
    """

    def __init__(
        self, request_id: str, calls: Calls, log_lines: Sequence[LogLine], spans: Sequence[ReadableSpan]
    ) -> None:
        self.request_id = request_id
        self.calls = calls
        self.log_lines: list[LogLine] = Listed(log_lines, self)
        self.spans: list[ReadableSpan] = Listed(spans, self)

    def __repr__(self) -> str:
        return (
            f"<request {self.request_id}: {len(self.calls)} calls, {len(self.log_lines)} log lines, "
            f"{len(self.spans)} spans>"
        )

    @property
    def texts(self) -> list[str]:
        """What its log lines say."""
        return Listed((line.text for line in self.log_lines), self)

    @property
    def span_names(self) -> list[str]:
        """The names of its spans."""
        return Listed((span.name for span in self.spans), self)

    def table(self) -> list[str]:
        """Return its log lines and spans as the lines of a table, in order of time."""
        return [f"request {self.request_id}", *timeline(self.log_lines, self.spans)]


def request_id_of_span(span: ReadableSpan) -> str | None:
    """Return the request ID on a span, or None."""
    found = (span.attributes or {}).get(policy.attribute)
    return found if isinstance(found, str) else None


def timeline(log_lines: Iterable[LogLine], spans: Iterable[ReadableSpan]) -> list[str]:
    """Return log lines and spans in order of time, one a line, of very many the last ones."""
    events = [(line.time, _line(line)) for line in log_lines] + [(span.start_time or 0, _span(span)) for span in spans]
    events.sort(key=lambda event: event[0])
    shown = events[-_MOST_EVENTS:]
    left_out = [f"  … {len(events) - len(shown)} more before these"] if len(events) > len(shown) else []
    texts = [f"  {datetime.fromtimestamp(at / 1e9).strftime('%H:%M:%S.%f')[:-3]}  {text}" for at, text in shown]
    return [*left_out, *texts] or ["  no log lines and no spans"]


def _line(line: LogLine) -> str:
    stacktrace = line.attributes.get("exception.stacktrace")
    error = f": {str(stacktrace).strip().splitlines()[-1]}" if stacktrace else ""
    return f"{line.severity:<8}  {line.logger}  {line.text}{error}"


def _span(span: ReadableSpan) -> str:
    seconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
    attributes = {
        name: value
        for name, value in (span.attributes or {}).items()
        if name not in (policy.attribute, "operation.name")
    }
    status = "" if span.status.is_unset else f"  {span.status.status_code.name}"
    return f"span      {span.name}  {seconds_text(seconds)}{status}  {attributes_text(attributes)}".rstrip(" -")
