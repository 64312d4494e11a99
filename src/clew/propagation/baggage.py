"""The request ID as an entry of W3C Baggage, for services that are not ours: ``CLEW_REQUEST_ID_BAGGAGE``.

By the recommendation (https://www.w3.org/TR/baggage/): the header ``baggage`` has entries ``key=value;property``,
separated by commas, values percent-encoded; 64 entries and 8,192 bytes are what every party has to pass on. The key is
the name of the request ID attribute (``request_id``), the value the ID. Other entries are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import quote, unquote

from clew.diagnostics import count, warn_once
from clew.policy import policy

HEADER = "baggage"

MOST_ENTRIES = 64
LONGEST_HEADER = 8_192
"""In bytes, all entries and commas."""


def id_in(text: str) -> str | None:
    """Return the value of the request ID's entry, decoded and not checked; of several the first counts."""
    if len(text) > LONGEST_HEADER:
        return None
    for entry in text.split(","):
        key, value = _parts(entry)
        if key == policy.attribute:
            return value
    return None


def with_id(text: str, request_id: str) -> str | None:
    """Return the header `text` with this request ID in place of any other one; None where it has no room for it."""
    kept = _others(text)
    kept.append(f"{policy.attribute}={quote(request_id, safe='')}")
    joined = ",".join(kept)
    return joined if len(kept) <= MOST_ENTRIES and len(joined) <= LONGEST_HEADER else None


def put(headers: Mapping[str, Any], request_id: str, write: Callable[[str, str], object]) -> None:
    """Put the entry into the header ``baggage`` of an outgoing call, beside the entries that it has.

    Args:
        headers: Those of the call so far.
        request_id: The ID to put there.
        write: Takes the name of the header and the new text of it.
    """
    key = _key_in(headers)
    found = headers.get(key, "")
    text = found.decode("latin-1") if isinstance(found, bytes) else found
    joined = with_id(text, request_id) if isinstance(text, str) else None
    if joined is not None:
        write(key, joined)
        return
    count("request_id.not_in_baggage")
    warn_once(
        "request_id.not_in_baggage",
        "A call went out without the request ID in its baggage, which has no room for it or cannot be read; the header "
        "%s has it (logged once; each one is counted)",
        policy.header,
    )


def take_out(headers: MutableMapping[str, Any]) -> None:
    """Take the entry out of an outgoing call that may not have it, and the header too where nothing else is in it."""
    key = _key_in(headers)
    text = headers.get(key)
    if not isinstance(text, str) or all(_parts(entry)[0] != policy.attribute for entry in text.split(",")):
        return
    kept = _others(text)
    if kept:
        headers[key] = ",".join(kept)
    else:
        del headers[key]


def _parts(entry: str) -> tuple[str, str]:
    key, _, value = entry.partition(";")[0].partition("=")
    return unquote(key.strip(" \t")), unquote(value.strip(" \t"))


def _others(text: str) -> list[str]:
    entries = (entry.strip(" \t") for entry in text.split(","))
    return [entry for entry in entries if entry and _parts(entry)[0] != policy.attribute]


def _key_in(headers: Mapping[str, Any]) -> str:
    """Return the header's name as it is spelled there: a dictionary tells ``Baggage`` and ``baggage`` apart."""
    return next((key for key in headers if str(key).lower() == HEADER), HEADER)
