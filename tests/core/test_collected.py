"""What is measured, logged or entered while the garbage collector is at work: it never harms what that interrupts.

Before Python 3.12 the collector runs in the middle of `ContextVar.set`, and one set meanwhile crashes the interpreter.
So these are programs of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import contextvars, gc, json, logging, sys, threading
from opentelemetry.sdk._logs import LogRecordProcessor
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor
import clew

DOES, FOUND_BY, SETTINGS = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


class Records(LogRecordProcessor):
    bodies = []

    def on_emit(self, record):
        self.bodies.append(record.log_record.body)

    def shutdown(self):
        pass

    def force_flush(self, timeout_millis=0):
        return True


reader, spans, records = InMemoryMetricReader(), SpanProcessor(), Records()
telemetry = clew.configure(
    metric_readers=[reader], span_processors=[spans], log_processors=[records],
    **SETTINGS,
)
log = logging.getLogger("shop")
log.setLevel(logging.INFO)
done = 0
wrong = []


@clew.measure("collected")
def measured():
    pass


@clew.request()
def handle():
    if clew.request_id() is None:
        wrong.append("no request")
    measured()


def work():
    global done
    before = clew.request_id()
    if DOES == "a function":
        measured()
    elif DOES == "a block":
        with clew.measure("collected") as m:
            m.set("tier", "gold")
    elif DOES == "a request":
        with clew.request() as request_id:
            if clew.request_id() != request_id:
                wrong.append("inside")
            measured()
    elif DOES == "a decorated request":
        handle()
    elif DOES == "a generator":
        list(steps())
    else:
        log.info("collected")
    if clew.request_id() != before:
        wrong.append("afterwards")
    done += 1


@clew.measure("collected")
def steps():
    yield 1


class Garbage:
    def __init__(self):
        self.itself = self

    def __del__(self):
        if FOUND_BY == "a finalizer":
            work()


def callback(phase, info):
    work()


if FOUND_BY == "a callback":
    gc.callbacks.append(callback)


@clew.measure("outer")
def outer():
    log.info("outer")


variables = [contextvars.ContextVar(str(number)) for number in range(20)]
TURNS = 50
# from 3.12 on what a callback makes asks for the next collection at once, so that each call would wait for one
LEAST = 1 if sys.version_info < (3, 12) else 500
for turn in range(TURNS):
    gc.set_threshold(LEAST + turn % 25)
    with clew.request() as request_id:
        for variable in variables:
            garbage = Garbage()
            del garbage
            variable.set(object())
        outer()
        if clew.request_id() != request_id:
            wrong.append("outside")
gc.callbacks[:] = [one for one in gc.callbacks if one is not callback]
gc.set_threshold(0)
gc.collect()
if clew.request_id() is not None:
    wrong.append("in the end")

counts, active = {}, 0
for resource in reader.get_metrics_data().resource_metrics:
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            for point in metric.data.data_points:
                if metric.name == "operation.duration":
                    name = point.attributes["operation.name"]
                    counts[name] = counts.get(name, 0) + point.count
                if metric.name == "operation.active":
                    active += point.value
logged = {body: records.bodies.count(body) for body in records.bodies}
print(json.dumps({
    "turns": TURNS, "done": done, "wrong": wrong, "counts": counts, "active": active, "logged": logged,
}))
sys.stdout.flush()
telemetry.shutdown()
"""

PLAIN: dict[str, Any] = {}
SPANS = {"spans": True}
FOLLOWED = {"logs": "interesting", "logs_canonical": True, "logs_slow": 60}


@pytest.mark.parametrize("found_by", ["a finalizer", "a callback"])
@pytest.mark.parametrize(
    ("does", "settings"),
    [
        ("a function", SPANS),
        ("a block", SPANS),
        ("a generator", SPANS),
        ("a request", FOLLOWED),
        ("a decorated request", SPANS),
        ("a log record", PLAIN),
    ],
)
def test_whatever_the_collector_calls_may_use_everything(does: str, found_by: str, settings: dict[str, Any]) -> None:
    environ = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("METRICS", "TRACES", "LOGS")}
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAM, does, found_by, json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**environ},
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["wrong"] == []
    assert found["active"] == 0
    assert found["counts"]["outer"] == found["turns"]
    assert found["done"] > 0
    if does != "a log record":
        assert found["counts"]["collected"] == found["done"]
    else:
        assert found["logged"]["collected"] == found["done"]
