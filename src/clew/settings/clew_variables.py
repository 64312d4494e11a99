"""The ``CLEW_*`` variables, which are keyword arguments of `clew.configure()` too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

from clew.attributes import OPERATION_CARDINALITY_LIMIT
from clew.settings import parsers
from clew.settings.otlp import MAX_EXPORT_BYTES
from clew.settings.problems import shown
from clew.settings.reader import InvalidValueError, SettingsReader

PREFIX = "CLEW_"

ExceptionOrName: TypeAlias = type[BaseException] | str
Judging: TypeAlias = Callable[[BaseException], object]


class ClewArguments(TypedDict, total=False):
    """The keyword arguments of `clew.configure()` for these settings; None is the same as not given."""

    request_id_header: str | None
    request_id_attribute: str | None
    trust_request_id: bool | None
    request_id_hosts: str | Sequence[str] | AbstractSet[str] | None
    request_id_baggage: bool | None
    expected: ExceptionOrName | Judging | Sequence[ExceptionOrName | Judging] | AbstractSet[ExceptionOrName] | None
    measure: str | Sequence[str] | AbstractSet[str] | None
    spans: bool | None
    logs: str | None
    logs_slow: float | None
    logs_sample_ratio: float | None
    logs_canonical: bool | None
    cardinality_limit: int | None
    max_export_bytes: int | None
    zero_points: bool | None
    shutdown_timeout: float | None
    strict: bool | None


@dataclass(frozen=True, slots=True)
class ClewSetting:
    """One variable and its keyword argument.

    Attributes:
        name: The keyword argument.
        default: The value where neither is set.
        parse: Returns the value for the text of the variable, or raises `InvalidValueError`.
        check: Returns the value for a keyword argument, or raises `InvalidValueError`.
    """

    name: str
    default: Any
    parse: Callable[[str], Any]
    check: Callable[[object], Any]

    @property
    def variable(self) -> str:
        """The environment variable: the name in capitals behind ``CLEW_``."""
        return PREFIX + self.name.upper()


def _text(parse: Callable[[str], Any]) -> Callable[[object], Any]:
    def check(value: object) -> Any:
        return parse(value if isinstance(value, str) else "")

    return check


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidValueError("True or False")
    return value


def _number(parse: Callable[[str], Any], *kinds: type) -> Callable[[object], Any]:
    def check(value: object) -> Any:
        is_valid = isinstance(value, kinds) and not isinstance(value, bool)
        return parse(str(value) if is_valid else "")

    return check


def _items(parse: Callable[[str], tuple[str, ...]]) -> Callable[[object], Any]:
    """Take one text, as in the variable, or several in a list or tuple."""

    def check(value: object) -> Any:
        if isinstance(value, str):
            return parse(value)
        if isinstance(value, Iterable):
            items: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            if all(isinstance(item, str) and "," not in item for item in items):
                return parse(",".join(map(str, items)))
        return parse("")

    return check


def _exceptions(value: Any) -> tuple[ExceptionOrName | Judging, ...]:
    """Take exception types, dotted names, and callables that judge an exception, one or several."""
    allowed = "exception types, their dotted names or callables that get an exception, one or a tuple of them"
    if isinstance(value, (Sequence, AbstractSet)) and not isinstance(value, str):
        items: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    else:
        items = [value]
    found: list[ExceptionOrName | Judging] = []
    for item in items:
        kind: Any = item
        if isinstance(kind, type) and issubclass(kind, BaseException):
            found.append(kind)
        elif isinstance(item, str):
            try:
                found.extend(parsers.exception_names(item))
            except InvalidValueError:
                raise InvalidValueError(allowed) from None
        elif callable(item) and not isinstance(item, type):
            found.append(item)
        else:
            raise InvalidValueError(allowed)
    return tuple(dict.fromkeys(found))


def _setting(name: str, default: object, parse: Callable[[str], Any], *kinds: type) -> ClewSetting:
    if parse is parsers.boolean:
        return ClewSetting(name, default, parse, _flag)
    return ClewSetting(name, default, parse, _number(parse, *kinds) if kinds else _text(parse))


CLEW_SETTINGS: Mapping[str, ClewSetting] = {
    setting.name: setting
    for setting in (
        _setting("request_id_header", "X-Request-ID", parsers.header_name),
        _setting("request_id_attribute", "request_id", parsers.attribute_name),
        _setting("trust_request_id", True, parsers.boolean),
        ClewSetting("request_id_hosts", None, parsers.hosts, _items(parsers.hosts)),
        _setting("request_id_baggage", False, parsers.boolean),
        ClewSetting("expected", (), parsers.exception_names, _exceptions),
        ClewSetting("measure", (), parsers.measured_names, _items(parsers.measured_names)),
        _setting("spans", False, parsers.boolean),
        _setting("logs", "all", parsers.one_of("all", "interesting")),
        _setting("logs_slow", 1.0, parsers.decimal(0, 86_400, "seconds"), int, float),
        _setting("logs_sample_ratio", 0.0, parsers.decimal(0, 1), int, float),
        _setting("logs_canonical", False, parsers.boolean),
        _setting("cardinality_limit", OPERATION_CARDINALITY_LIMIT, parsers.whole_number(1, 100_000), int),
        _setting("max_export_bytes", MAX_EXPORT_BYTES, parsers.whole_number(1), int),
        _setting("zero_points", True, parsers.boolean),
        _setting("shutdown_timeout", 3.0, parsers.decimal(0, 3600, "seconds"), int, float),
        _setting("strict", True, parsers.boolean),
    )
}


def read_clew_variables(reader: SettingsReader, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Read every setting; a keyword argument that is given (not None) wins over the variable."""
    read: dict[str, Any] = {}
    for name, setting in CLEW_SETTINGS.items():
        read[name] = reader.read(setting.variable, setting.parse, setting.default)
        override = overrides.get(name)
        if override is not None:
            try:
                read[name] = setting.check(override)
            except InvalidValueError as error:
                reader.add_problem(f"configure({name}=…)", shown(override), str(error))
    return read
