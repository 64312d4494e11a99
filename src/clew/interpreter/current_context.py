"""Sets what is current in a task or thread, wherever that is safe.

Before Python 3.12 the garbage collector runs wherever memory is asked for, in the middle of `ContextVar.set` too. What
a finalizer or one of `gc.callbacks` sets meanwhile then frees what the interrupted `set` works on, and the interpreter
crashes. So there nothing of ours sets a ContextVar while the collector is at work in the same thread.
"""

from __future__ import annotations

import atexit
import gc
import sys
import threading
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from opentelemetry.context import Context, attach

T = TypeVar("T")

COLLECTS_IN_BETWEEN = sys.version_info < (3, 12)
"""Whether the garbage collector runs in the middle of other C code."""


class _Phase:
    """The `info` of the last event that one of `gc.callbacks` was called with, the start or the stop of a collection.

    The collector calls `__setattr__` itself, with the name of the event and its `info`: no Python code
    runs for it, in which the handler of a signal could raise an exception that the collector would swallow.
    """

    __slots__ = ("listener", "start")

    start: Any
    listener: Any

    def __init__(self, start: Any = ()) -> None:
        self.start = start
        self.listener = self.__setattr__


_Phase.stop = _Phase.__dict__["start"]  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]


class _Here(threading.local):
    """The `info` of the collection that each thread has begun last."""

    start: Any = None


_here, _first, _last = _Here(), _Phase(), _Phase()
_callbacks = gc.callbacks


def _leave(listener: Any) -> None:
    """Stop listening to collections: gevent's `threading.local` is gone near the interpreter's end."""
    with suppress(ValueError):
        _callbacks.remove(listener)


if COLLECTS_IN_BETWEEN:
    _callbacks[:0] = [_here.__setattr__, _first.listener]
    _callbacks.append(_last.listener)
    atexit.register(_leave, _callbacks[0])


def is_collecting() -> bool:
    """Tell whether the garbage collector is at work in this thread, where nothing may be set meanwhile.

    It is from when the first of its callbacks hears of the start to when the last of them hears of the end.
    """
    began = _here.start
    is_at_work = began is _first.start or began is _last.start
    if COLLECTS_IN_BETWEEN and _callbacks[-1] is not _last.listener:  # the application has added one of its own
        _be_last(began if is_at_work else ())
    return is_at_work


def _be_last(start: Any) -> None:
    global _last
    last = _Phase(start)
    _callbacks.append(last.listener)  # the one before stays: it may be among those that are being called
    _last = last


def make_current(context: Context) -> bool:
    """Make `context` the current one, or return False where that must not be."""
    if COLLECTS_IN_BETWEEN:
        began = _here.start  # as `is_collecting` has it, written out since that is asked twice for each request
        if (began is _first.start or began is _last.start or _callbacks[-1] is not _last.listener) and is_collecting():
            return False
    attach(context)
    return True


class Variable(Generic[T]):
    """A ContextVar that may be set anywhere: what is set while the collector is at work lasts as long as that."""

    def __init__(self, name: str) -> None:
        self._variable: ContextVar[T | None] = ContextVar(name, default=None)
        self._aside: tuple[Any, T | None] = (None, None)  # one thread collects at a time

    def get(self) -> T | None:
        """Return what was set last, or None."""
        if COLLECTS_IN_BETWEEN and self._aside[0] is not None and is_collecting():
            collection, value = self._aside
            if collection is _here.start:
                return value
        return self._variable.get()

    def set(self, value: T | None) -> None:
        """Set it; while the garbage collector is at work, for as long as that lasts."""
        if COLLECTS_IN_BETWEEN and is_collecting():
            self._aside = _here.start, value
        else:
            self._variable.set(value)
