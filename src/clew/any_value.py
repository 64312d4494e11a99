"""Values that OTLP cannot carry, in the nearest way: numbers and texts for metrics, spans and log records.

An integer has 64 bits there, a text is Unicode without halves of surrogate pairs. By the specification an integer that
is too large is an attribute as text, with all its digits; a measurement is a float. In a text each letter that cannot
be encoded becomes its escape, as Python shows it, so that no two file names become one.

https://opentelemetry.io/docs/specs/otel/common/attribute-type-mapping/
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from clew.diagnostics import count, warn_once
from clew.interpreter import untrusted
from clew.interpreter.interruptions import let_through

LEAST, MOST = -(2**63), 2**63 - 1

_DEEPEST = 8
_LONGEST_SHOWN = 100


def nearest_text(text: str) -> str:
    """Return a text without letters that cannot be encoded: itself, as a rule."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        replaced = text.encode("utf-8", "backslashreplace").decode()
        _replaced("a text with halves of surrogate pairs", replaced)
        return replaced
    return text


def nearest_integer(value: int) -> int | str:
    """Return an integer that is an attribute or a log record's body: its digits where it is too large."""
    if LEAST <= value <= MOST:
        return value
    try:
        replaced = str(value)
    except ValueError:  # more digits than Python writes
        replaced = f"<an integer of {value.bit_length()} bits>"
    _replaced("an integer over 64 bits", replaced)
    return replaced


def nearest_number(value: Any) -> int | float:
    """Return what is measured as an `int` of 64 bits or a `float`.

    Raises:
        TypeError, ValueError, OverflowError: It is no number that either can be.
    """
    kind = _class_of(value)
    if kind is float:
        return value  # type: ignore[no-any-return]
    if kind is not int:
        if issubclass(kind, float):
            return float.__float__(value)
        if issubclass(kind, int):
            value = int.__int__(value)
        elif hasattr(kind, "__index__"):
            value = operator.index(value)
        elif hasattr(kind, "__float__"):
            return float(value)
        else:
            raise TypeError(f"{untrusted.class_name(kind)} is no number")
    if LEAST <= value <= MOST:
        return value  # type: ignore[no-any-return]
    number = float(value)
    _replaced("an integer over 64 bits", number)
    return number


def nearest_finite(value: Any) -> int | float:
    """Return what is added up, as `nearest_number` does; NaN and infinity, which would stay for ever, are errors."""
    number = nearest_number(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def nearest_value(value: Any, depth: int = 0) -> Any:
    """Return an attribute's value or a log record's body as it can be encoded: itself, a copy, or its text."""
    kind = _class_of(value)
    if value is None or kind is bool or kind is float or kind is bytes:
        return value
    if issubclass(kind, str):
        return nearest_text(str.__str__(value))
    if issubclass(kind, int):
        return nearest_integer(int.__int__(value))
    if issubclass(kind, float):
        return float.__float__(value)
    if depth < _DEEPEST:
        try:
            return _copied(value, depth + 1)
        except Exception as error:  # what claims to be a container; it is text then
            let_through(error)
    return text_of(value)


def _copied(value: Any, depth: int) -> Any:
    kind = _class_of(value)
    if issubclass(kind, Mapping):
        return {text_of(name): nearest_value(item, depth) for name, item in value.items()}
    if issubclass(kind, (bytes, bytearray, memoryview)):
        return bytes(value)
    if issubclass(kind, (Sequence, AbstractSet)) and not issubclass(kind, range):  # which may stand for any number
        return [nearest_value(item, depth) for item in value]
    return text_of(value)


def text_of(value: Any) -> str:
    """Return the text of anything as it can be encoded; where that raises, one that names its class and the error."""
    try:
        return nearest_text(str.__str__(value if issubclass(_class_of(value), str) else str(value)))
    except Exception as error:
        let_through(error)
        return nearest_text(f"<{untrusted.class_name(_class_of(value))} whose text failed with {type(error).__name__}>")


def _replaced(what: str, by: object) -> None:
    count("value.replaced")
    warn_once(
        ("value.replaced", what),
        "OTLP cannot carry %s; it is sent as %s, and further ones so too",
        what,
        ascii(by)[:_LONGEST_SHOWN],
    )


def _class_of(value: object) -> Any:
    return type(value)
