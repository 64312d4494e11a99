"""A child may be forked whatever other threads do: it never hangs, and its instruments work and count from zero."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

LONGEST = 150

PROGRAM = """
import faulthandler, itertools, logging, os, signal, sys, threading, time, traceback

sys.setswitchinterval(1e-5)
import clew
from clew import diagnostics
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

whose, forks, meanwhile = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
reader = InMemoryMetricReader()
if whose == "foreign":
    metrics.set_meter_provider(MeterProvider(
        [reader], views=clew.views(), exemplar_filter=clew.exemplar_filter(), shutdown_on_exit=False
    ))
    telemetry = clew.configure(span_processors=[], log_processors=[])
else:
    telemetry = clew.configure(metric_readers=[reader], span_processors=[], log_processors=[])
provider = telemetry.meter_provider
numbers = itertools.count()

def values():
    data = reader.get_metrics_data()
    return {
        (metric.name, *sorted(point.attributes.items())): getattr(point, "value", getattr(point, "count", None))
        for resource in data.resource_metrics for scope in resource.scope_metrics
        for metric in scope.metrics for point in metric.data.data_points
    }

def decorated(name):
    return clew.measure(name)(lambda: None)

def block(name):
    with clew.request(), clew.measure(name) as m:
        m.set("tier", "gold")

ACTS = {
    "make a meter": lambda n: provider.get_meter(f"meter.{n}").create_counter("of.it").add(1),
    "make an instrument": lambda n: provider.get_meter("library").create_counter(f"plain.{n}").add(1),
    "settle": lambda n: clew.counter(f"counter.{n}").add(1),
    "set a gauge": lambda n: clew.gauge(f"gauge.{n}").set(1),
    "bind": lambda n: clew.counter(f"bound.{n}").bind({"tier": "gold"}).add(1),
    "decorate": lambda n: decorated(f"function.{n}")(),
    "enter a block": lambda n: block(f"block.{n}"),
    "collect": lambda n: reader.collect(),
    "flush": lambda n: telemetry.force_flush(),
    "log": lambda n: logging.getLogger(f"logger.{n}").warning("said"),
    "count": lambda n: diagnostics.count("request_id.replaced"),
}
logging.getLogger().addHandler(logging.NullHandler())

def do(act):
    while True:
        act(next(numbers) % 40)

def child():
    for n in (0, 7, 20, 39):
        for name, act in ACTS.items():
            act(n)
    clew.counter("counter.child").add(2)
    assert telemetry.force_flush(60)
    found = values()
    assert found[("counter.child",)] == 2, found
    assert found[("gauge.0",)] == 1, found
    if whose == "own":
        for name in ("of.it", "plain.7", "counter.7", "gauge.7"):
            assert found[(name,)] == 1, (name, found[(name,)])
        assert found[("bound.7", ("tier", "gold"))] == 1, found
        assert found[("operation.duration", ("operation.name", "function.7"))] == 1, found
        assert found[("operation.active", ("operation.name", "function.7"))] == 0, found
        assert ("clew.events", ("event.name", "instrument.not_made")) not in found, found

for name in meanwhile:
    threading.Thread(target=do, args=(ACTS[name],), daemon=True).start()
for number in range(forks):
    time.sleep(0.0007 * (number % 5))
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(25, exit=True)
        try:
            child()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + 30
    done, status = os.waitpid(pid, os.WNOHANG)
    while not done and time.monotonic() < deadline:
        time.sleep(0.001)
        done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if not done or status:
        print("child", number, "hung" if not done else "failed", file=sys.stderr, flush=True)
        os._exit(1)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("whose", "meanwhile"),
    [
        ("own", ["make a meter"]),
        ("own", ["settle", "make an instrument"]),
        ("own", ["set a gauge", "collect"]),
        ("own", ["bind", "decorate", "enter a block"]),
        ("own", ["log", "flush", "count", "settle"]),
        ("foreign", ["make a meter", "make an instrument"]),
        ("foreign", ["settle", "set a gauge", "enter a block"]),
        ("foreign", ["collect", "flush", "decorate"]),
    ],
)
def test_a_child_forked_in_the_middle_of_what_other_threads_do_works(whose: str, meanwhile: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, whose, "8", *meanwhile],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stderr
