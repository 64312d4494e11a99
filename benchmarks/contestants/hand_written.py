"""The bare calls, and the least that measuring can cost in pure Python: what all others are compared to."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator
from time import perf_counter_ns, time_ns
from typing import Any

import clew
from benchmarks.contestant import BOUNDS, REQUEST_ID, Contestant, Form, Recorded

GROUP = "by hand"

BOUNDS_NS = tuple(round(bound * 1e9) for bound in BOUNDS)
_BUCKETS = len(BOUNDS_NS) + 1


def bare(value: float) -> float:
    return value


async def bare_coroutine(value: float) -> float:
    return value


def bare_generator(value: float) -> Iterator[float]:
    yield value


async def bare_async_generator(value: float) -> AsyncIterator[float]:
    yield value


def empty_wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapped


def empty_async_wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapped


def two_clocks(function: Callable[..., Any]) -> Callable[..., Any]:
    last = 0

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal last
        started = perf_counter_ns()
        try:
            return function(*args, **kwargs)
        finally:
            last = perf_counter_ns() - started

    return timed


class Shard:
    """What one thread has measured: buckets, sum, smallest, largest, exemplars, and how many calls have begun.

    How many are running is how many have begun less those in the buckets, over all shards: one addition a call. Each
    bucket keeps the largest measurement since the last collection, so the Context is read for the request ID a few
    times an interval. (To look at a clock instead, "at most one in 10 ms", was tried and costs 40 ns more.)
    """

    __slots__ = ("begun", "buckets", "exemplars", "largest", "largest_of", "smallest", "total")

    def __init__(self) -> None:
        self.begun = 0
        self.buckets = [0] * _BUCKETS
        self.total = 0
        self.smallest = 1 << 62
        self.largest = -1
        self.largest_of = [-1] * _BUCKETS
        self.exemplars: list[tuple[int, int, str | None] | None] = [None] * _BUCKETS

    def keep(self, bucket: int, duration: int) -> None:
        """Keep an exemplar: only here is the Context read for the request ID."""
        self.largest_of[bucket] = duration
        self.exemplars[bucket] = (duration, time_ns(), clew.request_id())

    def collect(self) -> None:
        """Begin a new interval."""
        self.largest_of = [-1] * _BUCKETS

    def has_request_id(self) -> bool:
        return any(found is not None and found[2] == REQUEST_ID for found in self.exemplars)


class Shards:
    """The shards of all threads of one operation, and its failed calls by type."""

    def __init__(self) -> None:
        self.local = threading.local()
        self.all: list[Shard] = []
        self.failures: dict[str, Shard] = {}
        self._lock = threading.Lock()

    def new(self) -> Shard:
        shard = self.local.shard = Shard()
        with self._lock:
            self.all.append(shard)
        return shard

    def fail(self, duration: int, error: BaseException) -> None:
        with self._lock:
            shard = self.failures.setdefault(type(error).__qualname__, Shard())
            shard.buckets[bisect_left(BOUNDS_NS, duration)] += 1
            shard.total += duration

    def collect(self) -> None:
        """Begin a new interval in each shard."""
        for shard in self.all:
            shard.collect()

    def recorded(self) -> Recorded:
        ended = sum(sum(shard.buckets) for shard in (*self.all, *self.failures.values()))
        return Recorded(
            {"histogram": ended},
            any(shard.has_request_id() for shard in self.all),
            sum(shard.begun for shard in self.all) - ended,
        )


# The two below are long, and one function each, because each call saved costs 40 to 60 ns less: the least there is.


def minimum(function: Callable[..., Any], shards: Shards) -> Callable[..., Any]:
    local = shards.local

    def measured(*args: Any, **kwargs: Any) -> Any:
        try:
            shard = local.shard
        except AttributeError:
            shard = shards.new()
        shard.begun += 1
        started = perf_counter_ns()
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            shards.fail(perf_counter_ns() - started, error)
            raise
        duration = perf_counter_ns() - started
        bucket = bisect_left(BOUNDS_NS, duration)
        shard.buckets[bucket] += 1
        shard.total += duration
        if duration > shard.largest:
            shard.largest = duration
        if duration < shard.smallest:
            shard.smallest = duration
        if duration > shard.largest_of[bucket]:
            shard.keep(bucket, duration)
        return result

    return measured


def minimum_async(function: Callable[..., Any], shards: Shards) -> Callable[..., Any]:
    local = shards.local

    async def measured(*args: Any, **kwargs: Any) -> Any:
        try:
            shard = local.shard
        except AttributeError:
            shard = shards.new()
        shard.begun += 1
        started = perf_counter_ns()
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            shards.fail(perf_counter_ns() - started, error)
            raise
        duration = perf_counter_ns() - started
        bucket = bisect_left(BOUNDS_NS, duration)
        shard.buckets[bucket] += 1
        shard.total += duration
        if duration > shard.largest:
            shard.largest = duration
        if duration < shard.smallest:
            shard.smallest = duration
        if duration > shard.largest_of[bucket]:
            shard.keep(bucket, duration)
        return result

    return measured


def minimum_locked(function: Callable[..., Any], shard: Shard) -> Callable[..., Any]:
    """Measure into one shard for all threads, under one lock: what many write first."""
    lock = threading.Lock()

    def measured(*args: Any, **kwargs: Any) -> Any:
        started = perf_counter_ns()
        try:
            return function(*args, **kwargs)
        finally:
            duration = perf_counter_ns() - started
            bucket = bisect_left(BOUNDS_NS, duration)
            with lock:
                shard.buckets[bucket] += 1
                shard.total += duration
                if duration > shard.largest:
                    shard.largest = duration
                if duration < shard.smallest:
                    shard.smallest = duration
                if duration > shard.largest_of[bucket]:
                    shard.keep(bucket, duration)

    return measured


def baselines() -> list[Contestant]:
    """Return the bare call of each form."""
    return [
        Contestant("bare", "bare function", GROUP, bare),
        Contestant("bare-async", "bare coroutine function", GROUP, bare_coroutine, form=Form.COROUTINE),
        Contestant("bare-generator", "bare generator", GROUP, bare_generator, form=Form.GENERATOR),
        Contestant(
            "bare-async-generator",
            "bare async generator",
            GROUP,
            bare_async_generator,
            form=Form.ASYNC_GENERATOR,
        ),
    ]


def empty_wrappers() -> list[Contestant]:
    """Return the wrappers that do nothing."""
    return [
        Contestant("empty-wrapper", "an empty wrapper", GROUP, empty_wrapper(bare)),
        Contestant(
            "empty-wrapper-async",
            "an empty wrapper, async",
            GROUP,
            empty_async_wrapper(bare_coroutine),
            form=Form.COROUTINE,
        ),
    ]


def minimums() -> tuple[list[Contestant], list[Shard | Shards]]:
    """Return the least that has to be done for a count, a duration and a request ID, and what is to be collected."""
    shards, async_shards, locked = Shards(), Shards(), Shard()

    def locked_recorded() -> Recorded:
        return Recorded({"histogram": sum(locked.buckets)}, locked.has_request_id())

    emits = "histogram, exemplar, running"
    return [
        Contestant("two-clocks", "two clock reads, try/finally", GROUP, two_clocks(bare)),
        Contestant("minimum", "hand-written minimum", GROUP, minimum(bare, shards), emits, shards.recorded),
        Contestant(
            "minimum-async",
            "hand-written minimum, async",
            GROUP,
            minimum_async(bare_coroutine, async_shards),
            emits,
            async_shards.recorded,
            Form.COROUTINE,
        ),
        Contestant(
            "minimum-locked",
            "same with one lock for all threads",
            GROUP,
            minimum_locked(bare, locked),
            "histogram, exemplar",
            locked_recorded,
        ),
    ], [shards, async_shards, locked]
