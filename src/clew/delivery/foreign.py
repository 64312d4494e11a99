"""Readers, processors and providers that are not `clew`'s own: given in code, from a file, or the application's.

They may take as long as they like, so they are flushed and shut down in a thread that is left behind at the deadline.
"""

from __future__ import annotations

import inspect
import math
import sys
import time
from typing import Any

from clew.delivery.worker import Order, Trigger, Worker

_NO_THREADS_AT_EXIT = sys.version_info[:2] == (3, 12)
"""Whether the interpreter starts no more threads when `atexit` runs; 3.13 does again."""


class ForeignSender:
    """Flushes and shuts down something with OpenTelemetry's `force_flush` and `shutdown`, within deadlines."""

    undelivered = 0
    reason: str | None = None

    def __init__(self, foreign: Any) -> None:
        self._foreign = foreign
        self._reset()

    def _reset(self) -> None:
        self._worker = Worker("clew-foreign", math.inf, math.inf, self._work)

    @property
    def kind(self) -> str:
        """What is delivered, of which only the class that delivers it is known."""
        return f"what {type(self._foreign).__name__} delivers"

    def start(self) -> None:
        """Start the thread now where the end of the process could start none."""
        if _NO_THREADS_AT_EXIT:
            self._worker.start()

    def begin(self, trigger: Trigger, deadline: float) -> Order:
        """Begin in the thread."""
        return self._worker.order(trigger, deadline)

    def wait(self, order: Order, deadline: float) -> bool:
        """Wait for what was begun; return whether it ended in time and has not failed."""
        return self._worker.wait(order, deadline)

    def end(self) -> None:
        """Let the thread end."""
        self._worker.end()

    def restart_in_child(self) -> None:
        """Use a new thread in a forked child; what is foreign has to restart by itself."""
        self._reset()

    def _work(self, trigger: Trigger, deadline: float) -> bool:
        if trigger not in ("flush", "close"):
            return True
        method = self._foreign.shutdown if trigger == "close" else self._foreign.force_flush
        if "timeout_millis" in inspect.signature(method).parameters:
            return method(timeout_millis=max(1, int((deadline - time.monotonic()) * 1000))) is not False
        return method() is not False
