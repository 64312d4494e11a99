"""Log records that a request holds: how one is offered to its request, and made ready to be sent later.

What is held of `logging`, structlog and loguru is held in this way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

from opentelemetry.context import Context

from clew.any_value import text_of
from clew.logs import tracking
from clew.logs.sending import Sendable
from clew.propagation.cell import cell_in

_OVERHEAD = 500
"""In bytes: what a record takes beside its texts."""

_DEEPEST = 8

_UNCHANGING = (
    str,
    bool,
    int,
    float,
    complex,
    bytes,
    date,
    time,
    timedelta,
    tzinfo,
    Decimal,
    Enum,
    PurePath,
    UUID,
)


def hold(context: Context, level: int, render: Callable[[], Sendable | None]) -> bool:
    """Let the request in `context` hold or drop a record, or return False: then it is to be sent at once.

    Args:
        context: The one that the record was made in.
        level: By the numbers of `logging`.
        render: Makes the record ready to be sent later, or returns None to have it dropped. It is called only where
            the record is held.
    """
    if tracking.current is None:
        return False
    cell = cell_in(context)
    request = None if cell is None else cell.tracked
    if request is None or request.held is None or not request.is_current:
        return False
    return request.held.hold(level, render)


@dataclass(slots=True)
class RenderedRecord:
    """A record that is ready to be sent later: a call sends it."""

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


def snapshot(value: Any, depth: int = 0) -> Any:
    """Return `value` as it is now: itself where it cannot change, a copy of a container, else its text."""
    if value is None or isinstance(value, _UNCHANGING):
        return value
    if depth < _DEEPEST:
        if isinstance(value, dict):
            items: list[tuple[Any, Any]] = list(value.items())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            return {key: snapshot(item, depth + 1) for key, item in items}
        if isinstance(value, (list, tuple, set, frozenset)):
            values = [snapshot(item, depth + 1) for item in cast("list[Any]", value)]
            return tuple(values) if isinstance(value, (tuple, set, frozenset)) else values
    return text_of(value)
