"""The delivery of one signal's requests to their endpoint: attempts, pauses between them, what the answers mean.

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
from typing import TYPE_CHECKING, Any

from clew.delivery.destination import UndeliveredError
from clew.diagnostics import warn_once
from clew.exporters.transport import Answer, Transport, excerpt
from clew.settings import OtlpSettings
from clew.settings.otlp import GRPC

if TYPE_CHECKING:  # not imported here, since protobuf is for the first export
    from clew.exporters.splitting import ExportRequest

_LONGEST_PAUSE = 30.0
_SHORTEST_ATTEMPT = 1.0
"""In seconds: the least that an attempt gets while other requests wait, if that much time is left."""


@dataclass(slots=True, eq=False)
class PendingRequest:
    """A request that is to be sent, and what its attempts have shown.

    Attributes:
        not_before: When the next attempt may be made, by `time.monotonic`.
        reason: Why the last attempt failed.
        missing: How many of its items did not arrive, once that is known.
        refused: Whether the endpoint rejects them.
    """

    request: ExportRequest
    payload: bytes | None = None
    attempts: int = 0
    not_before: float = 0.0
    reason: str = ""
    missing: int = 0
    refused: bool = False

    def leave_out_zeros(self) -> None:
        """Send the request without its points of zero the next time, which may be why it was rejected."""
        self.request.leave_out_zeros()
        self.request.zeros = 0
        self.payload = None


class Delivery:
    """The delivery of one signal's requests to its endpoint, over one connection.

    Args:
        settings: The endpoint, and how to talk to it.
        response: Makes the message that the endpoint answers with.
        rejected: Reads from the partial success of that message how many items the endpoint did not take.
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

    def deliver(self, requests: Sequence[ExportRequest], timeout: float) -> list[PendingRequest]:
        """Send the requests of one export, each with its retries; return those of which something did not arrive.

        They are sent one after the other, and one that has to wait for its next attempt lets the others go first.
        While others wait, an attempt takes at most half of the time that is left, so that a request without an answer
        does not cost the others theirs.
        """
        deadline = time.monotonic() + min(timeout, self.settings.timeout)
        waiting = deque(PendingRequest(request) for request in requests)
        failed: list[PendingRequest] = []
        while waiting:
            pending = waiting.popleft()
            if not self._pause_for(pending, deadline):
                pending.missing = pending.request.items
                failed.append(pending)
                continue
            left = min(deadline, self._end) - time.monotonic()
            answer = self._attempt(pending, max(left / 2, min(left, _SHORTEST_ATTEMPT)) if waiting else left)
            if answer.reason is None:
                self._worked = True
                self._read(answer, pending)
            else:
                pending.reason = answer.reason
                pending.refused = answer.refused
                if self._may_retry(answer, pending, deadline):
                    waiting.append(pending)
                    continue
                if answer.retry_without_zeros and pending.request.zeros:
                    pending.leave_out_zeros()
                    waiting.appendleft(pending)
                    continue
                pending.missing = pending.request.items
            if pending.missing:
                failed.append(pending)
        return failed

    def _pause_for(self, pending: PendingRequest, deadline: float) -> bool:
        """Wait until the next attempt may be made; return False where there is no more time for one."""
        pause = min(pending.not_before, deadline, self._end) - time.monotonic()
        if pause > 0 and self._closing.is_set():
            time.sleep(pause)
        elif pause > 0:
            self._closing.wait(pause)
        if self._closed:
            pending.reason = pending.reason or "it was shut down"
        elif min(deadline, self._end) <= time.monotonic():
            pending.reason = pending.reason or "no time was left"
        else:
            return True
        return False

    def _attempt(self, pending: PendingRequest, timeout: float) -> Answer:
        payload = pending.payload
        if payload is None:
            payload = pending.payload = pending.request.message.SerializeToString()
        if self._transport is None:
            try:
                self._transport = _connect(self.settings)
            except UndeliveredError as error:  # of a plug-in for credentials
                return Answer(error.reason)
        started = time.monotonic()
        answer = self._transport.send(payload, timeout)
        if answer.may_be_other_protocol and not self._worked:
            from clew.exporters.endpoint_probe import explain_protocol_mismatch

            explanation = explain_protocol_mismatch(self.settings, timeout - (time.monotonic() - started))
            if explanation is not None:
                return Answer(f"{explanation} ({answer.reason})")
        return answer

    def _may_retry(self, answer: Answer, pending: PendingRequest, deadline: float) -> bool:
        if not answer.retry or (self._closing.is_set() and not self._worked):
            return False
        pause = answer.pause if answer.pause is not None else self._pause(pending.attempts)
        pending.attempts += 1
        pending.not_before = time.monotonic() + pause
        return pending.not_before < min(deadline, self._end)

    def _pause(self, attempt: int) -> float:
        if attempt == 0 and self._worked:
            return 0.0  # a connection that was kept open and has been closed at the other end
        base = 0.1 if self._closing.is_set() else 1.0
        return float(min(base * 2.0**attempt, _LONGEST_PAUSE) * random.uniform(0.8, 1.2))

    def _read(self, answer: Answer, pending: PendingRequest) -> None:
        pending.reason, pending.refused = "", False
        try:
            rejected, reason = self._partial_success(answer)
        except UndeliveredError as error:
            pending.reason, pending.missing = error.reason, pending.request.items
            return
        pending.request.taken = True
        refused = rejected - pending.request.zeros  # which ones is not told, but those that come too late are likely
        if refused > 0:
            pending.missing = min(refused, pending.request.items)
            pending.reason, pending.refused = reason or "it gave no reason", True
        elif reason:
            warn_once(
                ("told", self.settings.label, reason), "%s took everything, and says: %r", self.settings.label, reason
            )

    def _partial_success(self, answer: Answer) -> tuple[int, str]:
        """Return how many items the endpoint says it has rejected, and what it says about the export."""
        if not answer.body:
            return 0, ""
        if "json" in answer.media:  # some backends answer in JSON whatever they were sent
            try:
                content = json.loads(answer.body)
                partial: Mapping[str, Any] = content.get("partialSuccess") or {}
                rejected = next((int(value) for name, value in partial.items() if name.startswith("rejected")), 0)
                reason = str(partial.get("errorMessage", ""))
            except (ValueError, TypeError, AttributeError):
                raise _not_otlp(answer) from None
        else:
            response = self._response()
            try:
                response.ParseFromString(answer.body)
            except Exception:  # protobuf's DecodeError, which differs between its implementations
                raise _not_otlp(answer) from None
            rejected = self._rejected(response.partial_success)
            reason = response.partial_success.error_message
        return rejected, reason

    def finish_by(self, deadline: float) -> None:
        """End what is under way by the deadline (of `time.monotonic`); do not wait for an endpoint never reached.

        An endpoint has been reached once it has taken a request.
        """
        self._end = min(self._end, deadline)
        self._closing.set()

    def abandon_connection(self) -> None:
        """Use a new connection from now on; the one there is belongs to another thread, or to the parent's threads."""
        if self._transport is not None:
            self._abandoned.append(self._transport)  # not closed, not collected: both would touch those threads
            self._transport = None

    def restart_in_child(self) -> None:
        """Forget, after a fork, the connection that belongs to the parent."""
        self.abandon_connection()
        self._closing = threading.Event()
        self._end = math.inf

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._closing.set()
        if self._transport is not None:
            self._transport.close()


def _connect(settings: OtlpSettings) -> Transport:
    """Import what the protocol needs, nothing for the other one, and connect."""
    if settings.protocol == GRPC:
        from clew.exporters.grpc import GrpcTransport

        return GrpcTransport(settings)
    from clew.exporters.http import HttpTransport

    return HttpTransport(settings)


def _not_otlp(answer: Answer) -> UndeliveredError:
    return UndeliveredError(f"it answered with something that is not OTLP: {excerpt(answer.body)}")
