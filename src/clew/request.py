"""The request: one task that the system does for somebody, named by its request ID.

The request ID lives in the OpenTelemetry Context under one key, so whatever carries the Context (asyncio, contextvars,
propagators, other instrumentations) carries it. The value under the key is a cell, one per entry into a request.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar, cast, overload

from opentelemetry.context import Context, create_key, get_current

from clew import entries, forks
from clew.awaited import is_coroutine, named_as
from clew.binding import bind
from clew.callables import alike, as_of, is_coroutine_function, is_decorated, within
from clew.diagnostics import count, say_once
from clew.failures import NOTHING_EXPECTED, Checked, failure
from clew.imports import imported
from clew.interruptions import begins_at_once, let_through
from clew.untrusted import class_name, text_of

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound="classmethod[Any, Any, Any]")

REQUEST_KEY = create_key("clew-request")

LONGEST_ID = 118
"""In characters: with the name ``request_id`` it fills the 128 that OpenMetrics gives the labels of an exemplar."""

_VALID = re.compile(r"[A-Za-z0-9._:/+=@~|-]{1,118}")


class RequestPolicy:
    """How request IDs are named and passed on; `clew.configure()` sets it from the settings."""

    __slots__ = ("attribute", "baggage", "header", "hosts", "trust")

    def __init__(self) -> None:
        self.header = "X-Request-ID"
        self.attribute = "request_id"
        self.trust = True
        self.hosts: tuple[str, ...] | None = None
        self.baggage = False


policy = RequestPolicy()


_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]


def _new_ending() -> str:
    random = int.from_bytes(os.urandom(5), "big")
    return "".join(_PAIRS[random >> shift & 1023] for shift in (30, 20, 10, 0))


class _Last:
    """What the last of some request IDs ended with, and when it was made, in microseconds."""

    __slots__ = ("ending", "time")

    def __init__(self, ending: str) -> None:
        self.ending = ending
        self.time = 0


class _Series(threading.local):
    """Per thread: a random ending, and when the last ID with it was made, so that an ID needs no lock to be unique.

    They are taken out while an ID is made; what interrupts that, and makes one too, takes an ending of its own.
    """

    free: list[_Last] | None = None


_series = _Series()


def _renew_series() -> None:
    global _series
    _series = _Series()


forks.after_in_child(_renew_series)


def new_request_id() -> str:
    """Make a request ID of 20 characters: 12 of time in microseconds, which sort, and 8 of this thread alone.

    Within a thread each ID is greater than the one before, even if the clock steps back.
    """
    free = _series.free
    if free is None:
        free = _series.free = []
    try:
        last = free.pop()
    except IndexError:
        last = _Last(_new_ending())
    now = time.time_ns() // 1000
    if now <= last.time:
        now = last.time + 1
    last.time = now
    free.append(last)
    pairs = _PAIRS
    return (
        pairs[now >> 50 & 1023]
        + pairs[now >> 40 & 1023]
        + pairs[now >> 30 & 1023]
        + pairs[now >> 20 & 1023]
        + pairs[now >> 10 & 1023]
        + pairs[now & 1023]
        + last.ending
    )


def is_valid(value: Any) -> bool:
    """Tell whether `value` is a request ID: 1 to 118 characters of ``A-Z a-z 0-9 . _ : / + = @ ~ | -``."""
    return issubclass(type(value), str) and _VALID.fullmatch(str.__str__(value)) is not None


def accept(value: object) -> str | None:
    """Return `value` if it is a valid request ID, else None; what is refused is counted and said once."""
    text = text_of(value) if _may_be_text(value) else None
    if text is not None and _VALID.fullmatch(text):
        return text
    count("request_id.replaced")
    say_once(
        "request_id.replaced",
        "The request ID %s is not valid and was replaced by a fresh one; allowed are 1 to %d characters of "
        "A-Z a-z 0-9 . _ : / + = @ ~ | - (said once; each one is counted)",
        f"of type {class_name(type(value))}" if text is None else ascii(text[:64]),
        LONGEST_ID,
    )
    return None


def _may_be_text(value: object) -> bool:
    """Tell whether `value` passes for a `str`, as a proxy of one does, or does not even say."""
    try:
        return isinstance(value, str)
    except Exception as trouble:
        let_through(trouble)
        return True


def _current_task() -> object | None:
    """Return the running asyncio task, or None outside one."""
    global _asyncio
    if _asyncio is None:
        _asyncio = imported("asyncio")  # where nobody has imported it, nothing runs in it
        if _asyncio is None:
            return None
    loop = _asyncio._get_running_loop()
    return None if loop is None else _asyncio.current_task(loop)


_asyncio: Any = None


class _Keepers:
    """The tasks and threads that a request left behind when it ended in the middle of its Context.

    Whoever else finds its cell in the Context (the task that ended it, and all that this one starts later) is not part
    of the request.
    """

    __slots__ = ("_tasks", "_threads")

    def __init__(self, owner_thread: int, owner_task: int) -> None:
        asyncio = imported("asyncio")
        loop = None if asyncio is None else asyncio._get_running_loop()
        tasks: set[Any] = set() if asyncio is None or loop is None else asyncio.all_tasks(loop)
        self._tasks = weakref.WeakSet(task for task in tasks if id(task) != owner_task)
        pooled = _pool_threads()  # they serve whoever submits next, so what they find says nothing
        self._threads = weakref.WeakSet(
            thread for thread in threading.enumerate() if thread.ident != owner_thread and thread not in pooled
        )

    def include_current(self) -> bool:
        task = _current_task()
        if task is not None:
            return task in self._tasks
        return threading.current_thread() in self._threads


def _pool_threads() -> set[threading.Thread]:
    return set(getattr(imported("concurrent.futures.thread"), "_threads_queues", ()))


class RequestCell:
    """What the Context holds of a request.

    Attributes:
        request_id: None until somebody inside has named the request.
        failure: The ``error.type`` of a request that has failed, as far as that is known.
        entry: What is followed of this entry into the request; None where nothing is, or nobody tells its end.
    """

    __slots__ = ("_keepers", "_outer", "_owner_task", "_owner_thread", "entry", "failure", "request_id")

    def __init__(self, request_id: str | None, outer: RequestCell | None = None) -> None:
        self.request_id = request_id
        self.failure: str | None = None
        self.entry: entries.Entry | None = None
        self._outer = outer
        self._keepers: _Keepers | None = None
        self._owner_thread = threading.get_ident()
        self._owner_task = id(_current_task())

    def follow(self, *, is_held: bool = True) -> None:
        """Follow the request from here on, as is configured: whoever has entered it tells its `end`."""
        name, outer = self.request_id, self._outer
        if entries.current is not None and name is not None:
            around = (None, None) if outer is None else (outer.entry, outer.request_id)
            self.entry = entries.begin(name, *around, is_held=is_held)

    def end(
        self, failure: str | None = None, name: str | None = None, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Tell that what the request was for is done, and what it has failed of; the first call counts."""
        if failure is not None:
            self.failure = failure
        if self.entry is not None:
            self.entry.end(self.failure, name, attributes)

    def is_owned(self) -> bool:
        """Tell whether the running task or thread is the one that entered the request."""
        return self._owner_thread == threading.get_ident() and self._owner_task == id(_current_task())

    def leave_behind(self) -> None:
        """The request has ended, and its cell may still stand in the Context of whoever ended it."""
        if self._keepers is None:
            self._keepers = _Keepers(self._owner_thread, self._owner_task)

    def outlive_outer(self) -> None:
        """The request has ended in order: what still runs in it never goes back to the one around it.

        Where each request starts the work that enters the next one, all of them would be kept in memory else.
        """
        self._outer = None

    def live(self) -> RequestCell | None:
        """Return this cell, or the nearest one around it that the running task or thread is still part of."""
        cell: RequestCell | None = self
        while cell is not None and cell._keepers is not None and not cell._keepers.include_current():
            cell = cell._outer
        return cell


def cell_in(context: Context) -> RequestCell | None:
    """Return the cell of the request that `context` belongs to, for the task or thread that asks."""
    if _unbound:
        for unbound in reversed(_unbound):
            if unbound.is_owned():
                return unbound
    cell = cast("RequestCell | None", context.get(REQUEST_KEY))
    return cell if cell is None or cell._keepers is None else cell.live()  # pyright: ignore[reportPrivateUsage]


_unbound: list[RequestCell] = []
"""The requests that were entered while the garbage collector was at work, where nothing can be bound, and not left."""


def request_id_in(context: Context) -> str | None:
    """Return the request ID in `context`, or None."""
    cell = cell_in(context)
    return None if cell is None else cell.request_id


def with_cell(cell: RequestCell | None, context: Context) -> Context:
    """Return a copy of `context` that belongs to the request of `cell`, or to none."""
    values = context.copy()
    if cell is None:
        values.pop(REQUEST_KEY, None)
    else:
        values[REQUEST_KEY] = cell
    return Context(values)


def request_id() -> str | None:
    """Return the current request ID, or None outside a request."""
    return request_id_in(get_current())


_REMEMBERED = "__clew_request_id__"


def remember(error: BaseException, request_id: str | None) -> None:
    """Let the exception that leaves a request keep its ID, for the server that logs the traceback afterwards."""
    try:
        BaseException.__setattr__(error, _REMEMBERED, request_id)
    except (AttributeError, TypeError):
        return


def remembered_request_id(error: BaseException | None) -> str | None:
    """Return the ID of the request that `error` left last, or None."""
    if error is None:
        return None
    try:
        found = BaseException.__getattribute__(error, _REMEMBERED)
    except (AttributeError, TypeError):
        return None
    return found if type(found) is str else None


def failure_of(error: BaseException | None, expected: Checked = ()) -> str | None:
    """Return the ``error.type`` of an exception that leaves a request, or None where that is no failure."""
    if error is None:
        return None
    from clew import pipeline  # which knows of attributes, and they of requests

    current = pipeline.current
    return failure(error, expected, NOTHING_EXPECTED if current is None else current.expected)


_THE_FIRST = 0
"""Stands for the frame of an entry where there was no other one, which is the usual case."""


class Request:
    """A request to be entered: made by `clew.request()`, used in a ``with`` statement or as a decorator."""

    __slots__ = ("_entries", "_given")

    def __init__(self, given: object = None) -> None:
        self._given = given
        # several tasks and threads may be inside at a time, and a generator beside the code that drives it
        self._entries: list[tuple[RequestCell, Context, Context, int]] = []

    def __enter__(self) -> str:
        forks.notice()
        given = self._given
        name = (None if given is None else accept(given)) or new_request_id()
        before = get_current()
        outer = cell_in(before)
        if outer is not None and outer.request_id is None:
            outer.request_id = name
        cell = RequestCell(name, outer)
        if entries.current is not None:
            cell.follow()
        within = with_cell(cell, before)
        others = self._entries
        frame = id(sys._getframe(1)) if others else _THE_FIRST  # pyright: ignore[reportPrivateUsage]
        entry = cell, before, within, frame
        try:
            others.append(entry)
            if not bind(within):
                _unbound.append(cell)
        except BaseException:  # of a signal's handler, in the middle
            if entry in others:
                others.remove(entry)
            leave(cell, before, within)
            raise
        return name

    @begins_at_once
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            entered = self._entries
            entry = entered[0] if len(entered) == 1 else self._entered(id(sys._getframe(1)))  # pyright: ignore[reportPrivateUsage]
        except BaseException:  # of a signal's handler, in the middle
            cell, before, within, _ = entry = self._entered(id(sys._getframe(1)))  # pyright: ignore[reportPrivateUsage]
            self._entries.remove(entry)
            leave(cell, before, within)
            raise
        cell, before, within, _ = entry
        try:
            if error is not None:
                remember(error, cell.request_id)
            if cell.entry is not None:
                cell.end(failure_of(error))
            leave(cell, before, within)
        except BaseException:  # of a signal's handler, in the middle
            leave(cell, before, within)
            raise
        finally:
            entered.remove(entry)

    def _entered(self, frame: int) -> tuple[RequestCell, Context, Context, int]:
        """Return what the task or thread that asks has entered last, in the same ``with`` statement if it can be."""
        found = self._entries.copy()
        found = [entry for entry in found if entry[0].is_owned()] or found
        for there in (frame, _THE_FIRST):
            same = [entry for entry in found if entry[3] == there]
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
    left: RequestCell = request._entries[0][0]  # pyright: ignore[reportPrivateUsage]
    entry, left.entry = left.entry, None  # what is followed of it ends when that does

    async def go_on() -> Any:
        before = get_current()
        cell = RequestCell(left.request_id, cell_in(before))
        cell.entry = entry
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


def enter(cell: RequestCell, within: Context) -> None:
    """Enter the request of `cell`, to which `within` belongs."""
    if not bind(within):
        _unbound.append(cell)


@begins_at_once
def leave(cell: RequestCell, before: Context, within: Context) -> None:
    """Leave the request of `cell`, which was entered by attaching `within` over `before`.

    Never by a detach token: blocks may be left out of order, or in another task than they were entered in, and a token
    then fails, or brings an ended request back.
    """
    if _unbound and cell in _unbound:
        _unbound.remove(cell)
    current = get_current()
    if current is within and cell.is_owned():
        found = cast("RequestCell | None", before.get(REQUEST_KEY))
        if bind(before if found is None or found.live() is found else with_cell(found.live(), before)):
            cell.outlive_outer()
            return
    cell.leave_behind()
    if current.get(REQUEST_KEY) is cell:
        bind(with_cell(cell.live(), current))


@overload
def request(value: F, /) -> F: ...
@overload
def request(value: str | None = None, /) -> Request: ...
def request(value: Any = None, /) -> Any:
    """Begin a request: ``with clew.request() as request_id:``, or ``@clew.request()`` over a function.

    Args:
        value: The request ID to take over, 1 to 118 characters of ``A-Z a-z 0-9 . _ : / + = @ ~ | -``, or None for a
            new one. Anything else is replaced by a new one, counted, and said once in the log: this never raises.

    As a decorator (functions and coroutine functions; outside ``@clew.measure``) each call is a new request. Generator
    functions are refused with a TypeError when they are decorated.
    """
    if is_decorated(value) and not _may_be_text(value):
        decorate: Any = Request()
        try:
            return decorate(value)
        except TypeError:
            raise
        except Exception:  # no function, but a proxy that stands for nothing now
            return Request(value)
    return Request(value)
