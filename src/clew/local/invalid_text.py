"""Exports with a text that is not UTF-8. A protobuf parser refuses them whole; here only what holds that text is lost.

Reads the wire format of protobuf, led by the descriptors of the messages.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

MessageType = TypeVar("MessageType", bound=Message)

_RECORDS = {  # what goes alone, and what it is called
    "LogRecord": "a log record",
    "Span": "a span",
    "NumberDataPoint": "a data point",
    "HistogramDataPoint": "a data point",
    "ExponentialHistogramDataPoint": "a data point",
    "SummaryDataPoint": "a data point",
}
_PARTS = {  # of a record that stays
    "Exemplar": "an exemplar",
    "Event": "an event of a span",
    "Link": "a link of a span",
}
_DEEPEST = 100  # messages in each other, as protobuf's own parser has it
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


class LeftOut:
    """What was left out or changed, and why: `rejected` records, and `parts` of others."""

    def __init__(self) -> None:
        self.rejected: Counter[str] = Counter()
        self.parts: Counter[str] = Counter()


class _InvalidTextError(Exception):
    """A text of this record is not UTF-8."""


def without_invalid_text(kind: type[MessageType], body: bytes) -> tuple[MessageType, LeftOut] | None:
    """Parse a message without the records that hold a text that is not UTF-8; None if that is not what is wrong.

    In what many records share (a resource, a scope, a metric's name) the replacement character stands for such bytes.
    """
    left_out = LeftOut()
    try:
        return kind.FromString(_cleaned(kind.DESCRIPTOR, body, left_out, False, 0)), left_out
    except (IndexError, DecodeError, _InvalidTextError):
        return None


def _cleaned(descriptor: Any, body: bytes, left_out: LeftOut, in_record: bool, depth: int) -> bytes:
    """Return a message's bytes without what is to be left out; IndexError where they are not a message."""
    if depth > _DEEPEST:
        raise IndexError
    pieces: list[bytes] = []
    position = 0
    while position < len(body):
        begin = position
        tag, position = _varint(body, position)
        wire_type, content = tag & 7, b""
        if wire_type == _LENGTH:
            size, position = _varint(body, position)
            content, position = body[position : position + size], position + size
        elif wire_type == _VARINT:
            _, position = _varint(body, position)
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            position += 8 if wire_type == _EIGHT_BYTES else 4
        else:
            raise IndexError
        if position > len(body):
            raise IndexError
        field = descriptor.fields_by_number.get(tag >> 3)
        if wire_type != _LENGTH or field is None:
            pieces.append(body[begin:position])
            continue
        kept = _kept(field, content, left_out, in_record, depth)
        if kept is not None:
            pieces += (_as_varint(tag), _as_varint(len(kept)), kept)
    return b"".join(pieces)


def _kept(field: FieldDescriptor, content: bytes, left_out: LeftOut, in_record: bool, depth: int) -> bytes | None:
    """Return a field's content as it may stay, None where it is left out."""
    if field.type == FieldDescriptor.TYPE_STRING:
        try:
            content.decode()
        except UnicodeDecodeError:
            if in_record:
                raise _InvalidTextError from None
            left_out.parts["a name or resource with a text that is not UTF-8, kept with � in it"] += 1
            return content.decode(errors="replace").encode()
    elif field.message_type is not None:
        name = field.message_type.name
        is_own = name in _RECORDS or name in _PARTS
        before = left_out.parts.copy()
        try:
            return _cleaned(field.message_type, content, left_out, in_record or is_own, depth + 1)
        except _InvalidTextError:
            if not is_own:
                raise
            left_out.parts = before
            counted = left_out.rejected if name in _RECORDS else left_out.parts
            counted[f"{(_RECORDS | _PARTS)[name]} with a text that is not UTF-8"] += 1
            return None
    return content


def _varint(body: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError


def _as_varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
