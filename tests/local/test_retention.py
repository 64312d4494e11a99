"""What goes first when the store is full, and what stays whatever its size."""

from __future__ import annotations

import contextlib
import os
import time

import pytest

from clew.answers.questions.report import report
from clew.local import otlp
from clew.local.retention import Retention
from clew.local.source import LocalSource
from clew.local.store import WritableStore
from clew.local.writer import Writer

HOUR = 3600 * 10**9
LIMIT = 2**20


@pytest.fixture
def keep(tmp_path):
    """Store exports within a bound; returns how many rows of each table are left, and what was reported."""

    def keep(*pairs, limit=LIMIT):
        reported: list[str] = []
        store = WritableStore(tmp_path / "clew.sqlite")
        writer = Writer(store, Retention(None, limit, reported.append), reported.append)
        for rows, message in pairs:
            writer.write(rows(message, "request_id")).result(60)
        writer.close()
        tables = ("log_lines", "spans", "exemplars", "points", "series")
        counts = {table: store.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
        size = store.size()
        store.close()
        return counts, reported, size

    return keep


def lines(exports, now, count):
    message = exports.log_line("first", at=now)
    for number in range(count):
        message.resource_logs[0].scope_logs[0].log_records.add(time_unix_nano=now + number).body.string_value = (
            "x" * 900
        )
    return otlp.log_lines, message


def spans(exports, now, count):
    message = exports.span("first", start=now, end=now, trace_id=b"t" * 16, span_id=os.urandom(8))
    for number in range(count):
        message.resource_spans[0].scope_spans[0].spans.add(
            trace_id=b"t" * 16,
            span_id=os.urandom(8),
            name="x" * 900,
            start_time_unix_nano=now,
            end_time_unix_nano=now + number,
        )
    return otlp.spans, message


def metrics(exports, now, count, *, name="operation.duration", exemplars=3, start=None, counted=0):
    """One series of `count` points, a millisecond apart, each with a call more, `counted` before them."""
    resource = {"service.name": "shop", "service.instance.id": "1"}
    message = exports.histogram([0.5], at=now + 10**6, start=start or now, name=name, resource=resource)
    points = message.resource_metrics[0].scope_metrics[0].metrics[0].histogram.data_points
    for number in range(1, count + 1):
        point = points[0] if number == 1 else points.add()
        if number > 1:
            point.CopyFrom(points[0])
            point.ClearField("exemplars")
        point.time_unix_nano = now + number * 10**6
        point.count = point.bucket_counts[3] = counted + number
        point.sum = point.count / 2
        for each in range(exemplars):
            exemplar = point.exemplars.add(as_double=0.5, time_unix_nano=now + number)
            exports.attributes(exemplar.filtered_attributes, {"request_id": f"request-{number}-{each}"})
    return otlp.metrics, message


def test_log_lines_go_first(keep, exports, now):
    counts, reported, size = keep(
        metrics(exports, now, 200), spans(exports, now, 200), lines(exports, now, 500), lines(exports, now + HOUR, 500)
    )
    assert (counts["spans"], counts["exemplars"], counts["points"]) == (201, 600, 200)
    assert 0 < counts["log_lines"] < 700
    assert reported == []
    assert size <= LIMIT


def test_then_spans_then_exemplars(keep, exports, now):
    counts, reported, _ = keep(metrics(exports, now, 300), lines(exports, now, 100), spans(exports, now, 1500))
    assert counts["log_lines"] == 0
    assert 0 < counts["spans"] < 1500
    assert counts["exemplars"] == 900
    counts, reported, size = keep(metrics(exports, now + HOUR, 1200, exemplars=5))
    assert counts["spans"] == 0
    assert 0 < counts["exemplars"] < 6900
    assert counts["points"] == 1500
    assert reported == []
    assert size <= LIMIT


def test_old_metrics_go_last_but_for_what_newer_ones_are_counted_from(keep, exports, now, tmp_path):
    old = now - 300 * HOUR
    pairs = [
        metrics(exports, old, 6000, exemplars=0),
        metrics(exports, now - 80 * HOUR, 6000, exemplars=0, start=old, counted=6000),
    ]
    pairs.append(metrics(exports, now - HOUR, 7000, exemplars=0, start=old, counted=12_000))
    counts, reported, size = keep(*pairs)
    assert reported == []
    assert size <= LIMIT
    assert 7001 <= counts["points"] < 19_000 - 6000 + 1
    with contextlib.closing(LocalSource(tmp_path / "clew.sqlite")) as source:
        (one,) = report(source, 48 * 3600, 24 * 3600).operations
    assert one.calls == 7000


def test_metrics_of_two_days_stay_though_they_are_too_large_and_that_is_reported_once(keep, exports, now):
    counts, reported, _ = keep(*[metrics(exports, now - hour * HOUR, 6000, exemplars=0) for hour in (4, 3, 2, 1)])
    assert counts["points"] == 24_000
    assert len(reported) == 1
    assert "metrics of the last 49 hours are kept" in reported[0]


def test_series_of_processes_long_gone_are_deleted_when_nothing_else_is_left(keep, exports, now):
    gone = now - 400 * HOUR
    rows, message = metrics(exports, gone, 1, exemplars=0)
    for number in range(600):
        message.MergeFrom(metrics(exports, gone, 1, name=f"gone.{number}" * 60, exemplars=0)[1])
    counts, _, _ = keep((rows, message), metrics(exports, now, 13_000, exemplars=0))
    assert counts["series"] == 1
    assert counts["points"] == 13_000


def test_a_store_within_its_bounds_is_left_alone(keep, exports, now):
    counts, _, _ = keep(metrics(exports, now - 500 * HOUR, 20), lines(exports, now, 20), spans(exports, now, 20))
    assert counts == {"log_lines": 21, "spans": 21, "exemplars": 60, "points": 20, "series": 1}
    assert time.time_ns() > now
