"""Log records that are held in memory while nobody knows yet whether their request is worth reading about.

It is tail sampling, within one process: each request that is tracked has a `HeldRequest`, and when it ends, the records
in there are sent or dropped, as are those that come later. `HeldLogs` is what all of them share: the bounds, and the
watch over the age of what is held.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from clew.diagnostics import count, warn_once
from clew.logs.sampling import is_sampled
from clew.logs.sending import Sendable, send, send_within

RECORDS_PER_REQUEST = 1_000
BYTES_PER_REQUEST = 256 * 1024
RECORDS_IN_ALL = 20_000
BYTES_IN_ALL = 16 * 1024 * 1024
"""What may be held, of one request and of all in the process; beyond that the oldest is dropped."""

LONGEST_HELD = 60.0
"""In seconds: a request that has a record held longer than this keeps all its records, and is not held any more."""

_LONGEST_WAIT = 1.0
"""In seconds: how long the end of the process waits for locks that others have."""


@dataclass(slots=True)
class _HeldRecord:
    number: int
    held: HeldRequest
    rendered: Sendable
    due: float


class HeldRequest:
    """The records of one request, from when it is entered until it is decided what becomes of them.

    Args:
        enclosing: Where a request is entered again under its own ID: what is held of it further out, which
            goes on to hold what this one would drop.

    Attributes:
        is_kept: What was decided; None until then.
        is_left_to_enclosing: Whether that is for the enclosing one to decide.
    """

    __slots__ = ("_enclosing", "_held_logs", "_started", "is_kept", "is_left_to_enclosing", "records", "size")

    def __init__(self, held_logs: HeldLogs, *, is_kept: bool | None, enclosing: HeldRequest | None = None) -> None:
        self._held_logs = held_logs
        self._enclosing = enclosing
        self.is_left_to_enclosing = False
        self._started = time.monotonic()
        self.is_kept = is_kept
        self.records: OrderedDict[int, _HeldRecord] = OrderedDict()
        self.size = 0

    def hold(self, level: int, render: Callable[[], Sendable | None]) -> bool:
        """Hold or drop a record that has just been logged, or return False: then it is to be sent at once.

        Args:
            level: By the numbers of `logging`.
            render: Makes it ready to be sent later, or returns None where there is nothing to be sent.
        """
        if level >= logging.ERROR:
            self._keep_all()
        if level >= logging.WARNING or not self._held_logs.is_open:
            return False
        if self.is_left_to_enclosing and self._enclosing is not None:
            return self._enclosing.hold(level, render)
        if self.is_kept is None and time.monotonic() - self._started > self._held_logs.slow:
            self.decide(is_kept=True)
        if self.is_kept is not None:
            return not self.is_kept
        rendered = render()
        return rendered is None or self._held_logs.hold(self, rendered)

    def _keep_all(self) -> None:
        held: HeldRequest | None = self
        while held is not None:
            held.decide(is_kept=True)
            held = held._enclosing

    def decide(self, *, is_kept: bool) -> None:
        """Send the records, or drop them; the first decision counts."""
        if self.is_kept is None and not self.is_left_to_enclosing:
            send(self._held_logs.decide(self, is_kept))
            self._held_logs.decide_postponed()

    def end(self, *, is_kept: bool) -> None:
        """Decide at the end of the request, which is also kept if it has lasted long."""
        self.decide(is_kept=is_kept or time.monotonic() - self._started > self._held_logs.slow)

    def in_charge(self) -> HeldRequest:
        """Return what holds the records that come now: this one, or an enclosing one that it has been left to."""
        held = self
        while held.is_left_to_enclosing and held._enclosing is not None:
            held = held._enclosing
        return held

    def leave_to_enclosing(self) -> HeldRequest | None:
        """Return the enclosing one that decides in place of this one now; None where there is none, or it drops all."""
        enclosing = None if self._enclosing is None else self._enclosing.in_charge()
        if enclosing is None or enclosing.is_kept is False:
            return None
        self._enclosing = enclosing
        self.is_left_to_enclosing = True
        return enclosing


class HeldLogs:
    """All that is held in this process, within bounds.

    A record may be made anywhere, in the middle of this code too: by the handler of a signal, or by an object that is
    collected. So a thread that has the lock may ask for it again; such a record is sent at once, and such a decision
    waits until the lock is free.

    Args:
        slow: In seconds: a request that lasts longer is kept.
        sample_ratio: From 0 to 1: the ratio of requests that are kept in any case, chosen by their IDs.
    """

    def __init__(self, *, slow: float, sample_ratio: float) -> None:
        self.slow = slow
        self.sample_ratio = sample_ratio
        self.is_open = True
        self._lock = threading.RLock()
        self._is_busy = False  # with the lock: whether the thread that has it is in the middle of a change
        self._postponed: deque[tuple[HeldRequest, bool]] = deque()
        self._records: OrderedDict[int, _HeldRecord] = OrderedDict()
        self._size = 0
        self._next = 0
        self._is_watched = False
        self._over = threading.Event()

    def begin(self, request_id: str, enclosing: HeldRequest | None = None) -> HeldRequest:
        """Begin to hold the records of a request, or let them pass where it is in the sample."""
        is_kept = True if is_sampled(request_id, self.sample_ratio) else None
        if enclosing is not None:
            enclosing = enclosing.in_charge()
            if enclosing.is_kept is not None:  # it has decided, so it need not be kept in memory
                is_kept, enclosing = is_kept or enclosing.is_kept or None, None
        return HeldRequest(self, is_kept=is_kept, enclosing=enclosing)

    def hold(self, held: HeldRequest, rendered: Sendable) -> bool:
        """Hold a record of a request, or return False where it is to be sent at once."""
        dropped, is_watched = 0, True
        with self._lock:
            if self._is_busy or not self.is_open:
                return False
            held = held.in_charge()
            if held.is_kept is not None:
                return not held.is_kept
            self._is_busy = True
            try:
                if rendered.size > BYTES_PER_REQUEST or rendered.size > BYTES_IN_ALL:
                    dropped = 1
                else:
                    dropped = self._make_room(held, rendered.size)
                    record = self._add(held, rendered)
                    if not self.is_open and self._remove(record):  # closed in the middle
                        return False
                    is_watched, self._is_watched = self._is_watched, True
            finally:
                self._is_busy = False
        if dropped:
            _warn_of_dropped(dropped)
        if not is_watched:
            self._watch_in_thread()
        self.decide_postponed()
        return True

    def _add(self, held: HeldRequest, rendered: Sendable) -> _HeldRecord:
        record = _HeldRecord(self._next, held, rendered, time.monotonic() + LONGEST_HELD)
        self._next += 1
        self._records[record.number] = held.records[record.number] = record
        self._size += rendered.size
        held.size += rendered.size
        return record

    def _make_room(self, held: HeldRequest, size: int) -> int:
        """Drop the oldest records until one more of this size may be held; returns how many."""
        dropped = 0
        while held.records and (len(held.records) >= RECORDS_PER_REQUEST or held.size + size > BYTES_PER_REQUEST):
            dropped += self._remove(next(iter(held.records.values())))
        while self._records and (len(self._records) >= RECORDS_IN_ALL or self._size + size > BYTES_IN_ALL):
            dropped += self._remove(next(iter(self._records.values())))
        return dropped

    def _remove(self, record: _HeldRecord) -> bool:
        """Hold a record no longer, or return False where it was not held. The caller that removes it may send it."""
        held = record.held
        held.records.pop(record.number, None)
        if self._records.pop(record.number, None) is None:
            return False
        self._size -= record.rendered.size
        held.size -= record.rendered.size
        return True

    def decide(self, held: HeldRequest, is_kept: bool) -> list[Sendable]:
        """Decide on a request, and return what is to be sent."""
        with self._lock:
            if held.is_kept is not None or not self.is_open:
                return []
            if self._is_busy:
                self._postponed.append((held, is_kept))
                return []
            self._is_busy = True
            try:
                records, dropped = self._settle(held, is_kept)
            finally:
                self._is_busy = False
        if dropped:
            _warn_of_dropped(dropped)
        return [record.rendered for record in records]

    def _settle(self, held: HeldRequest, is_kept: bool) -> tuple[list[_HeldRecord], int]:
        """Settle what becomes of a request; returns the records to be sent, and how many had to be dropped."""
        enclosing = None if is_kept else held.leave_to_enclosing()
        records = list(held.records.values())
        if enclosing is not None and enclosing.is_kept is None:
            return [], self._hand_over(records, enclosing)
        held.is_kept = is_kept = is_kept or enclosing is not None
        removed = [record for record in records if self._remove(record)]
        return removed if is_kept else [], 0

    def decide_postponed(self) -> None:
        """Decide on what could not be decided on while this thread was in the middle of a change.

        Not on what is postponed meanwhile: where each decision makes another one needed there would be no end.
        """
        for _ in range(len(self._postponed)):
            if self._is_busy:
                return
            try:
                held, is_kept = self._postponed.popleft()
            except IndexError:  # another thread was quicker
                return
            if not held.is_left_to_enclosing:
                send(self.decide(held, is_kept))

    def _hand_over(self, records: list[_HeldRecord], enclosing: HeldRequest) -> int:
        """Let the enclosing one hold what another one has held, in order; returns how many had to be dropped."""
        for record in records:
            record.held.records.clear()
            record.held.size = 0
            record.held = enclosing
            enclosing.size += record.rendered.size
        together = sorted([*records, *enclosing.records.values()], key=_number)
        enclosing.records = OrderedDict((record.number, record) for record in together)
        before = len(enclosing.records)
        while len(enclosing.records) > RECORDS_PER_REQUEST or enclosing.size > BYTES_PER_REQUEST:
            self._remove(next(iter(enclosing.records.values())))
        return before - len(enclosing.records)

    # the age

    def _watch_in_thread(self) -> None:
        try:
            threading.Thread(target=self._watch, name="clew-held-logs", daemon=True).start()
        except RuntimeError:  # the interpreter ends, or there are as many threads as there may be
            with self._lock:
                self._is_watched = False

    def _watch(self) -> None:
        """Send what has been held too long, until nothing is held."""
        while True:
            with self._lock:
                oldest = next(iter(self._records.values()), None) if self.is_open else None
                if oldest is None:
                    self._is_watched = False
                    return
            left = oldest.due - time.monotonic()
            if left > 0:
                del oldest  # it may be sent or dropped meanwhile
                self._over.wait(left)
            else:
                oldest.held.decide(is_kept=True)

    # the end

    def close(self) -> None:
        """Send all that is held, and hold nothing from now on."""
        # in the handler of a signal the lock may be held by the code that it interrupts
        locked = self._lock.acquire(timeout=_LONGEST_WAIT)
        try:
            self.is_open = False
            records = [record for record in list(self._records.values()) if self._remove(record)]
            for record in records:
                record.held.is_kept = True
        finally:
            if locked:
                self._lock.release()
        self._over.set()
        rendered = [record.rendered for record in records]
        send(one for one in rendered if not one.may_wait)
        send_within(_LONGEST_WAIT, [one for one in rendered if one.may_wait])

    def renewed(self) -> HeldLogs:
        """Return a new one with the same settings, which holds nothing yet."""
        return HeldLogs(slow=self.slow, sample_ratio=self.sample_ratio)

    def forget(self) -> None:
        """Drop all that is held, and hold nothing from now on: in a forked child, since the parent decides on it.

        The thread that had the lock in the parent is not there.
        """
        self._lock = threading.RLock()
        self._is_busy = self.is_open = False
        self._records.clear()
        self._postponed.clear()


def _number(record: _HeldRecord) -> int:
    return record.number


def _warn_of_dropped(number: int) -> None:
    count("held_logs.dropped", number)
    warn_once(
        "held_logs.dropped",
        "Log records of requests under way were dropped, the oldest first, since more were held than may be: %d and "
        "%d bytes of one request, %d and %d bytes in all (logged once; each one is counted)",
        RECORDS_PER_REQUEST,
        BYTES_PER_REQUEST,
        RECORDS_IN_ALL,
        BYTES_IN_ALL,
    )
