"""Request IDs: made, checked, and kept on the exceptions that leave a request."""

from __future__ import annotations

import os
import re
import threading
import time
from typing import Any

from clew.diagnostics import count, warn_once
from clew.interpreter import forks
from clew.interpreter.interruptions import let_through
from clew.interpreter.untrusted import class_name, text_of

LONGEST_ID = 118
"""In characters: with the name ``request_id`` it fills the 128 that OpenMetrics gives the labels of an exemplar."""

_VALID = re.compile(r"[A-Za-z0-9._:/+=@~|-]{1,118}")


_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]


def _new_ending() -> str:
    random = int.from_bytes(os.urandom(5), "big")
    return "".join(_PAIRS[random >> shift & 1023] for shift in (30, 20, 10, 0))


class _Last:
    """What the last of some request IDs ended with, and when it was made, in microseconds."""

    __slots__ = ("ending", "time")

    def __init__(self, ending: str) -> None:
        self.ending = ending
        self.time = 0


class _IdGenerator(threading.local):
    """Per thread: a random ending, and when the last ID with it was made, so that an ID needs no lock to be unique.

    They are taken out while an ID is made; what interrupts that, and makes one too, takes an ending of its own.
    """

    free: list[_Last] | None = None


_generator = _IdGenerator()


def _renew_generator() -> None:
    global _generator
    _generator = _IdGenerator()


forks.after_in_child(_renew_generator)


def new_request_id() -> str:
    """Make a request ID of 20 characters: 12 of time in microseconds, which sort, and 8 of this thread alone.

    Within a thread each ID is greater than the one before, even if the clock steps back.
    """
    free = _generator.free
    if free is None:
        free = _generator.free = []
    try:
        last = free.pop()
    except IndexError:
        last = _Last(_new_ending())
    now = time.time_ns() // 1000
    if now <= last.time:
        now = last.time + 1
    last.time = now
    free.append(last)
    pairs = _PAIRS
    return (
        pairs[now >> 50 & 1023]
        + pairs[now >> 40 & 1023]
        + pairs[now >> 30 & 1023]
        + pairs[now >> 20 & 1023]
        + pairs[now >> 10 & 1023]
        + pairs[now & 1023]
        + last.ending
    )


def is_valid(value: Any) -> bool:
    """Tell whether `value` is a request ID: 1 to 118 characters of ``A-Z a-z 0-9 . _ : / + = @ ~ | -``."""
    return issubclass(type(value), str) and _VALID.fullmatch(str.__str__(value)) is not None


def accept(value: object) -> str | None:
    """Return `value` if it is a valid request ID, else None; what is refused is counted and logged once."""
    text = text_of(value) if may_be_text(value) else None
    if text is not None and _VALID.fullmatch(text):
        return text
    count("request_id.replaced")
    warn_once(
        "request_id.replaced",
        "The request ID %s is not valid and was replaced by a fresh one; allowed are 1 to %d characters of "
        "A-Z a-z 0-9 . _ : / + = @ ~ | - (logged once; each one is counted)",
        f"of type {class_name(type(value))}" if text is None else ascii(text[:64]),
        LONGEST_ID,
    )
    return None


def may_be_text(value: object) -> bool:
    """Tell whether `value` passes for a `str`, as a proxy of one does, or does not even say."""
    try:
        return isinstance(value, str)
    except Exception as error:
        let_through(error)
        return True


_REMEMBERED = "__clew_request_id__"


def remember(error: BaseException, request_id: str | None) -> None:
    """Let the exception that leaves a request keep its ID, for the server that logs the traceback afterwards."""
    try:
        BaseException.__setattr__(error, _REMEMBERED, request_id)
    except (AttributeError, TypeError):
        return


def remembered_request_id(error: BaseException | None) -> str | None:
    """Return the ID of the request that `error` left last, or None."""
    if error is None:
        return None
    try:
        found = BaseException.__getattribute__(error, _REMEMBERED)
    except (AttributeError, TypeError):
        return None
    return found if type(found) is str else None
