"""A measured generator behaves exactly as the bare one: random scripts are run on both, and compared."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import types
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import Recorded

import clew

HANDLERS = ["none", "swallow", "yield", "return", "raise", "raise again"]


@dataclass(frozen=True)
class Part:
    """A yield of a body: what it is in, and what is done about what is thrown in there."""

    value: int
    handler: str
    cleanup: str


parts = st.builds(
    Part, st.integers(0, 3), st.sampled_from(HANDLERS), st.sampled_from(["none", "plain", "yields", "raises", "waits"])
)

THROWN: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("thrown"),
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration("thrown"),
    "StopAsyncIteration": StopAsyncIteration,
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": asyncio.CancelledError,
}

operations = st.one_of(
    st.tuples(st.just("next"), st.none()),
    st.tuples(st.just("send"), st.integers(10, 12)),
    st.tuples(st.just("throw"), st.sampled_from(list(THROWN))),
    st.tuples(st.just("close"), st.none()),
)


OURS = (str(Path(clew.__file__).parent), "<clew.")
"""How the names of our own files begin, and of the code that we make."""


class Kept:
    """What a weak reference can be taken of."""


def _body(plan: list[Part], ending: str, log: list[Any]) -> Iterator[Any]:
    for part in plan:
        try:
            log.append((yield part.value))
        except BaseException as error:
            log.append(type(error).__name__)
            if part.handler == "yield":
                log.append((yield "caught"))
            elif part.handler == "return":
                return "returned early"
            elif part.handler == "raise":
                raise KeyError("instead") from None
            elif part.handler != "swallow":
                raise
        finally:
            log.append("cleanup")
            if part.cleanup == "yields":
                log.append((yield "cleaning"))
            elif part.cleanup == "raises":
                raise OSError("while cleaning")
    if ending == "raises":
        raise LookupError("at the end")
    if ending == "stops":
        raise StopIteration("by hand")
    return ending


@types.coroutine
def tick() -> Iterator[str]:
    """Wait once."""
    yield "tick"


async def _async_body(plan: list[Part], ending: str, log: list[Any]) -> AsyncIterator[Any]:
    for part in plan:
        try:
            if part.cleanup == "waits":
                await tick()
            log.append((yield part.value))
        except BaseException as error:
            log.append(type(error).__name__)
            if part.handler == "yield":
                log.append((yield "caught"))
            elif part.handler == "return":
                return
            elif part.handler == "raise":
                raise KeyError("instead") from None
            elif part.handler != "swallow":
                raise
        finally:
            log.append("cleanup")
            if part.cleanup == "waits":
                await tick()
            elif part.cleanup == "yields":
                log.append((yield "cleaning"))
            elif part.cleanup == "raises":
                raise OSError("while cleaning")
    if ending == "raises":
        raise LookupError("at the end")
    if ending == "stops":
        raise StopAsyncIteration("by hand")


def drive(awaitable: Any) -> Any:
    """Await without a loop, and count how often it waits."""
    ticks = 0
    while True:
        try:
            awaitable.send(None)
            ticks += 1
        except StopIteration as stop:
            return "value", stop.value, ticks
        except BaseException:
            if ticks > 10:
                raise AssertionError("it waits for ever") from None
            raise


def step(generator: Any, operation: str, argument: Any, thrown: BaseException | None) -> Any:
    is_async = inspect.isasyncgen(generator)
    if operation == "close":
        return drive(generator.aclose()) if is_async else generator.close()
    if operation == "next":
        return drive(generator.__anext__()) if is_async else next(generator)
    if operation == "send":
        return drive(generator.asend(argument)) if is_async else generator.send(argument)
    return drive(generator.athrow(thrown)) if is_async else generator.throw(thrown)


def seen(error: BaseException, thrown: BaseException | None, has_begun: bool) -> Any:
    """Return all that can be seen of an exception that has come out."""
    traceback, frames = error.__traceback__, []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not code.co_filename.startswith(OURS):
            frames.append(code.co_name)
        traceback = traceback.tb_next
    context, cause = type(error.__context__).__name__, type(error.__cause__).__name__
    # a generator that has not begun has a frame there before its first line, where nothing of it runs
    return type(error).__name__, str(error), error is thrown, context, cause, frames if has_begun else None


@contextmanager
def unraisable() -> Iterator[list[str]]:
    """Collect what cannot be raised, by its type."""
    found: list[str] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda raised: found.append(f"{raised.exc_value!r}")
    try:
        yield found
    finally:
        sys.unraisablehook = before


def played(make: Callable[..., Any], plan: list[Part], ending: str, script: list[Any]) -> list[Any]:
    """Run a script on a generator, and return all that can be seen."""
    log: list[Any] = []
    observed: list[Any] = []
    with unraisable() as lost:
        generator = make(plan, ending, log)
        observed.append((inspect.isgenerator(generator), inspect.isasyncgen(generator), generator.__name__))
        has_begun = False
        for operation, argument in script:
            thrown = THROWN[argument]() if operation == "throw" else None
            if thrown is not None:
                thrown.kept = kept = Kept()  # type: ignore[attr-defined]
            try:
                observed.append(("got", step(generator, operation, argument, thrown)))
            except BaseException as error:
                observed.append(("raised", *seen(error, thrown, has_begun)))
            has_begun = has_begun or operation == "next"
            if thrown is not None:
                reference = weakref.ref(kept)
                thrown = kept = None  # type: ignore[assignment]
                observed.append(("is kept", reference() is not None))
            if inspect.isgenerator(generator):
                observed.append(inspect.getgeneratorstate(generator))
            observed.append(list(log))
        del generator
    # what is cleaned up of a generator that will not be closed is up to the interpreter
    return [*observed, bool(lost) or list(log)]


FORMS = {"generator": _body, "async generator": _async_body}


@pytest.mark.parametrize("form", list(FORMS))
def test_nothing_deprecated_is_done_to_measure_it(form: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert callable(clew.measure("steps")(FORMS[form]))


@pytest.mark.parametrize("way", ["shards", "spans", "not configured"])
@pytest.mark.parametrize("form", list(FORMS))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    plan=st.lists(parts, max_size=3),
    ending=st.sampled_from(["returns", "raises", "stops"]),
    script=st.lists(operations, max_size=6),
)
def test_a_measured_generator_does_what_the_bare_one_does(
    configured: Callable[..., Recorded], way: str, form: str, plan: list[Part], ending: str, script: list[Any]
) -> None:
    bare = FORMS[form]
    if way != "not configured" and clew.operations.pipeline.current is None:
        configured(spans=way == "spans")
    measured = clew.measure("steps")(bare)
    gc.disable()
    try:
        expected = played(bare, plan, ending, script)
        for _ in range(2):  # the first one takes the slow path, the other the fast path
            assert played(measured, plan, ending, script) == expected
    finally:
        gc.enable()


@pytest.mark.parametrize("way", ["shards", "spans"])
@pytest.mark.parametrize("form", list(FORMS))
def test_each_generator_is_counted_once_however_it_ends(
    configured: Callable[..., Recorded], way: str, form: str
) -> None:
    recorded = configured(spans=way == "spans")
    measured = clew.measure("steps")(FORMS[form])
    plan = [Part(1, "swallow", "none"), Part(2, "none", "none")]
    abandoned_before = recorded.events().get("operation.abandoned", 0)
    begun = 0
    for script in (
        [("next", None)] * 4,
        [("next", None), ("throw", "ValueError"), ("next", None)],
        [("next", None), ("throw", "GeneratorExit"), ("next", None), ("next", None)],
        [("next", None), ("close", None)],
        [("next", None), ("next", None), ("throw", "ValueError")],
        [("close", None), ("next", None)],
        [],
    ):
        begun += bool(script) and script[0][0] == "next"
        played(measured, plan, "returns", list(script))
    gc.collect()
    calls = recorded.calls("steps")
    (active,) = (p.value for p in recorded.points("operation.active"))
    assert active == 0
    assert calls["ValueError"] == 1
    abandoned = 1 if sys.version_info >= (3, 11) else 0  # the one that would not be closed, and is dropped
    assert sum(calls.values()) == begun - abandoned
    assert recorded.events().get("operation.abandoned", 0) - abandoned_before == abandoned


@pytest.mark.parametrize("configures", [True, False])
def test_an_async_generator_left_in_the_middle_is_closed_by_its_loop_once(
    configured: Callable[..., Recorded], configures: bool
) -> None:
    recorded = configured() if configures else None
    log: list[str] = []
    troubles: list[Any] = []
    left: list[Any] = []

    @clew.measure("stream")
    async def stream() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")
            await asyncio.sleep(0)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
        for is_kept in (True, False, True):
            steps = stream()
            async for _ in steps:
                break
            if is_kept:
                left.append(steps)
            del steps
        while not log:  # the one that was dropped is closed by a task of the loop's
            await asyncio.sleep(0)

    asyncio.run(main())
    assert log == ["cleaned up"] * 3
    assert troubles == []
    if recorded is not None:
        (active,) = (p.value for p in recorded.points("operation.active"))
        assert active == 0


@pytest.mark.parametrize("computes", [False, True])
@pytest.mark.parametrize("form", ["generator", "async generator", "coroutine"])
def test_wrong_arguments_are_refused_at_the_call(recorded: Recorded, form: str, computes: bool) -> None:
    def generator(a: int, *rest: int, b: int = 2, **named: int) -> Iterator[Any]:
        yield a, rest, b, named

    async def async_generator(a: int, *rest: int, b: int = 2, **named: int) -> AsyncIterator[Any]:
        yield a, rest, b, named

    async def coroutine(a: int, *rest: int, b: int = 2, **named: int) -> Any:
        return a, rest, b, named

    function: Any = {"generator": generator, "async generator": async_generator, "coroutine": coroutine}[form]
    measured = clew.measure("refuses", attributes=(lambda a, **_: {"a": a}) if computes else None)(function)
    for _ in range(3):
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
            measured()
        with pytest.raises(TypeError, match="multiple values for argument 'a'"):
            measured(1, a=1)
        made = measured(1, 2, 3, b=4, c=5)
        expected = (1, (2, 3), 4, {"c": 5})
        if form == "generator":
            assert list(made) == [expected]
        elif form == "coroutine":
            with pytest.raises(StopIteration) as stop:
                made.send(None)
            assert stop.value.value == expected
        else:
            assert drive(made.__anext__())[1] == expected
            with suppress(StopAsyncIteration):
                drive(made.__anext__())
    assert recorded.calls("refuses") == {None: 3}
