"""What ends or forks a process: each end sends what has been measured, each forked child begins anew.

The interpreter's exit runs `atexit`; a `multiprocessing` child's end does not, but runs its finalizers; SIGTERM ends a
process that has no handler for it without either.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import weakref
from typing import Any, Protocol


class Mortal(Protocol):
    """What has to act when the process ends or forks."""

    def end(self) -> None:
        """Send what is there, within the time that is left; may be called again."""

    def begin_in_child(self) -> None:
        """Begin anew in a forked child."""


def attend(mortal: Mortal) -> None:
    """Call `mortal` at each end of this process and its forked children, and after each fork in the child."""
    atexit.register(mortal.end)
    _attend_forks(weakref.ref(mortal))
    _attend_multiprocessing(mortal)
    _attend_sigterm()
    _mortals.add(mortal)


def release(mortal: Mortal) -> None:
    """Call `mortal` no more."""
    atexit.unregister(mortal.end)
    _mortals.discard(mortal)


_mortals: weakref.WeakSet[Any] = weakref.WeakSet()


def _attend_forks(reference: weakref.ref[Mortal]) -> None:
    def after_in_child() -> None:
        mortal = reference()
        if mortal is not None and mortal in _mortals:
            mortal.begin_in_child()

    if hasattr(os, "register_at_fork"):
        # registered after the SDK's own hooks, so that what they set in the child is ours to correct
        os.register_at_fork(after_in_child=after_in_child)


def _attend_multiprocessing(mortal: Mortal) -> None:
    from multiprocessing import process, util

    def finalize(mortal: Any) -> None:
        if mortal in _mortals:
            util.Finalize(None, mortal.end, exitpriority=-100)  # after the user's own

    util.register_after_fork(mortal, finalize)  # type: ignore[no-untyped-call,unused-ignore]
    if process.parent_process() is not None:
        util.Finalize(None, mortal.end, exitpriority=-100)


def _attend_sigterm() -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set handlers
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: Any) -> None:
    """Send what is there, then die of the signal as the process would have."""
    for mortal in list(_mortals):
        mortal.end()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
