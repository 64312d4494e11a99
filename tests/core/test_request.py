"""The request: its ID, what reads it, and what no longer does."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import logging
import multiprocessing
import os
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import clew

ALLOWED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/+=@~|-"


@pytest.fixture(autouse=True)
def outside_any_request() -> Iterator[None]:
    assert clew.request_id() is None
    yield
    assert clew.request_id() is None


def test_a_new_id_is_short_and_of_allowed_characters() -> None:
    with clew.request() as request_id:
        assert 8 <= len(request_id) <= 32
        assert set(request_id) <= set(ALLOWED)
        assert clew.request_id() == request_id


def test_new_ids_sort_by_time() -> None:
    made = []
    for _ in range(10_000):
        with clew.request() as request_id:
            made.append(request_id)
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def make_ids(number: int) -> list[str]:
    made = []
    for _ in range(number):
        with clew.request() as request_id:
            made.append(request_id)
    return made


def test_ids_are_unique_over_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [request_id for ids in pool.map(make_ids, [2_000] * 16) for request_id in ids]
    assert len(set(made)) == 32_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_ids_are_unique_over_forks() -> None:
    make_ids(1)  # what a parent has made before must not be made again
    with multiprocessing.get_context("fork").Pool(4) as pool:
        made = [request_id for ids in pool.map(make_ids, [2_000] * 8) for request_id in ids]
    made += make_ids(2_000)
    assert len(set(made)) == 18_000


@given(st.text(alphabet=ALLOWED, min_size=1, max_size=118))
def test_every_valid_id_is_accepted(value: str) -> None:
    with clew.request(value) as request_id:
        assert request_id == value == clew.request_id()


@given(st.one_of(st.text(), st.binary(), st.integers(), st.none(), st.lists(st.text()), st.floats()))
@example("")
@example("a" * 119)
@example("a" * 4096)
@example("line\nbreak")
@example("trailing\n")
@example("nul\0")
@example("ä")
@example("a b")
@example("٣")
def test_anything_else_is_replaced_and_never_raises(value: Any) -> None:
    valid = isinstance(value, str) and 1 <= len(value) <= 118 and set(value) <= set(ALLOWED)
    with clew.request(value) as request_id:
        assert (request_id == value) == valid
        assert 1 <= len(request_id) <= 118
        assert set(request_id) <= set(ALLOWED)


def test_what_is_replaced_is_counted_and_logged_once_without_its_characters(caplog: pytest.LogCaptureFixture) -> None:
    from clew import diagnostics

    diagnostics._warned.discard("request_id.replaced")
    before = diagnostics.counts().get("request_id.replaced", 0)
    for _ in range(3):
        with clew.request("evil\r\nSet-Cookie: x"):
            pass
    (record,) = [r for r in caplog.records if "not valid" in r.getMessage()]
    assert "\n" not in record.getMessage()
    assert record.levelno == logging.WARNING
    assert diagnostics.counts()["request_id.replaced"] == before + 3


def test_requests_nest_and_the_outer_one_comes_back() -> None:
    with clew.request("outer"):
        with clew.request("inner"):
            assert clew.request_id() == "inner"
        assert clew.request_id() == "outer"


def test_an_exception_passes_and_the_request_ends() -> None:
    with pytest.raises(KeyError), clew.request():
        raise KeyError
    assert clew.request_id() is None


def test_as_a_decorator_each_call_is_a_new_request() -> None:
    @clew.request()
    def serve() -> str | None:
        return clew.request_id()

    @clew.request()
    async def serve_async() -> str | None:
        await asyncio.sleep(0)
        return clew.request_id()

    assert inspect.iscoroutinefunction(serve_async)
    ids = [serve(), serve(), asyncio.run(serve_async()), asyncio.run(serve_async())]
    assert None not in ids
    assert len(set(ids)) == 4


def test_as_a_decorator_without_parentheses_too() -> None:
    @clew.request
    def serve() -> str | None:
        return clew.request_id()

    assert serve() != serve()


def test_a_generator_function_is_refused_at_decoration() -> None:
    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    for function in (generator, async_generator):
        with pytest.raises(TypeError, match="generator function"):
            clew.request()(function)


def test_blocks_left_out_of_order_leave_no_request_behind(caplog: pytest.LogCaptureFixture) -> None:
    first, second = clew.request("first"), clew.request("second")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert clew.request_id() == "second"
    second.__exit__(None, None, None)
    assert clew.request_id() is None
    assert caplog.records == []


def test_a_span_left_after_its_request_brings_no_request_back(caplog: pytest.LogCaptureFixture) -> None:
    tracer = TracerProvider().get_tracer("test")
    request = clew.request("ended")
    request.__enter__()
    with tracer.start_as_current_span("late"):
        request.__exit__(None, None, None)
        assert clew.request_id() is None
        assert trace.get_current_span().is_recording()
    assert clew.request_id() is None
    seen: list[str | None] = []
    contextvars.copy_context().run(lambda: seen.append(clew.request_id()))
    assert seen == [None]


def test_a_task_that_outlives_its_request_keeps_it() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def later() -> str | None:
            await go.wait()
            return clew.request_id()

        with clew.request("started-here"):
            task = asyncio.create_task(later())
        assert clew.request_id() is None
        go.set()
        assert await task == "started-here"

    asyncio.run(main())


def test_a_thread_that_outlives_its_request_keeps_it() -> None:
    go, seen = threading.Event(), []
    with clew.request("started-here"):
        context = contextvars.copy_context()

        def later() -> None:
            go.wait(5)
            seen.append(context.run(clew.request_id))

        thread = threading.Thread(target=later)
        thread.start()
    go.set()
    thread.join()
    assert seen == ["started-here"]


def test_a_task_started_after_an_exit_out_of_order_is_not_part_of_the_request() -> None:
    async def ask() -> str | None:
        return clew.request_id()

    async def main() -> None:
        tracer = TracerProvider().get_tracer("test")
        request = clew.request("ended")
        request.__enter__()
        go = asyncio.Event()

        async def early() -> str | None:
            await go.wait()
            return clew.request_id()

        with tracer.start_as_current_span("inside"):
            kept = asyncio.create_task(early())
            await asyncio.sleep(0)
            request.__exit__(None, None, None)
        assert await asyncio.create_task(ask()) is None
        assert await asyncio.to_thread(clew.request_id) is None
        go.set()
        assert await kept == "ended"

    asyncio.run(main())


def test_an_async_generator_abandoned_in_a_request_leaves_nothing_with_its_consumer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def stream() -> AsyncIterator[int]:
        with clew.request("of-the-stream"):
            yield 1
            yield 2

    async def ask() -> str | None:
        return clew.request_id()

    async def main() -> None:
        with clew.request("of-the-consumer"):
            async for _ in stream():
                break
            gc.collect()
            await asyncio.sleep(0)  # the loop closes what was collected in a task of its own
            await asyncio.sleep(0)
            assert clew.request_id() == "of-the-consumer"
            assert await asyncio.create_task(ask()) == "of-the-consumer"
        assert clew.request_id() is None
        assert await asyncio.create_task(ask()) is None

    asyncio.run(main())
    assert caplog.records == []


def test_a_generator_closed_within_another_request_ends_only_its_own() -> None:
    def stream() -> Iterator[str | None]:
        with clew.request("of-the-stream"):
            yield clew.request_id()

    generator = stream()
    assert next(generator) == "of-the-stream"
    with clew.request("another"):
        generator.close()
        assert clew.request_id() == "another"
    assert clew.request_id() is None


def test_tasks_side_by_side_keep_their_own() -> None:
    async def one(n: int) -> bool:
        with clew.request(f"request-{n}"):
            for _ in range(5):
                await asyncio.sleep(0)
                if clew.request_id() != f"request-{n}":
                    return False
        return clew.request_id() is None

    async def main() -> list[bool]:
        return await asyncio.gather(*(one(n) for n in range(50)))

    assert all(asyncio.run(main()))


def test_requests_each_started_by_the_one_before_do_not_pile_up() -> None:
    from clew.propagation.cell import RequestCell

    def cells() -> int:
        gc.collect()
        return sum(type(found) is RequestCell for found in gc.get_objects())

    async def tick(number: int) -> asyncio.Task[Any] | int:
        with clew.request(f"tick-{number}"):
            assert clew.request_id() == f"tick-{number}"
            if number < 50:
                return asyncio.create_task(tick(number + 1))
            return cells()

    async def tick_on() -> int:
        found: asyncio.Task[Any] | int = asyncio.create_task(tick(0))
        while isinstance(found, asyncio.Task):
            found = await found
        return found

    before = cells()
    assert asyncio.run(tick_on()) - before < 10


def test_many_requests_left_behind_do_not_pile_up() -> None:
    from opentelemetry.context import get_current

    from clew.propagation.cell import REQUEST_KEY

    for n in range(200):
        left, around = clew.request(f"left-{n}"), clew.request(f"around-{n}")
        left.__enter__()
        around.__enter__()
        left.__exit__(None, None, None)
        around.__exit__(None, None, None)
    depth, cell = 0, get_current().get(REQUEST_KEY)
    while cell is not None:
        depth, cell = depth + 1, cell._outer  # type: ignore[attr-defined]
    assert depth == 0
