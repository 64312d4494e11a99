"""What is done in a forked child, even where its fork has run none of Python's hooks.

uWSGI forks its workers in C, by default without telling the interpreter. uWSGI's own hook calls `notice` in such a
child; and at the latest its first measurement, request or log record does.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_LONGEST_WAIT = 5.0
"""Seconds that a thread waits for another one that runs the hooks."""

_WIPE_ON_FORK = 18
"""Linux's MADV_WIPEONFORK (``madvise(2)``): such a page is full of zeros in a forked child, however it was forked."""


def _wiped_page() -> Any:
    if sys.platform == "linux":
        with suppress(ImportError, AttributeError, OSError, ValueError):  # a kernel that does not know it
            import mmap

            page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            page.madvise(_WIPE_ON_FORK)
            return page
    return None


_hooks: list[Callable[[], None]] = []
_process = os.getpid()
_mark: Any = _wiped_page()
"""Its first byte is 0 where this is another process by now. To look takes 40 ns, `os.getpid` up to 200."""

_noticing = threading.RLock()
_is_running = False


def after_in_child(hook: Callable[[], None]) -> None:
    """Call `hook` in each forked child, in the order of registration."""
    _hooks.append(hook)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=hook)


def notice() -> None:
    """Run the hooks, if this is a forked child in which that has not been done."""
    if os.getpid() != _process if _mark is None else not _mark[0]:
        _catch_up()


def _have_noticed() -> None:
    global _process
    _process = os.getpid()
    if _mark is not None:
        _mark[0] = 1


_have_noticed()


def _catch_up() -> None:
    global _is_running
    if not _noticing.acquire(timeout=_LONGEST_WAIT):
        return
    try:
        if os.getpid() == _process or _is_running:  # another thread was quicker, or a hook has called `notice` itself
            return
        _is_running = True
        try:
            for hook in _hooks.copy():
                hook()
        finally:
            _have_noticed()
            _is_running = False
    finally:
        _noticing.release()


def _are_run() -> None:
    """Take note that Python itself runs the hooks in this child."""
    global _is_running, _noticing
    _noticing = threading.RLock()
    _is_running = False
    _have_noticed()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_are_run)
