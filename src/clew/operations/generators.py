"""Measured generators: from the first step to the end, in the request that the first step was in.

Between the consumer and the function's own generator stands another generator, which hands on each step. It does so by
hand: ``yield from`` closes a generator where GeneratorExit is thrown into it, so a body that handles that would go
another way, and what it returns when it is closed would be lost.
"""

from __future__ import annotations

import inspect
import sys
import types
import weakref
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Generator
from time import perf_counter as clock
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.context import get_current

from clew.interpreter.callables import Parameters, as_of, made_of
from clew.interpreter.interruptions import begins_at_once
from clew.operations import pipeline
from clew.operations.bind import bind_site
from clew.operations.run import Run, begin_call

if TYPE_CHECKING:
    from clew.operations.site import Site

Function = Callable[..., Any]

_FLAG_IS_A_MARK = sys.version_info >= (3, 11)
"""Whether the flag of a generator function in a code object is only a mark, and makes no generator by itself.

Where it makes one, a collected generator looks like a closed one, and counts as closed.
"""


_Watch = list[Callable[[], Any]]
"""Holds a weak reference to a generator, which tells whether that has been collected.

A collected generator and a closed one both see GeneratorExit; only a weak reference to the generator tells them apart,
and only the code that makes the generator can take one.
"""


_traceback_of = BaseException.__dict__["__traceback__"].__get__


def _throwing(throw: Callable[[BaseException], Any], error: BaseException) -> Callable[[None], Any]:
    """Return a step that throws an exception, without our own frame in its traceback, and keeps it no longer."""
    traceback = _traceback_of(error)
    kept = [BaseException.with_traceback(error, None if traceback is None else traceback.tb_next)]
    return lambda _: throw(kept.pop())


_TEXT = """\
def make(function, rare, clock, get_current):
    binding = None

    {define} measured({parameters}):
        inner = {inner}
        bound, run = binding, None
        if bound is None:
            run = rare.begin(watch, args, kwargs)
        else:
            shard = {shard}
            context = get_current()
            start = clock()
            shard.started += 1
        try:
            send = inner.{send}
            step, sent, is_closing = {first}, False
            while True:
                try:
                    sent = yield {wait}step(sent)
                    step = send
                except rare.BaseException as error:
                    if inner.{frame} is None:
                        if rare.type(error) is not rare.{end}:
                            raise
                        {result}
                        break
                    is_closing = is_closing or rare.type(error) is rare.GeneratorExit
                    step, sent = rare.throwing(inner.{throw}, error), None
        except rare.BaseException as error:
            if bound is None:
                rare.raised_on_slow_path(run, watch, error)
            else:
                rare.ended(bound, shard, start, watch, error, context)
            raise
        if bound is None:
            rare.returned_on_slow_path(run, watch, result)
        elif is_closing:
            rare.ended(bound, shard, start, watch, None, context)
        else:
            try:
                seconds = clock() - start
                shard = bound.in_this_thread(shard)  # asked again, since another thread may have driven it on
                index = rare.bisect_left(shard.bounds, seconds)
            except rare.BaseException as error:  # of a signal's handler, in the middle
                rare.ended(bound, shard, start, watch, error, context)
                raise
            shard.counts[index] += 1  # from here a copy of `Series.add`, in the Context of the first step
            shard.total += seconds
            shard.series.update_interval(shard, index, seconds, context)
        {return_}

    return measured
"""

_FORMS = {
    False: {
        "define": "def",
        "send": "send",
        "first": "send, None",
        "wait": "",
        "throw": "throw",
        "frame": "gi_frame",
        "end": "StopIteration",
        "result": "result = error.value",
        "return_": "return result",
    },
    True: {
        "define": "async def",
        "send": "asend",
        "first": "rare.first_step, inner",
        "wait": "await ",
        "throw": "athrow",
        "frame": "ag_frame",
        "end": "StopAsyncIteration",
        "result": "result = None",
        "return_": "",
    },
}


def _maker(parameters: str, inner: str, *, computes: bool, is_async: bool) -> Callable[..., Any]:
    shard = "bound.shard(args, kwargs)" if computes else "bound.local.shard"
    text = _TEXT.format(parameters=parameters, inner=inner, shard=shard, **_FORMS[is_async])
    return made_of(text, f"<clew.measure {_FORMS[is_async]['define']} {parameters} yields{' computed' * computes}>")


def _first_step(inner: AsyncGenerator[Any, Any]) -> Any:
    """Return the first step of an async generator that the event loop is not to know of.

    It knows of ours, and closes that; if it closed both at its end, this one would be closed twice.
    """
    hooks = sys.get_asyncgen_hooks()
    try:
        sys.set_asyncgen_hooks(None, None)
        return inner.__anext__()
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _was_collected(watch: _Watch | None) -> bool:
    return watch is not None and watch[0]() is None


class _Rare:
    """What the text uses rarely, and what it does then."""

    __slots__ = ("_site",)

    throwing, first_step, type = staticmethod(_throwing), staticmethod(_first_step), type
    bisect_left = staticmethod(bisect_left)
    BaseException, GeneratorExit = BaseException, GeneratorExit
    StopIteration, StopAsyncIteration = StopIteration, StopAsyncIteration

    def __init__(self, site: Site) -> None:
        self._site = site

    def begin(self, watch: _Watch | None, args: Any, kwargs: Any) -> Run | None:
        """Begin a run on the slow path."""
        bind_site(self._site)
        return begin_call(self._site, args, kwargs, keeps_context=True)

    @staticmethod
    @begins_at_once
    def ended(binding: Any, shard: Any, start: float, watch: _Watch | None, error: Any, context: Any) -> None:
        """Record that an exception has left it, or that it was closed or collected unfinished."""
        try:
            seconds = clock() - start
            is_abandoned = _was_collected(watch)
        except BaseException as interruption:  # of a signal's handler, in the middle
            binding.end_since(shard, start, interruption if error is None else error, context)
            raise
        if is_abandoned:
            binding.abandon(shard)
        elif error is None:
            shard.series.record(seconds, context)
        else:
            binding.end(shard, seconds, error, context)

    def raised_on_slow_path(self, run: Run | None, watch: _Watch | None, error: Any) -> None:
        """Do the same on the slow path."""
        if run is not None:
            if _was_collected(watch):
                run.abandon()
            else:
                run.end(error)

    def returned_on_slow_path(self, run: Run | None, watch: _Watch | None, result: Any) -> None:
        """Record that it has come to its end on the slow path."""
        if run is not None:
            if _was_collected(watch):
                run.abandon()
            else:
                run.end_with(result, self._site.failed)


NAMES: dict[str, Any] = {"clock": clock, "get_current": get_current}
"""What the text uses all the time."""


def _measured(function: Function, site: Site, *, is_async: bool) -> Function:
    if not _FLAG_IS_A_MARK:
        return _generator_function(function, site, is_async=is_async)
    make = _maker("inner, watch, args, kwargs", "inner", computes=site.compute is not None, is_async=is_async)
    steps = make(function, _Rare(site), **NAMES)
    site.keep_binding_in(steps)
    if _is_awaited(function):
        types.coroutine(steps)
    name, qualified_name = getattr(function, "__name__", "generator"), getattr(function, "__qualname__", "generator")
    steps.__name__, steps.__qualname__ = name, qualified_name
    current, reference = pipeline, cast("Callable[[Any], Any]", weakref.ref)

    def measured(*args: Any, **kwargs: Any) -> Any:
        inner = function(*args, **kwargs)
        if current.current is None:
            return inner
        watch: _Watch = []
        generator = steps(inner, watch, args, kwargs)
        watch.append(reference(generator))
        return generator

    flag = inspect.CO_ASYNC_GENERATOR if is_async else inspect.CO_GENERATOR
    flag |= inspect.CO_ITERABLE_COROUTINE if _is_awaited(function) else 0
    # made anew, since 3.13 deprecates to give a function the code of a generator
    code, names = measured.__code__.replace(co_flags=measured.__code__.co_flags | flag), measured.__globals__
    return as_of(function, FunctionType(code, names, measured.__name__, None, measured.__closure__))


def _generator_function(function: Function, site: Site, *, is_async: bool) -> Function:
    """Return a true generator function, which alone makes a generator before Python 3.11."""
    names = Parameters(function) if isinstance(function, FunctionType) else None
    if names is None:
        parameters, inner = "*args, **kwargs", "function(*args, **kwargs); watch = None"
    else:
        parameters = names.parameters
        inner = f"function({names.arguments}); watch = None; args, kwargs = {names.packed}"
    make = _maker(parameters, inner, computes=site.compute is not None, is_async=is_async)
    measured = make(function, _Rare(site), **NAMES)
    if _is_awaited(function):
        types.coroutine(measured)
    measured = as_of(function, measured) if names is None else names.given_to(measured)
    site.keep_binding_in(measured)
    return measured


def _is_awaited(function: Any) -> bool:
    """Tell whether the generators of a function are coroutines by `types.coroutine`."""
    return bool(getattr(getattr(function, "__code__", None), "co_flags", 0) & inspect.CO_ITERABLE_COROUTINE)


def measured_generator(function: Callable[..., Generator[Any, Any, Any]], site: Site) -> Function:
    """Return a function that measures the generators of `function`; wrong arguments are refused when it is called."""
    return _measured(function, site, is_async=False)


def measured_async_generator(function: Callable[..., AsyncGenerator[Any, Any]], site: Site) -> Function:
    """Return the same for an async generator function."""
    return _measured(function, site, is_async=True)
