"""Work that a request hands to threads, pools and processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import clew
from clew.integrations import concurrency


@pytest.fixture(autouse=True)
def instrumented() -> Iterator[None]:
    concurrency.instrument()
    concurrency.instrument()
    yield
    concurrency.uninstrument()


def current(*_: Any) -> str | None:
    return clew.request_id()


def tell(connection: Any) -> None:
    connection.send(clew.request_id())


class Teller(multiprocessing.get_context("spawn").Process):  # type: ignore[name-defined, misc]
    def __init__(self, connection: Any) -> None:
        super().__init__()
        self.connection = connection

    def run(self) -> None:
        tell(self.connection)


def test_a_thread_that_is_started_inside_a_request_carries_it_even_when_it_outlives_it() -> None:
    seen: list[str | None] = []
    go = threading.Event()

    def work() -> None:
        go.wait()
        seen.append(clew.request_id())

    class Own(threading.Thread):
        def run(self) -> None:
            work()

    with clew.request("abc"):
        threads = [threading.Thread(target=work), Own(), threading.Timer(0, work)]
        for thread in threads:
            thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert seen == ["abc"] * 3


def test_a_thread_that_is_started_outside_carries_nothing() -> None:
    seen: list[str | None] = []
    with clew.request("abc"):
        thread = threading.Thread(target=lambda: seen.append(clew.request_id()))
    thread.start()
    thread.join()
    assert seen == [None]


def test_a_thread_is_in_the_span_of_who_started_it() -> None:
    seen: list[Any] = []
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with clew.request("abc"), tracer.start_as_current_span("outer") as span:
        thread = threading.Thread(target=lambda: seen.append(trace.get_current_span()))
        thread.start()
        thread.join()
    assert seen == [span]


def test_a_thread_can_be_started_once_as_ever() -> None:
    with clew.request("abc"):
        thread = threading.Thread(target=current)
        thread.start()
        thread.join()
        with pytest.raises(RuntimeError):
            thread.start()


def test_each_task_of_a_pool_of_threads_is_in_the_request_that_submitted_it() -> None:
    with ThreadPoolExecutor(1) as pool:
        with clew.request("one"):
            futures = [pool.submit(current)]
        with clew.request("two"):
            futures.append(pool.submit(current))
            mapped = list(pool.map(current, range(2)))
        futures.append(pool.submit(current))
        assert [future.result() for future in futures] == ["one", "two", None]
        assert mapped == ["two", "two"]


def test_run_in_executor_and_to_thread_carry_the_request() -> None:
    async def main() -> list[str | None]:
        with clew.request("abc"):
            loop = asyncio.get_running_loop()
            return [await loop.run_in_executor(None, current), await asyncio.to_thread(current)]

    assert asyncio.run(main()) == ["abc", "abc"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_each_task_of_a_pool_of_processes_is_in_the_request_that_submitted_it(method: str) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        with clew.request("one"):
            first = pool.submit(current)
        second = pool.submit(current)
        with clew.request("three"):
            third = list(pool.map(current, range(2)))
        assert (first.result(60), second.result(60), third) == ("one", None, ["three", "three"])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_that_is_started_inside_a_request_carries_it(method: str) -> None:
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    with clew.request("abc"):
        process = context.Process(target=tell, args=(sender,))
        process.start()
    assert receiver.poll(60)
    assert receiver.recv() == "abc"
    process.join(60)
    assert process.exitcode == 0


def test_a_process_class_of_one_s_own_carries_it_too() -> None:
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    with clew.request("abc"):
        process = Teller(sender)
        process.start()
    assert receiver.poll(60)
    assert receiver.recv() == "abc"
    process.join(60)


@pytest.mark.parametrize("kind", ["threads", "fork"])
def test_pools_of_multiprocessing_carry_it(kind: str) -> None:
    with clew.request("outer"):
        pool: Any = ThreadPool(1) if kind == "threads" else multiprocessing.get_context("fork").Pool(1)
    with pool:
        with clew.request("abc"):
            found = [
                pool.apply(current),
                pool.apply_async(func=current).get(60),
                *pool.map(current, [1]),
                *pool.starmap(current, [(1, 2)]),
                *pool.imap(current, [1]),
                *pool.imap_unordered(current, [1]),
                *pool.map_async(current, [1]).get(60),
            ]
        assert found == ["abc"] * 7
        assert pool.apply(current) is None


def test_uninstrumenting_leaves_everything_as_it_was() -> None:
    concurrency.uninstrument()
    seen: list[str | None] = []
    with clew.request("abc"):
        thread = threading.Thread(target=lambda: seen.append(clew.request_id()))
        thread.start()
        thread.join()
    assert seen == [None]
