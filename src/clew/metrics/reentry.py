"""What is recorded while its own thread stands in the middle of the code that records, and so has to wait.

The handler of a signal, a finalizer and a callback of the garbage collector run wherever their thread just is: in the
middle of a collection, or of making an instrument, with locks that cannot be taken a second time and with state that is
half changed. What is recorded there is put off, with the Context that it had, until its thread is out of there. Whether
a thread is inside is read from its frames, so that no exception can leave a wrong mark behind.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

from clew.diagnostics import count, report_failure, warn_once
from clew.interpreter import forks

MODULES: set[str] = {"opentelemetry.metrics._internal"}
"""The modules whose functions must not be entered again; `clew.metrics.sdk.recording` adds those of the SDK."""

_HOLD_NOTHING = frozenset({"force_flush", "shutdown"})
"""Functions of these modules that only wait for others."""

_MOST_WAITING = 100_000

_waiting: deque[Callable[[], object]] = deque()


class _Here(threading.local):
    may_be_inside = False
    """Whether it is worth looking at the frames of this thread where something is recorded often."""
    is_catching_up = False


_here = _Here()


def is_inside(frame: FrameType | None = None) -> bool:
    """Tell whether the calling thread stands in the middle of code that must not be entered again.

    Args:
        frame: Where to begin to look, going outwards; the caller by default.
    """
    if frame is None:
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        code = frame.f_code
        if code is _BY_ITSELF:
            return True
        if code is _CATCHING_UP:  # it has looked at what is around it
            return False
        if frame.f_globals.get("__name__") in MODULES and code.co_name not in _HOLD_NOTHING:
            return True
        frame = frame.f_back
    return False


def put_off(record: Callable[[], object]) -> None:
    """Call `record` when this thread is out of what it is in the middle of, at the next collection at the latest."""
    if len(_waiting) < _MOST_WAITING:
        _waiting.append(record)
        return
    count("measurement.ignored")
    warn_once(
        "put off",
        "More than %d measurements were made in the middle of one collection, by finalizers or the handlers of "
        "signals; the further ones are ignored",
        _MOST_WAITING,
    )


def catch_up(frame: FrameType | None = None) -> None:
    """Record what waits, unless the calling thread is inside, as seen from `frame` outwards (by default its caller)."""
    if _waiting and not is_inside(sys._getframe(1) if frame is None else frame):  # pyright: ignore[reportPrivateUsage]
        _catch_up()


def _catch_up() -> None:
    here = _here
    if here.is_catching_up:  # one after the other, not one within the other
        return
    here.is_catching_up = True
    try:
        for _ in range(len(_waiting)):  # and no more: what records may be interrupted each time
            try:
                record = _waiting.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                record()
            except Exception as error:
                report_failure("measurement.ignored", error, "A measurement that had to wait was ignored")
    finally:
        here.is_catching_up = False


def by_itself(work: Callable[..., Any], *args: Any) -> Any:
    """Do work that must not be entered again by its own thread; `is_inside` tells while it lasts."""
    here = _here
    before, here.may_be_inside = here.may_be_inside, True
    try:
        return work(*args)
    finally:
        here.may_be_inside = before


_BY_ITSELF, _CATCHING_UP = by_itself.__code__, _catch_up.__code__


def begin_collection() -> None:
    """Record what waits, in a callback of a collection, which comes before the SDK looks at what there is.

    The thread is looked at from now on where something is recorded, as nobody tells when the collection is over.
    """
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_globals.get("__name__") not in MODULES:
        frame = frame.f_back
    while frame is not None and frame.f_globals.get("__name__") in MODULES:  # the collection itself
        frame = frame.f_back
    if frame is None or not is_inside(frame):
        _catch_up()
    _here.may_be_inside = True


def may_enter() -> bool:
    """Tell whether the calling thread is not inside; cheap where it has not been inside of late."""
    here = _here
    if here.may_be_inside:
        if is_inside(sys._getframe(1)):  # pyright: ignore[reportPrivateUsage]
            return False
        here.may_be_inside = False
    return True


def _forget_in_child() -> None:
    """What waits in the parent is recorded there."""
    _waiting.clear()


forks.after_in_child(_forget_in_child)
