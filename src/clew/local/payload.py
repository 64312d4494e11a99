"""From the bytes of an OTLP/HTTP request to a message, and from an answer to bytes, both encodings, within bounds."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Any, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

LARGEST = 64 * 1024 * 1024
"""The most bytes an export may have, as sent and after decompression."""

_IDENTIFIERS = {"traceId", "spanId", "parentSpanId"}  # hexadecimal in OTLP's JSON, base 64 in protobuf's
_PIECE = 256 * 1024
_MEMBERS = 1000  # of gzip in one body
_LONGEST = 500  # characters of a message about what was sent

MessageType = TypeVar("MessageType", bound=Message)


class MalformedError(Exception):
    """The bytes are not what their headers say; the message says in what way, in text that can be sent back."""

    def __init__(self, message: str) -> None:
        super().__init__(excerpt(message))


class TooLargeError(Exception):
    """The export is larger than `LARGEST`."""

    def __init__(self) -> None:
        super().__init__(
            f"an export may have at most {LARGEST} bytes ({LARGEST // 2**20} MiB), after decompression too"
        )


def excerpt(message: str) -> str:
    """Return a message that may quote a sender as text that every protocol can carry, cut where it is long."""
    cut = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
    return cut.encode("utf-8", "backslashreplace").decode()


class Body:
    """Collects a request's body piece by piece, inflating as it comes, and stops at the first byte too many."""

    def __init__(self, compressed: bool) -> None:
        self._inflater = zlib.decompressobj(wbits=31) if compressed else None
        self._pieces: list[bytes] = []
        self._received = self._size = self._members = 0

    def feed(self, piece: bytes) -> None:
        """Take the next piece as it came from the network.

        Raises:
            TooLargeError: the body has more than `LARGEST` bytes, before or after decompression.
            MalformedError: it is not gzip.
        """
        self._received += len(piece)
        if self._received > LARGEST:
            raise TooLargeError
        if self._inflater is None:
            self._keep(piece)
            return
        try:
            while piece:
                if self._inflater.eof:  # gzip allows several members in a row
                    self._members += 1
                    if self._members >= _MEMBERS:
                        raise MalformedError(f"the body has more than {_MEMBERS} members of gzip")
                    self._inflater = zlib.decompressobj(wbits=31)
                self._keep(self._inflater.decompress(piece, _PIECE))
                piece = self._inflater.unconsumed_tail or self._inflater.unused_data
        except zlib.error as error:
            raise MalformedError(f"the body is not gzip: {error}") from error

    def end(self) -> bytes:
        """Return the whole body; `MalformedError` if the gzip stream is cut off."""
        if self._inflater is not None and not self._inflater.eof:
            while tail := self._inflater.decompress(self._inflater.unconsumed_tail, _PIECE):
                self._keep(tail)
            if not self._inflater.eof:
                raise MalformedError("the gzip body is cut off")
        return b"".join(self._pieces)

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > LARGEST:
            raise TooLargeError
        self._pieces.append(piece)


def from_protobuf(kind: type[MessageType], body: bytes) -> MessageType:
    """Parse a message; raises `MalformedError`."""
    try:
        return kind.FromString(body)
    except (DecodeError, ValueError, RecursionError) as error:
        raise MalformedError(f"the body is not a {kind.DESCRIPTOR.name}: {error}") from error


def from_json(kind: type[MessageType], body: bytes) -> MessageType:
    """Parse OTLP's JSON, where trace and span IDs are hexadecimal; fields it does not know are ignored.

    Raises:
        MalformedError: not JSON, not this message, an ID that is not hexadecimal, or a text that is not Unicode.
    """
    try:
        content = json.loads(body)
        if not isinstance(content, dict):
            raise MalformedError(f"the body is not a JSON object but a {type(content).__name__}")
        _prepare(content)
        return json_format.ParseDict(cast("dict[str, Any]", content), kind(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise MalformedError(f"the body is not a {kind.DESCRIPTOR.name} in JSON: {error}") from error
    except RecursionError as error:
        raise MalformedError("the body is nested too deeply") from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise MalformedError(f"the body is not JSON that can be read: {error}") from error


def to_bytes(message: Message, as_json: bool) -> bytes:
    """Return an answer in the encoding of its request."""
    return json_format.MessageToJson(message, indent=None).encode() if as_json else message.SerializeToString()


def _prepare(content: Any) -> None:
    """Turn IDs from hexadecimal into base 64, and see that all text is Unicode: JSON may spell half a character."""
    if isinstance(content, str):
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise MalformedError(f"the body is not JSON that can be read: half a character, {content!r}") from error
    elif isinstance(content, list):
        for item in content:  # pyright: ignore[reportUnknownVariableType]
            _prepare(item)
    elif isinstance(content, dict):
        fields = cast("dict[str, Any]", content)
        for key, value in fields.items():
            _prepare(key)
            if key in _IDENTIFIERS and isinstance(value, str):
                try:
                    fields[key] = base64.b64encode(binascii.unhexlify(value)).decode()
                except ValueError as error:
                    raise MalformedError(f"{key} is not hexadecimal: {value[:40]!r}") from error
            else:
                _prepare(value)
