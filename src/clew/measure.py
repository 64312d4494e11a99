"""`clew.measure`: how long a function or a block takes, how often it runs, and how often it fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar, overload

from clew import pipeline
from clew.attributes import Computed, Value, clean, computed, key_of
from clew.diagnostics import say_once
from clew.failures import exception_types
from clew.running import Run, begin
from clew.wrappers import wrap

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound="classmethod[Any, Any, Any]")

LONGEST_NAME = 255


class Measure:
    """What `clew.measure(…)` makes: a decorator for any number of functions, or one block.

    As a decorator it is shared by all calls, recursions and threads. As a block (``with``, ``async with``) it is
    single-use, like the managers of `contextlib`.
    """

    __slots__ = ("_attributes", "_entered", "_expected", "_failed", "_name", "_run", "_span")

    def __init__(
        self,
        name: str | None,
        attributes: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None,
        expected: tuple[type[BaseException], ...],
        failed: Callable[[Any], object] | None,
        span: bool | None,
    ) -> None:
        self._name = name
        self._attributes = attributes
        self._expected = expected
        self._failed = failed
        self._span = span
        self._entered = False
        self._run: Run | None = None

    @overload
    def __call__(self, function: F, /) -> F: ...
    @overload
    def __call__(self, function: M, /) -> M: ...
    def __call__(self, function: Any, /) -> Any:
        """Decorate a function, coroutine function, generator function, method, classmethod or staticmethod."""
        if isinstance(function, (staticmethod, classmethod)):
            return type(function)(self(function.__func__))
        if inspect.isclass(function) or not callable(function):
            raise TypeError(f"clew.measure decorates functions and methods, not {function!r}")
        name = self._name or checked_name(_qualified_name(function))
        constant: dict[str, Value] = {}
        compute: Computed | None = None
        if callable(self._attributes):
            compute = computed(self._attributes, function, name)
        elif self._attributes is not None:
            constant = clean(self._attributes)
        return wrap(function, Site(name, constant, compute, self._expected, self._failed, self._span))

    def __enter__(self) -> Measure:
        if self._entered:
            raise RuntimeError(
                f"This clew.measure({self._name!r}) block has been entered before; a block is single-use: write "
                f"`with clew.measure({self._name!r}):` each time"
            )
        if self._name is None:
            raise TypeError('A block has no name of its own: write `with clew.measure("its name"):`')
        if callable(self._attributes) or self._failed is not None:
            given = "a callable for attributes" if callable(self._attributes) else "failed"
            raise TypeError(
                f"clew.measure({self._name!r}): {given} looks at a call, and a block has none; use m.set() and "
                "m.fail() inside it"
            )
        self._entered = True
        current = pipeline.current
        if current is not None:
            attributes = {} if self._attributes is None else clean(self._attributes)
            self._run = begin(current, self._name, attributes, key_of(attributes), self._expected, span=self._span)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._run is not None:
            self._run.end(error)
            self._run = None

    async def __aenter__(self) -> Measure:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def set(self, name: str, value: Any) -> None:
        """Set an attribute of this run that has few values: it goes to the metric, the span and the log line.

        Args:
            name: The attribute's name. ``operation.name``, ``error.type``, ``request_id`` and ``otel.*`` are reserved;
                a value for them is ignored, which is said once.
            value: `str`, `bool`, `int`, `float` or a sequence of one of these; anything else becomes its `str`.
        """
        self._tell("set", name, value)

    def note(self, name: str, value: Any) -> None:
        """Note a value of this run that may be any of many, such as an order's ID: to the span and the log line only.

        Names and values are those of `set`.
        """
        self._tell("note", name, value)

    def fail(self, reason: str = "_OTHER") -> None:
        """Tell that this run has failed without an exception; `reason` (few values) becomes its ``error.type``."""
        if self._run is not None:
            self._run.fail(reason)
        elif not self._entered:
            self._outside("fail")

    def _tell(self, what: str, name: str, value: Any) -> None:
        if self._run is None:
            if not self._entered:
                self._outside(what)
            return
        try:
            getattr(self._run, what)(name, value)
        except Exception as trouble:
            say_once(("tell", self._name), "clew.measure(%r): %s() failed: %s", self._name, what, trouble)

    def _outside(self, what: str) -> None:
        say_once(("outside", what), "clew.measure(%r).%s() was called outside its block; ignored", self._name, what)


class Site:
    """One decorated function: what is known of its operation before any call."""

    __slots__ = ("attributes", "compute", "expected", "failed", "key", "name", "span")

    def __init__(
        self,
        name: str,
        attributes: dict[str, Value],
        compute: Computed | None,
        expected: tuple[type[BaseException], ...],
        failed: Callable[[Any], object] | None,
        span: bool | None,
    ) -> None:
        self.name = name
        self.attributes = attributes
        self.key = key_of(attributes)
        self.compute = compute
        self.expected = expected
        self.failed = failed
        self.span = span


def checked_name(name: str) -> str:
    """Return `name` if it may name an operation: 1 to 255 printable characters; else raise a ValueError."""
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise ValueError(
            f"An operation's name has 1 to {LONGEST_NAME} printable characters, not {name[:80]!r} "
            f"({len(name)} characters)"
        )
    return name


def _qualified_name(function: Any) -> str:
    module = getattr(function, "__module__", None) or type(function).__module__
    name = getattr(function, "__qualname__", None)
    if name is None:  # a functools.partial, an object with __call__
        return (
            _qualified_name(function.func) if hasattr(function, "func") else f"{module}.{type(function).__qualname__}"
        )
    return f"{module}.{name}"


@overload
def measure(function: F, /) -> F: ...
@overload
def measure(function: M, /) -> M: ...
@overload
def measure(
    name: str | None = None,
    /,
    *,
    attributes: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
    expected: type[BaseException] | tuple[type[BaseException], ...] = (),
    failed: Callable[[Any], object] | None = None,
    span: bool | None = None,
) -> Measure: ...
def measure(
    name: Any = None,
    /,
    *,
    attributes: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
    expected: type[BaseException] | tuple[type[BaseException], ...] = (),
    failed: Callable[[Any], object] | None = None,
    span: bool | None = None,
) -> Any:
    """Measure an operation: ``@clew.measure``, ``@clew.measure("checkout")``, ``with clew.measure("charge") as m:``.

    Each run is recorded in the histogram ``operation.duration`` (seconds; attributes ``operation.name``, on failure
    ``error.type``, and the user's own) and counted, while it runs, in ``operation.active``. The result, the exception
    and the signature of what is measured stay as they are. Before `clew.configure()` nothing is recorded.

    Args:
        name: The operation's name, 1 to 255 printable characters; a decorated function's is ``module.qualname`` by
            default. Few different ones: it is an attribute.
        attributes: A mapping of attribute names to values (`str`, `bool`, `int`, `float` or sequences of one of these),
            or, as a decorator, a callable that returns one. The callable names those of the function's parameters that
            it wants; ``*args`` and ``**kwargs`` in it take what is left, without ``self``.
        expected: An exception type, or a tuple of them, that may leave without being a failure.
        failed: As a decorator: given the returned value it tells whether that is a failure; its `str` is the
            ``error.type``, `True` stands for ``_OTHER``.
        span: Whether each run also is a span; by default what ``CLEW_SPANS`` says.

    Raises:
        TypeError: An argument is of the wrong type, or the callable wants a parameter the function has not.
        ValueError: The name is empty, too long or not printable.
    """
    if name is not None and not isinstance(name, str):
        if callable(name) or isinstance(name, (staticmethod, classmethod)):
            return Measure(None, None, (), None, None)(name)
        raise TypeError(f"clew.measure takes an operation's name or a function, not {name!r}")
    if name is not None:
        checked_name(name)
    owner = "clew.measure" if name is None else f"clew.measure({name!r})"
    if attributes is not None and not callable(attributes) and not isinstance(attributes, Mapping):
        raise TypeError(f"{owner}: attributes takes a mapping or a callable, not {attributes!r}")
    if expected != ():
        expected = exception_types(expected, owner)
    if failed is not None and not callable(failed):
        raise TypeError(f"{owner}: failed takes a callable, not {failed!r}")
    return Measure(name, attributes, expected, failed, span)
