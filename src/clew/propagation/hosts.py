"""Which hosts a request ID may be sent to: the rule of ``CLEW_REQUEST_ID_HOSTS``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

Target = tuple[str, int | None]
"""A host name or address in lower case, and its port or None where it is not known."""

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def is_allowed(target: Target | None, hosts: Iterable[str]) -> bool:
    """Tell whether the ID may go to `target`; where the target is not known (None) it may not.

    Each of `hosts` is an exact host name or ``.suffix`` (any host below it, not the suffix itself), with an optional
    ``:port``; an IPv6 address is in brackets where a port follows.
    """
    return target is not None and any(_matches(target, allowed) for allowed in hosts)


def _matches(target: Target, allowed: str) -> bool:
    host, port = target
    name, allowed_port = _split(allowed)
    if allowed_port is not None and allowed_port != port:
        return False
    if name.startswith("."):
        return host.endswith(name) and len(host) > len(name)
    return host == name


def _split(text: str) -> Target:
    text = text.strip().lower()
    if text.startswith("["):
        name, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        name, _, port = text.partition(":")
    else:
        name, port = text, ""
    return name.rstrip("."), int(port) if port.isdecimal() else None


def target_of_url(url: str) -> Target | None:
    """Return host and port of an absolute URL (the scheme's own port where it names none), or None."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host:
        return None
    return host.rstrip("."), port if port is not None else _DEFAULT_PORTS.get(parts.scheme.lower())


def target_of_attributes(attributes: Mapping[str, object]) -> Target | None:
    """Return the target that the attributes of a client span tell, by the stable conventions or the ones before."""
    for name in ("url.full", "http.url"):
        url = attributes.get(name)
        if isinstance(url, str):
            return target_of_url(url)
    for name, port_name in (
        ("server.address", "server.port"),
        ("net.peer.name", "net.peer.port"),
        ("http.host", "net.peer.port"),
        ("messaging.url", ""),
    ):
        host = attributes.get(name)
        if isinstance(host, str) and host:
            if "://" in host:
                return target_of_url(host)
            found, own_port = _split(host)
            port = attributes.get(port_name)
            return found, own_port if own_port is not None else port if isinstance(port, int) else None
    return None
