"""Values of a test that remember where they come from, so that a failed assertion shows the table behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
V = TypeVar("V")

MOST_ROWS = 40


class Source(Protocol):
    """What can show itself as a table."""

    def table(self) -> list[str]:
        """Return the lines of the table."""
        ...


class Number(int):
    """An int that remembers what it counts."""

    source: Source

    def __new__(cls, value: int, source: Source) -> Number:
        """Make one; compares, adds and prints as an int."""
        made = super().__new__(cls, value)
        made.source = source
        return made


class Amount(float):
    """A float that remembers what it measures."""

    source: Source

    def __new__(cls, value: float, source: Source) -> Amount:
        """Make one; compares, adds and prints as a float."""
        made = super().__new__(cls, value)
        made.source = source
        return made


class Listed(list[T]):
    """A list that remembers what it is taken from."""

    def __init__(self, values: Iterable[T], source: Source) -> None:
        super().__init__(values)
        self.source = source


class Counted(dict[str, V]):
    """A dict that remembers what it is taken from."""

    def __init__(self, values: Mapping[str, V], source: Source) -> None:
        super().__init__(values)
        self.source = source


_SOURCED = (Number, Amount, Listed, Counted)


def explained(left: object, operator: str, right: object) -> list[str] | None:
    """Return the lines that explain a comparison that failed, or None where neither side is one of these values."""
    for value in (left, right):
        if isinstance(value, _SOURCED):
            source: Source = value.source  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            return [f"{left!r} {operator} {right!r}", *source.table()]
    return None


def rows(head: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, its columns under each other; of very many rows the last ones."""
    shown = cells[-MOST_ROWS:]
    widths = [max(len(row[column]) for row in (head, *shown)) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *shown)]
    left_out = len(cells) - len(shown)
    if left_out:
        lines.insert(1, f"… {left_out} more before these")
    return [line.rstrip() for line in lines]


def attributes_text(attributes: Mapping[str, Any]) -> str:
    """Return attributes in one line: ``tier=gold channel=web``, or ``-``."""
    return " ".join(f"{name}={value}" for name, value in attributes.items()) or "-"


def seconds_text(seconds: float) -> str:
    """Return a duration in the unit that fits it."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 0.001 else f"{seconds * 1e6:.3g} µs"
