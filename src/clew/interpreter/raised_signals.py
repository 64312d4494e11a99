"""A signal by which a process ends itself: what has been measured is sent first.

Servers handle a signal, stop, put the default handler back and raise the signal again, so that the process that waits
for them sees what they died of. The default handler runs no `atexit`, and ours could not take its place earlier: the
server found it before the application was imported.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from typing import Any

_DEADLY = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGBREAK") if hasattr(signal, name)
)
"""The signals that a server is stopped with and that end a process by default."""

_original: dict[tuple[Any, str], Any] = {}


def watch(send: Callable[[bool], None]) -> None:
    """Call `send` before this process dies of a signal that it raises itself.

    Its argument tells whether the process may go on nevertheless: the kernel spares the first one of a container.
    """
    if _original:
        return

    def before(number: int) -> None:
        try:
            if number in _DEADLY and signal.getsignal(number) is signal.SIG_DFL:
                send(os.getpid() == 1 or number in _blocked())
        except Exception:  # the signal is to be raised, whatever happens
            return

    def before_kill(process: int, number: int) -> None:
        if process in (0, os.getpid()):
            before(number)

    def before_killpg(group: int, number: int) -> None:
        if group in (0, os.getpgrp()):
            before(number)

    def before_pthread_kill(thread: int, number: int) -> None:
        before(number)

    _wrap(signal, "raise_signal", before)
    _wrap(os, "kill", before_kill)
    _wrap(os, "killpg", before_killpg)
    _wrap(signal, "pthread_kill", before_pthread_kill)


def unwatch() -> None:
    """Take the wrappers off again, except those that others have wrapped."""
    for (module, name), original in _original.items():
        if getattr(getattr(module, name), "__wrapped__", None) is original:
            setattr(module, name, original)
    _original.clear()


def _wrap(module: Any, name: str, before: Callable[..., None]) -> None:
    original = getattr(module, name, None)
    if original is None:
        return

    @functools.wraps(original)
    def raise_after(*args: Any) -> Any:
        if args and _original:
            _call(before, args)
        return original(*args)

    _original[module, name] = original
    setattr(module, name, raise_after)


def _call(before: Callable[..., None], args: tuple[Any, ...]) -> None:
    try:
        before(*args)
    except TypeError:  # of arguments that the original refuses too
        return


def _blocked() -> set[Any]:
    """Return the signals that this thread blocks now, and so will not die of."""
    if not hasattr(signal, "pthread_sigmask"):
        return set()
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
