"""Telemetry is other people's: no text of it acts in the terminal, no number of it keeps a question from its answer."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from clew.answers.timestamps import to_rfc3339
from clew.cli import main
from clew.local import otlp
from clew.local.retention import Retention
from clew.local.store import WritableStore
from clew.local.writer import Writer

SECOND = 10**9
CLEW = (sys.executable, "-m", "clew.cli")
LARGEST = 2**63 - 1
CENTURY = "36600d"
INSTRUMENTS = (
    "operation.duration",
    "http.server.request.duration",
    "rpc.server.duration",
    "messaging.process.duration",
)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

texts = st.one_of(
    st.sampled_from(
        [
            "a[/b]",
            "[link=file:///etc/passwd]x[/link]",
            "[bold red]x",
            "[/]",
            "\\[",
            "\x1b]8;;http://x\x07y\x1b]8;;\x07",
            "\x1b[2J\x1b[1;31m",
            "\x9b31m",
            "\u202egnp.exe",
            "a\x00b",
            "a\r\nb\tc\x08",
            "\u2028\u2029\ufeff\u200d",
            ":smile:",
            "%s %(x)s {} {0}",
            "𝔘" * 50,
            "x" * 3000,
            "a/b." * 500,
            " " * 100,
            "",
            '{"a": NaN}',
        ]
    ),
    st.text(max_size=12),
)
tracebacks = texts.map(
    lambda text: f'Traceback (most recent call last):\n  File "{text}", line 7, in {text}\n    {text}\nE: {text}'
)
moments = st.one_of(
    st.integers(-100, 10).map(lambda seconds: time.time_ns() + seconds * SECOND),
    st.sampled_from([0, 1, SECOND, LARGEST, LARGEST - 1, 2**63, 2**64 - 1]),
    st.integers(0, 2**64 - 1),
)
counts = st.one_of(st.integers(0, 100), st.sampled_from([LARGEST, 2**63, 2**64 - 1]))
floats = st.one_of(
    st.floats(0, 10), st.floats(), st.sampled_from([5e-324, 1.7e308, -1.7e308, 1e200, float("inf"), float("nan")])
)
plain_values = st.one_of(texts, st.booleans(), st.integers(-(2**63), LARGEST), floats)
values = st.one_of(plain_values, st.dictionaries(texts, plain_values, max_size=2))
told_operations = st.fixed_dictionaries({"count": values, "failed": values, "duration": floats})
operations = st.fixed_dictionaries({"request.operations": st.dictionaries(texts, told_operations, max_size=2)})
identifiers = st.sampled_from(["r", "a[/b]", "\x1b[31mr", "12:00"])


def fill(target, attributes):
    for key, value in attributes.items():
        pair = target.add(key=key)
        if isinstance(value, dict):
            fill(pair.value.kvlist_value.values, value)
        elif isinstance(value, bool):
            pair.value.bool_value = value
        elif isinstance(value, int):
            pair.value.int_value = value
        elif isinstance(value, float):
            pair.value.double_value = value
        else:
            pair.value.string_value = value


@st.composite
def resources(draw):
    more = draw(st.dictionaries(texts, values, max_size=1))
    return {"service.name": draw(texts), "service.instance.id": draw(texts), **more}


@st.composite
def metrics(draw):
    message = ExportMetricsServiceRequest()
    sender = message.resource_metrics.add()
    fill(sender.resource.attributes, draw(resources()))
    scope = sender.scope_metrics.add()
    scope.scope.name = draw(texts)
    metric = scope.metrics.add(name=draw(st.sampled_from(INSTRUMENTS)), unit=draw(st.sampled_from(["s", "h", "[/b]"])))
    delta, exponential, start = draw(st.booleans()), draw(st.booleans()), draw(moments)
    bounds = sorted(draw(st.sets(floats.filter(lambda f: abs(f) < float("inf")), max_size=4)))
    attributes = {
        **{name: draw(values) for name in ("operation.name", "http.request.method", "http.route", "rpc.method")},
        **draw(st.dictionaries(texts, values, max_size=1)),
        **({"error.type": draw(values)} if draw(st.booleans()) else {}),
    }
    for _ in range(draw(st.integers(1, 4))):
        data = metric.exponential_histogram if exponential else metric.histogram
        data.aggregation_temporality = 1 if delta else 2
        point = data.data_points.add(start_time_unix_nano=start, time_unix_nano=draw(moments), count=draw(counts))
        fill(point.attributes, attributes)
        if draw(st.booleans()):
            point.sum = draw(floats)
        if exponential:
            point.scale = draw(st.one_of(st.integers(-10, 20), st.integers(-(2**31), 2**31 - 1)))
            point.zero_count, point.zero_threshold = draw(counts), draw(floats)
            for side in (point.positive, point.negative):
                side.offset = draw(st.one_of(st.integers(-5, 5), st.integers(-(2**31), 2**31 - 1)))
                side.bucket_counts.extend(draw(st.lists(counts, max_size=3)))
        else:
            point.explicit_bounds.extend(bounds)
            point.bucket_counts.extend(draw(st.lists(counts, min_size=len(bounds) + 1, max_size=len(bounds) + 1)))
        exemplar = point.exemplars.add(time_unix_nano=draw(moments), as_double=draw(floats))
        fill(exemplar.filtered_attributes, {"request_id": draw(identifiers), draw(texts): draw(values)})
    return message


@st.composite
def spans(draw):
    message = ExportTraceServiceRequest()
    sender = message.resource_spans.add()
    fill(sender.resource.attributes, draw(resources()))
    for _ in range(draw(st.integers(1, 3))):
        span = sender.scope_spans.add().spans.add(
            name=draw(texts),
            start_time_unix_nano=draw(moments),
            end_time_unix_nano=draw(moments),
            trace_id=b"t" * 16,
            span_id=draw(st.binary(min_size=8, max_size=8)),
            parent_span_id=draw(st.binary(max_size=9)),
            trace_state=draw(texts),
        )
        span.status.code = draw(st.integers(0, 3))
        span.status.message = draw(texts)
        fill(span.attributes, {"request_id": draw(identifiers), "error.type": draw(values), draw(texts): draw(values)})
        event = span.events.add(name=draw(texts), time_unix_nano=draw(moments))
        fill(event.attributes, {"exception.stacktrace": draw(tracebacks)})
    return message


@st.composite
def log_lines(draw):
    message = ExportLogsServiceRequest()
    sender = message.resource_logs.add()
    fill(sender.resource.attributes, draw(resources()))
    for _ in range(draw(st.integers(1, 3))):
        record = sender.scope_logs.add().log_records.add(
            time_unix_nano=draw(moments),
            severity_number=draw(st.sampled_from([0, 9, 17])),
            severity_text=draw(texts),
            event_name=draw(texts),
            trace_id=b"t" * 16,
        )
        record.body.string_value = draw(texts)
        attributes = {"request_id": draw(identifiers), "exception.stacktrace": draw(tracebacks)}
        fill(record.attributes, {**attributes, **draw(operations), draw(texts): draw(values)})
    return message


def store_of(path, messages):
    reported: list[str] = []
    store = WritableStore(path)
    writer = Writer(store, Retention(None, 2**30, reported.append), reported.append)
    for message in messages:
        rows = {
            ExportMetricsServiceRequest: otlp.metrics,
            ExportTraceServiceRequest: otlp.spans,
            ExportLogsServiceRequest: otlp.log_lines,
        }[type(message)]
        writer.write(rows(message, "request_id")).result(10)
    writer.close()
    store.close()
    assert reported == []


def run(*arguments, **environment):
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for name, value in environment.items():
            patch.setenv(name, value)
        status = main([str(argument) for argument in arguments])
    assert status in (0, 1), err.getvalue()
    return out.getvalue(), err.getvalue()


def harmless(text):
    return all(character.isprintable() or character == "\n" for character in text)


def not_json(constant):
    raise AssertionError(constant)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    messages=st.lists(st.one_of(metrics(), spans(), log_lines()), min_size=1, max_size=5),
    asked=identifiers,
    moment=st.sampled_from([0, LARGEST, None]),
    columns=st.integers(20, 200),
)
def test_every_question_answers_whatever_was_stored_and_nothing_of_it_acts_in_the_terminal(
    messages, asked, moment, columns
):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clew.sqlite"
        store_of(path, messages)
        at = to_rfc3339(time.time_ns() if moment is None else moment)
        for question in (
            ("report", "--window", "5m"),
            ("report", "--window", CENTURY),
            ("follow", asked),
            ("around", asked),
            ("around", at, "--window", CENTURY),
        ):
            shown, reported = run(*question, "--store", path, COLUMNS=str(columns))
            assert harmless(shown)
            assert harmless(reported)
            coloured, _ = run(*question, "--store", path, COLUMNS=str(columns), FORCE_COLOR="1", TERM="xterm-256color")
            assert harmless(COLOURS.sub("", coloured))
            answer, _ = run(*question, "--store", path, "--format", "json")
            assert harmless(answer)
            json.loads(answer, parse_constant=not_json)


@pytest.mark.parametrize("words", [("\udc80",), ("caf\udce9",)])
def test_an_id_that_is_no_text_is_not_found_and_not_an_error(stored, clew, words):
    for command in ("follow", "around"):
        answer = clew(command, *words, "--store", stored.store)
        assert answer.status == 1
        assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_has_no_such_characters_gets_question_marks(stored, exports, now, encoding):
    stored.send(exports.log_line("snowman ☃ done", at=now, attributes={"request_id": "r"}))
    command = [*CLEW, "follow", "r", "--store", str(stored.store)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"snowman ? done" in done.stdout


def test_of_megabytes_the_text_shows_a_beginning_and_json_has_all(stored, clew, exports, now):
    body, deep = "b" * 2**20, "\n".join(f"at shop.Front.pay(Front.java:{number})" for number in range(50_000))
    attributes = {"request_id": "r", "exception.stacktrace": deep, "a" * 2**19: "v" * 2**19}
    message = exports.histogram([0.1], at=now, start=now - 1, attributes={"operation.name": "o" * 2**20})
    stored.send(message, exports.log_line(body, at=now, severity=17, attributes=attributes))
    for question in (("report",), ("follow", "r"), ("around", "r")):
        shown = clew(*question, "--store", stored.store).stdout
        assert 0 < len(shown) < 40_000
        assert "--format" in shown
    (event,) = clew("follow", "r", "--store", stored.store, "--format", "json").json["events"]
    assert (event["text"], event["attributes"]) == (body, attributes)


# ------------------------------------------------------------------------------------------------------ two writers


def interleaved(exports, now, writers, steps, start=0):
    for step in range(1, steps + 1):
        for number in range(writers):
            at = now - (steps - step) * 10 * SECOND + number * SECOND
            yield exports.histogram([0.05] * (step * (1 + 40 * number)), at=at, start=start)


@pytest.mark.parametrize("writers", [2, 3, 4])
def test_several_writers_that_send_as_one_are_reported(stored, clew, exports, now, writers):
    stored.send(*interleaved(exports, now, writers, 10))
    for question in (("report",), ("around", to_rfc3339(now), "--window", "5m")):
        reported = clew(*question, "--store", stored.store).stderr
        assert "too many calls are counted of checkout of shop" in reported
        assert "service.instance.id" in reported


@settings(max_examples=30, deadline=None)
@given(lives=st.lists(st.integers(8, 14), min_size=1, max_size=6), more=st.integers(1, 9))
def test_one_process_that_restarts_is_not_taken_for_several(exports, lives, more):
    now = int(time.time()) * SECOND
    counts = [step * more + number % 3 for number, life in enumerate(lives) for step in range(1, life + 1)]
    messages = [
        exports.histogram([0.05] * count, at=now - (len(counts) - number) * 10 * SECOND, start=0)
        for number, count in enumerate(counts)
    ]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clew.sqlite"
        store_of(path, messages)
        _, reported = run("report", "--store", path)
        assert reported == ""
