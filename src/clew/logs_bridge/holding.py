"""What the integrations of loggers share: to hand a record over to its request, which holds it or lets it pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.context import Context

from clew.logs import tracking
from clew.logs.held import Rendered
from clew.propagation.cell import cell_in

_OVERHEAD = 500
"""In bytes: what a record takes beside its texts."""

_DEEPEST = 8


def is_taken(context: Context, level: int, render: Callable[[], Rendered | None]) -> bool:
    """Tell whether the request in `context` has taken a record: to hold it, or to drop it. Else it is to be sent now.

    Args:
        context: The one that the record was made in.
        level: By the numbers of `logging`.
        render: Makes the record ready to be sent later; asked only where it is held.
    """
    if tracking.current is None:
        return False
    cell = cell_in(context)
    entry = None if cell is None else cell.entry
    if entry is None or entry.held is None or not entry.is_current:
        return False
    return entry.held.takes(level, render)


@dataclass(slots=True)
class Later:
    """A record to be sent later, by a call."""

    send: Callable[[], object]
    size: int
    may_wait: bool = False


def size_of(*values: object) -> int:
    """Return about how many bytes a record with these values takes."""
    return _OVERHEAD + sum(_size(value, 0) for value in values)


def _size(value: Any, depth: int) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else 4 * len(value)
    if isinstance(value, (bytes, bytearray)):
        return len(value)
    if depth < _DEEPEST:
        if isinstance(value, Mapping):
            items: list[tuple[Any, Any]] = list(value.items())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            return 64 + sum(_size(key, depth + 1) + _size(item, depth + 1) for key, item in items)
        if isinstance(value, Sequence):
            parts: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
            return 64 + sum(_size(part, depth + 1) for part in parts)
    return 32
