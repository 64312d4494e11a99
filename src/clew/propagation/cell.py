"""The current request: a cell under one key of the OpenTelemetry Context, a new one each time a request is entered.

The request goes where the Context goes: with asyncio, contextvars, propagators and other instrumentations. A cell is
filled later where its request has no ID yet: what names the request inside names it for the code outside too.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.context import Context, create_key, get_current

from clew.imports import imported
from clew.interpreter.current_context import make_current
from clew.interpreter.interruptions import begins_at_once, let_through
from clew.logs import tracking
from clew.policy import policy

if TYPE_CHECKING:
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.trace import Span

REQUEST_KEY = create_key("clew-request")

CARRIER_KEY = "clew.request"
"""The key of an ASGI scope or a WSGI environ that has the cell of the request that came in by it."""

RawHeaders = Sequence[tuple[bytes, bytes]]

_MOST_WAITING_SPANS = 32


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


class _LeftBehind:
    """The tasks and threads that a request left behind when it ended in the middle of its Context.

    The others that find its cell in the Context (the task that ended it, and all that this one starts later) are not
    part of the request.
    """

    __slots__ = ("_tasks", "_threads")

    def __init__(self, owner_thread: int, owner_task: int) -> None:
        asyncio = imported("asyncio")
        loop = None if asyncio is None else asyncio._get_running_loop()
        tasks: set[Any] = set() if asyncio is None or loop is None else asyncio.all_tasks(loop)
        self._tasks = weakref.WeakSet(task for task in tasks if id(task) != owner_task)
        pooled = _pool_threads()  # they serve the next task of any request, so what they find says nothing
        self._threads = weakref.WeakSet(
            thread for thread in threading.enumerate() if thread.ident != owner_thread and thread not in pooled
        )

    def has_current(self) -> bool:
        task = _current_task()
        if task is not None:
            return task in self._tasks
        return threading.current_thread() in self._threads


def _pool_threads() -> set[threading.Thread]:
    return set(getattr(imported("concurrent.futures.thread"), "_threads_queues", ()))


class RequestCell:
    """What the Context holds of a request.

    Attributes:
        request_id: None until the request has been named inside.
        failure: The ``error.type`` of a request that has failed, as far as that is known.
        tracked: What is kept of the request until its end; None where nothing is, or nothing tells its end.
    """

    __slots__ = ("_left_behind", "_outer", "_owner_task", "_owner_thread", "failure", "request_id", "tracked")

    def __init__(self, request_id: str | None, outer: RequestCell | None = None) -> None:
        self.request_id = request_id
        self.failure: str | None = None
        self.tracked: tracking.TrackedRequest | None = None
        self._outer = outer
        self._left_behind: _LeftBehind | None = None
        self._owner_thread = threading.get_ident()
        self._owner_task = id(_current_task())

    def track(self, *, is_held: bool = True) -> None:
        """Track the request from here on, as is configured: what has entered it tells its `end`."""
        name, outer = self.request_id, self._outer
        if tracking.current is not None and name is not None:
            around = (None, None) if outer is None else (outer.tracked, outer.request_id)
            self.tracked = tracking.begin(name, *around, is_held=is_held)

    def end(
        self, failure: str | None = None, name: str | None = None, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Tell that what the request was for is done, and what it has failed of; the first call counts."""
        if failure is not None:
            self.failure = failure
        if self.tracked is not None:
            self.tracked.end(self.failure, name, attributes)

    def is_owned(self) -> bool:
        """Tell whether the running task or thread is the one that entered the request."""
        return self._owner_thread == threading.get_ident() and self._owner_task == id(_current_task())

    def leave_behind(self) -> None:
        """The request has ended, and its cell may still be in the Context of the task or thread that ended it."""
        if self._left_behind is None:
            self._left_behind = _LeftBehind(self._owner_thread, self._owner_task)

    def outlive_outer(self) -> None:
        """The request has ended in order: what still runs in it never goes back to the one around it.

        Otherwise all requests would stay in memory where each one starts the work that enters the next.
        """
        self._outer = None

    def live(self) -> RequestCell | None:
        """Return this cell, or the nearest one around it that the running task or thread is still part of."""
        cell: RequestCell | None = self
        while cell is not None and cell._left_behind is not None and not cell._left_behind.has_current():
            cell = cell._outer
        return cell


class CarrierCell(RequestCell):
    """The cell of a request that came in by a carrier: an ASGI scope, a WSGI environ, the headers of a message.

    Attributes:
        is_served: Whether an integration of `clew` has entered the request; else a propagator has found it.
        ended: Whether it has been left.
        headers: As they came in, where another instrumentation may extract from a copy of them.
    """

    # the values that most requests never set, kept once for all of them
    is_served = False
    ended = False
    headers: RawHeaders | None = None


class ExtractedCell(CarrierCell):
    """The cell of a request that a propagator has found in `carrier`, with an ID or without one."""

    def __init__(self, request_id: str | None, carrier: Any = None, getter: Getter[Any] | None = None) -> None:
        self._carrier = carrier
        self._getter = getter
        super().__init__(request_id)

    def is_from_headers(self, headers: RawHeaders | None) -> bool:
        """Tell whether its carrier holds just these headers."""
        return headers is not None and self._getter is not None and holds_headers(self._carrier, self._getter, headers)


class UnnamedCell(ExtractedCell):
    """The cell of a request that came in without an ID: what names it inside names it for all."""

    _name: str | None = None
    _waiting: list[Span] | None = None

    @property
    def request_id(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The request ID, or None until the request has been named inside."""
        return self._name

    @request_id.setter
    def request_id(self, name: str | None) -> None:
        self._name = name
        if name is not None and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            for span in waiting:
                if span.is_recording():
                    span.set_attribute(policy.attribute, name)

    def name_when_known(self, span: Span) -> None:
        """Let `span`, started before the request had a name, get it as an attribute when it comes."""
        if self._waiting is None:
            self._waiting = []
        if len(self._waiting) < _MOST_WAITING_SPANS:
            self._waiting.append(span)


def bound_cell(carrier: object) -> CarrierCell | None:
    """Return the cell in `carrier`, an ASGI scope or a WSGI environ, of a request that has not ended."""
    if type(carrier) is dict:  # as scopes and environs are
        found: object = carrier.get(CARRIER_KEY)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    elif isinstance(carrier, Mapping):
        try:
            found = cast("Mapping[str, object]", carrier).get(CARRIER_KEY)
        except Exception as error:
            let_through(error)
            return None
    else:
        return None
    return found if isinstance(found, CarrierCell) and not found.ended else None


def holds_headers(carrier: Any, getter: Getter[Any], headers: RawHeaders) -> bool:
    """Tell whether `carrier` is made of exactly these headers: some frameworks extract from a copy of them."""
    expected: dict[str, list[str]] = {}
    try:
        for name, value in headers:
            expected.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        if not expected or {key.lower() for key in getter.keys(carrier)} != expected.keys():
            return False
        return all(_joined(getter.get(carrier, name)) == ",".join(values) for name, values in expected.items())
    except Exception as error:
        let_through(error)
        return False


def _joined(values: Iterable[str] | None) -> str | None:
    return None if values is None else ",".join(values)


def cell_in(context: Context) -> RequestCell | None:
    """Return the cell of the request that `context` belongs to, for the task or thread that asks."""
    if unbound:
        for one in reversed(unbound):
            if one.is_owned():
                return one
    cell = cast("RequestCell | None", context.get(REQUEST_KEY))
    return cell if cell is None or cell._left_behind is None else cell.live()  # pyright: ignore[reportPrivateUsage]


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
