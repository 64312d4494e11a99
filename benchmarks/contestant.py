"""A contestant: one way to measure a call, with what it claims to record and a way to check that."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import repeat
from time import thread_time_ns
from types import FunctionType
from typing import Any

VALUES: tuple[float, ...] = tuple(random.Random(5).lognormvariate(-5.0, 1.5) for _ in range(250))
"""What the calls are given, in turn: like the durations of real work, in seconds."""

BLOCK = len(VALUES)
"""Calls are made in blocks of this many."""

REQUEST_ID = "benchmark-request-1"
"""The ID of the request that all calls are made in."""

BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Upper bounds of the buckets of every histogram of every contestant, in seconds: those of ``operation.duration``."""


class Form(Enum):
    """What is called, and so how: the bare call that a contestant's cost is counted from has the same form."""

    FUNCTION = "function"
    COROUTINE = "coroutine function"
    GENERATOR = "generator function"
    ASYNC_GENERATOR = "async generator function"


@dataclass(frozen=True)
class Recorded:
    """What a contestant has recorded so far, read from where its users would read it.

    Attributes:
        counts: How many calls each of its instruments knows of.
        request_id: Whether it has kept an exemplar with the request ID; None where it does not claim to.
        running: How many calls it counts as running; None where it does not count them.
    """

    counts: Mapping[str, int]
    request_id: bool | None = None
    running: int | None = None


@dataclass
class Contestant:
    """One way to measure a call.

    Attributes:
        key: Its name in the JSON output.
        label: Its name in the tables.
        group: The library it shows.
        call: A function of one value that returns (or yields) this value, measured.
        emits: What it records, in words.
        recorded: Reads what has been recorded; None where nothing is.
        form: The kind of function that `call` is.
        before: What has to be done before each turn, outside the measured time.
        done: How many calls have been made.
        loop: Makes blocks of calls and returns the nanoseconds of this thread. Each contestant has a copy of its own,
            since the interpreter specialises each call in the code for what is called there: one loop for all would
            make the bare call, for one, cost 30 ns or 70 depending on who had the turn before.
    """

    key: str
    label: str
    group: str
    call: Callable[[Any], Any]
    emits: str = ""
    recorded: Callable[[], Recorded] | None = None
    form: Form = Form.FUNCTION
    before: Callable[[], None] = lambda: None
    done: int = 0
    loop: Callable[[Callable[[Any], Any], int], Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.loop = _own_copy(_LOOPS[self.form])

    def turn(self, blocks: int) -> int:
        """Make `blocks` times BLOCK calls in the current Context; return the nanoseconds that they took.

        They are those of the processor in this thread: what other programs do to the machine meanwhile is not counted.
        """
        self.before()
        self.done += blocks * BLOCK
        if self.form in (Form.FUNCTION, Form.GENERATOR):
            took: int = self.loop(self.call, blocks)
        else:
            took = _event_loop().run_until_complete(self.loop(self.call, blocks))
        return took

    def mistakes(self) -> list[str]:
        """Say where what was recorded is not what was done."""
        if self.recorded is None or not self.done:
            return []
        found = self.recorded()
        wrong = [
            f"{self.key}: {self.done} calls were made, its {instrument} knows of {count}"
            for instrument, count in found.counts.items()
            if count != self.done
        ]
        if found.request_id is False:
            wrong.append(f"{self.key}: no exemplar with the request ID {REQUEST_ID} was found")
        if found.running:
            wrong.append(f"{self.key}: {found.running} calls count as running, there are none")
        return wrong


def _call_functions(call: Callable[[float], Any], blocks: int) -> int:
    values = VALUES
    started = thread_time_ns()
    for _ in repeat(None, blocks):
        for value in values:
            call(value)
    return thread_time_ns() - started


def _drain_generators(call: Callable[[float], Any], blocks: int) -> int:
    values = VALUES
    started = thread_time_ns()
    for _ in repeat(None, blocks):
        for value in values:
            for _ in call(value):
                pass
    return thread_time_ns() - started


async def _await_coroutines(call: Callable[[float], Any], blocks: int) -> int:
    values = VALUES
    started = thread_time_ns()
    for _ in repeat(None, blocks):
        for value in values:
            await call(value)
    return thread_time_ns() - started


async def _drain_async_generators(call: Callable[[float], Any], blocks: int) -> int:
    values = VALUES
    started = thread_time_ns()
    for _ in repeat(None, blocks):
        for value in values:
            async for _ in call(value):
                pass
    return thread_time_ns() - started


_LOOPS: dict[Form, Callable[[Callable[[Any], Any], int], Any]] = {
    Form.FUNCTION: _call_functions,
    Form.GENERATOR: _drain_generators,
    Form.COROUTINE: _await_coroutines,
    Form.ASYNC_GENERATOR: _drain_async_generators,
}


def _own_copy(function: Any) -> Any:
    """Return a function with the same code in an object of its own, which the interpreter specialises by itself."""
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


_loop: asyncio.AbstractEventLoop | None = None


def _event_loop() -> asyncio.AbstractEventLoop:
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
    return _loop


def close_event_loop() -> None:
    """Close the event loop that coroutines were run in, if there was one."""
    global _loop
    if _loop is not None:
        _loop.close()
        _loop = None
