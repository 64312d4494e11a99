"""What both transports have in common: an attempt to send a request, and its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of one attempt.

    Attributes:
        reason: Why it failed; None where the endpoint took the request.
        retry: Whether another attempt may succeed.
        pause: The seconds to wait before it, where the endpoint has named them.
        body: What the endpoint answered.
        media: The media type of `body`.
        refused: Whether the endpoint rejects this very request.
        may_be_other_protocol: Whether the endpoint is there and may speak another protocol.
        retry_without_zeros: Whether it may take the request without its points of zero.
    """

    reason: str | None = None
    retry: bool = False
    pause: float | None = None
    body: bytes = b""
    media: str = ""
    refused: bool = False
    may_be_other_protocol: bool = False
    retry_without_zeros: bool = False


class Transport(Protocol):
    """A connection to an endpoint. One thread sends over it, another one may close it."""

    def send(self, payload: bytes, timeout: float) -> Answer:
        """Make one attempt within `timeout` seconds."""
        ...

    def close(self) -> None:
        """Close the connection, and end an attempt under way."""
        ...


def excerpt(body: bytes) -> str:
    """Return the beginning of an answer for a message."""
    text = body[:200].decode("utf-8", "replace")
    return repr(text if len(body) <= 200 else f"{text}…")
