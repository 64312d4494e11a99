"""The part of a run in its request, where those are tracked until they end: its failure, its line in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.context import get_current

from clew.interpreter.current_context import Variable
from clew.propagation.cell import RequestCell, cell_in

if TYPE_CHECKING:
    from clew.logs.tracking import TrackedRequest

_innermost: Variable[TrackedOperation] = Variable("clew-operation")
"""The operation that the running code is inside of."""


class TrackedOperation:
    """The part of a run in its request: whether it is inside another operation there, and how it ends.

    The failure of an operation that is inside no other one of its request is a failure of the request.
    """

    __slots__ = ("_around", "_cell", "_is_generator", "_is_outermost", "_is_over", "_name", "request")

    _around: TrackedOperation | None
    _is_over: bool

    def __init__(self, name: str, cell: RequestCell, request: TrackedRequest, *, is_generator: bool) -> None:
        around: TrackedOperation | None = _innermost.get()
        while around is not None and around._is_over:
            around = around._around
        self._name = name
        self._cell = cell
        self.request = request
        self._around = around
        self._is_over = False
        self._is_outermost = request.generators == 0 and (around is None or around.request is not request)
        self._is_generator = is_generator
        if not is_generator:
            _innermost.set(self)
        elif self._is_outermost:  # its steps run in the Context of its consumer
            request.generators += 1
        if self._is_outermost and request.line is not None:
            request.line.name_after(name)

    def end(self, seconds: float, error_type: str | None) -> None:
        """Tell the request how the operation has ended."""
        self.leave()
        if self._is_outermost and error_type is not None and self._cell.failure is None:
            self._cell.failure = error_type
        if self.request.line is not None and self.request.is_current:  # not that of a parent, whose thread may hold it
            self.request.line.add_run(self._name, seconds, is_failure=error_type is not None)

    def leave(self) -> None:
        """Be no longer the innermost operation."""
        self._is_over = True
        if self._is_generator:
            self.request.generators -= self._is_outermost
        elif _innermost.get() is self:
            _innermost.set(self._around)


def track(name: str, *, is_generator: bool) -> TrackedOperation | None:
    """Return the part of a run in the current request; None where there is none, or it is not tracked."""
    cell = cell_in(get_current())
    request = None if cell is None else cell.tracked
    if cell is None or request is None or not request.is_current:
        return None
    return TrackedOperation(name, cell, request, is_generator=is_generator)
