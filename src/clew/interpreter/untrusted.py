"""Values of the user's, looked at without being misled or broken by their classes.

An attribute value, an exception or a returned object may be anything: a proxy that passes for a `str`, a mock, a class
whose metaclass has ideas of its own, a text that is translated when it is asked for. So everything goes by the real
class of a value (`issubclass(type(value), str)`), and where its own code raises, its class is named instead. An
exception that is no `Exception` (KeyboardInterrupt, SystemExit) is for the program and passes.
"""

from __future__ import annotations

from typing import Any

from clew.interpreter.interruptions import let_through

_name_of = vars(type)["__name__"].__get__  # past whatever a metaclass puts in its place
_qualified_name_of = vars(type)["__qualname__"].__get__

_BY_ITSELF = frozenset({str, int, float, bool, type(None)})


def class_of(value: object) -> type[Any]:
    """Return the real class of a value, whatever its ``__class__`` says."""
    return type(value)


def class_name(kind: type[Any]) -> str:
    """Return the name of a class."""
    return str.__str__(_name_of(kind))


def qualified_name(kind: type[Any]) -> str:
    """Return the ``__qualname__`` of a class."""
    return str.__str__(_qualified_name_of(kind))


def text_of(value: Any) -> str | None:
    """Return the text of `value` as a plain `str`, a `str`'s own for what is one; None where it raises."""
    try:
        return str.__str__(value if issubclass(type(value), str) else str(value))
    except Exception as error:
        let_through(error)
        return None


def stand_in(value: object) -> str:
    """Return what stands in messages for a value that has no text."""
    return f"<{class_name(type(value))}>"


def printable(value: object) -> Any:
    """Return `value` if it can safely be put into a message, and otherwise its text."""
    return value if type(value) in _BY_ITSELF else text_of(value) or stand_in(value)
