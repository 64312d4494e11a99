"""The few settings of `clew`'s own: environment variables, and keyword arguments of `clew.configure()`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

from opentelemetry import environment_variables as api
from opentelemetry.sdk import environment_variables as sdk

from clew.attributes import OPERATION_CARDINALITY_LIMIT
from clew.settings import values
from clew.settings.otlp import MAX_EXPORT_BYTES
from clew.settings.problems import InvalidValueError, SettingsReader, shown

PREFIX = "CLEW_"

_STANDARD = "OTEL_"
_OF_OTHERS = ("OTEL_PYTHON_", "OTEL_INSTRUMENTATION_")  # what instrumentations read: any name may be one
_NEAR = 0.9  # of the letters in order: one or two wrong

ExceptionOrName: TypeAlias = type[BaseException] | str
Judging: TypeAlias = Callable[[BaseException], object]


class OwnArguments(TypedDict, total=False):
    """The keyword arguments of `clew.configure()` for the settings of its own; None is the same as not given."""

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
class OwnSetting:
    """`parse` reads the text of its variable, `check` takes a keyword argument; both may raise `InvalidValueError`."""

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
        fit = isinstance(value, kinds) and not isinstance(value, bool)
        return parse(str(value) if fit else "")

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
                found.extend(values.exception_names(item))
            except InvalidValueError:
                raise InvalidValueError(allowed) from None
        elif callable(item) and not isinstance(item, type):
            found.append(item)
        else:
            raise InvalidValueError(allowed)
    return tuple(dict.fromkeys(found))


def _setting(name: str, default: object, parse: Callable[[str], Any], *kinds: type) -> OwnSetting:
    if parse is values.boolean:
        return OwnSetting(name, default, parse, _flag)
    return OwnSetting(name, default, parse, _number(parse, *kinds) if kinds else _text(parse))


_sets = values.whole_number(1, 100_000)
_seconds = values.decimal(0, 3600, "seconds")

OWN_SETTINGS: Mapping[str, OwnSetting] = {
    setting.name: setting
    for setting in (
        _setting("request_id_header", "X-Request-ID", values.header_name),
        _setting("request_id_attribute", "request_id", values.attribute_name),
        _setting("trust_request_id", True, values.boolean),
        OwnSetting("request_id_hosts", None, values.hosts, _items(values.hosts)),
        _setting("request_id_baggage", False, values.boolean),
        OwnSetting("expected", (), values.exception_names, _exceptions),
        OwnSetting("measure", (), values.measured_names, _items(values.measured_names)),
        _setting("spans", False, values.boolean),
        _setting("logs", "all", values.one_of("all", "interesting")),
        _setting("logs_slow", 1.0, values.decimal(0, 86_400, "seconds"), int, float),
        _setting("logs_sample_ratio", 0.0, values.decimal(0, 1), int, float),
        _setting("logs_canonical", False, values.boolean),
        _setting("cardinality_limit", OPERATION_CARDINALITY_LIMIT, _sets, int),
        _setting("max_export_bytes", MAX_EXPORT_BYTES, values.whole_number(1), int),
        _setting("zero_points", True, values.boolean),
        _setting("shutdown_timeout", 3.0, _seconds, int, float),
        _setting("strict", True, values.boolean),
    )
}


def read_own(reading: SettingsReader, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Read every setting; a keyword argument that is given (not None) wins over the variable."""
    read: dict[str, Any] = {}
    for name, setting in OWN_SETTINGS.items():
        read[name] = reading.take(setting.variable, setting.parse, setting.default)
        given = overrides.get(name)
        if given is not None:
            try:
                read[name] = setting.check(given)
            except InvalidValueError as unfit:
                reading.wrong(f"configure({name}=…)", shown(given), str(unfit))
    return read


def find_unknown(reading: SettingsReader, environ: Mapping[str, str]) -> None:
    """Find variables that are none, mistyped as a rule, once all others have been read.

    One that is named like ours is a problem; of a standard one that is nearly one it is only said, since there are
    others beside those that are read here.
    """
    _find_nearly_standard(reading, environ)
    known = [setting.variable for setting in OWN_SETTINGS.values()]
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or reading.text(name) is None:
            continue
        near = difflib.get_close_matches(name, known, 1, 0.0)
        reading.wrong(name, "no setting", f"perhaps {near[0]}; all of them: {', '.join(known)}")


def _find_nearly_standard(reading: SettingsReader, environ: Mapping[str, str]) -> None:
    read = {name for name in reading.asked if name.startswith(_STANDARD)}
    others = [value for module in (api, sdk) for name, value in vars(module).items() if name.startswith(_STANDARD)]
    for name in sorted(environ):
        upper = name.upper()
        is_known = name in read or name in others or upper.startswith(_OF_OTHERS)
        if is_known or not upper.startswith((_STANDARD, PREFIX)) or name.startswith(PREFIX):
            continue
        if reading.text(name) is None:
            continue
        ours = [setting.variable for setting in OWN_SETTINGS.values()]
        near = difflib.get_close_matches(upper, [*sorted(read), *ours], 1, _NEAR)
        if near:
            reading.note(f"{name} is no variable that clew reads; perhaps {near[0]} is meant")
