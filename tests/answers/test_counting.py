"""Counting over a window, against a model that knows every call: the store and the questions, without a network."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clew.answers.questions.report import report
from clew.local import otlp
from clew.local.retention import Retention
from clew.local.source import LocalSource
from clew.local.store import WritableStore
from clew.local.writer import Writer

SECOND = 10**9
WINDOW = 600
STALE = 300


@contextlib.contextmanager
def asked(messages, window=WINDOW, compare=WINDOW):
    """Store exports and ask for the report."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clew.sqlite"
        reported: list[str] = []
        store = WritableStore(path)
        writer = Writer(store, Retention(None, 2**30, reported.append), reported.append)
        for message in messages:
            writer.write(otlp.metrics(message, "request_id")).result(10)
        writer.close()
        store.close()
        assert reported == []
        with contextlib.closing(LocalSource(path)) as source:
            yield report(source, window, compare)


@dataclass(frozen=True)
class Process:
    """One writer: begins, calls (second, failed) and exports at some seconds, all counted from an origin."""

    instance: int
    start: int
    calls: tuple[tuple[int, bool], ...]
    exports: tuple[int, ...]
    delta: bool


@st.composite
def processes(draw):
    start = draw(st.integers(0, 1500))
    life = draw(st.integers(1, 1500))
    first = draw(st.integers(1, 200))
    interval = draw(st.integers(5, 120))
    seconds = st.integers(start + 1, start + life)
    return Process(
        instance=draw(st.integers(0, 1)),
        start=start,
        calls=tuple(sorted(draw(st.lists(st.tuples(seconds, st.booleans()), max_size=12)))),
        exports=tuple(range(start + first, start + first + life, interval)),
        delta=draw(st.booleans()),
    )


def messages_of(exports, process, origin):
    begun = process.start
    for at in process.exports:
        since = begun if process.delta else -1
        message = None
        for failed in (False, True):
            counted = [call for call, is_failed in process.calls if since < call <= at and is_failed == failed]
            if counted or (not process.delta and not failed):
                message = exports.histogram(
                    [0.05] * len(counted),
                    at=origin + at * SECOND,
                    start=origin + (begun if process.delta else process.start) * SECOND,
                    attributes={"operation.name": "checkout", **({"error.type": "Declined"} if failed else {})},
                    resource={"service.name": "shop", "service.instance.id": str(process.instance)},
                    delta=process.delta,
                    message=message,
                )
        begun = at
        if message is not None:
            yield at, message


def expected(everything, end, window):
    """What is to be counted in (end - window, end], computed in another way, from the calls themselves."""
    edge = end - window
    counted: Counter[bool] = Counter()
    for process in everything:
        exported = [at for at in process.exports if at <= end]
        if not exported:
            continue
        if process.delta:
            begun = [process.start, *process.exports]
            spans = [(a, b) for a, b in zip(begun, process.exports, strict=False) if edge < b <= end]
            counted.update(failed for call, failed in process.calls if any(a < call <= b for a, b in spans))
            continue
        before = [at for at in exported if at <= edge]
        others = [
            at
            for other in everything
            if other.instance == process.instance
            for at in other.exports
            if at <= edge and at >= edge - STALE and (not other.delta or has_point(other, at))
        ]
        if before:
            since = before[-1]
        elif process.start >= edge or (others and process.start >= max(others)):
            since = process.start
        else:
            since = exported[0]
        counted.update(failed for call, failed in process.calls if since < call <= exported[-1])
    return counted


def has_point(process, at):
    begun = dict(zip(process.exports, (process.start, *process.exports), strict=False))[at]
    return any(begun < call <= at for call, _ in process.calls)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    everything=st.lists(processes(), min_size=1, max_size=4, unique_by=lambda process: process.start),
    order=st.randoms(use_true_random=False),
    repeated=st.integers(0, 3),
)
def test_calls_are_those_that_ended_in_the_window_whatever_the_order_and_repeats(exports, everything, order, repeated):
    origin = (int(time.time()) - 10_000) * SECOND
    sent = [pair for process in everything for pair in messages_of(exports, process, origin)]
    if not sent:
        return
    end = max(at for at, _ in sent)
    sent += order.choices(sent, k=repeated)
    order.shuffle(sent)
    counts = expected(everything, end, WINDOW)
    with asked([message for _, message in sent]) as answer:
        assert answer.end == origin + end * SECOND
        found = {one.operation.name: one for one in answer.operations}
        calls = found["checkout"].calls if found else 0
        errors = found["checkout"].errors if found else {}
    assert calls == counts.total()
    assert errors == ({"Declined": counts[True]} if counts[True] else {})


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.integers(0, 6), min_size=2, max_size=30), begin=st.integers(0, 20))
def test_a_reset_without_a_new_start_counts_only_where_the_value_falls(exports, values, begin):
    now = (int(time.time()) - 1000) * SECOND
    start = now - 5000 * SECOND
    sent = [
        exports.histogram([0.05] * value, at=now + number * SECOND, start=start) for number, value in enumerate(values)
    ]
    begin = min(begin, len(values) - 1)
    window = len(values) - 1 - begin
    if not window:
        return
    rises = sum(b - a if b >= a else b for a, b in itertools.pairwise(values[begin:]))
    with asked(sent, window=window) as answer:
        assert sum(one.calls for one in answer.operations) == rises


def test_two_processes_with_one_resource_and_other_start_times_are_added(exports):
    now = (int(time.time()) - 1000) * SECOND
    sent = []
    for step in range(1, 11):
        for writer, calls in ((0, 3), (1, 500)):
            at = now + (step * 10 + writer) * SECOND
            sent.append(exports.histogram([0.05] * calls * step, at=at, start=now + writer))
    with asked(sent) as answer:
        assert [one.calls for one in answer.operations] == [3 * 10 + 500 * 10]


def test_bounds_that_change_in_one_process_do_not_mix(exports):
    now = (int(time.time()) - 1000) * SECOND
    coarse = exports.histogram([0.05] * 10, at=now + 10 * SECOND, start=now)
    fine = exports.histogram([0.05] * 30, at=now + 20 * SECOND, start=now + 10 * SECOND)
    point = fine.resource_metrics[0].scope_metrics[0].metrics[0].histogram.data_points[0]
    point.ClearField("explicit_bounds")
    point.explicit_bounds.extend([0.04, 0.06])
    point.ClearField("bucket_counts")
    point.bucket_counts.extend([0, 30, 0])
    with asked([coarse, fine]) as answer:
        (one,) = answer.operations
    assert one.calls == 40
    assert one.p50 is not None
    assert 0.04 <= one.p50.value <= 0.06


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_durations_are_in_seconds_whatever_the_unit(exports, unit):
    factor = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[unit]
    now = (int(time.time()) - 1000) * SECOND
    exports_in_unit = type(exports)()
    exports_in_unit.bounds = tuple(bound * factor for bound in exports.bounds)
    durations = [0.05 * factor] * 10
    exemplars = [(0.05 * factor, now, "r")]
    message = exports_in_unit.histogram(durations, at=now + SECOND, start=now - SECOND, unit=unit, exemplars=exemplars)
    with asked([message]) as answer:
        (one,) = answer.operations
    assert one.p50 is not None
    assert (one.p50.low, one.p50.high) == (pytest.approx(0.01), pytest.approx(0.1))
    assert one.slowest[0].duration == pytest.approx(0.05)
    assert one.duration.now == pytest.approx(0.05)
