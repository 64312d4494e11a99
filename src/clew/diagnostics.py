"""Warnings about `clew` itself, each logged once, and counts of all that it drops, replaces or ignores.

Instrumentation must not raise into the code it measures and must not fill its log. So an error of its own is logged
once per process under the logger ``clew``, and every single occurrence is counted; `configure()` exports the counts as
the metric ``clew.events`` (unit ``{event}``, attribute ``event.name``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial

from clew.interpreter import forks
from clew.interpreter.interruptions import begins_at_once, let_through
from clew.interpreter.untrusted import printable
from clew.interpreter.weak import WeakCollection

logger = logging.getLogger("clew")

_MOST_WARNINGS = 1_000

_MOST_APART = 1_000

# without a lock, since a signal's handler or a finalizer may warn or count in the middle of it
_warned: set[object] = set()
_counts: dict[str, list[int]] = {}
"""What each event has been counted by; put together now and then."""

_putting_together = threading.Lock()  # nobody waits for it
_reported: dict[str, int] = {}
_accounts: WeakCollection[Account] = WeakCollection()


def warn_once(about: object, message: str, *args: object, level: int = logging.WARNING) -> None:
    """Log `message % args`, once for each `about` (any hashable value); never raise."""
    if about in _warned or len(_warned) >= _MOST_WARNINGS:
        return
    if _thread.deferred is not None:
        _thread.deferred.append(partial(warn_once, about, message, *args, level=level))
        return
    if about in _warned:  # asked again, since nothing can come between this and the next step
        return
    _warned.add(about)
    try:
        _log(level, message, tuple(map(printable, args)))
    except Exception as error:  # a user's handler or filter that raises must not reach the measured code
        let_through(error)


def _log(level: int, message: str, args: tuple[object, ...]) -> None:
    """Log it, also where `logging.config` has disabled our logger, as it does by default with all it does not name."""
    if not logger.disabled:
        logger.log(level, message, *args)
    elif logging.root.manager.disable < level and logger.getEffectiveLevel() <= level:
        record = logger.makeRecord(logger.name, level, __file__, 0, message, args, None)
        passed = logger.filter(record)
        if passed:
            logger.callHandlers(passed if isinstance(passed, logging.LogRecord) else record)


def report_failure(event: str, error: Exception, message: str, *args: object, about: object = None) -> None:
    """Count a failure of our own as `event`, and log the first of its kind; to be called where `error` is caught.

    `message % args` says what was not done, and the type and text of the error follow it. A kind is a type of error
    unless `about` names another one (any hashable value). What a signal's handler or another thread has raised is no
    failure of our own, and raised again.
    """
    try:
        let_through(error)
    except BaseException:
        del error  # in whose traceback this frame is now: it would keep itself alive
        raise
    count(event)
    kind = type(error).__name__
    about = (event, kind) if about is None else about
    warn_once(about, f"{message}: %s: %s (logged once; each one is counted)", *args, kind, error)


class _Thread(threading.local):
    deferred: list[Callable[[], None]] | None = None
    """The warnings of a block of `DeferredWarnings`; None outside one."""


_thread = _Thread()


class DeferredWarnings:
    """A block in which this thread logs no warnings; those that come up are logged at its end.

    It goes around a lock: the application's handler of a log record may measure, and so may a thread that it waits for.
    """

    __slots__ = ("_is_outermost",)

    def __enter__(self) -> None:
        self._is_outermost = _thread.deferred is None
        if self._is_outermost:
            _thread.deferred = []

    @begins_at_once
    def __exit__(self, *_: object) -> None:
        if self._is_outermost:
            deferred, _thread.deferred = _thread.deferred, None
            for warn in deferred or ():
                warn()


def count(event: str, amount: int = 1) -> None:
    """Add `amount` occurrences of `event`, a name such as ``request_id.replaced``."""
    amounts = _counts.get(event)
    if amounts is None:
        amounts = _counts.setdefault(event, [])
    amounts.append(amount)
    if len(amounts) > _MOST_APART and _putting_together.acquire(blocking=False):
        try:
            number = len(amounts)  # others only append meanwhile
            amounts[:number] = [sum(amounts[:number])]
        finally:
            _putting_together.release()


def counts() -> dict[str, int]:
    """Return how often each event has happened in this process so far."""
    return {event: sum(amounts.copy()) for event, amounts in _counts.copy().items()}


class Account:
    """The events that one MeterProvider exports: those that none before it has exported.

    Args:
        goes_on_in_child: Asked in a forked child: whether the provider counts on from its parent's total there.
    """

    def __init__(self, goes_on_in_child: Callable[[], bool]) -> None:
        self._goes_on_in_child = goes_on_in_child
        self._others = _reported.copy()
        _accounts.add(self)

    def counts(self) -> dict[str, int]:
        """Return how often each event has happened that is this provider's to export."""
        found = counts()
        _reported.update(found)
        mine = {event: number - self._others.get(event, 0) for event, number in found.items()}
        return {event: number for event, number in mine.items() if number > 0}

    def restart_in_child(self, parents: Mapping[str, int]) -> None:
        """Begin anew in a forked child, `parents` being the events of its parent."""
        if self._goes_on_in_child():
            self._others = {event: self._others.get(event, 0) - number for event, number in parents.items()}
        else:
            self._others = {}


def _restart_in_child() -> None:
    global _putting_together
    _putting_together = threading.Lock()
    parents = counts()
    _counts.clear()
    _reported.clear()
    for account in _accounts:
        account.restart_in_child(parents)


forks.after_in_child(_restart_in_child)
