"""The names of operations: which ones are allowed, and what a function is called that is given none."""

from __future__ import annotations

from typing import Any, cast

LONGEST_NAME = 255

_MOST_CHECKED = 4_096

checked_names: set[str] = set()
"""Names that are known to be allowed, so that a block's name is not looked through each time."""


def checked_name(name: str) -> str:
    """Return `name` if it may name an operation: 1 to 255 printable characters.

    Raises:
        ValueError: It may not.
    """
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise ValueError(
            f"An operation's name has 1 to {LONGEST_NAME} printable characters, not {name[:80]!r} "
            f"({len(name)} characters)"
        )
    if len(checked_names) < _MOST_CHECKED:
        checked_names.add(name)
    return name


def qualified_name(function: Any) -> str:
    """Return ``module.qualname`` of what is decorated; of what has none, such as a partial, that of what it calls."""
    if isinstance(function, (staticmethod, classmethod)):
        function = cast("Any", function).__func__
    module = getattr(function, "__module__", None) or type(function).__module__
    name = getattr(function, "__qualname__", None)
    if name is None:  # a functools.partial, an object with __call__
        return qualified_name(function.func) if hasattr(function, "func") else f"{module}.{type(function).__qualname__}"
    return f"{module}.{name}"
