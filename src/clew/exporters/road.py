"""The way of one signal's requests to their endpoint: attempts, pauses between them, what the answers mean.

https://opentelemetry.io/docs/specs/otlp/ (retries, partial success, answers)
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from clew.delivery.destination import UndeliveredError
from clew.diagnostics import warn_once
from clew.settings import OtlpSettings
from clew.settings.otlp import GRPC

if TYPE_CHECKING:  # not imported here, since protobuf is for the first export
    from clew.exporters.parts import Part

_LONGEST_PAUSE = 30.0
_SHORTEST_ATTEMPT = 1.0
"""In seconds: what an attempt gets at the least, where others wait for their turn and there is time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one attempt.

    `reason` is why it failed, None where the endpoint took it; `retry` whether another attempt may help; `refused`
    whether the endpoint does not want this very request; `may_take_others` whether it may want it without its zeros;
    `is_odd` whether somebody is there who may speak something else; `pause` the seconds that it asked to wait before;
    `body` what it answered, of the media type `media`.
    """

    reason: str | None = None
    retry: bool = False
    pause: float | None = None
    body: bytes = b""
    media: str = ""
    refused: bool = False
    is_odd: bool = False
    may_take_others: bool = False


class Transport(Protocol):
    """A connection to an endpoint. Used by one thread, closed by another."""

    def send(self, payload: bytes, timeout: float) -> Answer:
        """Make one attempt within `timeout` seconds."""
        ...

    def close(self) -> None:
        """Give the connection up."""
        ...


@dataclass(slots=True, eq=False)
class Sending:
    """A part on its way, and what is known of it."""

    part: Part
    payload: bytes | None = None
    attempts: int = 0
    not_before: float = 0.0
    reason: str = ""
    """Why it did not arrive the last time."""
    missing: int = 0
    """How many of its items did not arrive, once that is known."""
    refused: bool = False
    """Whether the endpoint does not want them."""

    def leave_out_zeros(self) -> None:
        """Send the part without its points of zero the next time: it was perhaps refused because of them."""
        self.part.leave_out_zeros()
        self.part.zeros = 0
        self.payload = None


class Road:
    """The way of one signal's requests to its endpoint.

    `response` makes the message that the endpoint answers with; `rejected` reads from its partial success how many
    items it did not take.
    """

    def __init__(self, settings: OtlpSettings, response: Callable[[], Any], rejected: Callable[[Any], int]) -> None:
        self.settings = settings
        self._response = response
        self._rejected = rejected
        self._transport: Transport | None = None
        self._abandoned: list[Transport] = []
        self._worked = False
        self._closed = False
        self._closing = threading.Event()
        self._end = math.inf

    def deliver(self, parts: Sequence[Part], timeout: float) -> list[Sending]:
        """Send the parts of one export, each with its retries; return those of which something did not arrive.

        One after the other, and a part that has to wait for its next attempt lets the others go first. While others
        wait, an attempt takes at most half of the time that is left, so that one that hangs costs only itself.
        """
        deadline = time.monotonic() + min(timeout, self.settings.timeout)
        waiting = deque(Sending(part) for part in parts)
        failed: list[Sending] = []
        while waiting:
            sending = waiting.popleft()
            if not self._pause_for(sending, deadline):
                sending.missing = sending.part.items
                failed.append(sending)
                continue
            left = min(deadline, self._end) - time.monotonic()
            answer = self._attempt(sending, max(left / 2, min(left, _SHORTEST_ATTEMPT)) if waiting else left)
            if answer.reason is None:
                self._worked = True
                self._read(answer, sending)
            else:
                sending.reason = answer.reason
                sending.refused = answer.refused
                if self._may_retry(answer, sending, deadline):
                    waiting.append(sending)
                    continue
                if answer.may_take_others and sending.part.zeros:
                    sending.leave_out_zeros()
                    waiting.appendleft(sending)
                    continue
                sending.missing = sending.part.items
            if sending.missing:
                failed.append(sending)
        return failed

    def _pause_for(self, sending: Sending, deadline: float) -> bool:
        """Wait until an attempt may be made; False where there is none to be made any more."""
        pause = min(sending.not_before, deadline, self._end) - time.monotonic()
        if pause > 0 and self._closing.is_set():
            time.sleep(pause)
        elif pause > 0:
            self._closing.wait(pause)
        if self._closed:
            sending.reason = sending.reason or "it was shut down"
        elif min(deadline, self._end) <= time.monotonic():
            sending.reason = sending.reason or "no time was left"
        else:
            return True
        return False

    def _attempt(self, sending: Sending, timeout: float) -> Answer:
        payload = sending.payload
        if payload is None:
            payload = sending.payload = sending.part.message.SerializeToString()
        if self._transport is None:
            try:
                self._transport = _connect(self.settings)
            except UndeliveredError as error:  # of a plug-in for credentials
                return Answer(error.reason)
        started = time.monotonic()
        answer = self._transport.send(payload, timeout)
        if answer.is_odd and not self._worked:
            from clew.exporters.mismatch import mismatch

            wrong = mismatch(self.settings, timeout - (time.monotonic() - started))
            if wrong is not None:
                return Answer(f"{wrong} ({answer.reason})")
        return answer

    def _may_retry(self, answer: Answer, sending: Sending, deadline: float) -> bool:
        if not answer.retry or (self._closing.is_set() and not self._worked):
            return False
        pause = answer.pause if answer.pause is not None else self._pause(sending.attempts)
        sending.attempts += 1
        sending.not_before = time.monotonic() + pause
        return sending.not_before < min(deadline, self._end)

    def _pause(self, attempt: int) -> float:
        if attempt == 0 and self._worked:
            return 0.0  # a connection that was kept open and has been closed at the other end
        base = 0.1 if self._closing.is_set() else 1.0
        return float(min(base * 2.0**attempt, _LONGEST_PAUSE) * random.uniform(0.8, 1.2))

    def _read(self, answer: Answer, sending: Sending) -> None:
        sending.reason, sending.refused = "", False
        try:
            rejected, reason = self._understand(answer)
        except UndeliveredError as error:
            sending.reason, sending.missing = error.reason, sending.part.items
            return
        sending.part.taken = True
        refused = rejected - sending.part.zeros  # which ones is not told: that zeros come too late is the likely case
        if refused > 0:
            sending.missing = min(refused, sending.part.items)
            sending.reason, sending.refused = reason or "it gave no reason", True
        elif reason:
            warn_once(
                ("told", self.settings.label, reason), "%s took everything, and says: %r", self.settings.label, reason
            )

    def _understand(self, answer: Answer) -> tuple[int, str]:
        """Return how many items the endpoint says it has rejected, and what it says about the export."""
        if not answer.body:
            return 0, ""
        if "json" in answer.media:  # some backends answer so whatever they were sent in
            try:
                said = json.loads(answer.body)
                partial: Mapping[str, Any] = said.get("partialSuccess") or {}
                rejected = next((int(value) for name, value in partial.items() if name.startswith("rejected")), 0)
                reason = str(partial.get("errorMessage", ""))
            except (ValueError, TypeError, AttributeError):
                raise UndeliveredError(_garbage(answer)) from None
        else:
            response = self._response()
            try:
                response.ParseFromString(answer.body)
            except Exception:  # protobuf's DecodeError, which differs between its implementations
                raise UndeliveredError(_garbage(answer)) from None
            rejected = self._rejected(response.partial_success)
            reason = response.partial_success.error_message
        return rejected, reason

    def hurry(self, deadline: float) -> None:
        """End what is under way by the deadline (of `time.monotonic`), and wait for no endpoint that never worked."""
        self._end = min(self._end, deadline)
        self._closing.set()

    def restart_in_child(self) -> None:
        """Forget, after a fork, the connection that belongs to the parent."""
        if self._transport is not None:
            self._abandoned.append(self._transport)  # not closed, not collected: both would touch the parent's threads
            self._transport = None
        self._closing = threading.Event()
        self._end = math.inf

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._closing.set()
        if self._transport is not None:
            self._transport.close()


def _connect(settings: OtlpSettings) -> Transport:
    """Import what the protocol needs and connect; nobody pays for the other protocol."""
    if settings.protocol == GRPC:
        from clew.exporters.grpc import GrpcTransport

        return GrpcTransport(settings)
    from clew.exporters.http import HttpTransport

    return HttpTransport(settings)


def _garbage(answer: Answer) -> str:
    return f"it answered with something that is not OTLP: {excerpt(answer.body)}"


def excerpt(body: bytes) -> str:
    """Return the beginning of an answer for a message."""
    text = body[:200].decode("utf-8", "replace")
    return repr(text if len(body) <= 200 else f"{text}…")
