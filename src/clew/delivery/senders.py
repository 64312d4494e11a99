"""All senders side by side against one deadline: at a flush, and at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from clew.delivery.foreign import ForeignSender
from clew.delivery.worker import Order, Trigger, deadlines
from clew.diagnostics import logger, warn_once


@runtime_checkable
class Sender(Protocol):
    """A reader or processor that sends what it has: `PeriodicReader`, `SpanBatchProcessor` or `LogBatchProcessor`."""

    @property
    def kind(self) -> str:
        """What is delivered."""
        ...

    @property
    def undelivered(self) -> int:
        """How many items of the last flush or shutdown did not arrive."""
        ...

    @property
    def reason(self) -> str | None:
        """Why not, if that is known."""
        ...

    def begin(self, trigger: Trigger, deadline: float) -> Order:
        """Begin a flush or the last export, without waiting for it."""
        ...

    def wait(self, order: Order, deadline: float) -> bool:
        """Wait for what was begun; return whether everything was delivered in time."""
        ...


def deliver(senders: Iterable[Any], *, closing: bool, timeout: float) -> bool:
    """Flush all senders, or shut them down where `closing`, side by side; return whether everything was delivered.

    A sender is one of ours, or any OpenTelemetry metric reader, span processor or log record processor. This returns
    when all are done, `timeout` seconds from now at the latest. It never raises, and may be called again and from any
    thread. What did not arrive while `closing` is logged in one warning, with its count.

    Near the interpreter's end, where no more threads can be started, senders that have none yet work in the calling
    thread, each within its share of the time that is left.
    """
    end, deadline = deadlines(timeout)
    trigger: Trigger = "close" if closing else "flush"
    begun: list[tuple[Sender, Order]] = []
    delivered = True
    missing: list[str] = []
    wrapped: list[ForeignSender] = []
    for given in senders:
        if isinstance(given, Sender):
            sender = given
        else:
            sender = ForeignSender(given)
            wrapped.append(sender)
        try:
            begun.append((sender, sender.begin(trigger, end)))
        except Exception as error:
            delivered = False
            _warn_unexpected(sender, error)
    begun.sort(key=lambda each: each[1].threaded)  # what is left to this thread goes first, the others run meanwhile
    here = sum(not order.threaded for _, order in begun)
    for place, (sender, order) in enumerate(begun):
        try:
            if not order.threaded:
                now = time.monotonic()
                order.deadline = now + max(0.0, end - now) / (here - place)
            if not sender.wait(order, deadline):
                delivered = False
                if not order.reported:
                    order.reported = True
                    missing.append(_missing(sender))
        except Exception as error:
            delivered = False
            _warn_unexpected(sender, error)
    for sender in wrapped:
        sender.end()
    if missing and closing:
        _warn_missing(timeout, missing)
    return delivered


def _missing(sender: Sender) -> str:
    number = f"{sender.undelivered} {sender.kind}" if sender.undelivered else f"{sender.kind}, how many is not known"
    return f"{number} ({sender.reason or 'it was not done in time'})"


def _warn_missing(timeout: float, missing: list[str]) -> None:
    try:
        logger.warning("not delivered at the end, for which there are %g s: %s", timeout, "; ".join(missing))
    except Exception:  # a handler of the application that raises
        return


def _warn_unexpected(sender: Sender, error: Exception) -> None:
    warn_once(("part", sender.kind), "%s: unexpected %s: %s", sender.kind, type(error).__name__, error)
