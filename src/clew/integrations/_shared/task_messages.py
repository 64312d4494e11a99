"""What the message of a task carries for us: the request ID of its sender, and when it was sent.

The ID stands under the name of the header that is configured (``X-Request-ID``), the time under `SENT_AT`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from clew.policy import policy
from clew.propagation.cell import request_id
from clew.propagation.hosts import Target, is_allowed

SENT_AT = "clew-sent-at"
"""Beside the request ID in a message: when it was sent, in seconds since 1970 by the sender's clock."""


def sent_at(carrier: Mapping[str, Any]) -> float | None:
    """Return when a message was sent, in seconds since 1970, or None where it does not say."""
    found = carrier.get(SENT_AT)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found) or found <= 0:
        return None
    return float(found)


def put_time_sent(carrier: MutableMapping[str, Any]) -> None:
    """Let a message tell that it is sent now."""
    carrier[SENT_AT] = time.time()


def put_request_id(carrier: MutableMapping[str, Any], target: Callable[[], Target | None]) -> None:
    """Put the ID of the current request into a message, for the host of the broker if that may have it.

    Args:
        carrier: What the message carries beside its content. A request ID that it already has stays.
        target: Tells the broker's host and port; asked only where ``CLEW_REQUEST_ID_HOSTS`` is set.
    """
    name = request_id()
    if name is None:
        return
    if policy.hosts is None or is_allowed(target(), policy.hosts):
        carrier.setdefault(policy.header, name)
    elif carrier.get(policy.header) == name:
        del carrier[policy.header]


def redis_target(client: Any) -> Target | None:
    """Return host and port that a client of `redis` connects to, or None where it names none (a socket, a cluster)."""
    options: Any = getattr(getattr(client, "connection_pool", None), "connection_kwargs", None) or {}
    return target_of_host(options.get("host"), options.get("port", 6379))


def target_of_host(host: object, port: object) -> Target | None:
    """Return host and port as `CLEW_REQUEST_ID_HOSTS` is compared with, or None where there is no host."""
    if not isinstance(host, str) or not host:
        return None
    return host.rstrip(".").lower(), port if isinstance(port, int) else None
