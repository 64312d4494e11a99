"""What is kept of each request until it ends, where that is asked for: the log records that are held, and what its
canonical line will say.

Nothing here exists, or costs anything, unless ``CLEW_LOGS=interesting`` or ``CLEW_LOGS_CANONICAL`` is set.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from clew.diagnostics import report_failure
from clew.interpreter import forks

if TYPE_CHECKING:
    from clew.logs.canonical import Line
    from clew.logs.held import HeldLogs, HeldRequest


class RequestTracking:
    """What is tracked of each request, from `clew.configure()` to the end of its `Telemetry`.

    Args:
        held_logs: What holds log records; None where they are sent at once.
        canonical: Whether each request has its canonical line.
    """

    __slots__ = ("canonical", "held_logs")

    def __init__(self, *, held_logs: HeldLogs | None, canonical: bool) -> None:
        if canonical:
            import_module("clew.logs.canonical")  # now: what interrupts a later import would find it half done
        self.held_logs = held_logs
        self.canonical = canonical

    def release_held(self) -> None:
        """Send all that is held, and hold nothing from now on."""
        if self.held_logs is not None:
            self.held_logs.close()

    def renewed(self) -> RequestTracking:
        """Return the same settings with no request tracked yet."""
        held_logs = None if self.held_logs is None else self.held_logs.renewed()
        return RequestTracking(held_logs=held_logs, canonical=self.canonical)


class TrackedRequest:
    """One request, from when it is entered until its end; one that is entered again inside of itself is two."""

    __slots__ = (
        "_enclosing",
        "_is_over",
        "_request_id",
        "_started",
        "_tracking",
        "generators",
        "held",
        "line",
    )

    def __init__(
        self, tracking: RequestTracking, request_id: str, enclosing: TrackedRequest | None, *, is_held: bool
    ) -> None:
        self._tracking = tracking
        self._enclosing = enclosing
        self._request_id = request_id
        self._started = time.perf_counter()
        self._is_over = False
        self.generators = 0
        """How many generators are being measured that are inside of no other operation."""
        self.held: HeldRequest | None = None
        if tracking.held_logs is not None and is_held:
            self.held = tracking.held_logs.begin(request_id, None if enclosing is None else enclosing.held)
        self.line: Line | None = None
        if tracking.canonical:
            from clew.logs.canonical import Line

            self.line = Line()

    @property
    def is_current(self) -> bool:
        """Whether it began in this process, and under what is configured now."""
        return self._tracking is current

    def end(self, failure: str | None, name: str | None = None, attributes: Mapping[str, Any] | None = None) -> None:
        """Decide on what is held and write the canonical line; the first call counts, and none ever raises.

        Args:
            failure: The ``error.type`` of a request that has failed.
            name: What the request was, such as ``GET /orders/{id}``; None for the name of its outermost operation.
            attributes: Further attributes for the line.
        """
        if self._is_over:
            return
        self._is_over = True
        seconds = time.perf_counter() - self._started
        try:
            if self.held is not None:
                self.held.end(is_kept=failure is not None)
            line = self.line
            if line is not None and self.is_current:
                if self._enclosing is not None and self._enclosing.line is not None and not self._enclosing._is_over:
                    self._enclosing.line.merge(line)
                else:
                    line.write(self._request_id, seconds, failure, name, attributes or {})
            self._enclosing = None  # which would keep its own enclosing one alive, and so on
        except Exception as error:
            report_failure("canonical.not_written", error, "The end of a request could not be recorded in the logs")


current: RequestTracking | None = None


def begin(
    request_id: str, enclosing: TrackedRequest | None, enclosing_id: str | None, *, is_held: bool = True
) -> TrackedRequest | None:
    """Begin to track a request that is entered, or return None where nothing is tracked.

    Args:
        request_id: Its ID.
        enclosing: What is tracked of the request that it is inside of; it matters where `enclosing_id` is the same ID.
        enclosing_id: The ID of that one.
        is_held: Whether its records may be held.
    """
    tracking = current
    if tracking is None:
        return None
    is_same = enclosing is not None and enclosing_id == request_id and enclosing.is_current
    return TrackedRequest(tracking, request_id, enclosing if is_same else None, is_held=is_held)


def use(held_logs: HeldLogs | None, *, canonical: bool) -> None:
    """Track the requests that begin from now on; what is held of the ones before is sent."""
    is_wanted = held_logs is not None or canonical
    before = exchange(RequestTracking(held_logs=held_logs, canonical=canonical) if is_wanted else None)
    if before is not None:
        before.release_held()


def release_held() -> None:
    """Send all that is held, and hold nothing from now on."""
    if current is not None:
        current.release_held()


def exchange(tracking: RequestTracking | None) -> RequestTracking | None:
    """Track the requests that begin from now on, and return what tracked them before, which goes on."""
    global current
    before, current = current, tracking
    if tracking is not None and tracking.canonical:
        from clew.logs import canonical

        canonical.set_level()
    elif before is not None and before.canonical:
        from clew.logs import canonical

        canonical.reset_level()
    return before


def _renew_in_child() -> None:
    """Track the requests that this forked child begins: those of the parent are the parent's to decide on."""
    global current
    if current is not None:
        before, current = current, current.renewed()
        if before.held_logs is not None:
            before.held_logs.forget()


forks.after_in_child(_renew_in_child)
