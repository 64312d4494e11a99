"""The short way of a measured call, with the parameters of the very function that is measured.

To take any arguments and hand them on, as ``*args`` and ``**kwargs``, costs a third of what a measured call costs. So
the code of the short way is made once for each number of parameters and given the names of the function's own; a
function that itself takes any arguments, or whose attributes are computed from them, gets the form that hands them on.
As with every function, a call whose arguments do not fit is refused before anything runs; it is not measured.
"""

from __future__ import annotations

import functools
import inspect
import linecache
from bisect import bisect_left
from collections.abc import Callable
from time import perf_counter as clock
from types import CodeType, FunctionType
from typing import Any

from clew import pipeline

Function = Callable[..., Any]

_TEXT = """\
def make(function, long_way):
    link = None

    def set_link(new):
        nonlocal link
        link = new

    {define} measured({parameters}):
        linked = link
        if linked is None:
            if pipeline.current is None:
                return {wait}function({arguments})
            return {wait}long_way({arguments})
        shard = {shard}
        shard.started += 1
        start = clock()
        try:
            result = {wait}function({arguments})
        except BaseException as error:
            linked.end(shard, clock() - start, error)
            raise
        seconds = clock() - start{again}
        index = bisect_left(shard.bounds, seconds)
        shard.counts[index] += 1
        shard.total += seconds
        page = shard.page
        if seconds < page.low:
            page.low = seconds
        if seconds > page.high:
            page.high = seconds
        if seconds >= page.largest[index]:
            shard.series.layout.keep(page, index, seconds, None)
        return result

    return measured, set_link
"""

_AGAIN = """
        # asked again, since another thread may have driven the coroutine on
        shard = {}"""

NAMES: dict[str, Any] = {"__name__": __name__, "bisect_left": bisect_left, "clock": clock, "pipeline": pipeline}
"""The globals of the text."""

_HANDED_ON = "*args, **kwargs"


def short_way(function: Function, long_way: Function, *, computes: bool) -> tuple[Function, Callable[[Any], None]]:
    """Return what measures `function` while there is a link, and what gives it one or takes it away.

    Args:
        function: A function, or a coroutine function.
        long_way: What its calls go to without a link, where there is a pipeline.
        computes: Whether a link is asked for its shard with the arguments of the call.
    """
    is_coroutine = inspect.iscoroutinefunction(function)
    code = function.__code__ if isinstance(function, FunctionType) and not computes else None
    if code is None or code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
        make = _maker(is_coroutine, computes, _HANDED_ON, _HANDED_ON)
        measured, set_link = make(function, long_way)
    else:
        assert isinstance(function, FunctionType)
        positional = [f"p{number}" for number in range(code.co_argcount)]
        by_keyword = [f"k{number}" for number in range(code.co_kwonlyargcount)]
        parameters = [*positional, *(["*", *by_keyword] if by_keyword else [])]
        arguments = [*positional, *(f"{name}={name}" for name in by_keyword)]
        make = _maker(is_coroutine, computes, ", ".join(parameters), ", ".join(arguments))
        measured, set_link = make(function, long_way)
        measured.__code__ = _with_names(measured.__code__, code, tuple(by_keyword))
        measured.__defaults__ = function.__defaults__
        measured.__kwdefaults__ = function.__kwdefaults__
    return functools.wraps(function)(measured), set_link


@functools.lru_cache(maxsize=256)
def _maker(is_coroutine: bool, computes: bool, parameters: str, arguments: str) -> Callable[..., Any]:
    shard = "linked.shard(args, kwargs)" if computes else "linked.local.shard"
    again = _AGAIN.format("linked.again(shard)" if computes else shard) if is_coroutine else ""
    define, wait = ("async def", "await ") if is_coroutine else ("def", "")
    text = _TEXT.format(define=define, wait=wait, parameters=parameters, arguments=arguments, shard=shard, again=again)
    name = f"<clew.measure {define} {parameters}{' computed' if computes else ''}>"
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name  # what a traceback shows
    made: dict[str, Any] = {}
    exec(compile(text, name, "exec"), NAMES, made)
    return made["make"]  # type: ignore[no-any-return]


def _with_names(code: CodeType, of: CodeType, by_keyword: tuple[str, ...]) -> CodeType:
    """Return `code` with the names of the parameters of another, and all other names such as no parameter can have."""
    number = code.co_argcount + code.co_kwonlyargcount
    names = of.co_varnames[:number]
    return code.replace(
        co_posonlyargcount=of.co_posonlyargcount,
        co_varnames=(*names, *(f".{name}" for name in code.co_varnames[number:])),
        co_freevars=tuple(f".{name}" for name in code.co_freevars),
        co_consts=tuple(
            names[code.co_argcount :] if const == by_keyword and by_keyword else const for const in code.co_consts
        ),
    )
