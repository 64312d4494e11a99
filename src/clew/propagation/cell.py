"""The current request: a cell under one key of the OpenTelemetry Context, one for each entry into a request.

Whatever carries the Context (asyncio, contextvars, propagators, other instrumentations) carries the request with it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Any, cast

from opentelemetry.context import Context, create_key, get_current

from clew.imports import imported
from clew.interpreter.current_context import make_current
from clew.interpreter.interruptions import begins_at_once
from clew.logs import tracking

REQUEST_KEY = create_key("clew-request")


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
        self.entry: tracking.TrackedRequest | None = None
        self._outer = outer
        self._keepers: _Keepers | None = None
        self._owner_thread = threading.get_ident()
        self._owner_task = id(_current_task())

    def follow(self, *, is_held: bool = True) -> None:
        """Follow the request from here on, as is configured: whoever has entered it tells its `end`."""
        name, outer = self.request_id, self._outer
        if tracking.current is not None and name is not None:
            around = (None, None) if outer is None else (outer.entry, outer.request_id)
            self.entry = tracking.begin(name, *around, is_held=is_held)

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
    if unbound:
        for one in reversed(unbound):
            if one.is_owned():
                return one
    cell = cast("RequestCell | None", context.get(REQUEST_KEY))
    return cell if cell is None or cell._keepers is None else cell.live()  # pyright: ignore[reportPrivateUsage]


unbound: list[RequestCell] = []
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


def enter(cell: RequestCell, within: Context) -> None:
    """Enter the request of `cell`, to which `within` belongs."""
    if not make_current(within):
        unbound.append(cell)


@begins_at_once
def leave(cell: RequestCell, before: Context, within: Context) -> None:
    """Leave the request of `cell`, which was entered by attaching `within` over `before`.

    Never by a detach token: blocks may be left out of order, or in another task than they were entered in, and a token
    then fails, or brings an ended request back.
    """
    if unbound and cell in unbound:
        unbound.remove(cell)
    current = get_current()
    if current is within and cell.is_owned():
        found = cast("RequestCell | None", before.get(REQUEST_KEY))
        if make_current(before if found is None or found.live() is found else with_cell(found.live(), before)):
            cell.outlive_outer()
            return
    cell.leave_behind()
    if current.get(REQUEST_KEY) is cell:
        make_current(with_cell(cell.live(), current))
