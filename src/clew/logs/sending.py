"""The sending of records that have been held: it never raises, and at the end of the process it has little time."""

from __future__ import annotations

import _thread
from collections.abc import Callable, Iterable
from typing import Protocol

from clew.diagnostics import count, warn_once
from clew.interpreter.interruptions import let_through


class Sendable(Protocol):
    """A record that is ready to be sent later: its text, traceback and values are as they were when it was logged."""

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        ...

    @property
    def may_wait(self) -> bool:
        """Whether sending it may have to wait for a lock of the application's."""
        ...

    @property
    def send(self) -> Callable[[], object]:
        """Sends it when called."""
        ...


def send(records: Iterable[Sendable]) -> None:
    """Send records, and never raise: each one that cannot be sent is counted, and the first is logged."""
    for record in records:
        try:
            record.send()
        except Exception as error:
            let_through(error)
            _warn_of_unsent(1, f"{type(error).__name__}: {error}")


def send_within(seconds: float, records: list[Sendable]) -> None:
    """Send records in a thread of its own, which is left behind when the time is up.

    The code that a signal interrupts may hold the lock of the handler that a record goes to. It may also hold those of
    `threading`, which is therefore not used.
    """
    if not records:
        return
    left = len(records)
    over = _thread.allocate_lock()
    over.acquire()

    def run() -> None:
        nonlocal left
        for record in records:
            send([record])
            left -= 1
        over.release()

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError:  # the interpreter ends, or there are as many threads as there may be
        run()
    if not over.acquire(timeout=seconds):
        _warn_of_unsent(left, "where it goes to is busy at the end of the process")


def _warn_of_unsent(number: int, reason: str) -> None:
    count("held_logs.not_sent", number)
    warn_once(
        ("held_logs.not_sent", reason),
        "A log record that had been held could not be sent: %s (logged once; each one is counted)",
        reason,
    )
