"""Sending the request ID on with an outgoing HTTP call: what the hooks of all clients share."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from clew.policy import policy
from clew.propagation import baggage
from clew.propagation.cell import request_id
from clew.propagation.hosts import is_allowed, target_of_url
from clew.propagation.redirects import hold_back


def inject(headers: MutableMapping[str, Any], url: str) -> None:
    """Set the header of the current request in `headers`, for a call or a redirect to `url`, or take it out again.

    Args:
        headers: A mapping whose keys are compared without regard to case. A header that the caller has set stays.
        url: The absolute URL that is about to be called; `CLEW_REQUEST_ID_HOSTS` says whether it may have the ID.
    """
    name = request_id()
    if name is None:
        return
    header = policy.header
    if policy.hosts is None or is_allowed(target_of_url(url), policy.hosts):
        if header not in headers:
            headers[header] = name
        if policy.baggage:
            baggage.put(headers, name, headers.__setitem__)
    else:
        hold_back(headers, url)  # clients copy the headers of a request for its redirect
