"""`configure()` and `shutdown()` while other threads decorate, bind and use: nothing raises, nothing stays behind."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from recorded import Recorded

import clew


@pytest.fixture
def short_turns() -> Iterator[None]:
    """Threads that take turns as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_what_is_made_and_used_meanwhile_goes_where_measurements_go_at_last(
    configured: Callable[..., Recorded], short_turns: None
) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []
    functions: list[Callable[[], None]] = []
    bound: list[Any] = []

    def work(number: int) -> None:
        made = 0
        try:
            while not stop.is_set():
                function = clew.measure(f"function.{number}.{made % 50}")(lambda: None)
                one = clew.counter(f"counter.{number}").bind({"number": made % 50})
                function()
                one.add(1)
                if made < 50:
                    functions.append(function)
                    bound.append(one)
                functions[-1]()
                bound[-1].add(1)
                made += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            configured().telemetry.shutdown()
        recorded = configured()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    before = {point.attributes["operation.name"]: point.count for point in recorded.durations()}
    before_bound = sum(point.value for number in range(3) for point in recorded.points(f"counter.{number}"))
    for function in functions:
        function()
    for one in bound:
        one.add(1)
    after = {point.attributes["operation.name"]: point.count for point in recorded.durations()}
    assert sum(after.values()) - sum(before.values()) == len(functions) > 0
    after_bound = sum(point.value for number in range(3) for point in recorded.points(f"counter.{number}"))
    assert after_bound - before_bound == len(bound)


def test_a_collection_that_grows_while_it_is_looked_through_is_as_it_was(short_turns: None) -> None:
    from clew.interpreter.weak import WeakCollection

    class One:
        pass

    kept = [One() for _ in range(100)]
    collection: WeakCollection[One] = WeakCollection()
    for one in kept:
        collection.add(one)
    found = []
    for one in collection:
        found.append(one)
        collection.add(One())
        kept.append(One())
        collection.add(kept[-1])
    assert len(found) == 100
    assert len(list(collection)) == 200
    del found, one
    gone = kept.pop(0)
    assert gone in collection
    collection.discard(gone)
    assert gone not in collection
    kept.clear()
    assert not collection
