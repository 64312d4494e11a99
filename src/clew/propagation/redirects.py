"""Keeps a request ID from following a redirect to a host that may not have it.

The OpenTelemetry instrumentations of requests and of aiohttp's client inject once a call, and these clients send the
headers of a call again with every redirect. So when an ID is injected there while ``CLEW_REQUEST_ID_HOSTS`` is set,
the one method of each client that sees every redirect is made to take it out again:
``requests.sessions.SessionRedirectMixin.rebuild_auth`` and ``aiohttp.tracing.Trace.send_request_redirect``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

from clew.interpreter.interruptions import Suppressed
from clew.policy import policy
from clew.propagation import baggage
from clew.propagation.cell import request_id
from clew.propagation.hosts import is_allowed, target_of_url

_MARK = "_clew_holds_back"


def guard(carrier: object) -> None:
    """Guard the redirects of the client whose headers `carrier` is, if it is one of those that need it."""
    module = type(carrier).__module__
    if module == "requests.structures":
        _replace("requests.sessions", "SessionRedirectMixin", "rebuild_auth", _for_requests)
    elif module.startswith("multidict"):
        _replace("aiohttp.tracing", "Trace", "send_request_redirect", _for_aiohttp)


def hold_back(headers: MutableMapping[str, Any], url: str) -> None:
    """Take the ID of the current request out of `headers`, for a call or redirect to `url`, if it may not have it."""
    name = request_id()
    if name is not None and policy.hosts is not None and not is_allowed(target_of_url(url), policy.hosts):
        take_out(headers, name)


def take_out(headers: MutableMapping[str, Any], request_id: str) -> None:
    """Take this request ID out of the headers of a call: clients copy those of a request for its redirect."""
    if policy.baggage:
        baggage.take_out(headers)
    for key in [key for key in headers if str(key).lower() == policy.header.lower()]:
        if headers[key] == request_id:
            del headers[key]


def redirect_target(url: Any, response: Any) -> str:
    """Return where a redirect of aiohttp's leads: ``yarl.URL`` and response of the call so far; empty if unknown."""
    location = response.headers.get("Location") or response.headers.get("URI") or ""
    try:
        return str(url.join(type(url)(location)))
    except ValueError:
        return ""


def _replace(module: str, owner: str, method: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace a method of a class by what `make` makes of it, once, where the module has been imported and has it."""
    kind: Any = getattr(sys.modules.get(module), owner, None)
    original = getattr(kind, method, None)
    if original is not None and not hasattr(original, _MARK):
        replacement = functools.wraps(original)(make(original))
        setattr(replacement, _MARK, True)
        setattr(kind, method, replacement)


def _for_requests(original: Callable[..., Any]) -> Callable[..., Any]:
    def rebuild_auth(self: Any, prepared_request: Any, response: Any) -> Any:
        with Suppressed():
            hold_back(prepared_request.headers, prepared_request.url)
        return original(self, prepared_request, response)

    return rebuild_auth


def _for_aiohttp(original: Callable[..., Any]) -> Callable[..., Any]:
    async def send_request_redirect(self: Any, method: str, url: Any, headers: Any, response: Any) -> None:
        with Suppressed():
            hold_back(headers, redirect_target(url, response))
        await original(self, method, url, headers, response)

    return send_request_redirect
