"""Keeps a request ID from following a redirect to a host that may not have it.

The OpenTelemetry instrumentations of requests and of aiohttp's client inject once a call, and these clients send what
stands in the headers on with every redirect. So when an ID is injected there while ``CLEW_REQUEST_ID_HOSTS`` is set,
the one method of each client that sees every redirect is made to take it out again:
``requests.sessions.SessionRedirectMixin.rebuild_auth`` and ``aiohttp.tracing.Trace.send_request_redirect``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import MutableMapping
from typing import Any

from clew.interpreter.interruptions import Suppressed
from clew.policy import policy
from clew.propagation import baggage
from clew.propagation.cell import request_id
from clew.propagation.hosts import is_allowed, target_of_url

_MARK = "_clew_holds_back"


def attend(carrier: object) -> None:
    """Attend the redirects of the client whose headers `carrier` is, if it is one of those that need it."""
    module = type(carrier).__module__
    if module == "requests.structures":
        _attend_requests()
    elif module.startswith("multidict"):
        _attend_aiohttp()


def hold_back(headers: MutableMapping[str, Any], url: str) -> None:
    """Take the ID of the current request out of `headers`, for a call or redirect to `url`, if it may not have it."""
    name = request_id()
    if name is None or policy.hosts is None or is_allowed(target_of_url(url), policy.hosts):
        return
    if policy.baggage:
        baggage.take_out(headers)
    for key in [key for key in headers if key.lower() == policy.header.lower()]:
        if headers[key] == name:
            del headers[key]


def redirect_target(url: Any, response: Any) -> str:
    """Return where a redirect of aiohttp's leads: ``yarl.URL`` and response of the call so far; empty if unknown."""
    location = response.headers.get("Location") or response.headers.get("URI") or ""
    try:
        return str(url.join(type(url)(location)))
    except ValueError:
        return ""


def _attend_requests() -> None:
    mixin: Any = getattr(sys.modules.get("requests.sessions"), "SessionRedirectMixin", None)
    original = getattr(mixin, "rebuild_auth", None)
    if original is None or hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def rebuild_auth(self: Any, prepared_request: Any, response: Any) -> Any:
        with Suppressed():
            hold_back(prepared_request.headers, prepared_request.url)
        return original(self, prepared_request, response)

    setattr(rebuild_auth, _MARK, True)
    mixin.rebuild_auth = rebuild_auth


def _attend_aiohttp() -> None:
    trace: Any = getattr(sys.modules.get("aiohttp.tracing"), "Trace", None)
    original = getattr(trace, "send_request_redirect", None)
    if original is None or hasattr(original, _MARK):
        return

    @functools.wraps(original)
    async def send_request_redirect(self: Any, method: str, url: Any, headers: Any, response: Any) -> None:
        with Suppressed():
            hold_back(headers, redirect_target(url, response))
        await original(self, method, url, headers, response)

    setattr(send_request_redirect, _MARK, True)
    trace.send_request_redirect = send_request_redirect
