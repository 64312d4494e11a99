"""`clew.request`: one task that the system does for somebody, named by its request ID."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar, overload

from opentelemetry.context import Context, get_current

from clew.interpreter import forks
from clew.interpreter.callables import alike, as_of, is_coroutine_function, is_decorated, within
from clew.interpreter.coroutines import is_coroutine, named_as
from clew.interpreter.current_context import make_current
from clew.interpreter.interruptions import begins_at_once
from clew.logs import tracking
from clew.policy import failure_of
from clew.propagation.cell import RequestCell, cell_in, enter, leave, unbound, with_cell
from clew.propagation.ids import accept, may_be_text, new_request_id, remember

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound="classmethod[Any, Any, Any]")

_THE_FIRST = 0
"""Stands for the frame of a block where there was no other one, which is the usual case."""

_Block = tuple[RequestCell, Context, Context, int]
"""A block that was entered: its cell, the Context before it, the Context within it, and the frame that it stands in."""


class Request:
    """A request to be entered: made by `clew.request()`, used in a ``with`` statement or as a decorator."""

    __slots__ = ("_blocks", "_given")

    def __init__(self, given: object = None) -> None:
        self._given = given
        # several tasks and threads may be inside at a time, and a generator beside the code that drives it
        self._blocks: list[_Block] = []

    def __enter__(self) -> str:
        forks.notice()
        given = self._given
        name = (None if given is None else accept(given)) or new_request_id()
        before = get_current()
        outer = cell_in(before)
        if outer is not None and outer.request_id is None:
            outer.request_id = name
        cell = RequestCell(name, outer)
        if tracking.current is not None:
            cell.track()
        within = with_cell(cell, before)
        others = self._blocks
        frame = id(sys._getframe(1)) if others else _THE_FIRST  # pyright: ignore[reportPrivateUsage]
        block = cell, before, within, frame
        try:
            others.append(block)
            if not make_current(within):
                unbound.append(cell)
        except BaseException:  # of a signal's handler, in the middle
            if block in others:
                others.remove(block)
            leave(cell, before, within)
            raise
        return name

    @begins_at_once
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            blocks = self._blocks
            block = blocks[0] if len(blocks) == 1 else self._block_left(id(sys._getframe(1)))  # pyright: ignore[reportPrivateUsage]
        except BaseException:  # of a signal's handler, in the middle
            cell, before, within, _ = block = self._block_left(id(sys._getframe(1)))  # pyright: ignore[reportPrivateUsage]
            self._blocks.remove(block)
            leave(cell, before, within)
            raise
        cell, before, within, _ = block
        try:
            if error is not None:
                remember(error, cell.request_id)
            if cell.tracked is not None:
                cell.end(failure_of(error))
            leave(cell, before, within)
        except BaseException:  # of a signal's handler, in the middle
            leave(cell, before, within)
            raise
        finally:
            blocks.remove(block)

    def _block_left(self, frame: int) -> _Block:
        """Return what the task or thread that asks has entered last, in the same ``with`` statement if it can be."""
        found = self._blocks.copy()
        found = [block for block in found if block[0].is_owned()] or found
        for there in (frame, _THE_FIRST):
            same = [block for block in found if block[3] == there]
            if same:
                return same[-1]
        return found[-1]

    @overload
    def __call__(self, function: F, /) -> F: ...
    @overload
    def __call__(self, function: M, /) -> M: ...
    def __call__(self, function: Any, /) -> Any:
        """Decorate a function or coroutine function: each call is a request of its own."""
        if not is_decorated(function):
            raise TypeError(f"clew.request() decorates functions, not {type(function).__name__} ({function!r})")
        return alike(function, self._decorate, self)

    def _decorate(self, function: Any) -> Any:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"clew.request() cannot decorate the generator function {function.__qualname__}: its body runs a step "
                "at a time, and who drives it would have its ID between the steps. Decorate the caller, or write "
                "`with clew.request():` inside it around the work of one step, without a yield."
            )
        given = self._given
        if is_coroutine_function(function):
            return within(function, functools.partial(Request, given))
        request, is_awaited, leave_for_now = Request, is_coroutine, _leave_for_now

        def call(*args: Any, **kwargs: Any) -> Any:
            entered = request(given)
            with entered:
                result = function(*args, **kwargs)
                if is_awaited(result):  # told only now: what has run is a part of what is awaited
                    result = leave_for_now(entered, result)
            return result

        return as_of(function, call)

    def __reduce__(self) -> Any:
        return Request, (self._given,)


def _leave_for_now(request: Request, coroutine: Any) -> Any:
    """Return a coroutine that goes on with the request in which a call has made `coroutine`."""
    left: RequestCell = request._blocks[0][0]  # pyright: ignore[reportPrivateUsage]
    tracked, left.tracked = left.tracked, None  # which ends when that does

    async def go_on() -> Any:
        before = get_current()
        cell = RequestCell(left.request_id, cell_in(before))
        cell.tracked = tracked
        within = with_cell(cell, before)
        enter(cell, within)
        try:
            result = await coroutine
        except BaseException as error:
            remember(error, cell.request_id)
            cell.end(failure_of(error))
            raise
        else:
            cell.end()
            return result
        finally:
            leave(cell, before, within)

    return named_as(coroutine, go_on())


@overload
def request(value: F, /) -> F: ...
@overload
def request(value: str | None = None, /) -> Request: ...
def request(value: Any = None, /) -> Any:
    """Begin a request: ``with clew.request() as request_id:``, or ``@clew.request()`` over a function.

    Args:
        value: The request ID to accept, 1 to 118 characters of ``A-Z a-z 0-9 . _ : / + = @ ~ | -``, or None for a
            new one. Anything else is replaced by a new one, counted, and logged once: this never raises.

    As a decorator (functions and coroutine functions; outside ``@clew.measure``) each call is a new request. Generator
    functions are refused with a TypeError when they are decorated.
    """
    if is_decorated(value) and not may_be_text(value):
        decorate: Any = Request()
        try:
            return decorate(value)
        except TypeError:
            raise
        except Exception:  # no function, but a proxy of nothing
            return Request(value)
    return Request(value)
