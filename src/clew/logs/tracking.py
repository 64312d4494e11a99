"""What is kept of each entry into a request until it ends, where that is asked for: the log records that are held, and
what its canonical line is going to tell.

Nothing here exists, nor costs anything, unless ``CLEW_LOGS=interesting`` or ``CLEW_LOGS_CANONICAL`` is set.
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
    from clew.logs.held import Held, Holding


class RequestTracking:
    """What is followed of each request, from `clew.configure()` to its end.

    Args:
        holding: What holds log records; None where they are sent at once.
        canonical: Whether each request has its canonical line.
    """

    __slots__ = ("canonical", "holding")

    def __init__(self, *, holding: Holding | None, canonical: bool) -> None:
        if canonical:
            import_module("clew.logs.canonical")  # now, since whoever interrupted that later would find it half done
        self.holding = holding
        self.canonical = canonical

    def let_go(self) -> None:
        """Let go all that is held, and hold nothing any more."""
        if self.holding is not None:
            self.holding.close()

    def renewed(self) -> RequestTracking:
        """Return one like this that knows of no request yet."""
        holding = self.holding
        return RequestTracking(
            holding=None if holding is None else type(holding)(slow=holding.slow, share=holding.share),
            canonical=self.canonical,
        )


class TrackedRequest:
    """One entry into a request, until its end."""

    __slots__ = (
        "_enclosing",
        "_following",
        "_is_over",
        "_request_id",
        "_started",
        "generators",
        "held",
        "line",
    )

    def __init__(
        self, following: RequestTracking, request_id: str, enclosing: TrackedRequest | None, *, is_held: bool
    ) -> None:
        self._following = following
        self._enclosing = enclosing
        self._request_id = request_id
        self._started = time.perf_counter()
        self._is_over = False
        self.generators = 0
        """How many generators are being measured that are not inside of another operation."""
        self.held: Held | None = None
        if following.holding is not None and is_held:
            self.held = following.holding.begin(request_id, None if enclosing is None else enclosing.held)
        self.line: Line | None = None
        if following.canonical:
            from clew.logs.canonical import Line

            self.line = Line()

    @property
    def is_current(self) -> bool:
        """Whether it began in this process, and under what is configured now."""
        return self._following is current

    def end(self, failure: str | None, name: str | None = None, attributes: Mapping[str, Any] | None = None) -> None:
        """Decide on what is held and write the canonical line; the first call counts, and none ever raises.

        Args:
            failure: The ``error.type`` of a request that has failed.
            name: What the request was, such as ``GET /orders/{id}``; None for the name of its outermost operation.
            attributes: What else the line tells of it.
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
                    self._enclosing.line.take_in(line)
                else:
                    line.write(self._request_id, seconds, failure, name, attributes or {})
            self._enclosing = None  # which would keep its own, and so on
        except Exception as trouble:
            report_failure("canonical.not_written", trouble, "A request could not be followed to its end")


current: RequestTracking | None = None


def begin(
    request_id: str, enclosing: TrackedRequest | None, enclosing_id: str | None, *, is_held: bool = True
) -> TrackedRequest | None:
    """Begin to follow one entry into a request, or return None where nothing is followed.

    Args:
        request_id: Its ID.
        enclosing: What is followed of the request that it is inside of; it matters where `enclosing_id` is the same ID.
        enclosing_id: The ID of that one.
        is_held: Whether its records may be held.
    """
    following = current
    if following is None:
        return None
    is_same = enclosing is not None and enclosing_id == request_id and enclosing.is_current
    return TrackedRequest(following, request_id, enclosing if is_same else None, is_held=is_held)


def use(holding: Holding | None, *, canonical: bool) -> None:
    """Follow the requests that begin from now on; what is held of the ones before is let go."""
    following = None if holding is None and not canonical else RequestTracking(holding=holding, canonical=canonical)
    before = exchange(following)
    if before is not None:
        before.let_go()


def let_go() -> None:
    """Let go all that is held, and hold nothing any more."""
    if current is not None:
        current.let_go()


def exchange(following: RequestTracking | None) -> RequestTracking | None:
    """Follow the requests that begin from now on, and return by what they were followed before, which goes on."""
    global current
    before, current = current, following
    if following is not None and following.canonical:
        from clew.logs import canonical

        canonical.let_pass()
    elif before is not None and before.canonical:
        from clew.logs import canonical

        canonical.stop()
    return before


def _renew_in_child() -> None:
    """What was followed in the parent is the parent's to decide: a forked child follows those that it begins."""
    global current
    if current is not None:
        before, current = current, current.renewed()
        if before.holding is not None:
            before.holding.forget()


forks.after_in_child(_renew_in_child)
