"""The fast path of a measured call, with the parameters of the very function that is measured.

To take any arguments and hand them on, as ``*args`` and ``**kwargs``, costs a third of what a measured call costs. So
the code of the fast path is made once for each number of parameters, and gets the names of the function's own; a
function that takes any arguments itself, or whose attributes are computed from them, gets the form that hands them on.
As with every function, a call whose arguments do not fit is refused before anything runs; it is not measured.

The functions made this way use no globals: they have those of the measured function, where frameworks look annotations
up.
"""

from __future__ import annotations

import functools
import inspect
from bisect import bisect_left
from collections.abc import Callable
from time import perf_counter as clock
from types import FunctionType
from typing import Any

from clew.interpreter.callables import Parameters, as_of, made_of
from clew.interpreter.interruptions import let_through
from clew.metrics.deferred import defer
from clew.operations import pipeline
from clew.operations.awaited import VALUE_CLASSES, awaitable_on_fast_path

Function = Callable[..., Any]

_TEXT = """\
def make(function, rare, clock, bisect_left, type):
    binding = None

    {define} measured({parameters}):
        bound = binding
        if bound is None:
            if rare.pipeline.current is None:
                return {wait}function({arguments})
            return {wait}rare.slow_path({arguments})
        shard = {shard}
        start = clock()
        shard.started += 1
        try:
            result = {wait}function({arguments})
            seconds = clock() - start
        except rare.BaseException as error:
            try:
                bound.end_since(shard, start, error)
            except rare.RecursionError:  # no room on the stack
                rare.defer((bound.end_later, shard, clock() - start, rare.type(error)))
            except rare.Exception as internal_error:
                rare.let_through(internal_error)
            raise
        try:{look}{again}
            index = bisect_left(shard.bounds, seconds)
        except rare.BaseException as error:
            rare.defer((bound.end_later, shard, seconds, None))
            if rare.type(error) is not rare.RecursionError:
                rare.let_through(error)
            return result
        shard.counts[index] += 1  # from here a copy of `Series.add`
        shard.total += seconds
        interval = shard.interval
        if seconds < interval.min:
            interval.min = seconds
        if seconds > interval.max:
            interval.max = seconds
        if seconds >= interval.thresholds[index]:
            try:
                shard.series.layout.offer(interval, index, seconds, None)
            except rare.RecursionError:  # it is counted, and only no exemplar
                pass
            except rare.Exception as error:
                rare.let_through(error)
        return result

    return measured
"""

_LOOK = """
            if type(result) is not bound.returned and type(result) not in rare.VALUE_CLASSES:
                awaitable = rare.awaitable_on_fast_path(bound, shard, seconds, result)
                if awaitable is not None:
                    return awaitable"""
# What the handler of a signal raises may come with each call, such as `clock()`. So calls stand before a run is counted
# as begun or in the `try`, and none stands between the `try` and the count.

_AGAIN = """
            # asked again, since another thread may have driven the coroutine on
            shard = {}"""

NAMES: dict[str, Any] = {"clock": clock, "bisect_left": bisect_left, "type": type}
"""What the text uses all the time, from its closure: each name there costs each call a nanosecond."""


class _Rare:
    """What the text uses rarely."""

    __slots__ = ("slow_path",)

    pipeline, VALUE_CLASSES, defer = pipeline, VALUE_CLASSES, defer
    awaitable_on_fast_path = staticmethod(awaitable_on_fast_path)
    BaseException, Exception, RecursionError, type = BaseException, Exception, RecursionError, type
    let_through = staticmethod(let_through)

    def __init__(self, slow_path: Function) -> None:
        self.slow_path = slow_path


_HANDED_ON = "*args, **kwargs"


def fast_path(function: Function, slow_path: Function, *, computes: bool) -> Function:
    """Return what measures `function` while there is a binding in the variable ``binding`` of its closure.

    Args:
        function: A function, or a coroutine function.
        slow_path: What its calls go to without a binding, where there is a pipeline.
        computes: Whether a binding is asked for its shard with the arguments of the call.
    """
    is_coroutine = inspect.iscoroutinefunction(function)
    names = Parameters(function) if isinstance(function, FunctionType) else None
    looks_at_result = not (is_coroutine or _returns_value(function))
    # a coroutine function's arguments are matched when it is called, not when it is awaited
    if names is None or (not is_coroutine and (computes or names.takes_any)):
        make = _maker(is_coroutine, computes, looks_at_result, _HANDED_ON, _HANDED_ON, "args, kwargs")
        return as_of(function, make(function, _Rare(slow_path), **NAMES))
    make = _maker(is_coroutine, computes, looks_at_result, names.parameters, names.arguments, names.packed)
    return names.given_to(make(function, _Rare(slow_path), **NAMES))


def _returns_value(function: Function) -> bool:
    """Tell whether a function is annotated to return a plain value, so that no result need be looked at.

    The annotation of a wrapper is that of what it wraps, which may be a coroutine function.
    """
    annotation = getattr(function, "__annotations__", {}).get("return", function)
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        return False
    return annotation in _VALUE_ANNOTATIONS if isinstance(annotation, (str, type, type(None))) else False


_VALUE_ANNOTATIONS = {None, "None", *VALUE_CLASSES, *(kind.__name__ for kind in VALUE_CLASSES)} - {object, "object"}


@functools.lru_cache(maxsize=256)
def _maker(
    is_coroutine: bool, computes: bool, looks_at_result: bool, parameters: str, arguments: str, packed: str
) -> Callable[..., Any]:
    shard = f"bound.shard({packed})" if computes else "bound.local.shard"
    again = _AGAIN.format("bound.in_this_thread(shard)" if computes else shard) if is_coroutine else ""
    define, wait = ("async def", "await ") if is_coroutine else ("def", "")
    look = _LOOK if looks_at_result else ""
    text = _TEXT.format(
        define=define, wait=wait, parameters=parameters, arguments=arguments, shard=shard, again=again, look=look
    )
    form = " computed" * computes + " looked at" * looks_at_result
    return made_of(text, f"<clew.measure {define} {parameters}{form}>")
