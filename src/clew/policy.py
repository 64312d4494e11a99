"""How request IDs are named and passed on, and which exceptions are no failures: what `clew.configure()` has set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clew.failures import NOTHING_EXPECTED, Checked, Expected, failure


class RequestPolicy:
    """How request IDs are named and passed on; `clew.configure()` sets it from the settings."""

    __slots__ = ("attribute", "baggage", "expected", "header", "hosts", "trust")

    def __init__(self) -> None:
        self.header = "X-Request-ID"
        self.attribute = "request_id"
        self.trust = True
        self.hosts: tuple[str, ...] | None = None
        self.baggage = False
        self.expected: Expected = NOTHING_EXPECTED

    def snapshot(self) -> dict[str, Any]:
        """Return all that is set, for `restore`."""
        return {name: getattr(self, name) for name in self.__slots__}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Set all as it was when `snapshot` was taken."""
        for name, value in snapshot.items():
            setattr(self, name, value)


policy = RequestPolicy()


def failure_of(error: BaseException | None, expected: Checked = ()) -> str | None:
    """Return the ``error.type`` of an exception that leaves a request, or None where that is no failure."""
    return None if error is None else failure(error, expected, policy.expected)
