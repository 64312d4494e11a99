"""Parsers of single values, by the rules of the OpenTelemetry specification for environment variables.

Each takes the text of a variable and returns its value, or raises `InvalidValueError`, which says what is allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from urllib.parse import unquote

from clew.settings.reader import InvalidValueError

MOST = 2**31 - 1

_WHOLE = re.compile(r"[0-9]{1,10}")
_DECIMAL = re.compile(r"([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,3})?")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ATTRIBUTE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,63}")
_HOST_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(\.?{_HOST_LABEL}(\.{_HOST_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\])(:(?P<port>[0-9]{{1,5}}))?")

_RESERVED = ("operation.name", "error.type", "trace_id", "span_id")


def boolean(text: str) -> bool:
    """Return the value of ``true`` or ``false``, in any case."""
    lower = text.lower()
    if lower not in ("true", "false"):
        raise InvalidValueError("true or false")
    return lower == "true"


def whole_number(least: int, most: int = MOST) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
            raise InvalidValueError(f"a whole number from {least} to {most}")
        return int(text)

    return parse


def decimal(least: float, most: float, unit: str = "") -> Callable[[str], float]:
    """Return a parser of decimal numbers from `least` to `most`, as programs write them: ``0.5``, ``.5``, ``5e-1``."""

    def parse(text: str) -> float:
        if not _DECIMAL.fullmatch(text) or not least <= float(text) <= most:
            raise InvalidValueError(f"a number{unit and f' of {unit}'} from {least:g} to {most:g}")
        return float(text)

    return parse


def interval(text: str) -> float:
    """Return the seconds of a whole number of milliseconds, at least 1."""
    if not _WHOLE.fullmatch(text) or not 1 <= int(text) <= MOST:
        raise InvalidValueError(f"a whole number of milliseconds from 1 to {MOST}")
    return int(text) / 1000


def timeout(text: str) -> float:
    """Return the seconds of a whole number of milliseconds; infinity for 0, which means no limit."""
    if not _WHOLE.fullmatch(text) or int(text) > MOST:
        raise InvalidValueError(f"a whole number of milliseconds from 0 (no limit) to {MOST}")
    return int(text) / 1000 or math.inf


def one_of(*names: str) -> Callable[[str], str]:
    """Return a parser of one of these names, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in names:
            raise InvalidValueError(", ".join(names))
        return text.lower()

    return parse


def listed(text: str) -> tuple[str, ...]:
    """Return the items between commas, without white space, empty ones and repetitions."""
    return tuple(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))


def header_name(text: str) -> str:
    """Return the name of an HTTP header: a token of RFC 9110."""
    if not _TOKEN.fullmatch(text) or len(text) > 100:
        raise InvalidValueError("the name of an HTTP header: 1 to 100 letters, digits and !#$%&'*+-.^_`|~")
    return text


def attribute_name(text: str) -> str:
    """Return the name of an attribute that is not one of `clew`'s own."""
    if not _ATTRIBUTE.fullmatch(text) or text in _RESERVED or text.startswith("otel."):
        raise InvalidValueError(
            "1 to 64 letters, digits, _ and ., beginning with a letter or _, "
            f"and none of {', '.join(_RESERVED)} or otel.*, which mean something else"
        )
    return text


def hosts(text: str) -> tuple[str, ...]:
    """Return the hosts that a request ID may go to, in lower case: ``host`` or ``.suffix``, with an optional port."""
    found = listed(text)
    if not found or not all(map(_is_host, found)):
        raise InvalidValueError(
            "one or more hosts between commas, each an exact host or a .suffix, with an optional :port"
        )
    return tuple(item.lower() for item in found)


def _is_host(text: str) -> bool:
    match = _HOST.fullmatch(text)
    return match is not None and len(text) <= 260 and (not match["port"] or 1 <= int(match["port"]) <= 65535)


def is_dotted(name: str) -> bool:
    """Tell whether a name is Python identifiers between dots."""
    return all(part.isidentifier() for part in name.split("."))


def exception_names(text: str) -> tuple[str, ...]:
    """Return dotted names of exception types, such as ``django.http.Http404``."""
    found = listed(text)
    if not found or not all(map(is_dotted, found)):
        raise InvalidValueError("dotted names of exception types between commas, such as django.http.Http404,KeyError")
    return found


def measured_names(text: str) -> tuple[str, ...]:
    """Return functions to measure: ``module:*``, ``module:function``, ``module:Class``, ``module:Class.method``."""
    found = listed(text)
    for item in found:
        module, colon, name = item.partition(":")
        if not colon or not is_dotted(module) or not (name == "*" or is_dotted(name)):
            found = ()
    if not found:
        raise InvalidValueError(
            "module:name or module:* between commas, such as shop.orders:*,shop.db:query,shop.db:Store.get"
        )
    return found


def _decoded(text: str) -> str:
    if _BARE_PERCENT.search(text):
        raise InvalidValueError("percent-encoded text: a percent sign itself is written %25")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidValueError("percent-encoded UTF-8") from None


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    for item in text.split(","):
        name, equals, value = item.partition("=")
        if item.strip():
            if not equals or not name.strip():
                raise InvalidValueError("name=value pairs between commas; a comma in a value is written %2C")
            yield name.strip(), value.strip()


def resource_attributes(text: str) -> dict[str, str]:
    """``OTEL_RESOURCE_ATTRIBUTES``: ``name=value`` pairs, names and values percent-encoded; of a repeated name the last
    counts. One error makes the whole text invalid, as the specification of the resource says."""
    return {_decoded(name): _decoded(value) for name, value in _pairs(text)}


def headers(text: str) -> tuple[tuple[str, str], ...]:
    """``OTEL_EXPORTER_OTLP_HEADERS``: ``name=value`` pairs, values percent-encoded; names are returned in lower case.

    A value may have spaces and other printable characters as they are, which other implementations take too.
    """
    found: dict[str, str] = {}
    for name, value in _pairs(text):
        plain = value if _BARE_PERCENT.search(value) else _decoded(value)
        if not _TOKEN.fullmatch(name):
            raise InvalidValueError("name=value pairs between commas, each name an HTTP header's")
        if not _PRINTABLE.fullmatch(plain):
            raise InvalidValueError(
                "name=value pairs between commas, each value printable ASCII once it is percent-decoded"
            )
        found[name.lower()] = plain
    return tuple(found.items())
