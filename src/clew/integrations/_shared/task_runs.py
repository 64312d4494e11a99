"""One run of a task by a worker: in its request, measured, with the time that it waited in its queue.

What the integrations of Celery, RQ and Dramatiq have in common, beside `task_messages.py`. Each wraps two things: all
that a worker does for a task, which `work_on` calls, and in there the task's body, which gets its run from `take_run`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from opentelemetry.context import Context, get_current

from clew import lifetime
from clew._measure import measure
from clew.diagnostics import report_failure
from clew.failures import Checked
from clew.imports import imported
from clew.instruments import histogram
from clew.interpreter.current_context import Variable, make_current
from clew.interpreter.interruptions import begins_at_once
from clew.operations.names import LONGEST_NAME
from clew.policy import failure_of, policy
from clew.propagation.cell import REQUEST_KEY, RequestCell, cell_in, enter, leave, with_cell
from clew.propagation.ids import accept, new_request_id, remember

R = TypeVar("R")

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
"""In seconds, up to four hours: some queues are worked off at night."""

time_in_queue = histogram(
    "operation.time_in_queue",
    unit="s",
    description="How long a task waited in its queue before its run began.",
    scope="clew",
    bounds=BOUNDS,
)


class TaskRun:
    """One run of a task. The block is all that the worker does for it; `call` runs the task's body inside the block.

    Args:
        name: The task's name, which names the operation.
        found: What the message has as a request ID, whatever it is, or None. An eager run, which has no message,
            takes it over even where incoming ones are not trusted.
        is_eager: Whether the caller itself runs the task, so that it belongs to the caller's request.
        due_at: When the run could have begun at the earliest, in seconds since 1970; None where that is not known.
        queue: The name of the queue that the message was in, or None.
        expected: Exceptions that are no failures of the task.
    """

    __slots__ = ("_before", "_cell", "_due_at", "_expected", "_name", "_queue", "_within", "request_id")

    def __init__(
        self,
        name: str,
        *,
        found: object = None,
        is_eager: bool = False,
        due_at: float | None = None,
        queue: str | None = None,
        expected: Checked = (),
    ) -> None:
        self._name = operation_name(name)
        self._due_at = due_at
        self._queue = queue
        self._expected = expected
        self._before = before = get_current()
        around = cell_in(before)
        if is_eager:
            own = None if found is None else accept(found)
            self.request_id = own or (None if around is None else around.request_id) or new_request_id()
        else:
            own = accept(found) if policy.trust and found is not None else None
            self.request_id = own or new_request_id()
            if around is not None:  # a message that is read inside a request is not that request
                before, around = Context(), None
        self._cell = RequestCell(self.request_id, around)
        self._cell.track()
        self._within = with_cell(self._cell, before)

    def __enter__(self) -> TaskRun:
        try:
            enter(self._cell, self._within)
        except BaseException:  # of a signal's handler, in the middle
            leave(self._cell, self._before, self._within)
            raise
        return self

    @begins_at_once
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                remember(error, self.request_id)
            queue = {"messaging.destination.name": self._queue} if self._queue else None
            self._cell.end(failure_of(error, self._expected), self._name, queue)
            self._leave()
        except BaseException:  # of a signal's handler, in the middle
            self._leave()
            raise

    @begins_at_once
    def _leave(self) -> None:
        before = self._before
        is_clean = get_current() is self._within
        leave(self._cell, before, self._within)
        if not is_clean:  # a handler has left a Context of its own; this one was there before all of them
            found = cell_in(before)
            make_current(before if found is before.get(REQUEST_KEY) else with_cell(found, before))

    def call(self, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        """Call the task's body inside its request, whatever Context is current by now, and measure it."""
        around = get_current()
        cell = cell_in(around)
        if cell is not self._cell:
            if cell is not None and cell.request_id is None:  # bound by a propagator that was told no ID
                cell.request_id = self.request_id
            make_current(with_cell(self._cell, around))
        try:
            self._record_time_in_queue()
            if _is_measured_by_name(self._name):
                return function(*args, **kwargs)
            with measure(self._name, expected=self._expected):
                return function(*args, **kwargs)
        except BaseException as error:
            remember(error, self.request_id)
            raise
        finally:
            make_current(around)

    def _record_time_in_queue(self) -> None:
        if self._due_at is None:
            return
        attributes = {"operation.name": self._name}
        if self._queue:
            attributes["messaging.destination.name"] = self._queue
        time_in_queue.record(max(0.0, time.time() - self._due_at), attributes)


_about_to_begin: Variable[tuple[object, TaskRun]] = Variable("clew-task")
"""The task that this worker is about to run, until its body begins: a task may also be called as a plain function."""


def run_or_none(make: Callable[[], TaskRun]) -> TaskRun | None:
    """Return the run that `make` makes, or None where that fails, which is counted and logged once."""
    try:
        return make()
    except Exception as error:
        report_not_run(error)
        return None


def work_on(task: object, run: TaskRun, work: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
    """Call `work`, which is all that a worker does for `task`, inside the task's run."""
    before = _about_to_begin.get()
    try:
        _about_to_begin.set((task, run))
        with run:
            return work(*args, **kwargs)
    finally:
        _about_to_begin.set(before)


def take_run(task: object) -> TaskRun | None:
    """Return the run that the body of `task` begins in, once; None where it is called as a plain function."""
    found = _about_to_begin.get()
    if found is None or found[0] is not task:
        return None
    _about_to_begin.set(None)
    return found[1]


def _is_measured_by_name(operation: str) -> bool:
    """Tell whether ``CLEW_MEASURE`` has the task's function measured under the very name of the task."""
    by_name = imported("clew.by_name")  # imported only where something is to be measured by name
    return by_name is not None and by_name.measures(operation)


def operation_name(name: object) -> str:
    """Return `name` as the name of an operation: what is not allowed in one is replaced, what is too long cut off."""
    text = str(name)
    if not text.isprintable():
        text = "".join(character if character.isprintable() else "?" for character in text)
    return text[:LONGEST_NAME] or "task"


def exception_types_of(throws: Any) -> tuple[type[BaseException], ...]:
    """Return the exception types that a task's own `throws` names: None, one, or several."""
    kinds: list[Any] = list(throws) if isinstance(throws, (tuple, list, set, frozenset)) else [throws]  # pyright: ignore[reportUnknownArgumentType]
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseException))


def report_not_sent(error: Exception) -> None:
    """Report that a task is sent without what its message should carry for us."""
    report_failure("task.sent_failed", error, "A task could not be sent with its request, and goes on without")


def report_not_run(error: Exception) -> None:
    """Report that a task runs in no request of ours, and is not measured."""
    report_failure("task.run_failed", error, "A task could not be run with its request, and goes on without")


def end_process() -> None:
    """Send what has been measured, within ``CLEW_SHUTDOWN_TIMEOUT``: this process is about to end by `os._exit`."""
    lifetime.end_all()
