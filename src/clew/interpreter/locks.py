"""Locks of modules that are free in a forked child, though a thread of the parent held them."""

from __future__ import annotations

import threading
from typing import Any

from clew.interpreter import forks

_renewed: list[tuple[dict[str, Any], str]] = []


def renew_in_child(names: dict[str, Any], name: str) -> None:
    """Renew the `threading.RLock` of that name in a forked child, unless the thread that forks holds it.

    Args:
        names: The ``globals()`` of its module.
        name: The lock's name there.
    """
    _renewed.append((names, name))


def _renew() -> None:
    for names, name in _renewed:
        lock = names[name]
        if lock.acquire(blocking=False):
            lock.release()
        else:
            names[name] = threading.RLock()


forks.after_in_child(_renew)
