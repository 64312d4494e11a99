"""Objects of classes that raise where others look at them, made at random, and those that real libraries have."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import MagicMock, Mock

from hypothesis import strategies as st
from werkzeug.local import LocalProxy

TROUBLES = (ValueError, TypeError, AttributeError, KeyError, RecursionError, MemoryError, StopIteration, ImportError)

BASES: tuple[type, ...] = (object, str, int, float, list, tuple, dict)

METHODS = (
    *("__class__", "__eq__", "__hash__", "__str__", "__repr__", "__bool__", "__len__", "__iter__", "__format__"),
    *("__getattr__", "__getitem__", "__contains__", "__lt__", "__le__", "__index__", "__add__", "__radd__"),
    *("items", "keys", "values", "get"),
)

OF_EXCEPTIONS = (
    *("__class__", "__eq__", "__hash__", "__str__", "__repr__", "__bool__", "__getattribute__", "__setattr__"),
    *("code", "args", "with_traceback", "__traceback__", "__cause__", "__context__", "__notes__", "__reduce__"),
    *("__module__", "__dict__"),
)

OF_METACLASSES = (
    *("__instancecheck__", "__subclasscheck__", "__eq__", "__hash__", "__getattribute__", "__repr__", "__str__"),
    *("__module__", "__name__", "__mro__", "__bool__"),
)

PROPERTIES = {"__class__", "code", "args", "__module__", "__name__", "__mro__", "__dict__"} | {
    "__traceback__",
    "__cause__",
    "__context__",
    "__notes__",
}


def members(names: frozenset[str], error: type[Exception]) -> dict[str, Any]:
    """Return the members of a class of which each of `names` raises."""

    def raising(*_: object, **__: object) -> Any:
        raise error("raised on purpose")

    return {name: property(raising) if name in PROPERTIES else raising for name in names}


@dataclass(frozen=True)
class Recipe:
    """How an object is made, that can be shown where the object itself cannot."""

    base: type
    raising: frozenset[str]
    raising_in_metaclass: frozenset[str]
    error: type[Exception]

    def make(self) -> Any:
        made = type("Meta", (type,), members(self.raising_in_metaclass, self.error))(
            "Hostile", (self.base,), members(self.raising, self.error)
        )
        return self.base.__new__(made)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Real:
    """An object as real libraries have it."""

    make: Callable[[], Any]


class Tier(str, enum.Enum):
    GOLD = "gold"


class Lazy:
    """A text that is translated when it is asked for."""

    def __str__(self) -> str:
        return "translated"

    def __hash__(self) -> int:
        raise TypeError("unhashable until translated")


class Scalar:
    """As an array of numbers is: equality is an array again, which has no truth."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")


def _unbound() -> Any:
    raise RuntimeError("working outside of request context")


REAL = (
    lambda: LocalProxy(lambda: "proxied"),
    lambda: LocalProxy(lambda: {"tier": "gold"}),
    lambda: LocalProxy(_unbound),
    lambda: Mock(spec=str),
    lambda: Mock(spec=dict),
    lambda: MagicMock(spec=dict),
    lambda: MagicMock(),
    lambda: Tier.GOLD,
    Lazy,
    Scalar,
    lambda: float("nan"),
    lambda: b"bytes",
    lambda: object(),
)

objects = st.one_of(
    st.builds(
        Recipe,
        st.sampled_from(BASES),
        st.frozensets(st.sampled_from(METHODS), min_size=1, max_size=4),
        st.frozensets(st.sampled_from(OF_METACLASSES), max_size=2),
        st.sampled_from(TROUBLES),
    ),
    st.builds(Real, st.sampled_from(REAL)),
)
"""Any object that somebody may hand over."""

exceptions = st.builds(
    Recipe,
    st.sampled_from([Exception, ValueError, SystemExit, KeyboardInterrupt, OSError, BaseException]),
    st.frozensets(st.sampled_from(OF_EXCEPTIONS), min_size=1, max_size=4),
    st.frozensets(st.sampled_from(OF_METACLASSES), max_size=3),
    st.sampled_from(TROUBLES),
)
"""Any exception that may leave."""
