"""Whatever can be called is measured as what it is: by form, by what it returns, as frameworks and copiers see it."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import subprocess
import sys
import time
import types
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from recorded import Recorded

import clew

WAITS = 0.02


class Failed(Exception):
    pass


async def work(fails: bool = False) -> str:
    await asyncio.sleep(WAITS)
    if fails:
        raise Failed
    return f"in {clew.request_id()}"


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Async:
    async def __call__(self, fails: bool = False) -> str:
        return await work(fails)

    async def method(self, fails: bool = False) -> str:
        return await work(fails)

    @classmethod
    async def of_class(cls, fails: bool = False) -> str:
        return await work(fails)

    partial = functools.partialmethod(method)


class OfTheLoop:
    """Its calls return futures."""

    def __call__(self, fails: bool = False) -> Any:
        return asyncio.ensure_future(work(fails))


@types.coroutine
def by_generator(fails: bool = False) -> Iterator[Any]:
    return (yield from work(fails).__await__())


def marked() -> Any:
    from asgiref.sync import markcoroutinefunction

    def function(fails: bool = False) -> Any:
        return work(fails)

    return markcoroutinefunction(function)


def alternating() -> Any:
    """Return a function that returns a value at first, and then something to be awaited."""
    calls = iter(range(1_000))

    def function(fails: bool = False) -> Any:
        return "a value" if next(calls) == 0 else work(fails)

    function()
    return function


ASYNC: dict[str, Callable[[], Any]] = {
    "coroutine function": lambda: work,
    "object": Async,
    "wrapper": lambda: wrapped(work),
    "wrapper of an object": lambda: wrapped(Async()),
    "lambda": lambda: lambda fails=False: work(fails),
    "partial": lambda: functools.partial(work),
    "partial of a wrapper": lambda: functools.partial(wrapped(work)),
    "partial of an object": lambda: functools.partial(Async()),
    "bound method": lambda: Async().method,
    "bound call": lambda: Async().__call__,
    "bound partial method": lambda: Async().partial,
    "class method": lambda: Async.of_class,
    "generator coroutine": lambda: by_generator,
    "marked": marked,
    "task": lambda: lambda fails=False: asyncio.ensure_future(work(fails)),
    "object of tasks": OfTheLoop,
    "gathered": lambda: lambda fails=False: asyncio.gather(work(fails), work()),
    "alternating": alternating,
}


@pytest.mark.parametrize("way", ["shards", "spans"])
@pytest.mark.parametrize("form", ASYNC)
def test_what_is_awaited_is_measured_until_it_is_done(configured: Callable[..., Recorded], way: str, form: str) -> None:
    recorded = configured(spans=way == "spans")
    function = ASYNC[form]()
    measured = clew.measure("work")(function)

    async def main() -> None:
        for fails in (False, True, False):
            began = time.perf_counter()
            with suppress(Failed):
                await measured(fails)
                assert not fails
            assert time.perf_counter() - began >= WAITS

    asyncio.run(main())
    assert recorded.calls("work") == {None: 2, f"{__name__}.Failed": 1}
    for point in recorded.durations("work"):
        assert point.min >= WAITS * 0.9
    (active,) = (p.value for p in recorded.points("operation.active"))
    assert active == 0
    if way == "spans":
        assert len(recorded.spans()) == 3


@pytest.mark.parametrize(
    "form", [form for form in ASYNC if form not in ("gathered", "alternating", "generator coroutine")]
)
def test_a_request_lasts_until_what_is_awaited_is_done(recorded: Recorded, form: str) -> None:
    serve = clew.request()(ASYNC[form]())

    async def main() -> list[str]:
        found = [await serve(), await serve()]
        assert clew.request_id() is None
        return found

    one, other = asyncio.run(main())
    assert one != other
    assert "in None" not in (one, other)


def test_a_task_that_is_returned_is_that_very_task(recorded: Recorded) -> None:
    made: list[Any] = []

    @clew.measure("starts")
    def start(delay: float) -> Any:
        made.append(asyncio.get_running_loop().create_task(asyncio.sleep(delay)))
        return made[-1]

    async def main() -> None:
        for delay in (0, 0, 3_600):
            task = start(delay)
            assert task is made[-1]
            if delay:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert (await start(0)) is None
        start(3_600)  # left behind: cancelled by the loop's end

    asyncio.run(main())
    assert recorded.calls("starts") == {None: 3, "asyncio.exceptions.CancelledError": 2}


def test_a_future_that_failed_unseen_is_still_reported_by_asyncio(recorded: Recorded) -> None:
    told: list[str] = []

    @clew.measure("starts")
    def start() -> Any:
        return asyncio.ensure_future(work(fails=True))

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
        for _ in range(2):
            start()
        await asyncio.sleep(WAITS * 3)

    asyncio.run(main())
    assert told == ["Task exception was never retrieved"] * 2
    assert recorded.calls("starts") == {f"{__name__}.Failed": 2}


def test_a_coroutine_that_is_never_awaited_has_not_run(recorded: Recorded) -> None:
    measured = clew.measure("never")(wrapped(work))
    for _ in range(3):
        made = measured()
        assert inspect.iscoroutine(made)
        assert made.__qualname__ == "work"
        with pytest.warns(RuntimeWarning, match="never awaited"):
            del made
    assert recorded.calls("never") == {}
    assert [p.value for p in recorded.points("operation.active")] in ([], [0])


class Generates:
    def __call__(self, count: int) -> Iterator[int]:
        yield from range(count)


class GeneratesAsync:
    async def __call__(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number


class Plain:
    """An object with attributes that its calls look at."""

    factor = 1

    def __call__(self, number: int) -> int:
        return number * self.factor


def test_objects_that_generate_are_measured_from_step_to_step(recorded: Recorded) -> None:
    measured = clew.measure("rows")(Generates())
    streamed = clew.measure("stream")(GeneratesAsync())

    async def drain() -> list[int]:
        return [number async for number in streamed(3)]

    for _ in range(2):
        steps = measured(3)
        assert next(steps) == 0
        (active,) = (p.value for p in recorded.points("operation.active") if p.attributes["operation.name"] == "rows")
        assert active == 1
        assert list(steps) == [1, 2]
        assert asyncio.run(drain()) == [0, 1, 2]
    assert recorded.calls("rows") == recorded.calls("stream") == {None: 2}


def cached(number: int) -> int:
    return number


@functools.singledispatch
def dispatched(value: object) -> str:
    return "object"


@dispatched.register
def _(value: int) -> str:
    return "int"


def _generator(count: int) -> Iterator[int]:
    yield from range(count)


async def _async_generator(count: int) -> AsyncIterator[int]:
    yield count


ALL: dict[str, Callable[[], Any]] = {
    **ASYNC,
    "function": lambda: cached,
    "generator function": lambda: _generator,
    "async generator function": lambda: _async_generator,
    "object with a generator": Generates,
    "object with an async generator": GeneratesAsync,
    "plain object": Plain,
    "partial of a generator": lambda: functools.partial(_generator, 3),
    "lru_cache": lambda: functools.lru_cache(cached),
    "singledispatch": lambda: dispatched,
    "built-in": lambda: len,
    "method of a built-in": lambda: [].append,
    "method descriptor": lambda: str.upper,
}

OF_CALLS: list[Callable[[Any], bool]] = [
    *(inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction, asyncio.iscoroutinefunction)
]
ASKED: list[Callable[[Any], bool]] = [*OF_CALLS, inspect.isawaitable, inspect.isfunction, inspect.ismethod]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("decorator", [clew.measure("asked"), clew.request()], ids=["measure", "request"])
@pytest.mark.parametrize("form", ALL)
def test_inspect_says_the_same_of_it(form: str, decorator: Any) -> None:
    function = ALL[form]()
    if decorator.__class__.__name__ == "Request" and "generator" in form and form != "generator coroutine":
        with pytest.raises(TypeError, match="generator function"):
            decorator(function)
        return
    if decorator.__class__.__name__ == "Request" and form == "generator coroutine":
        return
    decorated = decorator(function)
    for ask in ASKED:
        assert ask(decorated) == ask(function), ask
    for ask in OF_CALLS:
        assert ask(decorated.__call__) == ask(function.__call__), ask
    try:
        signature = inspect.signature(function)
    except ValueError:
        return
    assert inspect.signature(decorated) == signature


@pytest.mark.parametrize("form", ["function", "plain object", "lru_cache", "built-in", "method descriptor"])
def test_in_a_class_it_is_bound_as_the_original_is(recorded: Recorded, form: str) -> None:
    function = {
        "function": lambda self, *rest: (self.name, rest),
        "plain object": lambda: None,
        "lru_cache": functools.lru_cache(lambda self, *rest: (self.name, rest)),
        "built-in": max,
        "method descriptor": str.upper,
    }[form]
    if form == "plain object":
        function = Plain()

    class Bare(str):
        name = "an instance"
        method: Any = function

    class Measured(str):
        name = "an instance"
        method: Any = clew.measure("bound")(function)

    arguments: tuple[Any, ...] = {"plain object": (2,), "built-in": (1, 3), "method descriptor": ()}.get(form, (1, 2))
    for _ in range(3):
        assert Measured("text").method(*arguments) == Bare("text").method(*arguments)
    assert recorded.calls("bound") == {None: 3}


def test_an_object_keeps_its_attributes(recorded: Recorded) -> None:
    original = Plain()
    measured: Any = clew.measure("object")(original)
    measured.factor = 3
    assert (measured(2), original.factor, measured.factor) == (6, 3, 3)
    counted = clew.measure("cached")(functools.lru_cache(cached))
    assert [counted(1), counted(1)] == [1, 1]
    assert counted.cache_info().hits == 1


@clew.measure("of the module")
def of_the_module(number: int) -> int:
    return number


requests = clew.counter("requests.seen", unit="{request}", scope="test")


def _use(measured: Any) -> None:
    measured(1)


@pytest.mark.parametrize(
    "copier",
    [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_what_is_made_here_is_copied_and_pickled(recorded: Recorded, copier: Callable[[Any], Any]) -> None:
    of_the_module(1)
    requests.add(1)
    bound = requests.bind({"tier": "gold"})
    bound.add(1)
    assert copier(of_the_module) is of_the_module
    assert copier(requests) is requests
    again = copier(bound)
    again.add(2)
    assert {p.attributes.get("tier"): p.value for p in recorded.points("requests.seen")} == {None: 1, "gold": 3}
    for kind in ("counter", "up_down_counter", "gauge", "histogram"):
        instrument = getattr(clew, kind)(f"copied.{kind}", unit="s", description="Copied.", scope="test")
        assert copier(instrument) is instrument
    sized = clew.histogram("copied.sizes", bounds=(1, 2, 3), scope="test")
    assert copier(sized) is sized

    with clew.measure("block"):
        pass  # from now on there is a link for it
    block = clew.measure("block", expected=(KeyError,), attributes={"tier": "gold"})
    for measure in (clew.measure("block"), block):
        with copier(measure):
            pass
        copier(measure)(_use)
    assert recorded.calls("block") == {None: 3}
    with copier(clew.request("given")) as request_id:
        assert request_id == "given"
    measured_object = copier(clew.measure("object")(Plain()))
    assert measured_object(2) == 2
    assert recorded.calls("object") == {None: 1}


BY_VALUE = """
import pickle
import cloudpickle
import clew
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

counter = clew.counter("seen")

@clew.measure("plain")
def plain(a, *, b=2):
    counter.add(1)
    return a + b

@clew.measure("computed", attributes=lambda a: {"a": a})
def computed(a, b=2):
    return a + b

@clew.measure("failing", failed=lambda result: result == 3, expected=lambda error: True)
def failing(a, b=2):
    return a + b

@clew.measure("generator")
def generator(a, b=2):
    yield a + b

@clew.request()
def request(a, b=2):
    return a + b if clew.request_id() else None

reader = InMemoryMetricReader()
clew.configure(metric_readers=[reader])
for calls in range(3):
    for function in (plain, computed, failing, generator, request):
        result = function(1)
        assert (list(result)[0] if function is generator else result) == 3
for function in (plain, computed, failing, generator, request):
    again = pickle.loads(cloudpickle.dumps(function))
    assert again is not function
    for calls in range(2):
        result = again(1)
        assert (list(result)[0] if function is generator else result) == 3
found = {}
for resource in reader.get_metrics_data().resource_metrics:
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            for point in metric.data.data_points:
                if metric.name == "operation.duration":
                    found[point.attributes["operation.name"]] = point.count
                if metric.name == "seen":
                    assert point.value == 5
assert found == {"plain": 5, "computed": 5, "failing": 5, "generator": 5}, found
"""


def test_functions_of_the_main_program_are_pickled_by_value() -> None:
    pytest.importorskip("cloudpickle")
    environment = {"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    done = subprocess.run(
        [sys.executable, "-c", BY_VALUE], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("decorator", [clew.measure("typed"), clew.request()], ids=["measure", "request"])
@pytest.mark.parametrize("form", ["function", "coroutine", "generator"])
def test_annotations_are_looked_up_among_the_functions_own_globals(form: str, decorator: Any) -> None:
    if form == "generator" and decorator.__class__.__name__ == "Request":
        return
    namespace: dict[str, Any] = {}
    head = "async def" if form == "coroutine" else "def"
    body = "yield" if form == "generator" else "return"
    before = "from __future__ import annotations\nclass Cart: ...\n"
    exec(f"{before}{head} buy(cart: Cart, *, fast: bool = True) -> Cart: {body} cart", namespace)
    decorated = decorator(namespace["buy"])
    assert decorated.__globals__ is namespace
    annotation = inspect.signature(decorated).parameters["cart"].annotation
    assert eval(annotation, decorated.__globals__) is namespace["Cart"]
