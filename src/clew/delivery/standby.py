"""What delivers and is not `clew`'s own: a reader or processor given in code, a provider that a file describes.

It may take as long as it likes, so it is flushed and shut down in a thread that is left behind at the deadline.
"""

from __future__ import annotations

import inspect
import math
import sys
import time
from typing import Any

from clew.delivery.worker import Occasion, Order, Worker

_NO_THREADS_AT_EXIT = sys.version_info[:2] == (3, 12)
"""Whether the interpreter starts no thread any more when `atexit` runs; 3.13 does again."""


class Standby:
    """A part of somebody else's among the parts that `deliver` asks."""

    undelivered = 0
    reason: str | None = None

    def __init__(self, part: Any) -> None:
        self._part = part
        self._fresh()

    def _fresh(self) -> None:
        self._worker = Worker("clew-standby", math.inf, math.inf, self._work)

    @property
    def kind(self) -> str:
        """What is delivered: all that is known is who does it."""
        return f"what {type(self._part).__name__} delivers"

    def start(self) -> None:
        """Have the thread ready where the end of the process could start none."""
        if _NO_THREADS_AT_EXIT:
            self._worker.start()

    def begin(self, occasion: Occasion, deadline: float) -> Order:
        """Begin in the thread."""
        return self._worker.order(occasion, deadline)

    def wait(self, order: Order, deadline: float) -> bool:
        """Wait for it until the deadline; True where the part says nothing else in time."""
        return self._worker.wait(order, deadline)

    def restart_in_child(self) -> None:
        """Have a thread of its own in a forked child; the part itself has to know how to go on."""
        self._fresh()

    def _work(self, occasion: Occasion, deadline: float) -> bool:
        if occasion not in ("flush", "close"):
            return True
        method = self._part.shutdown if occasion == "close" else self._part.force_flush
        if "timeout_millis" in inspect.signature(method).parameters:
            return method(timeout_millis=max(1, int((deadline - time.monotonic()) * 1000))) is not False
        return method() is not False
