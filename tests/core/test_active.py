"""``operation.active``: never below zero while runs begin and end, and right when nothing moves any more."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from recorded import Recorded

import clew
from clew.metrics.recorder import PortableRecorder
from clew.operations import pipeline

COLLECTIONS = 150
SECONDS = 3.0


def told(turn: int) -> None:
    with suppress(ValueError), clew.measure("work") as m:
        m.set("turn", turn % 5)
        if turn % 7 == 0:
            raise ValueError


@clew.measure("work")
def fails_at_times(turn: int) -> None:
    if turn % 3 == 0:
        raise KeyError(turn % 2)


@clew.measure("work", attributes=lambda turn: {"turn": turn % 4})
def computed(turn: int) -> None:
    return


@clew.measure("work", attributes={"fixed": True})
def with_attributes(turn: int) -> None:
    with_attributes_inside(turn)


@clew.measure("work")
def with_attributes_inside(turn: int) -> None:
    raise LookupError if turn % 2 else ValueError


@clew.measure("work")
def steps() -> Iterator[None]:
    yield
    yield


def handed_over(turn: int, waiting: list[Any] = []) -> None:  # noqa: B006 (what one thread begins another one ends)
    """Begin a generator's run, and end one that may be another thread's; some are left to be collected."""
    begun = steps()
    next(begun)
    waiting.append(begun)
    with suppress(IndexError, ValueError):
        waiting.pop(0) if turn % 11 == 0 else list(waiting.pop(0))


def ignore_errors(run: Callable[[int], None]) -> Callable[[int], None]:
    def quiet(turn: int) -> None:
        with suppress(ValueError, LookupError):
            run(turn)

    return quiet


FORMS: dict[str, list[Callable[[int], None]]] = {
    "told": [told],
    "failing": [fails_at_times],
    "computed": [computed],
    "nested": [with_attributes],
    "generators": [handed_over],
    "all": [told, fails_at_times, computed, with_attributes, handed_over],
}


@pytest.fixture
def threads_change_all_the_time() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def active(recorded: Recorded, operation: str = "work") -> int:
    found = [p.value for p in recorded.points("operation.active") if p.attributes["operation.name"] == operation]
    return int(sum(found))


def least_active(recorded: Recorded, forms: list[Callable[[int], None]]) -> int:
    """Run the forms in three threads while it is collected, and return the least that was under way."""
    stop = threading.Event()

    def work() -> None:
        for turn in itertools.count():
            for form in forms:
                ignore_errors(form)(turn)
            if stop.is_set():
                return

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + SECONDS
        least = 0
        for _ in range(COLLECTIONS):
            least = min(least, active(recorded))
            if time.monotonic() > deadline:
                break
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return least


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("threads_change_all_the_time")
def test_it_is_never_below_zero_and_right_at_rest(recorded: Recorded, form: str) -> None:
    assert least_active(recorded, FORMS[form]) == 0
    drain()
    assert active(recorded) == 0


@pytest.mark.usefixtures("threads_change_all_the_time")
def test_nor_is_it_with_plain_instruments_under_another_provider() -> None:
    recorded = Recorded()
    provider = MeterProvider([recorded.reader], shutdown_on_exit=False)
    pipeline.use(pipeline.Pipeline(provider, PortableRecorder(provider)))
    try:
        assert least_active(recorded, FORMS["all"]) == 0
        drain()
        assert active(recorded) == 0
    finally:
        pipeline.use(None)


def drain() -> None:
    """Drop the generators that wait for their next step."""
    waiting: list[Any] = handed_over.__defaults__[0]  # type: ignore[index]
    waiting.clear()


def test_a_reader_that_is_added_later_sees_what_is_under_way_and_its_end(recorded: Recorded) -> None:
    later = Recorded()
    with clew.measure("work"):
        with clew.measure("work") as m:
            m.set("tier", "gold")
            recorded.telemetry.meter_provider.add_metric_reader(later.reader)  # type: ignore[attr-defined]
            assert active(later) == active(recorded) == 2
        assert active(later) == active(recorded) == 1
    assert active(later) == active(recorded) == 0
    assert isinstance(later.reader, InMemoryMetricReader)
