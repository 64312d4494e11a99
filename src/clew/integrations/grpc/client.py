"""The request ID in the calls of gRPC's clients, and what a name in metadata may be."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
import grpc.aio

from clew.diagnostics import warn_once
from clew.interpreter.interruptions import Suppressed
from clew.policy import policy
from clew.propagation.cell import request_id
from clew.propagation.hosts import Target, is_allowed, target_of_url

_KEY = re.compile(r"[a-z0-9_.-]+(?<!-bin)")


def is_key(name: str) -> bool:
    """Tell whether metadata can have text under this name."""
    return _KEY.fullmatch(name) is not None


def key_of(name: str) -> str | None:
    """Return the name in metadata, or None, logged once, where gRPC would refuse it."""
    key = name.lower()
    if is_key(key):
        return key
    warn_once(("metadata", key), "The header %s can be no name in gRPC's metadata; no request ID goes there", name)
    return None


def instrument(channel: grpc.Channel, target: str | None = None) -> grpc.Channel:
    """Return a channel that sends the ID of the current request with each call of `channel`.

    Args:
        channel: A channel of `grpc`; those of `grpc.aio` take interceptors when they are made.
        target: Where it leads (``stock:50051``, ``dns:///stock:50051``); None for what the channel itself says. With
            ``CLEW_REQUEST_ID_HOSTS`` set, the ID goes only where the target is known and allowed.

    Raises:
        TypeError: `channel` is no channel of `grpc`.
    """
    if not isinstance(channel, grpc.Channel):
        raise TypeError(f"instrument() takes a grpc.Channel, not {type(channel).__name__}")
    if target is None:
        target = _target_of(channel)
    return grpc.intercept_channel(channel, _ClientInterceptor(_parsed(target)))


def aio_client_interceptors(target: str | None = None) -> Sequence[grpc.aio.ClientInterceptor]:
    """Return the interceptors for a channel of `grpc.aio` that send the ID of the current request with each call.

    Args:
        target: What the channel is made with. With ``CLEW_REQUEST_ID_HOSTS`` set, the ID goes only where the target is
            known and allowed.
    """
    return [kind(_parsed(target)) for kind in (_AioUnaryUnary, _AioUnaryStream, _AioStreamUnary, _AioStreamStream)]


class _Fields(NamedTuple):
    method: Any
    timeout: Any
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any


class _CallDetails(_Fields, grpc.ClientCallDetails):
    pass


class _ClientInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, target: Target | None) -> None:
        self._target = target

    def _details(self, given: Any) -> Any:
        added = _added(given.metadata, self._target)
        if added is None:
            return given
        return _CallDetails(
            given.method,
            given.timeout,
            [*(given.metadata or ()), added],
            given.credentials,
            getattr(given, "wait_for_ready", None),
            getattr(given, "compression", None),
        )

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._details(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._details(client_call_details), request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(self._details(client_call_details), request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(self._details(client_call_details), request_iterator)


class _AioInterceptor:
    def __init__(self, target: Target | None) -> None:
        self._target = target

    def _details(self, given: Any) -> Any:
        added = _added(given.metadata, self._target)
        return given if added is None else given._replace(metadata=grpc.aio.Metadata(*(given.metadata or ()), added))


class _AioUnaryUnary(_AioInterceptor, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._details(client_call_details), request)


class _AioUnaryStream(_AioInterceptor, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._details(client_call_details), request)


class _AioStreamUnary(_AioInterceptor, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._details(client_call_details), request_iterator)


class _AioStreamStream(_AioInterceptor, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._details(client_call_details), request_iterator)


def _added(metadata: Any, target: Target | None) -> tuple[str, str] | None:
    """Return what goes on with a call, or None: outside a request, where it may not go, where the caller has set it."""
    name = request_id()
    if name is None or (policy.hosts is not None and not is_allowed(target, policy.hosts)):
        return None
    key = key_of(policy.header)
    if key is None or any(found == key for found, _ in metadata or ()):
        return None
    return key, name


_NAMED_SCHEMES = ("dns:", "ipv4:", "ipv6:")
_HTTPS = 443  # what gRPC takes where a target names no port


def _parsed(target: str | None) -> Target | None:
    """Return host and port of a target in gRPC's syntax, or None where it names anything else than one host."""
    if not target:
        return None
    scheme = next((scheme for scheme in _NAMED_SCHEMES if target.startswith(scheme)), "")
    address = target.removeprefix(scheme)
    if scheme and address.startswith("//"):  # dns://authority/host:port
        address = address[2:].partition("/")[2]
    if not address or any(sign in address for sign in ",/@") or (not scheme and address.startswith("unix")):
        return None
    if address.count(":") > 1 and not address.startswith("["):
        address = f"[{address}]"
    found = target_of_url(f"grpc://{address}")
    return None if found is None else (found[0], _HTTPS if found[1] is None else found[1])


def _target_of(channel: Any) -> str | None:
    """Return what the channel was made with; gRPC has no public name for it."""
    with Suppressed():
        while not hasattr(channel, "target"):
            channel = channel._channel
        found = channel.target()
        return found.decode() if isinstance(found, bytes) else str(found)
    return None
