"""Whatever interrupts the recording may record too, in the same thread: nothing hangs, and every measurement counts."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

LINES = Path(__file__).with_name("lines.py")
LONGEST = 180


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=LONGEST, cwd=LINES.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def interrupted_at_lines(whose: str, work: str, step: int, *interruptions: str) -> None:
    printed = run(str(LINES), whose, work, ",".join(interruptions), str(step))
    assert "WRONG" not in printed, printed
    assert int(printed.split("LINES")[1]) * step > 40


@pytest.mark.parametrize(
    ("whose", "use"),
    [
        *(("own", use) for use in ("counter", "histogram", "gauge", "bound", "operation", "computed", "told")),
        *(("foreign", use) for use in ("up-down", "bound-gauge", "block", "generator")),
    ],
)
def test_a_first_use_that_is_interrupted_by_the_same_use_counts_and_so_does_that(whose: str, use: str) -> None:
    interrupted_at_lines(whose, use, 2 if whose == "own" else 5, "itself")


ALL = ("counter", "gauge", "gauge-again", "new-set", "histogram", "bound", "bound-gauge", "operation", "told", "block")


@pytest.mark.parametrize(("whose", "use"), [("own", "counter"), ("own", "operation"), ("foreign", "gauge")])
def test_a_first_use_may_be_interrupted_by_any_other(whose: str, use: str) -> None:
    interrupted_at_lines(whose, use, 3 if whose == "own" else 5, *ALL)


@pytest.mark.parametrize("whose", ["own", "foreign"])
def test_a_collection_may_be_interrupted_by_any_use(whose: str) -> None:
    interrupted_at_lines(whose, "collection", 3, *ALL)


@pytest.mark.parametrize("whose", ["own", "foreign"])
def test_what_interrupts_the_sdk_itself_may_use_an_instrument_for_the_first_time(whose: str) -> None:
    interrupted_at_lines(whose, "plain", 1, "counter", "gauge", "bound", "block")


BEGIN = """
import faulthandler, gc, itertools, random, signal, threading
faulthandler.dump_traceback_later(25, exit=True)
import clew
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
telemetry = clew.configure(metric_readers=[reader], span_processors=[], log_processors=[])
def points():
    reader.collect()
    data = reader.get_metrics_data()
    return {
        metric.name: sum(getattr(point, "value", getattr(point, "count", 0)) for point in metric.data.data_points)
        for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    }
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such signals")
def test_the_handler_of_a_signal_may_use_what_it_interrupts_whenever_it_comes() -> None:
    code = """
random = random.Random(7)
uses = [
    lambda name: clew.counter(name).add(1),
    lambda name: clew.counter(name).bind({"tier": "gold"}).add(1),
    lambda name: clew.histogram(name).record(1),
    lambda name: clew.up_down_counter(name).add(1),
    lambda name: clew.gauge(name).set(2),
]
handled = []
def handle(*_):
    handled.append(name)
    use(name)
    with clew.request(), clew.measure(name):
        pass
signal.signal(signal.SIGALRM, handle)
for number in range(200):
    use, name = uses[number % 5], f"name.{number}"
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 4e-4))
    use(name)
    with clew.measure(name):
        pass
    if number % 3 == 0:
        reader.collect()
    while len(handled) <= number:
        pass
found = points()
for number in range(200):
    assert found[f"name.{number}"] == 2, (number, found[f"name.{number}"])
assert found["operation.duration"] == 400, found
assert found["operation.active"] == 0, found
"""
    run("-c", BEGIN + code)


def test_a_callback_of_the_garbage_collector_may_record_during_a_collection_of_metrics() -> None:
    code = """
numbers = itertools.count()
def measure_in_gc(phase, info):
    if phase == "start":
        number = next(numbers)
        if number < 20:
            clew.counter(f"new.{number}").add(1)
        clew.gauge("level").set(number)
        clew.counter("seen").add(1, {"set": number % 50})
clew.gauge("level").set(0)
gc.callbacks.append(measure_in_gc)
gc.set_threshold(1)
for number in range(10):
    clew.gauge("other").set(number)
    reader.collect()
gc.set_threshold(700, 10, 10)
gc.callbacks.remove(measure_in_gc)
made = next(numbers)
assert made > 20, made
found = points()
assert found["seen"] == made, (found["seen"], made)
assert all(found[f"new.{number}"] == 1 for number in range(20)), found
assert found["level"] == made - 1, (found["level"], made)
"""
    run("-c", BEGIN + code)


def test_finalizers_may_use_instruments_for_the_first_time_while_metrics_are_collected_and_exported() -> None:
    code = """
exported = []
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult
class Exporter(MetricExporter):
    def export(self, data, timeout_millis=10_000, **_):
        litter()
        exported.append(data)
        return MetricExportResult.SUCCESS
    def force_flush(self, timeout_millis=10_000): return True
    def shutdown(self, timeout_millis=30_000, **_): pass
telemetry.shutdown()
telemetry = clew.configure(metric_exporters=[Exporter()], metric_readers=[reader2 := InMemoryMetricReader()],
    span_processors=[], log_processors=[])
reader = reader2
numbers = itertools.count()
class Finalized:
    def __init__(self): self.itself = self
    def __del__(self):
        number = next(numbers)
        clew.histogram(f"of.{number}").record(1)
        clew.gauge(f"level.{number % 7}").set(1)
        with clew.measure(f"finalized.{number % 7}"):
            pass
def litter():
    for _ in range(5):
        Finalized()
from opentelemetry.metrics import Observation
def observe(options):
    litter()
    gc.collect()
    return [Observation(1)]
telemetry.meter_provider.get_meter("x").create_observable_gauge("observed", callbacks=[observe])
gc.set_threshold(20)
for _ in range(6):
    litter()
    assert telemetry.force_flush()
gc.set_threshold(700)
gc.collect()
found = points()
made = next(numbers)
assert len(exported) >= 6
number = sum(name.startswith("of.") for name in found)
assert number >= made - 5, (number, made)  # the last collection litters too
assert found["operation.duration"] >= made - 5
"""
    run("-c", BEGIN + code)
