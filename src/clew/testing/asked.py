"""The names that a test asked for and found nothing under: misspelt ones, unless something has them."""

from __future__ import annotations

import difflib
from collections.abc import Collection

_SHOWN = 8  # names that there are


class AskedNames:
    """Names of operations and of metrics that nothing was found under when they were asked for."""

    def __init__(self) -> None:
        self.operations: set[str] = set()
        self.metrics: set[str] = set()

    def unknown(self, operations: Collection[str], metrics: Collection[str]) -> str:
        """Return a message, once, on the names that are not among those there are; empty where all are."""
        lines = [
            *_lines("calls", "operation", self.operations, operations),
            *_lines("metric", "metric", self.metrics, metrics),
        ]
        self.operations.clear()
        self.metrics.clear()
        return "\n".join(lines)


def _lines(method: str, kind: str, asked: Collection[str], known: Collection[str]) -> list[str]:
    lines: list[str] = []
    for name in sorted(asked):
        if name in known:
            continue
        near = difflib.get_close_matches(name, sorted(known), _SHOWN, 0.6) or sorted(known)[:_SHOWN]
        lines.append(
            f"telemetry.{method}({name!r}): there is no {kind} of this name, so that nothing was found says nothing. "
            f"There are {', '.join(map(repr, near)) or 'none at all'}. "
            f"If that is meant: telemetry.{method}({name!r}, may_be_unknown=True)"
        )
    return lines
