"""What counts as a failure of an operation, and the name it gets: the attribute ``error.type``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from clew.any_value import nearest_text
from clew.diagnostics import count, warn_once
from clew.interpreter.interruptions import let_through
from clew.interpreter.untrusted import qualified_name, text_of

OTHER = "_OTHER"
"""The name of a failure that has none, by the semantic conventions for ``error.type``."""

Expectation = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], object]
"""What ``expected`` takes: an exception type, a tuple of them, or a callable that judges each exception."""

_LONGEST_REASON = 255

_NO_FAILURE: tuple[type[BaseException], ...] = (GeneratorExit, StopIteration, StopAsyncIteration)

_ONE_NAME = {
    # what one Python version calls by another name than the next
    "asyncio.exceptions.TimeoutError": "TimeoutError",
    "concurrent.futures._base.TimeoutError": "TimeoutError",
    "re.error": "re.PatternError",
    "pathlib._local.UnsupportedOperation": "pathlib.UnsupportedOperation",
}


def error_type_of(kind: type[BaseException]) -> str:
    """Name an exception class: ``module.qualname``, without the module for builtins; the same on every Python."""
    name = nearest_text(qualified_name(kind))
    try:
        module = kind.__module__
    except Exception as error:  # a metaclass of the user's
        let_through(error)
        module = None
    if not module or type(module) is not str or module == "builtins":
        return name
    name = nearest_text(f"{module}.{name}")
    return _ONE_NAME.get(name, name)


def is_one_of(kind: type, kinds: tuple[type, ...]) -> bool:
    """Tell whether a class is one of `kinds` or a subclass, as ``except`` does: no metaclass is asked."""
    return any(type.__subclasscheck__(one, kind) for one in kinds)


class Expected:
    """Exceptions that may leave an operation without being a failure: types, dotted names of types, callables.

    A name such as ``django.http.Http404`` is looked up when something fails, in the modules that are imported by then,
    so that naming an exception imports nothing.
    """

    def __init__(
        self,
        types: tuple[type[BaseException], ...] = (),
        names: tuple[str, ...] = (),
        judges: tuple[Judge, ...] = (),
    ) -> None:
        self._known = types, names
        self._judges = judges

    def covers(self, error: BaseException) -> bool:
        """Tell whether `error` is expected."""
        return self.names(type(error)) or any(judge(error) for judge in self._judges)

    def names(self, kind: type[BaseException]) -> bool:
        """Tell whether the exceptions of a class are expected whatever they hold."""
        types, names = self._known
        if names:
            types, _ = self._known = _looked_up(types, names)
        return is_one_of(kind, types)

    @classmethod
    def of(cls, given: tuple[type[BaseException] | str | Callable[[BaseException], object], ...]) -> Expected:
        """Return what the setting ``expected`` says."""
        names = tuple(one for one in given if isinstance(one, str))
        types = tuple(one for one in given if isinstance(one, type))
        judges = [one for one in given if not isinstance(one, (str, type))]
        return cls(types, names, tuple(Judge(one, "clew.configure") for one in judges))


class Judge:
    """A callable given as ``expected``; where it raises, the exception counts as a failure, which is logged once."""

    __slots__ = ("_ask", "_owner")

    def __init__(self, ask: Callable[[BaseException], object], owner: str) -> None:
        self._ask = ask
        self._owner = owner

    def __call__(self, error: BaseException) -> bool:
        """Tell whether `error` is expected."""
        try:
            return bool(self._ask(error))
        except Exception as raised:
            let_through(raised)
            _warn(raised, self._owner)
            return False


Checked = tuple[type[BaseException], ...] | Judge
"""What `expectation` makes of an ``expected`` argument."""


def _looked_up(
    types: tuple[type[BaseException], ...], names: tuple[str, ...]
) -> tuple[tuple[type[BaseException], ...], tuple[str, ...]]:
    found = {name: _imported(name) for name in names}
    return (
        (*types, *(kind for kind in found.values() if kind is not None)),
        tuple(name for name, kind in found.items() if kind is None),
    )


def _imported(name: str) -> type[BaseException] | None:
    module_name, _, rest = name.rpartition(".")
    while module_name and module_name not in sys.modules:
        module_name, _, outer = module_name.rpartition(".")
        rest = f"{outer}.{rest}"
    found: Any = sys.modules.get(module_name or "builtins")
    try:
        for part in rest.split("."):
            found = getattr(found, part, None)
    except Exception as error:  # a module whose __getattr__ raises something other than an AttributeError
        let_through(error)
        _warn(error, f"CLEW_EXPECTED={name}")
        return None
    return found if issubclass(type(found), type) and is_one_of(found, (BaseException,)) else None


def _warn(error: Exception, owner: str) -> None:
    count("expected.failed")
    warn_once(
        ("expected", owner),
        "%s: whether an exception is expected is not known: %s: %s; such exceptions count as failures",
        owner,
        type(error).__name__,
        error,
    )


NOTHING_EXPECTED = Expected()


def failure(error: BaseException, expected: Checked, expected_everywhere: Expected) -> str | None:
    """Return the ``error.type`` of an exception that leaves an operation, or None where it is no failure."""
    kind = type(error)
    if is_one_of(kind, _NO_FAILURE) or (is_one_of(kind, expected) if type(expected) is tuple else expected(error)):  # type: ignore[operator]
        return None
    if expected_everywhere.covers(error) or (is_one_of(kind, (SystemExit,)) and _is_success(error)):
        return None
    return error_type_of(kind)


def failure_of_kind(kind: type[BaseException], expected: Checked, expected_everywhere: Expected) -> str | None:
    """Return the same for an exception of which only the class is left; then no callable is called."""
    if is_one_of(kind, _NO_FAILURE) or (type(expected) is tuple and is_one_of(kind, expected)):
        return None
    return None if expected_everywhere.names(kind) else error_type_of(kind)


def _is_success(leaving: Any) -> bool:
    try:
        code = leaving.code
    except Exception as error:  # of a subclass; Python itself ends with 1 then
        let_through(error)
        return False
    return code is None or (type(code) is int and code == 0)


def reason_of(reason: object) -> str:
    """Return the ``error.type`` for a failure that is not raised: the text of its reason, at most 255 characters."""
    if reason is True or reason is None:
        return OTHER
    text = text_of(reason)
    if text is None:
        count("reason.failed")
        warn_once("reason.failed", "A reason for a failure has no text (of type %s); named %s", type(reason), OTHER)
        return OTHER
    return nearest_text(text[:_LONGEST_REASON]) or OTHER


def _is_to_be_called(value: Any) -> bool:
    return callable(value) and not issubclass(type(value), type)


def expectation(value: Any, owner: str) -> Checked:
    """Check an ``expected`` argument; a TypeError names what was given instead.

    Args:
        value: An exception type, a tuple of them, or a callable that takes an exception.
        owner: Whose it is, for messages.
    """
    if _is_to_be_called(value):
        if inspect.iscoroutinefunction(value):
            raise TypeError(f"{owner}: expected takes a function that answers at once, not the coroutine {value!r}")
        return value if type(value) is Judge else Judge(value, owner)
    kinds: list[Any] = [*value] if issubclass(type(value), tuple) else [value]
    for kind in kinds:
        if not (issubclass(type(kind), type) and is_one_of(kind, (BaseException,))):
            raise TypeError(
                f"{owner}: expected takes an exception type, a tuple of them or a callable that gets the exception, "
                f"not {kind!r}"
            )
    return tuple(kinds)
