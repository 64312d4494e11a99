"""Which requests began during a test: what belongs to an earlier one is not the test's."""

from __future__ import annotations

from typing import Any

from opentelemetry.context import Context

from clew.propagation.cell import RequestCell, cell_in

_Cells: Any = RequestCell


class RequestWatch:
    """The requests that begin from now on, until it ends."""

    def __init__(self) -> None:
        self._cells: dict[int, RequestCell] = {}  # holding them keeps their `id` unique
        # replaced, since every request would pay for a place where it asks whether a test is watching
        self._original: Any = RequestCell.__init__
        cells, original = self._cells, self._original

        def begin(cell: RequestCell, *args: Any, **kwargs: Any) -> None:
            original(cell, *args, **kwargs)
            cells[id(cell)] = cell

        self._replaced: Any = begin
        _Cells.__init__ = begin

    def end(self) -> None:
        """Learn of no further requests; may be called again."""
        if RequestCell.__init__ is self._replaced:
            _Cells.__init__ = self._original

    def includes(self, context: Context) -> bool:
        """Tell whether `context` belongs to a request that has begun since, or to none."""
        cell = cell_in(context)
        return cell is None or id(cell) in self._cells

    def request_ids(self) -> list[str]:
        """Return the IDs of these requests, in the order that they began in."""
        return list(dict.fromkeys(cell.request_id for cell in list(self._cells.values()) if cell.request_id))
