"""Modules that are being imported just now: what is only partly there counts as not imported, and does no harm."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

AMID = """
import importlib.machinery, sys, threading
NAME, WHEN = sys.argv[1:]
import clew
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

reached, go, loader = threading.Event(), threading.Event(), importlib.machinery.SourceFileLoader
execute = loader.exec_module

def exec_module(self, module):
    if module.__name__ == NAME:
        if WHEN == "in another thread":
            reached.set()
            assert go.wait(60)
        else:
            use()
    execute(self, module)

reader = InMemoryMetricReader()

@clew.measure("work")
def work():
    pass

def use():
    configure()
    first, second = clew.request("first"), clew.request("second")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert clew.request_id() == "second"
    second.__exit__(None, None, None)
    with clew.request("third"):
        work()
    assert clew.request_id() is None

def configure():
    clew.configure(metric_readers=[reader])

if NAME == "concurrent.futures.thread":  # which the SDK itself needs while it is imported
    configure()
sys.modules.pop(NAME, None)
loader.exec_module = exec_module
if WHEN == "in another thread":
    importer = threading.Thread(target=__import__, args=(NAME,))
    importer.start()
    assert reached.wait(60)
    use()
    go.set()
    importer.join()
else:
    __import__(NAME)
(metric,) = [
    metric
    for resource in reader.get_metrics_data().resource_metrics
    for scope in resource.scope_metrics
    for metric in scope.metrics
    if metric.name == "operation.duration"
]
print([point.count for point in metric.data.data_points], clew.request_id())
"""

FIRST_USES = """
import json, logging, sys
import clew
from opentelemetry.sdk._logs import LogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry import metrics

class Records(LogRecordProcessor):
    def on_emit(self, record): pass
    def shutdown(self): pass
    def force_flush(self, timeout_millis=0): return True

@clew.measure
def function(): pass

@clew.measure(attributes=lambda number: {"number": number})
def computed(number): pass

@clew.measure
def generator(): yield 1

if sys.argv[1] == "foreign":
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
else:
    clew.configure(
        metric_readers=[InMemoryMetricReader()],
        span_processors=[SpanProcessor()],
        log_processors=[Records()],
        **json.loads(sys.argv[1]),
    )
there = set(sys.modules)
with clew.request():
    function()
    computed(1)
    list(generator())
    for _ in range(2):
        with clew.measure("block") as m:
            m.set("tier", "gold")
            m.note("order", 1)
            m.fail("declined")
    try:
        with clew.measure("failing"):
            raise ValueError
    except ValueError:
        pass
    logging.getLogger("shop").warning("said")
    clew.counter("orders").add(1, {"tier": "gold"})
    clew.counter("orders").bind({"tier": "gold"}).add(1)
    clew.histogram("size").record(1)
    clew.gauge("level").set(1)
    clew.up_down_counter("open").add(-1)
print(json.dumps(sorted(name for name in set(sys.modules) - there if name.startswith("clew"))))
"""


def run(program: str, *arguments: str) -> str:
    environ = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("METRICS", "TRACES", "LOGS")}
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120, env=environ
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.parametrize("when", ["in another thread", "in the code that is interrupted"])
@pytest.mark.parametrize(
    "name", ["asyncio", "concurrent.futures.thread", "multiprocessing.process", "multiprocessing.util"]
)
def test_a_module_that_is_half_imported_is_not_looked_into(name: str, when: str) -> None:
    assert run(AMID, name, when) == "[1] None"


@pytest.mark.parametrize(
    "settings",
    ["{}", '{"spans": true}', '{"logs": "interesting", "logs_canonical": true}', "foreign"],
)
def test_nothing_of_ours_is_imported_by_code_that_is_measured(settings: str) -> None:
    """Since the handler of a signal that interrupts that would find a module that is half imported."""
    assert json.loads(run(FIRST_USES, settings)) == []
