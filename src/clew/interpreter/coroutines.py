"""What is awaited: coroutines, also those made of generators, and futures."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Generator
from types import CoroutineType, GeneratorType, coroutine
from typing import Any

from clew.interpreter.interruptions import let_through


def is_coroutine(result: object) -> bool:
    """Tell whether `result` is a coroutine, one made of a generator included."""
    kind = type(result)
    if kind is GeneratorType:
        return bool(result.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)  # type: ignore[attr-defined]
    return kind is CoroutineType


def is_future(result: object) -> bool:
    """Tell whether `result` is a future, as asyncio does."""
    try:
        return (
            hasattr(type(result), "_asyncio_future_blocking") and result._asyncio_future_blocking is not None  # type: ignore[attr-defined]
        )
    except Exception as error:  # of a class of the user's
        let_through(error)
        return False


def named_as(named: Any, made: Any) -> Any:
    """Return the coroutine `made` with the name of another."""
    made.__name__, made.__qualname__ = named.__name__, named.__qualname__
    return made


@coroutine
def _nothing() -> Generator[Any, Any, None]:
    return
    yield


_ended: Any = _nothing()
list(_ended)
DONE: Awaitable[None] = _ended
"""What is done already when it is awaited, any number of times: a generator that has ended."""
