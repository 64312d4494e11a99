"""All parts side by side against one deadline."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from clew.delivery.worker import Occasion, Order, Worker, deadlines
from clew.diagnostics import logger, warn_once


@runtime_checkable
class Part(Protocol):
    """Something that delivers: a `PeriodicReader`, `SpanBatches` or `LogBatches`."""

    @property
    def kind(self) -> str:
        """What is delivered."""
        ...

    @property
    def undelivered(self) -> int:
        """How many did not arrive the last time."""
        ...

    @property
    def reason(self) -> str | None:
        """Why not, if it is known."""
        ...

    def begin(self, occasion: Occasion, deadline: float) -> Order:
        """Begin, without waiting."""
        ...

    def wait(self, order: Order, deadline: float) -> bool:
        """Wait for what was begun."""
        ...


def deliver(parts: Iterable[Any], *, closing: bool, timeout: float) -> bool:
    """Flush all parts, or shut them down where `closing`, side by side; return whether everything was delivered.

    A part is one of ours, or any OpenTelemetry metric reader, span processor or log record processor. This returns when
    all are done, `timeout` seconds from now at the latest. It never raises, and may be called again and from any
    thread. What did not arrive while `closing` is said in one warning, with its count.

    Near the interpreter's end, where no thread can be started any more, parts that have none yet are done in the
    calling thread, each in its share of the time that is left.
    """
    end, deadline = deadlines(timeout)
    occasion: Occasion = "close" if closing else "flush"
    begun: list[tuple[Part, Order]] = []
    delivered = True
    missing: list[str] = []
    for given in parts:
        part: Part = given if isinstance(given, Part) else _Foreign(given)
        try:
            begun.append((part, part.begin(occasion, end)))
        except Exception as error:
            delivered = False
            _say(part, error)
    begun.sort(key=lambda each: each[1].threaded)  # what is left to this thread goes first, the others run meanwhile
    here = sum(not order.threaded for _, order in begun)
    for place, (part, order) in enumerate(begun):
        try:
            if not order.threaded:
                now = time.monotonic()
                order.deadline = now + max(0.0, end - now) / (here - place)
            if not part.wait(order, deadline):
                delivered = False
                if not order.told:
                    order.told = True
                    missing.append(_missing(part))
        except Exception as error:
            delivered = False
            _say(part, error)
    if missing and closing:
        _warn(timeout, missing)
    return delivered


def _missing(part: Part) -> str:
    number = f"{part.undelivered} {part.kind}" if part.undelivered else f"{part.kind}, how many is not known"
    return f"{number} ({part.reason or 'it was not done in time'})"


def _warn(timeout: float, missing: list[str]) -> None:
    try:
        logger.warning("not delivered at the end, for which there are %g s: %s", timeout, "; ".join(missing))
    except Exception:  # a handler of the application that raises
        return


def _say(part: Part, error: Exception) -> None:
    warn_once(("part", part.kind), "%s: unexpected %s: %s", part.kind, type(error).__name__, error)


class _Foreign:
    """A reader or processor that is not ours: flushed or shut down in a thread that is left behind at the deadline."""

    undelivered = 0
    reason = None

    def __init__(self, part: Any) -> None:
        self._part = part
        self._worker = Worker("clew-foreign", float("inf"), float("inf"), self._work)

    @property
    def kind(self) -> str:
        """What is delivered: all that is known is who does it."""
        return f"what {type(self._part).__name__} delivers"

    def begin(self, occasion: Occasion, deadline: float) -> Order:
        """Begin in a thread of its own."""
        return self._worker.order(occasion, deadline)

    def wait(self, order: Order, deadline: float) -> bool:
        """Wait for it, and let the thread end."""
        delivered = self._worker.wait(order, deadline)
        if order.occasion == "flush":
            self._worker.end()
        return delivered

    def _work(self, occasion: Occasion, deadline: float) -> bool:
        milliseconds = max(1, int((deadline - time.monotonic()) * 1000))
        method = self._part.shutdown if occasion == "close" else self._part.force_flush
        if "timeout_millis" in inspect.signature(method).parameters:
            return method(timeout_millis=milliseconds) is not False
        return method() is not False
