"""The functions that stand in for the decorated ones, one for each form that Python code has."""

from __future__ import annotations

import functools
import inspect
import sys
import types
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from time import perf_counter as clock
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context, get_current

from clew import pipeline
from clew.attributes import key_of
from clew.running import Run, begin
from clew.short_way import short_way

if TYPE_CHECKING:
    from clew.measure import Site

Function = Callable[..., Any]


def wrap(function: Function, site: Site) -> Function:
    """Return a function that measures each call of `function`, of the same kind for `inspect` and for frameworks."""
    if inspect.isasyncgenfunction(function):
        if site.failed is not None:
            raise TypeError(f"{site.name}: failed looks at a returned value, and an async generator returns none")
        return _asyncgen(function, site)
    if inspect.isgeneratorfunction(function):
        return _generator(function, site)
    if inspect.iscoroutinefunction(function):
        return _coroutine(function, site)
    return _function(function, site)


def _begin(site: Site, args: Any, kwargs: Any, *, keeps_context: bool = False) -> Run | None:
    current = pipeline.current
    if current is None:
        return None
    attributes, key = site.attributes, site.key
    if site.compute is not None:
        attributes = site.compute(args, kwargs) or {}
        key = key_of(attributes)
    return begin(current, site.name, attributes, key, site.expected, span=site.span, keeps_context=keeps_context)


def _function(function: Function, site: Site) -> Function:
    def measured_the_long_way(*args: Any, **kwargs: Any) -> Any:
        site.make_link()
        run = _begin(site, args, kwargs)
        if run is None:
            return function(*args, **kwargs)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            run.end(error)
            raise
        run.end_with(result, site.failed)
        return result

    return _linked(function, site, measured_the_long_way)


def _coroutine(function: Function, site: Site) -> Function:
    async def measured_the_long_way(*args: Any, **kwargs: Any) -> Any:
        site.make_link()
        run = _begin(site, args, kwargs)
        if run is None:
            return await function(*args, **kwargs)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            run.end(error)
            raise
        run.end_with(result, site.failed)
        return result

    return _linked(function, site, measured_the_long_way)


def _linked(function: Function, site: Site, long_way: Function) -> Function:
    measured, set_link = short_way(function, long_way, computes=site.compute is not None)
    site.on_link(set_link)
    return measured


_TELLS_COLLECTED = sys.version_info >= (3, 11)
"""Whether a collected generator can be told from a closed one; on 3.10 it counts as closed."""

_WATCH = "clew: watch"  # no identifier, so no keyword argument of anybody's


class _Watch:
    """Tells whether the generator that it was given has been collected.

    A collected generator and a closed one both see GeneratorExit; only a weak reference to the generator tells them
    apart, and only who makes the generator can take one.
    """

    __slots__ = ("_generator",)

    def __init__(self) -> None:
        self._generator: weakref.ref[Any] | None = None

    def over(self, generator: Any) -> None:
        self._generator = weakref.ref(generator)

    def sees_collected(self) -> bool:
        return self._generator is not None and self._generator() is None


def _end_generator(run: Run, error: BaseException, watch: _Watch | None) -> None:
    if watch is not None and watch.sees_collected():
        run.abandon()
    else:
        run.end(error)


def _generator(function: Callable[..., Generator[Any, Any, Any]], site: Site) -> Function:
    """Measure a generator function: from the first step to the end, in the request that the first step was in."""
    link: Any = None
    computes = site.compute is not None

    def set_link(new: Any) -> None:
        nonlocal link
        link = new

    def steps_the_long_way(watch: _Watch | None, args: Any, kwargs: Any) -> Generator[Any, Any, Any]:
        site.make_link()
        run = _begin(site, args, kwargs, keeps_context=True)
        if run is None:
            return (yield from function(*args, **kwargs))
        try:
            result = yield from function(*args, **kwargs)
        except BaseException as error:
            _end_generator(run, error, watch)
            raise
        run.end_with(result, site.failed)
        return result

    def steps(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        watch = kwargs.pop(_WATCH, None)
        linked = link
        if linked is None:
            return (yield from steps_the_long_way(watch, args, kwargs))
        shard = linked.shard(args, kwargs) if computes else linked.local.shard
        shard.started += 1
        context = get_current()
        start = clock()
        try:
            result = yield from function(*args, **kwargs)
        except BaseException as error:
            _leave_generator(linked, shard, clock() - start, error, watch, context)
            raise
        seconds = clock() - start
        shard = linked.again(shard)  # asked again, since another thread may have driven the generator on
        shard.series.add(shard, seconds, context)
        return result

    site.on_link(set_link)
    if getattr(getattr(function, "__code__", None), "co_flags", 0) & inspect.CO_ITERABLE_COROUTINE:
        types.coroutine(steps)  # marks it: what it returns is awaited
    return _watched(function, functools.wraps(function)(steps), inspect.CO_GENERATOR)


def _asyncgen(function: Callable[..., AsyncGenerator[Any, Any]], site: Site) -> Function:
    """Measure an async generator function, as `_generator` does."""
    link: Any = None
    computes = site.compute is not None

    def set_link(new: Any) -> None:
        nonlocal link
        link = new

    async def steps(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        watch = kwargs.pop(_WATCH, None)
        linked = link
        run: Run | None = None
        shard: Any = None
        context = get_current()
        if linked is None:
            site.make_link()
            run = _begin(site, args, kwargs, keeps_context=True)
        else:
            shard = linked.shard(args, kwargs) if computes else linked.local.shard
            shard.started += 1
        start = clock()
        inner = function(*args, **kwargs)
        try:
            step = inner.__anext__()
            while True:
                try:
                    value = await step
                except StopAsyncIteration:
                    break
                sent = thrown = None
                try:
                    sent = yield value
                except GeneratorExit:
                    await inner.aclose()
                    raise
                except BaseException as error:
                    thrown = error
                step = inner.asend(sent) if thrown is None else inner.athrow(thrown)
        except BaseException as error:
            if linked is not None:
                _leave_generator(linked, shard, clock() - start, error, watch, context)
            elif run is not None:
                _end_generator(run, error, watch)
            raise
        if linked is not None:
            seconds = clock() - start
            shard = linked.again(shard)
            shard.series.add(shard, seconds, context)
        elif run is not None:
            run.end()

    site.on_link(set_link)
    return _watched(function, functools.wraps(function)(steps), inspect.CO_ASYNC_GENERATOR)


def _leave_generator(
    linked: Any, shard: Any, seconds: float, error: BaseException, watch: _Watch | None, context: Context
) -> None:
    """Record the end of a generator that an exception has left, or that was collected unfinished."""
    if watch is not None and watch.sees_collected():
        linked.abandon(shard)
    else:
        linked.end(shard, seconds, error, context)


def _watched(function: Function, steps: Function, flag: int) -> Function:
    """Return a function that makes the generators of `steps` and watches each; `inspect` sees a generator function.

    From Python 3.11 on the flag in a code object is a mark that makes nothing by itself. Before, it made the generator,
    so there nothing is watched.
    """
    if not _TELLS_COLLECTED:
        return steps

    def measured(*args: Any, **kwargs: Any) -> Any:
        if pipeline.current is None:
            return function(*args, **kwargs)
        watch = _Watch()
        generator = steps(*args, **kwargs, **{_WATCH: watch})
        watch.over(generator)
        return generator

    measured.__code__ = measured.__code__.replace(co_flags=measured.__code__.co_flags | flag)
    return functools.wraps(function)(measured)
