"""Calls that return something to be awaited, which is not known before they return.

A plain function may return a coroutine (a wrapper around a coroutine function does, and an object whose ``__call__`` is
one), or a future. Then the measurement goes on with what it has returned:

- a coroutine runs nothing until it is awaited, and once. In its place another coroutine is returned, which awaits it
  and is measured from there on; the time of the call itself counts too. One that is never awaited has not run.
- a future (a task too) is returned as it is, since any code may cancel it, wait for it and ask it. Its operation
  lasts until it is done; one that is dropped before counts as abandoned.

Anything else is a value, and so are other objects that can be awaited: they are often more than that (a context
manager, a query), and what they do when they are awaited is theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter as clock
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from clew.interpreter.coroutines import is_coroutine, is_future, named_as

if TYPE_CHECKING:
    from clew.metrics.shards import Shard
    from clew.operations.bindings import Binding
    from clew.operations.run import Run

VALUE_CLASSES = frozenset(
    {type(None), bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset, object}
)
"""Classes of plain values; any other result of a function is looked at when its class changes."""


def awaitable_on_fast_path(binding: Binding, shard: Shard, seconds: float, result: Any) -> Any:
    """Return what takes the place of an awaitable that a call on the fast path returns; None where `result` is a value.

    Args:
        binding: That of the call.
        shard: The one that the call has begun in.
        seconds: How long the call took.
        result: What it has returned.
    """
    if is_coroutine(result):
        made = named_as(result, _fast_coroutine(binding, shard, seconds, result))
        binding.in_this_thread(shard).abandoned += 1  # it begins again when it is awaited
        return made
    if is_future(result):
        started = clock() - seconds

        def end(error: BaseException | None, future: Any) -> None:
            own = binding.in_this_thread(shard)
            if error is not None:
                binding.end(own, clock() - started, error)
            else:
                own.series.add(own, clock() - started)

        return _until_done(result, end, lambda: binding.abandon(shard))
    if type(result) is not GeneratorType:
        binding.returned = type(result)
    return None


async def _fast_coroutine(binding: Binding, shard: Shard, seconds: float, coroutine: Any) -> Any:
    shard = binding.in_this_thread(shard)
    start = clock() - seconds
    shard.started += 1
    try:
        result = await coroutine
        seconds = clock() - start
    except BaseException as error:
        binding.end_since(shard, start, error)
        raise
    shard.series.record(seconds, None)
    return result


def awaitable_on_slow_path(run: Run, failed: Callable[[Any], object] | None, result: Any) -> Any:
    """Return what takes the place of an awaitable that a call on the slow path returns; None where it is a value."""
    if is_coroutine(result):
        made = named_as(result, _slow_coroutine(run, failed, result))
        run.pause()
        return made
    if is_future(result):
        run.leave()

        def end(error: BaseException | None, future: Any) -> None:
            if error is not None:
                run.end(error)
            else:
                run.end_with(None if failed is None else future.result(), failed)

        return _until_done(result, end, run.abandon)
    return None


async def _slow_coroutine(run: Run, failed: Callable[[Any], object] | None, coroutine: Any) -> Any:
    run.resume()
    try:
        result = await coroutine
    except BaseException as error:
        run.end(error)
        raise
    run.end_with(result, failed)
    return result


def _until_done(future: Any, end: Callable[[BaseException | None, Any], None], abandon: Callable[[], None]) -> Any:
    done = _Done(end, abandon)
    if future.done():
        done(future)
    else:
        future.add_done_callback(done)
    return future


class _Done:
    """Ends a run when its future is done, or abandons it when the future is dropped."""

    __slots__ = ("_abandon", "_end")

    def __init__(self, end: Callable[[BaseException | None, Any], None], abandon: Callable[[], None]) -> None:
        self._end: Callable[[BaseException | None, Any], None] | None = end
        self._abandon = abandon

    def __call__(self, future: Any) -> None:
        end, self._end = self._end, None
        if end is not None:
            end(_exception_of(future), future)

    def __del__(self) -> None:
        if self._end is not None:
            self._end = None
            self._abandon()


def _exception_of(future: Any) -> BaseException | None:
    """Return what a future has failed of, without it counting as retrieved by that."""
    if future.cancelled():
        try:
            future.result()
        except BaseException as error:
            return error
    found: BaseException | None = future._exception if hasattr(future, "_exception") else future.exception()
    return found
