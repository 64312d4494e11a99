"""Which protocol an endpoint speaks, asked of the endpoint itself: TLS or not, HTTP/1 or gRPC.

The error that ends a connection seldom tells: a server that expects TLS resets a plain connection, and gRPC reads an
answer of HTTP/1 as a frame that it does not know.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

from clew.settings import OtlpSettings
from clew.settings.otlp import GRPC

Spoken = Literal["http", "grpc"] | None
"""HTTP/1, or HTTP/2, on which gRPC is built; None where it is not known."""

_LONGEST_SECONDS = 2.0
_QUESTION = b"OPTIONS * HTTP/1.1\r\nhost: endpoint\r\nconnection: close\r\n\r\n"


def explain_protocol_mismatch(settings: OtlpSettings, timeout: float) -> str | None:
    """Return how the settings differ from what the endpoint speaks; None where that is not known."""
    address = _address(settings)
    if address is None:
        return None
    host, port = address
    timeout = min(timeout / 3, _LONGEST_SECONDS)
    is_tls = False
    for is_secure, ask in ((True, _ask_over_tls), (True, _ask_for_http2), (False, _ask)):
        if is_tls and not is_secure:
            break
        try:
            spoken = ask(host, port, timeout)
        except OSError:
            continue
        is_tls = is_tls or is_secure
        if spoken is not None:
            return _mismatch(settings, is_secure=is_secure, spoken=spoken)
    return _mismatch(settings, is_secure=True, spoken=None) if is_tls else None


def _mismatch(settings: OtlpSettings, *, is_secure: bool, spoken: Spoken) -> str | None:
    wants_tls = not settings.insecure if settings.protocol == GRPC else settings.endpoint.startswith("https:")
    differences: list[str] = []
    if is_secure and not wants_tls:
        differences.append("TLS is spoken there, so the endpoint is one that begins with https://")
    if wants_tls and not is_secure:
        differences.append("no TLS is spoken there, so the endpoint is one that begins with http://")
    if spoken == "http" and settings.protocol == GRPC:
        differences.append(
            "HTTP/1 is spoken there and not gRPC: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or gRPC's own port"
        )
    if spoken == "grpc" and settings.protocol != GRPC:
        differences.append("gRPC is spoken there and not HTTP/1: OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or HTTP's own port")
    return "; ".join(differences) or None


def _address(settings: OtlpSettings) -> tuple[str, int] | None:
    text = settings.endpoint if "://" in settings.endpoint else f"//{settings.endpoint}"
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return None
    if settings.protocol == GRPC:
        return (url.hostname, port) if url.scheme == "" and url.hostname and port else None
    return (url.hostname, port or (443 if url.scheme == "https" else 80)) if url.hostname else None


def _ask_over_tls(host: str, port: int, timeout: float) -> Spoken:
    with _secured(host, port, timeout) as secured, suppress(OSError):
        return _ask_on(secured)
    return None


def _ask_for_http2(host: str, port: int, timeout: float) -> Spoken:
    """Ask as gRPC does: its servers close a connection on which nobody asks for HTTP/2."""
    with _secured(host, port, timeout, "h2") as secured:
        return "grpc" if secured.selected_alpn_protocol() == "h2" else None


@contextmanager
def _secured(host: str, port: int, timeout: float, *protocols: str) -> Generator[ssl.SSLSocket]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # nothing is sent that anybody might read
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    with socket.create_connection((host, port), timeout) as plain, context.wrap_socket(plain) as secured:
        yield secured


def _ask(host: str, port: int, timeout: float) -> Spoken:
    with socket.create_connection((host, port), timeout) as plain:
        return _ask_on(plain)


def _ask_on(connected: socket.socket) -> Spoken:
    connected.sendall(_QUESTION)
    answer = connected.recv(64)
    if answer.startswith(b"HTTP/1."):
        return "http"
    return "grpc" if len(answer) > 3 and answer[3] == 4 else None  # HTTP/2 begins with a frame of settings
