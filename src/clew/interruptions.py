"""Exceptions that are none of ours: what the handler of a signal raises, or another thread, amid our own work.

A time limit ends what it is for wherever that is just then. So where our own troubles are kept from the code that is
measured, such an exception is passed on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

_OWN = ("clew", "opentelemetry")

_COLLECTION = {"generation", "collected", "uncollectable"}
"""What a callback of the garbage collector is told."""


def pass_on(error: BaseException) -> None:
    """Raise `error` again if it came from outside of the work that it has left; to be called where that is caught."""
    if not isinstance(error, Exception) or _is_raised_by_handler(error) or _is_raised_by_thread(error):
        raise error


def _is_raised_by_handler(error: Exception) -> bool:
    """Tell whether a signal's handler is among what `error` has left: it was given the frame that it interrupted."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        if _was_given(step.tb_next.tb_frame, step.tb_frame):
            return True
        step = step.tb_next
    return False


def _was_given(handler: FrameType, interrupted: FrameType) -> bool:
    return any(value is interrupted for value in _locals_of(handler))


def _locals_of(frame: FrameType) -> Iterator[Any]:
    for value in frame.f_locals.values():
        yield value
        if isinstance(value, tuple):  # the arguments of one that takes any
            yield from value  # pyright: ignore[reportUnknownVariableType]


def _is_raised_by_thread(error: Exception) -> bool:
    """Tell whether another thread has raised `error` (`PyThreadState_SetAsyncExc`), which gives only its class.

    That is one without arguments, of a kind that none of the code raises in which it came up.
    """
    kind = type(error).__module__.partition(".")[0]
    if error.args or (type(error) is not TimeoutError and (kind in _OWN or kind in sys.stdlib_module_names)):
        return False
    step = error.__traceback__
    while step is not None:
        module = str(step.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if module not in _OWN and module not in sys.stdlib_module_names:
            return False
        step = step.tb_next
    return True


def is_called_amid(code: CodeType) -> bool:
    """Tell whether the interpreter itself has called what runs now, in the middle of `code`: what that does goes on.

    A finalizer, a callback of the garbage collector, the handler of a signal.
    """
    frame: FrameType | None = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_code is not code:
        outer = frame.f_back
        if frame.f_code.co_name == "__del__" or (outer is not None and _was_given(frame, outer)) or _collects(frame):
            return True
        frame = outer
    return False


def _collects(frame: FrameType) -> bool:
    return any(isinstance(value, dict) and value.keys() == _COLLECTION for value in _locals_of(frame))
