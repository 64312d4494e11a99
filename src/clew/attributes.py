"""Attributes of operations: few values each, cleaned once, and keyed as OpenTelemetry tells them apart."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from clew.any_value import nearest_integer, nearest_text
from clew.diagnostics import count, warn_once
from clew.interpreter.interruptions import let_through
from clew.interpreter.untrusted import class_name, class_of, stand_in, text_of
from clew.policy import policy

Value = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]
"""The types of an attribute's value; anything else becomes its `str`."""

Key = tuple[tuple[Any, ...], ...]
"""An attribute set as a dictionary key: ``True``, ``1`` and ``1.0`` are three values, as in the SDK."""

RESERVED = frozenset({"operation.name", "error.type"})
"""Reserved on operations, while the user's own instruments may use them."""


OVERFLOW = "otel.metric.overflow"
"""The attribute of the data point that stands for the attribute sets past a limit."""

CARDINALITY_LIMIT = 2_000
"""How many attribute sets an instrument has; the specification's default."""

OPERATION_CARDINALITY_LIMIT = 100
"""How many sets of the user's attributes one operation has by default (``CLEW_CARDINALITY_LIMIT``)."""


def is_reserved(name: str) -> bool:
    """Tell whether `name` belongs to `clew` or OpenTelemetry, so that a user's value for it is ignored."""
    return name in RESERVED or _is_reserved_on_instruments(name)


def _is_reserved_on_instruments(name: str) -> bool:
    return name == policy.attribute or name == "request_id" or name.startswith("otel.")


def clean_value(name: str, value: Any) -> Value:
    """Return `value` as `str`, `bool`, `int`, `float` or a tuple of one of these; anything else as its `str`."""
    kind = class_of(value)
    plain = _plain(value)
    if plain is not None:
        return plain
    if issubclass(kind, (list, tuple)):
        try:
            given: list[Any] = [*value]
        except Exception as error:  # of a subclass
            let_through(error)
            return _text(name, value)
        items = [_plain(item) for item in given]
        if None not in items and len({type(item) for item in items}) <= 1:
            return cast("Sequence[str]", tuple(items))
        warn_once(("attribute value", name), "The items of attribute %s are not of one type; taken as text", name)
        return tuple(_text(name, item) for item in given)
    warn_once(
        ("attribute value", name),
        "The value of attribute %s is of type %s and was taken as text; allowed are str, bool, int, float and "
        "sequences of one of these",
        name,
        class_name(kind),
    )
    return _text(name, value)


def _plain(value: Any) -> str | bool | int | float | None:
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is str:
        return nearest_text(value)
    if kind is int:
        return nearest_integer(value)
    if kind is bool or kind is float:
        return value  # type: ignore[no-any-return]
    if issubclass(kind, str):  # an enum's member or another subclass counts by its value
        return nearest_text(str.__str__(value))
    if issubclass(kind, int):
        return nearest_integer(int.__int__(value))
    if issubclass(kind, float):
        return float.__float__(value)
    return None


def _text(name: str, value: Any) -> str:
    text = text_of(value)
    if text is not None:
        return nearest_text(text)
    count("attribute.ignored")
    warn_once(("attribute text", name), "A value of attribute %s has no text: its str() raises", name)
    return stand_in(value)


def clean(attributes: Mapping[str, Any]) -> dict[str, Value]:
    """Return `attributes` with plain values, sorted by name, without names that are reserved or no text."""
    return _clean(attributes, is_reserved)


def clean_given(attributes: Mapping[str, Any], owner: str) -> dict[str, Value]:
    """Return `attributes` as `clean` does; none where they cannot be read, which is counted and logged once."""
    try:
        return _clean(attributes, is_reserved)
    except Exception as error:
        let_through(error)
        return _not_read(error, owner)


def clean_instrument_attributes(attributes: Mapping[str, Any] | None) -> dict[str, Value]:
    """Return the attributes of one of the user's own instruments: as `clean_given`, but ``error.type`` is theirs."""
    if attributes is None:
        return {}
    try:
        return _clean(attributes, _is_reserved_on_instruments)
    except Exception as error:
        let_through(error)
        return _not_read(error, "an instrument")


def _not_read(error: Exception, owner: str) -> dict[str, Value]:
    count("attributes.failed")
    warn_once(
        ("attributes", owner),
        "%s: the attributes could not be read (%s: %s); measured without them",
        owner,
        type(error).__name__,
        error,
    )
    return {}


def _clean(attributes: Mapping[str, Any], is_reserved: Callable[[str], bool]) -> dict[str, Value]:
    cleaned: dict[str, Value] = {}
    for given, value in attributes.items():
        name = str.__str__(given) if issubclass(type(given), str) else ""
        if not name:
            count("attribute.ignored")
            warn_once("attribute name", "An attribute name must be a text that is not empty, not %r; ignored", given)
        elif is_reserved(name):
            count("attribute.ignored")
            warn_once(("reserved", name), "The attribute name %s is reserved; the value given for it is ignored", name)
        else:
            cleaned[nearest_text(name)] = clean_value(name, value)
    return dict(sorted(cleaned.items()))


def key_of(cleaned: Mapping[str, Value]) -> Key:
    """Return the key of an attribute set that `clean` has returned."""
    if all(type(value) is str for value in cleaned.values()):
        return tuple(cleaned.items())
    return tuple(
        (name, float, "nan") if value != value else (name, _kind(value), value) for name, value in cleaned.items()
    )


def _kind(value: Value) -> Any:
    if isinstance(value, tuple):
        return tuple, type(value[0]) if value else None
    return type(value)


class Computed:
    """Attributes that are computed from the arguments of a call, by a callable that names those it wants.

    Its parameters are matched to those of the function it describes once, when that is decorated.

    Raises:
        TypeError: `compute` names a parameter that `function` has not.
    """

    __slots__ = ("_given", "_owner", "raw")

    def __init__(self, compute: Callable[..., Any], function: Callable[..., Any], owner: str) -> None:
        self._given = compute, function, owner
        self._owner = owner
        self.raw = _binder(compute, function, owner)
        """Takes the arguments of a call and returns the call of `compute` that they make."""

    def __reduce__(self) -> Any:
        return Computed, self._given

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Value]:
        """Return the attributes of a call, cleaned; none where `compute` fails or returns no mapping."""
        given: Any = None
        raised: Exception | None = None
        try:
            given = self.raw(*args, **kwargs)()
        except Exception as error:
            let_through(error)
            raised = error
        return self.cleaned(given, raised, args, kwargs)

    def cleaned(
        self, given: Any, raised: Exception | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Value]:
        """Return what `compute` gave for a call, cleaned; none, counted and logged once, where that cannot be done.

        Args:
            given: What it gave; None where it raised.
            raised: What it raised, or None.
            args: The arguments of the call.
            kwargs: Those by keyword.
        """
        if given is not None or raised is None:
            try:
                return clean(cast("Mapping[str, Any]", given))
            except Exception as error:
                let_through(error)
                raised = error
        try:
            self.raw(*args, **kwargs)
        except TypeError:
            return {}  # the arguments do not fit, and the function itself is about to say so
        count("attributes.failed")
        warn_once(
            ("attributes", self._owner),
            "%s: the attributes callable failed or returned no mapping (%s: %s); such calls are measured without "
            "attributes",
            self._owner,
            type(raised).__name__,
            raised,
        )
        return {}


def _binder(compute: Callable[..., Any], function: Callable[..., Any], owner: str) -> Callable[..., Callable[[], Any]]:
    """Write a function with the parameters of `function` that returns the call of `compute` with those it wants.

    Written as source, as `dataclasses` writes ``__init__``, since then the interpreter itself matches the arguments:
    `inspect.Signature.bind` costs a hundred times as much on each call.
    """
    try:
        wanted = list(inspect.signature(compute).parameters.values())
        offered = inspect.signature(function).parameters
    except (ValueError, TypeError) as error:
        raise TypeError(f"{owner}: attributes cannot be matched, the signature is not known ({error})") from None

    kinds = inspect.Parameter
    names = {"positional": list[str](), "keyword": list[str]()}
    left = {name: parameter for name, parameter in offered.items() if name not in ("self", "cls")}
    takes_rest: dict[Any, bool] = {}
    for parameter in wanted:
        if parameter.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD):
            takes_rest[parameter.kind] = True
        elif parameter.name in offered:
            left.pop(parameter.name, None)
            if parameter.kind is kinds.POSITIONAL_ONLY:
                names["positional"].append(parameter.name)
            else:
                names["keyword"].append(f"{parameter.name}={parameter.name}")
        elif parameter.default is kinds.empty:
            raise TypeError(
                f"{owner}: the attributes callable wants a parameter {parameter.name!r}; the function has "
                f"{', '.join(offered) or 'none'}"
            )
    positional, keyword = names["positional"], names["keyword"]
    rest_by_name = kinds.VAR_KEYWORD in takes_rest
    rest_in_order = kinds.VAR_POSITIONAL in takes_rest
    if rest_in_order and keyword and (not rest_by_name or any(p.kind is kinds.VAR_POSITIONAL for p in left.values())):
        # what stands before *args has to be passed in its place
        positional += [item.partition("=")[0] for item in keyword if _stands_before_rest(item, wanted)]
        keyword = [item for item in keyword if not _stands_before_rest(item, wanted)]
    for name, parameter in left.items():
        if parameter.kind is kinds.VAR_POSITIONAL:
            if rest_in_order:
                positional.append(f"*{name}")
        elif parameter.kind is kinds.VAR_KEYWORD:
            if rest_by_name:
                keyword.append(f"**{name}")
        elif rest_by_name:
            keyword.append(f"{name}={name}")
        elif rest_in_order and parameter.kind is not kinds.KEYWORD_ONLY:
            positional.append(name)

    defaults = {f"_clew_default_{name}": p.default for name, p in offered.items() if p.default is not kinds.empty}
    source = f"def bind({_parameters(offered)}): return lambda: _clew_compute({', '.join(positional + keyword)})"
    namespace: dict[str, Any] = {"_clew_compute": compute, **defaults}
    exec(source, namespace)  # only names of parameters that Python itself has accepted stand in it
    return namespace["bind"]  # type: ignore[no-any-return]


def _stands_before_rest(item: str, wanted: list[inspect.Parameter]) -> bool:
    name = item.partition("=")[0]
    return any(p.name == name and p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in wanted)


def _parameters(offered: Mapping[str, inspect.Parameter]) -> str:
    """Write out a parameter list; each default is a name in the namespace, not its text."""
    kinds = inspect.Parameter
    written: list[str] = []
    parameters = list(offered.values())
    for index, parameter in enumerate(parameters):
        before = parameters[index - 1].kind if index else None
        if before is kinds.POSITIONAL_ONLY and parameter.kind is not kinds.POSITIONAL_ONLY:
            written.append("/")
        if parameter.kind is kinds.KEYWORD_ONLY and before not in (kinds.KEYWORD_ONLY, kinds.VAR_POSITIONAL):
            written.append("*")
        stars = "*" if parameter.kind is kinds.VAR_POSITIONAL else "**" if parameter.kind is kinds.VAR_KEYWORD else ""
        default = "" if parameter.default is kinds.empty else f"=_clew_default_{parameter.name}"
        written.append(f"{stars}{parameter.name}{default}")
    if parameters and parameters[-1].kind is kinds.POSITIONAL_ONLY:
        written.append("/")
    return ", ".join(written)
