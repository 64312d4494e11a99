"""What counts as a failure of an operation, and the name it gets: the attribute ``error.type``."""

from __future__ import annotations

import sys
from typing import Any

OTHER = "_OTHER"
"""The name of a failure that has none, by the semantic conventions for ``error.type``."""

_LONGEST_REASON = 255

_NO_FAILURE: tuple[type[BaseException], ...] = (GeneratorExit, StopIteration, StopAsyncIteration)

_ONE_NAME = {
    # what one Python version calls by another name than the next
    "asyncio.exceptions.TimeoutError": "TimeoutError",
    "concurrent.futures._base.TimeoutError": "TimeoutError",
    "re.error": "re.PatternError",
    "pathlib._local.UnsupportedOperation": "pathlib.UnsupportedOperation",
}


def error_type_of(kind: type[BaseException]) -> str:
    """Name an exception class: ``module.qualname``, without the module for builtins; the same on every Python."""
    module = kind.__module__
    if module == "builtins":
        return kind.__qualname__
    name = f"{module}.{kind.__qualname__}"
    return _ONE_NAME.get(name, name)


class Expected:
    """Exceptions that may leave an operation without being a failure: types, and dotted names of types.

    A name such as ``django.http.Http404`` is looked up when something fails, in the modules that are imported by then,
    so that naming an exception imports nothing.
    """

    def __init__(self, types: tuple[type[BaseException], ...] = (), names: tuple[str, ...] = ()) -> None:
        self._types = types
        self._names = names

    def __contains__(self, error: object) -> bool:
        if self._names:
            self._resolve()
        return isinstance(error, self._types)

    def _resolve(self) -> None:
        found = {name: _imported(name) for name in self._names}
        self._types += tuple(kind for kind in found.values() if kind is not None)
        self._names = tuple(name for name, kind in found.items() if kind is None)


def _imported(name: str) -> type[BaseException] | None:
    module_name, _, rest = name.rpartition(".")
    while module_name and module_name not in sys.modules:
        module_name, _, outer = module_name.rpartition(".")
        rest = f"{outer}.{rest}"
    found: Any = sys.modules.get(module_name or "builtins")
    for part in rest.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


NOTHING_EXPECTED = Expected()


def failure(
    error: BaseException, expected: tuple[type[BaseException], ...], expected_everywhere: Expected
) -> str | None:
    """Return the ``error.type`` of an exception that leaves an operation, or None where it is no failure."""
    if isinstance(error, (*expected, *_NO_FAILURE)) or error in expected_everywhere:
        return None
    if isinstance(error, SystemExit) and (error.code is None or (type(error.code) is int and error.code == 0)):
        return None
    return error_type_of(type(error))


def reason_of(reason: object) -> str:
    """Return the ``error.type`` for a failure that is told, not raised: its text, at most 255 characters."""
    if reason is True or reason is None:
        return OTHER
    return str(reason)[:_LONGEST_REASON] or OTHER


def exception_types(value: Any, owner: str) -> tuple[type[BaseException], ...]:
    """Check an ``expected`` argument: one exception type or a tuple of them; a TypeError names what else was given."""
    kinds: list[Any] = [*value] if isinstance(value, tuple) else [value]
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"{owner}: expected takes an exception type or a tuple of them, not {kind!r}")
    return tuple(kinds)
