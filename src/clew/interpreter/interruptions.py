"""Exceptions that are none of ours: what the handler of a signal raises, or another thread, amid our own work.

A time limit ends the code it is for wherever that is just then. So where our own errors are kept from the code that is
measured, such an exception is passed on.
"""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any, TypeVar

F = TypeVar("F")

_OWN = ("clew", "opentelemetry")

# past whatever a class of the user's puts in their places
_traceback_of: Any = vars(BaseException)["__traceback__"].__get__
_args_of: Any = vars(BaseException)["args"].__get__
_module_of: Any = vars(type)["__module__"].__get__

_COLLECTION = {"generation", "collected", "uncollectable"}
"""The keys of what a callback of the garbage collector is given."""


def begins_at_once(function: F) -> F:
    """Let `function` run into its ``try`` before CPython looks for signals: no exception of a handler comes before.

    From 3.11 on CPython looks for them where a function begins, so that a block whose end is just being entered would
    never end. The argument of that instruction says what begins: where a generator resumes after it has waited, CPython
    does not look. Python 3.10 does not look before a ``try`` that comes first; unknown versions are left as they are.
    """
    if not _FIRST <= sys.version_info[:2] <= _LAST:
        return function
    changed: Any = function
    code: CodeType = changed.__code__
    instructions = bytearray(code.co_code)
    for position in range(0, len(instructions), 2):
        if instructions[position] == dis.opmap["RESUME"]:
            instructions[position + 1] = 2
            changed.__code__ = code.replace(co_code=bytes(instructions))
            break
    return function


_FIRST, _LAST = (3, 11), (3, 14)
"""The versions on which `begins_at_once` does anything."""


def let_through(error: BaseException) -> None:
    """Raise `error` again if it came from outside of the work that it has left; to be called where that is caught."""
    if comes_from_outside(error):
        try:
            raise error
        finally:
            del error  # which would have this frame in its traceback, and keep itself alive


def comes_from_outside(error: BaseException) -> bool:
    """Tell whether `error` is for the program, and no error of the work that it has left."""
    return not issubclass(type(error), Exception) or _is_raised_by_handler(error) or _is_raised_by_thread(error)


class Suppressed:
    """A block whose own errors do not matter."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        """Tell whether what leaves the block is an error of its own."""
        return error is not None and not comes_from_outside(error)


def _is_raised_by_handler(error: BaseException) -> bool:
    """Tell whether a signal's handler is among what `error` has left: it was given the frame that it interrupted."""
    step = _traceback_of(error)
    while step is not None and step.tb_next is not None:
        if _was_given(step.tb_next.tb_frame, step.tb_frame):
            return True
        step = step.tb_next
    return False


def _was_given(handler: FrameType, interrupted: FrameType) -> bool:
    return any(value is interrupted for value in _arguments_of(handler))


def _arguments_of(frame: FrameType) -> Iterator[Any]:
    code, values = frame.f_code, frame.f_locals
    takes_any = bool(code.co_flags & inspect.CO_VARARGS)
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + takes_any]:
        value = values.get(name)
        yield value
        if type(value) is tuple:  # the arguments of one that takes any; of no other class is anything asked
            yield from value  # pyright: ignore[reportUnknownVariableType]


def _is_raised_by_thread(error: BaseException) -> bool:
    """Tell whether another thread has raised `error` (`PyThreadState_SetAsyncExc`), which gives only its class.

    That is one without arguments, of a kind that none of the code raises in which it came up.
    """
    kind = str(_module_of(type(error))).partition(".")[0]
    if _args_of(error) or (type(error) is not TimeoutError and (kind in _OWN or kind in sys.stdlib_module_names)):
        return False
    step = _traceback_of(error)
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
    return any(type(value) is dict and value.keys() == _COLLECTION for value in _arguments_of(frame))
