"""The thread of one sender: started late, ended within a deadline, left behind where it takes too long."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,  # pyright: ignore[reportPrivateUsage]
    Context,
    get_current,
    set_value,
)

from clew.diagnostics import warn_once
from clew.interpreter.current_context import make_current

Trigger = Literal["interval", "full", "flush", "close"]

LONGEST_WAIT = 86_400.0
"""In seconds: used for no limit where a finite number is needed."""


@dataclass(slots=True, eq=False)
class Order:
    """Something that a worker is to do by `deadline` (of `time.monotonic`), and whether everything was delivered."""

    trigger: Trigger
    deadline: float
    done: threading.Event = field(default_factory=threading.Event)
    delivered: bool = False
    threaded: bool = True
    """False where the thread that waits for it has to do it, since no other one can be started."""
    reported: bool = False
    """Whether it has been logged that something was not delivered."""

    @classmethod
    def nothing(cls, trigger: Trigger) -> Order:
        """Return an order that is done already, where there is nothing to deliver."""
        order = cls(trigger, 0.0, delivered=True)
        order.done.set()
        return order


def deadlines(timeout: float) -> tuple[float, float]:
    """Return two deadlines, of `time.monotonic`: for the work, and a little later for waiting for it.

    So an export that runs out of time can still say why, before it is left behind.
    """
    now = time.monotonic()
    timeout = max(0.0, min(timeout, LONGEST_WAIT))
    return now + timeout - min(0.1, timeout / 10), now + timeout


class Worker:
    """Runs `work(trigger, deadline)` every `interval` seconds, and when ordered; never twice at once.

    `work` returns whether all was delivered. It runs in a daemon thread, in a Context that holds no request and
    suppresses instrumentation. The thread starts with `start` or with the first order. Where another thread takes its
    place, since gevent has patched the interpreter, `moved` is called there before `work`.
    """

    def __init__(
        self,
        name: str,
        interval: float,
        timeout: float,
        work: Callable[[Trigger, float], bool],
        moved: Callable[[], None] | None = None,
    ) -> None:
        self._name = name
        self._interval = min(interval, LONGEST_WAIT)
        self._timeout = min(timeout, LONGEST_WAIT)
        self._work = work
        self._moved = moved
        # SimpleQueue may be put to from a signal handler or a finalizer that interrupts another put; an Event may not
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._working = threading.Lock()
        self._working_before: threading.Lock | None = None
        self._thread: threading.Thread | None = None
        self.wanted = False
        """Whether the thread was to be started, even if that was not possible any more."""
        self._full = False
        self._last: Order | None = None
        self.closing: Order | None = None
        """The last delivery, once it was ordered."""

    @property
    def started(self) -> bool:
        """Whether the thread was started."""
        return self._thread is not None

    @property
    def is_running(self) -> bool:
        """Whether there is a thread, and one of the kind that gevent leaves if it has patched the interpreter."""
        return self._thread is not None and type(self._orders) is queue.SimpleQueue

    def start(self) -> bool:
        """Start the thread if it is not there yet; return False where none can be started any more (at the exit)."""
        if self.is_running:
            return True
        self.wanted = True
        if not self._starting.acquire(blocking=False):
            return True  # another thread is starting it
        try:
            if self._is_patched_since():
                # what waits in the old ones would keep all others waiting, and a thread of the system's that has been
                # started before goes on for ever, since its end would be an error
                self._orders = queue.SimpleQueue()
                self._working, self._working_before = threading.Lock(), self._working
                self._thread = None
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
        except RuntimeError:
            return False
        finally:
            self._starting.release()
        return True

    def _is_patched_since(self) -> bool:
        """Tell whether gevent has patched the interpreter since this was made."""
        return type(self._orders) is not queue.SimpleQueue

    def wake(self) -> None:
        """Have a full batch delivered at once."""
        if not self._full:
            self._full = True
            self._orders.put(None)

    def order(self, trigger: Trigger, deadline: float) -> Order:
        """Order a flush or the last delivery, to `wait` for; once the last one is ordered, that is returned."""
        if self.closing is not None:
            return self.closing
        order = Order(trigger, deadline)
        if trigger == "close":
            self.closing = self._last = order
        order.threaded = self.start()
        if order.threaded:
            self._orders.put(order)
        return order

    def wait(self, order: Order, deadline: float) -> bool:
        """Wait for an order until the deadline, or carry it out in the calling thread where no other can be started."""
        if not order.threaded and not order.done.is_set():
            self._carry_out(order)
        order.done.wait(max(0.0, deadline - time.monotonic()))
        return order.done.is_set() and order.delivered

    def end(self) -> None:
        """Let the thread end without a last delivery."""
        self._last = Order.nothing("close")
        self._orders.put(self._last)

    def _run(self) -> None:
        make_current(delivery_context())
        following = time.monotonic() + self._interval
        orders = self._orders
        while True:
            order: Order | None = None
            trigger: Trigger = "full"
            try:
                order = orders.get(timeout=max(0.0, following - time.monotonic()))
            except queue.Empty:
                trigger = "interval"
                following = max(following + self._interval, time.monotonic())
            while orders is not self._orders:  # another thread is in the place of this one
                orders.get()
            if order is not None:
                if not order.done.is_set():
                    self._carry_out(order)
                if order is self._last:
                    return
            else:
                self._full = False
                self._do(trigger, time.monotonic() + self._timeout)

    def _carry_out(self, order: Order) -> None:
        before = get_current()
        try:
            make_current(delivery_context())
            order.delivered = self._do(order.trigger, order.deadline)
        finally:
            order.done.set()
            make_current(before)

    def _do(self, trigger: Trigger, deadline: float) -> bool:
        working, before = self._working, self._working_before
        if not working.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return False
        try:
            if before is not None:
                while not before.acquire(blocking=False):  # as gevent's would not be waited for
                    time.sleep(0.005)
                self._working_before = None
                if self._moved is not None:
                    self._moved()
            return self._work(trigger, deadline)
        except BaseException as error:  # the thread has to go on, whatever an exporter of the application raises
            warn_once(("worker", self._name), "%s: unexpected %s: %s", self._name, type(error).__name__, error)
            return False
        finally:
            working.release()


def delivery_context() -> Context:
    """Return the Context for exports: without request and span, and with instrumentation suppressed."""
    return set_value(_SUPPRESS_INSTRUMENTATION_KEY, True, Context())


def in_thread(target: Callable[[], None], name: str) -> bool:
    """Run `target` in a daemon thread; return False where no more threads can be started."""
    with suppress(RuntimeError):
        threading.Thread(target=target, name=name, daemon=True).start()
        return True
    return False
