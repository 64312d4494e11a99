"""Times as people and machines write them."""

from __future__ import annotations

import re
from datetime import datetime, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)?")
_CLOCK = re.compile(r"(\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9})\d*)?")


def to_rfc3339(nanoseconds: int) -> str:
    """Return a time since 1970 as RFC 3339 in UTC, with nanoseconds where there are any."""
    whole, rest = divmod(nanoseconds, 10**9)
    moment = datetime.fromtimestamp(whole, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{moment}{fraction}Z"


def parse_time(text: str) -> int | None:
    """Read a time as nanoseconds since 1970; None if it is none.

    RFC 3339, where a missing zone is the local one; or a time of today in the local zone: ``14:03`` or ``14:03:27.5``.
    """
    if found := _CLOCK.fullmatch(text):
        day, clock, fraction, zone = datetime.now().date().isoformat(), found[1], found[2], None
    elif found := _RFC3339.fullmatch(text):
        day, clock, fraction, zone = found.groups()
    else:
        return None
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{(zone or '').upper().replace('Z', '+00:00')}")
        if moment.tzinfo is None:
            moment = moment.astimezone()
        since = moment - _EPOCH
    except (ValueError, OverflowError):
        return None
    nanoseconds = (since.days * 86400 + since.seconds) * 10**9 + int((fraction or "").ljust(9, "0"))
    return nanoseconds if 0 <= nanoseconds < 2**63 else None
