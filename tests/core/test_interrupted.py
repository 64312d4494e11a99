"""What the handler of a signal raises (a time limit) reaches the program wherever it comes, and nothing stays open."""

from __future__ import annotations

import dis
import json
import os
import subprocess
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from recorded import Recorded

import clew
from clew.interpreter.interruptions import begins_at_once

PROGRAM = """
import gc, json, logging, random, signal, sys, traceback
from opentelemetry.sdk._logs import LogRecordProcessor
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor
import clew

SETTINGS, TURNS = json.loads(sys.argv[1]), int(sys.argv[2])


class Records(LogRecordProcessor):
    def on_emit(self, record):
        pass

    def shutdown(self):
        pass

    def force_flush(self, timeout_millis=0):
        return True


class TimeLimit(Exception):
    pass


raised = 0


def on_alarm(signum, frame):
    global raised
    step = frame
    while step is not None:
        code = step.f_code
        if code in SWALLOWING or code.co_filename == traceback.__file__ or code.co_name.endswith("_configurator"):
            signal.setitimer(signal.ITIMER_REAL, 100e-6)  # a little later then
            return
        step = step.f_back
    raised += 1
    raise TimeLimit


# the standard library itself swallows what is raised in there, `traceback` too, which spans use; and the SDK where it
# makes a meter, a tracer or a logger, in `_apply_…_configurator`
SWALLOWING = {logging.StreamHandler.emit.__code__, logging.Handler.handleError.__code__}


@clew.measure("form")
def function():
    pass


@clew.measure("form")
async def coroutine():
    pass


@clew.measure("form")
def generator():
    yield 1


@clew.measure("form")
async def async_generator():
    yield 1


@clew.measure("form", attributes=lambda tier: {"tier": tier})
def computed(tier):
    pass


@clew.measure("form", failed=lambda result: not result)
def judged():
    return True


def block():
    with clew.measure("form"):
        pass


def told_block():
    with clew.measure("form") as m:
        m.set("tier", "gold")


async def async_block():
    async with clew.measure("form"):
        pass


def failing_block():
    try:
        with clew.measure("form"):
            raise KeyError("7")
    except KeyError:
        pass


@clew.measure("form")
def failing_function():
    raise KeyError("7")


@clew.measure("form")
async def failing_coroutine():
    raise KeyError("7")


@clew.measure("form")
def failing_generator():
    raise KeyError("7")
    yield


def stopped_generator():
    steps = generator()
    next(steps)
    steps.close()


@clew.measure("form")
def returns_coroutine():
    return coroutine()


def failing(form):
    try:
        form()
    except KeyError:
        pass


def request():
    with clew.request():
        pass


@clew.request()
def decorated_request():
    function()


async def all_of(steps):
    async for _ in steps:
        pass


def drive(coroutine):
    try:
        coroutine.send(None)
    except StopIteration:
        pass
    finally:
        coroutine.close()


counter, histogram, gauge, log = clew.counter("a"), clew.histogram("b"), clew.gauge("c"), logging.getLogger("shop")
log.setLevel(logging.INFO)
bound = counter.bind({"tier": "gold"})
FORMS = {
    "function": function,
    "coroutine": lambda: drive(coroutine()),
    "generator": lambda: list(generator()),
    "async generator": lambda: drive(all_of(async_generator())),
    "computed": lambda: computed("gold"),
    "judged": judged,
    "block": block,
    "told block": told_block,
    "async block": lambda: drive(async_block()),
    "failing block": failing_block,
    "failing function": lambda: failing(failing_function),
    "failing coroutine": lambda: failing(lambda: drive(failing_coroutine())),
    "failing generator": lambda: failing(lambda: list(failing_generator())),
    "stopped generator": stopped_generator,
    "returned coroutine": lambda: drive(returns_coroutine()),
    "request": request,
    "decorated request": decorated_request,
    "counter": lambda: counter.add(1, {"tier": "gold"}),
    "bound": lambda: bound.add(1),
    "histogram": lambda: histogram.record(1),
    "gauge": lambda: gauge.set(1),
    "log": lambda: log.info("said"),
}


def active():
    gc.collect()
    return sum(
        point.value
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "operation.active"
        for point in metric.data.data_points
    )


def until_raised(form, seen):
    while raised == seen:
        form()


reader = InMemoryMetricReader()
clew.configure(
    metric_readers=[reader], span_processors=[SpanProcessor()], log_processors=[Records()], **SETTINGS
)
function()
signal.signal(signal.SIGALRM, on_alarm)
randomly = random.Random(7)
found = {}
for name, form in FORMS.items():
    caught, wrong, before = 0, 0, raised
    for _ in range(TURNS):
        seen = raised
        try:
            signal.setitimer(signal.ITIMER_REAL, randomly.uniform(20e-6, 200e-6))
            until_raised(form, seen)
        except TimeLimit:
            caught += 1
        wrong += clew.request_id() is not None
    found[name] = [raised - before - caught, active(), wrong]
print(json.dumps(found))
"""

BY_THREAD = """
import ctypes, gc, json, sys, threading
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor
import clew


class TimeLimit(Exception):
    pass


reader = InMemoryMetricReader()
clew.configure(metric_readers=[reader], span_processors=[SpanProcessor()], spans=True)
sys.setswitchinterval(1e-5)


@clew.measure("work")
def work():
    pass


caught, wanted, over, go = 0, 0, threading.Event(), threading.Semaphore(0)


def limit():
    global wanted
    while go.acquire() and not over.is_set():
        wanted += 1
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(TimeLimit))


main = threading.get_ident()
thread = threading.Thread(target=limit)
thread.start()
for _ in range(300):
    seen = wanted
    try:
        go.release()
        for _ in range(2_000):
            with clew.request():
                work()
    except TimeLimit:
        caught += 1
    while wanted == seen:
        try:
            pass
        except TimeLimit:
            caught += 1
over.set()
go.release()
thread.join()
gc.collect()
active = sum(
    point.value
    for resource in reader.get_metrics_data().resource_metrics
    for scope in resource.scope_metrics
    for metric in scope.metrics
    if metric.name == "operation.active"
    for point in metric.data.data_points
)
print(json.dumps([wanted - caught, active, clew.request_id()]))
"""


def run(program: str, *arguments: str) -> str:
    environ = os.environ | {f"OTEL_{name}_EXPORTER": "none" for name in ("METRICS", "TRACES", "LOGS")}
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120, env=environ
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.skipif(os.name == "nt", reason="no timers that send signals")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="`with lock:` may be interrupted there with the lock taken")
@pytest.mark.parametrize(
    "settings", ["{}", '{"spans": true}', '{"logs": "interesting", "logs_canonical": true, "logs_slow": 60}']
)
def test_a_time_limit_reaches_the_program_and_leaves_nothing_begun(settings: str) -> None:
    found = json.loads(run(PROGRAM, settings, "100"))
    if sys.version_info < (3, 11):  # looks for signals after each call, so that some runs stay active for ever
        found = {form: [lost, 0, wrong] for form, (lost, _, wrong) in found.items()}
    assert found == {form: [0, 0, 0] for form in found}


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="`with lock:` may be interrupted there with the lock taken")
def test_a_time_limit_that_another_thread_sets_reaches_the_program() -> None:
    lost, active, request_id = json.loads(run(BY_THREAD))
    assert (lost, request_id) == (0, None)
    assert active == 0 or sys.version_info < (3, 11)


def outer(step: int) -> Callable[[int], int]:
    @begins_at_once
    def begun(number: int, *more: int, by: int = 2) -> int:
        try:
            return sum([number * by, step, *more])
        finally:
            more = ()

    return begun


def test_a_function_that_begins_at_once_differs_in_nothing_else() -> None:
    def bare(step: int) -> Callable[[int], int]:
        def begun(number: int, *more: int, by: int = 2) -> int:
            try:
                return sum([number * by, step, *more])
            finally:
                more = ()

        return begun

    begun, other = outer(1), bare(1)
    assert [begun(3), begun(3, 4, by=5)] == [other(3), other(3, 4, by=5)] == [7, 20]
    differing = [
        one.opname
        for one, two in zip(dis.get_instructions(begun), dis.get_instructions(other), strict=True)
        if (one.opcode, one.arg) != (two.opcode, two.arg)
    ]
    assert differing == (["RESUME"] if sys.version_info >= (3, 11) else [])
    assert seen_by(sys.settrace, begun) == seen_by(sys.settrace, other)
    assert seen_by(sys.setprofile, begun) == seen_by(sys.setprofile, other)


def seen_by(watch: Callable[[Any], None], function: Callable[[int], int]) -> list[str]:
    """Return what a debugger or a profiler sees of a call."""
    events: list[str] = []

    def told(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code is function.__code__:
            events.append(event)
        return told

    before = sys.gettrace() if watch is sys.settrace else sys.getprofile()
    watch(told)
    try:
        function(3)
    finally:
        watch(before)
    assert events[0] == "call"
    assert events[-1] == "return"
    return events


def test_what_only_looks_at_frames_is_taken_for_no_handler_of_a_signal(configured: Callable[..., Recorded]) -> None:
    telemetry = configured()

    def attributes(tier: str) -> dict[str, str]:
        frame = sys._getframe(1)  # kept while the exception leaves
        raise KeyError(frame.f_code.co_name)

    @clew.measure("looks around", attributes=attributes)
    def work(tier: str) -> str:
        return tier

    assert [work("gold"), work("gold")] == ["gold", "gold"]
    assert telemetry.calls("looks around") == {None: 2}
