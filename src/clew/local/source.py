"""The local store as a source: its rows, read as the questions ask for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_origin

from clew.answers.histogram import Explicit, Exponential, Histogram
from clew.answers.source import Exemplar, ExportTimes, LogLine, Point, Series, Source, Span
from clew.local.store import StoreError, open_for_reading, reading

_SPAN = (
    "SELECT spans.id, trace_id, span_id, parent_id, name, start, end, status, message, request_id, service, instance, "
    "spans.attributes, resources.attributes FROM spans JOIN resources ON resources.id = spans.resource "
)
_LOG_LINE = (
    "SELECT log_lines.id, trace_id, span_id, time, severity, severity_text, body, event, request_id, "
    "service, instance, log_lines.attributes, resources.attributes "
    "FROM log_lines JOIN resources ON resources.id = log_lines.resource "
)

T = TypeVar("T")
Row = TypeVar("Row", Span, LogLine)

_PAGE = 5000  # rows read in one transaction, far under a second
_LARGEST = 2**63 - 1
_HOUR = 3600 * 10**9
_NEAR = 300 * 10**9  # nanoseconds: an instance that exported metrics so near was there


class LocalSource(Source):
    """A store opened for questions; close it after use.

    Raises:
        StoreError: there is no store, or it cannot be read; from every method too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_for_reading(path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def refusals(self) -> list[tuple[str, str, int]]:
        """Return what the collector did not store: signal, reason, count."""
        return self._all("SELECT signal, reason, count FROM refusals ORDER BY 3 DESC")

    def last_export(self, until: int) -> int | None:
        """Return the time of the newest point of any metric, not after `until`."""
        statement = (
            "SELECT max((SELECT max(time) FROM points WHERE points.series = series.id AND time <= ?)) FROM series"
        )
        found: int | None = self._all(statement, until)[0][0]
        return found

    def histograms(self, names: Sequence[str]) -> list[Series]:
        """Return every series of histograms with one of these names."""
        rows = self._all(
            "SELECT series.id, series.resource, service, name, unit, kind, temporality, series.attributes, "
            "resources.attributes, bounds, start FROM series JOIN resources ON resources.id = series.resource "
            f"WHERE name IN ({_marks(names)}) AND kind IN ('histogram', 'exponential_histogram') AND first IS NOT NULL "
            "ORDER BY series.id",
            *names,
        )
        found: list[Series] = []
        for *identity, attributes, resource_attributes, bounds, start in rows:
            columns: list[Any] = [*identity, _object(attributes), _object(resource_attributes), _bounds(bounds), start]
            found.append(Series(*columns))
        return found

    def export_times(self, resources: Iterable[int], start: int, end: int) -> list[ExportTimes]:
        """Return when each series, of any kind, of these resources was exported, seen from the window (start, end]."""
        return [
            ExportTimes(resource, first_start or 0, temporality == "delta", before, first, last)
            for resource in resources
            for temporality, first_start, before, first, last in self._all(
                "SELECT temporality, ifnull((SELECT start FROM points WHERE points.series = series.id AND time > ? "
                "ORDER BY time LIMIT 1), start), "
                "(SELECT max(time) FROM points WHERE points.series = series.id AND time <= ?), "
                "(SELECT min(time) FROM points WHERE points.series = series.id AND time > ? AND time <= ?), "
                "(SELECT max(time) FROM points WHERE points.series = series.id AND time > ? AND time <= ?) "
                "FROM series WHERE resource = ?",
                *(start, start),
                *(start, end),
                *(start, end),
                resource,
            )
        ]

    def instances(self, start: int, end: int) -> dict[str | None, set[str]]:
        """Return, by service, the instances that exported metrics in [start, end] or a few minutes around it."""
        found: dict[str | None, set[str]] = {}
        for service, instance in self._all(
            "SELECT DISTINCT service, instance FROM resources JOIN series ON series.resource = resources.id "
            "WHERE instance IS NOT NULL AND EXISTS "
            "(SELECT 1 FROM points WHERE points.series = series.id AND time >= ? AND time <= ?)",
            start - _NEAR,
            end + _NEAR,
        ):
            found.setdefault(service, set()).add(instance)
        return found

    def first_export(self, resource: int, start: int) -> int | None:
        """Return the time of the first export of this resource with this start time, deleted ones included."""
        statement = "SELECT min(first) FROM series WHERE resource = ? AND start = ? AND temporality != 'delta'"
        found: int | None = self._all(statement, resource, start)[0][0]
        return found

    def last_point(self, series: Series, until: int) -> Point | None:
        """Return the last point at or before a time."""
        found = self._points(series, "time <= ? ORDER BY time DESC, start DESC LIMIT 1", until)
        return found[0] if found else None

    def next_time(self, series: Series, since: int) -> int | None:
        """Return the time of the first point at or after a time."""
        statement = "SELECT min(time) FROM points WHERE series = ? AND time >= ?"
        found: int | None = self._all(statement, series.number, since)[0][0]
        return found

    def points(self, series: Series, start: int, end: int) -> list[Point]:
        """Return the points in (start, end], in order of time."""
        return self._points(series, "time > ? AND time <= ? ORDER BY time, start", start, end)

    def exemplars(self, series: Series, start: int, end: int) -> list[Exemplar]:
        """Return the exemplars in (start, end]; one without a request ID takes its span's."""
        return [
            Exemplar(*row)
            for row in self._all(
                "SELECT time, value, coalesce(nullif(exemplars.request_id, ''), nullif((SELECT request_id FROM "
                "spans WHERE exemplars.trace_id != '' AND spans.trace_id = exemplars.trace_id AND spans.span_id = "
                "exemplars.span_id), '')) FROM exemplars "
                "WHERE series = ? AND time > ? AND time <= ?",
                series.number,
                start,
                end,
            )
        ]

    def spans_of(self, request_id: str) -> list[Span]:
        """Return the spans that carry this request ID."""
        return _read(Span, self._all(f"{_SPAN} WHERE request_id = ? AND request_id != ''", request_id))

    def spans_of_trace(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace."""
        return _read(Span, self._all(f"{_SPAN} WHERE trace_id = ?", trace_id))

    def log_lines_of(self, request_id: str) -> list[LogLine]:
        """Return the log lines that carry this request ID."""
        return _read(LogLine, self._all(f"{_LOG_LINE} WHERE request_id = ? AND request_id != ''", request_id))

    def log_lines_without_request_id(self, trace_id: str) -> list[LogLine]:
        """Return the log lines of a trace that carry no request ID."""
        where = "WHERE trace_id = ? AND trace_id != '' AND request_id = ''"
        return _read(LogLine, self._all(f"{_LOG_LINE} {where}", trace_id))

    def exemplar_times_of(self, request_id: str) -> list[int]:
        """Return the times of the exemplars that carry this request ID."""
        rows = self._all("SELECT time FROM exemplars WHERE request_id = ? AND request_id != ''", request_id)
        return [time for (time,) in rows]

    def spans_between(self, start: int, end: int) -> list[Span]:
        """Return the spans that were under way at any time in [start, end] and ended within an hour after it."""
        statement = (
            f"{_SPAN} WHERE end >= ? AND end <= ? AND start <= ? AND (end, spans.id) > (?, ?) ORDER BY end, spans.id"
        )
        rows = self._pages(statement, 6, start, end + _HOUR, end)
        return _read(Span, rows)

    def log_lines_between(self, start: int, end: int) -> list[LogLine]:
        """Return the log lines in [start, end]."""
        statement = (
            f"{_LOG_LINE} WHERE time >= ? AND time <= ? AND (time, log_lines.id) > (?, ?) ORDER BY time, log_lines.id"
        )
        return _read(LogLine, self._pages(statement, 3, start, end))

    def _pages(self, statement: str, column: int, *values: int) -> Iterator[Any]:
        """Read a long answer in short transactions; `column` is what it is ordered by, before its number."""
        after = (-1, -1)
        while rows := self._all(f"{statement} LIMIT {_PAGE}", *values, *after):
            yield from rows
            after = (rows[-1][column], rows[-1][0])

    def _points(self, series: Series, where: str, *values: int) -> list[Point]:
        rows = self._all(
            f"SELECT time, start, count, sum, buckets FROM points WHERE series = ? AND {where}", series.number, *values
        )
        with reading(self.path):
            return [
                Point(time, start, _histogram(series, count, total, buckets))
                for time, start, count, total, buckets in rows
            ]

    def _all(self, statement: str, *values: Any) -> list[Any]:
        """Return the rows; times beyond what SQLite's INTEGER holds are cut to what it does."""
        fit = [min(max(value, -_LARGEST), _LARGEST) if isinstance(value, int) else value for value in values]
        if any(isinstance(value, str) and not value.isascii() and not _is_unicode(value) for value in values):
            return []  # of bytes that are none, on a command line: nothing has that ID
        with reading(self.path):
            return self._connection.execute(statement, fit).fetchall()


def _histogram(series: Series, count: int, total: float | None, buckets: str) -> Histogram:
    stored = json.loads(buckets)
    if series.kind == "histogram":
        if stored and len(stored) != len(series.bounds) + 1:
            raise ValueError("bucket counts that do not fit their bounds")
        return Explicit(series.bounds, count, total, stored)
    return Exponential(
        stored["scale"],
        count,
        total,
        stored["zero"],
        stored["threshold"],
        _sparse(*stored["positive"]),
        _sparse(*stored["negative"]),
    )


def _read(kind: type[Row], rows: Iterable[Any]) -> list[Row]:
    """Turn rows into spans or log lines; a resource that many of them share is read once."""
    resources: dict[str, dict[str, Any]] = {}
    found: list[Row] = []
    for _, *columns, attributes, resource in rows:
        if resource not in resources:
            resources[resource] = _object(resource)
        values: list[Any] = [*columns, _object(attributes), resources[resource]]
        found.append(kind(*values))
    return found


def _sparse(offset: int, counts: list[int]) -> dict[int, int]:
    return {offset + index: count for index, count in enumerate(counts) if count}


def _bounds(text: str) -> tuple[float, ...]:
    return tuple(_parsed(text or "[]", list[float]))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(text: str) -> dict[str, Any]:
    return _parsed(text, dict[str, Any])


def _parsed(text: str, kind: type[T]) -> T:
    """Parse what a row keeps as JSON; a StoreError where it is none of this kind."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError) as error:
        raise StoreError(f"the store is damaged, a row of it cannot be read: {error}") from error
    if not isinstance(found, get_origin(kind) or kind):
        raise StoreError(f"the store is damaged, a row of it cannot be read: no {kind.__name__} in JSON")
    return cast("T", found)


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
