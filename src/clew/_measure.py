"""`clew.measure`: how long a function or a block takes, how often it runs, and how often it fails."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter as clock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast, overload

from clew.attributes import Computed, Value, clean_given, key_of
from clew.diagnostics import report_failure, warn_once
from clew.failures import Checked, Expectation, expectation
from clew.interpreter import forks
from clew.interpreter.callables import alike, is_decorated
from clew.interpreter.coroutines import DONE
from clew.interpreter.interruptions import begins_at_once, let_through
from clew.metrics.deferred import defer
from clew.operations import pipeline
from clew.operations.bind import bind_block
from clew.operations.names import checked_name, checked_names, qualified_name
from clew.operations.run import Run, begin_run
from clew.operations.site import Site
from clew.operations.wrappers import wrap

if TYPE_CHECKING:
    from clew.operations.bindings import Binding, BlockBinding

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound="classmethod[Any, Any, Any]")

Attributes = Mapping[str, Any] | Callable[..., Mapping[str, Any]]

_NO_EXCEPTIONS: tuple[type[BaseException], ...] = ()


class Measure:
    """What `clew.measure(…)` makes: a decorator for any number of functions, or one block.

    As a decorator it is shared by all calls, recursions and threads. As a block (``with``, ``async with``) it is
    single-use, like the managers of `contextlib`.
    """

    __slots__ = ("_binding", "_name", "_run", "_started")

    _binding: Binding | BlockBinding | None
    _run: Run | None
    _started: Any  # by `perf_counter`, 0 where the run knows; None before the block

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._binding = None
        self._started = None

    @overload
    def __call__(self, function: F, /) -> F: ...
    @overload
    def __call__(self, function: M, /) -> M: ...
    def __call__(self, function: Any, /) -> Any:
        """Decorate a function, coroutine function, generator function, method, classmethod or staticmethod."""
        return self._decorate(function, None, (), None, None)

    def _decorate(
        self,
        function: Any,
        attributes: Attributes | None,
        expected: Checked,
        failed: Callable[[Any], object] | None,
        span: bool | None,
    ) -> Any:
        if not is_decorated(function):
            raise TypeError(f"clew.measure decorates functions and methods, not {function!r}")
        name = self._name or checked_name(qualified_name(function))

        def decorate(called: Any) -> Any:
            constant: dict[str, Value] = {}
            compute: Computed | None = None
            if callable(attributes):
                compute = Computed(attributes, called, name)
            elif attributes is not None:
                constant = clean_given(attributes, name)
            return wrap(called, Site(name, constant, compute, expected, failed, span))

        return alike(function, decorate, self)

    def __reduce__(self) -> Any:
        return Measure, (self._name,)

    def __enter__(self) -> Measure:
        binding = self._binding
        if binding is None or self._started is not None or binding.operation.pipeline is not pipeline.current:
            if pipeline.current is None and self._started is None and self._name is not None:
                self._started = 0
                self._binding = self._run = None
            else:
                self._enter_on_slow_path()
            return self
        self._started = clock()
        binding.local.shard.started += 1  # last, since what a signal's handler raises before leaves nothing begun
        return self

    def _enter_on_slow_path(self) -> None:
        """Enter a block that was made before there was a binding for its name, or under another pipeline."""
        if self._started is not None:
            self._refuse_again()
        forks.notice()
        current = pipeline.current
        name = self._name
        binding = None if current is None or name is None else current.block_bindings.get(name)
        if binding is not None:
            self._binding = binding
            self._started = clock()
            binding.local.shard.started += 1
            return
        self._begin(current, None, (), None)
        if current is not None and name is not None and name not in current.block_bindings:
            bind_block(name, current)

    def _begin(
        self,
        current: pipeline.Pipeline | None,
        attributes: Mapping[str, Any] | None,
        expected: Checked,
        span: bool | None,
    ) -> None:
        if self._name is None:
            raise TypeError('A block has no name of its own: write `with clew.measure("its name"):`')
        self._started = 0
        self._binding = self._run = None
        if current is not None:
            cleaned = {} if attributes is None else clean_given(attributes, self._name)
            self._run = begin_run(current, self._name, cleaned, key_of(cleaned), expected, span=span)

    def _refuse_again(self) -> NoReturn:
        raise RuntimeError(
            f"This clew.measure({self._name!r}) block has been entered before; a block is single-use: write "
            f"`with clew.measure({self._name!r}):` each time"
        )

    @begins_at_once
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            binding = self._binding
            if binding is None:
                if self._run is not None:
                    self._run.end(error)
                    self._run = None
                return
            seconds: float = clock() - self._started
            shard = binding.local.shard  # asked again, since a block may end in another thread
            if error is not None:
                self._binding = self._run = None
                try:
                    binding.end(shard, seconds, error)
                except RecursionError:  # no room on the stack
                    defer((binding.end_later, shard, seconds, type(error)))
                return
            index = bisect_left(shard.bounds, seconds)  # from here a copy of `Series.add`, which saves a call
            self._binding = self._run = None
            shard.counts[index] += 1
            shard.total += seconds
            interval = shard.interval
            if seconds < interval.min:
                interval.min = seconds
            if seconds > interval.max:
                interval.max = seconds
            if seconds >= interval.thresholds[index]:
                shard.series.layout.offer(interval, index, seconds, None)
        except BaseException as raised:
            binding, ended = self._binding, clock()
            run = self._run if binding is None else None
            self._binding = self._run = None
            if binding is not None:
                defer((_end_later, binding, ended - self._started, None if error is None else type(error)))
            elif run is not None and (run.is_under_way or type(raised) is RecursionError):
                defer((run.end_later, ended, None if error is None else type(error)))
            if type(raised) is not RecursionError:  # for which there is room to be looked at
                let_through(raised)

    async def __aenter__(self) -> Measure:
        return self.__enter__()

    @begins_at_once
    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Awaitable[None]:
        self.__exit__(kind, error, traceback)  # not once it is awaited: a coroutine may be dropped before it begins
        return DONE

    def set(self, name: str, value: Any) -> None:
        """Set an attribute of this run that has few values: it goes to the metric, the span and the log line.

        Args:
            name: The attribute's name. ``operation.name``, ``error.type``, ``request_id`` and ``otel.*`` are reserved;
                a value for one of them is ignored, with one warning.
            value: `str`, `bool`, `int`, `float` or a sequence of one of these; anything else becomes its `str`.
        """
        binding = self._binding if self._started is not None else None
        if binding is None:
            self._call_run("set", name, value)
            return
        try:
            self._binding = binding.with_attribute(name, value)
        except Exception as error:
            self._report_failure("set", error)

    def note(self, name: str, value: Any) -> None:
        """Note a value of this run that may be any of many, such as an order's ID: to the span and the log line only.

        Names and values are those of `set`.
        """
        self._call_run("note", name, value)

    def fail(self, reason: str = "_OTHER") -> None:
        """Mark this run as failed without an exception; `reason` (few values) becomes its ``error.type``."""
        self._call_run("fail", reason)

    def _call_run(self, method: str, *args: Any) -> None:
        """Call a method of the run; where the block is on the fast path, a run takes over from its binding."""
        try:
            if self._started is None:
                warn_once(("outside", method), "clew.measure(%r).%s() was called outside its block", self._name, method)
                return
            binding = self._binding
            if binding is not None:
                assert self._name is not None
                attributes = dict(sorted(binding.attributes.items()))
                key = key_of(attributes)
                run = Run(
                    binding.operation.pipeline, self._name, attributes, key, (), span=False, started=self._started
                )
                self._run, self._binding, run.is_under_way = run, None, True  # at once, whatever interrupts
            if self._run is not None:
                getattr(self._run, method)(*args)
        except Exception as error:
            self._report_failure(method, error)

    def _report_failure(self, method: str, error: Exception) -> None:
        about = "call", self._name
        report_failure("attribute.ignored", error, "clew.measure(%r).%s() failed", self._name, method, about=about)


_new = object.__new__


def _end_later(binding: Binding | BlockBinding, seconds: float, kind: type[BaseException] | None) -> None:
    binding.end_later(binding.local.shard, seconds, kind)


class _MeasureWithOptions(Measure):
    """What `clew.measure` makes where it is given more than a name."""

    __slots__ = ("_attributes", "_expected", "_failed", "_span")

    def __init__(
        self,
        name: str | None,
        attributes: Attributes | None,
        expected: Checked,
        failed: Callable[[Any], object] | None,
        span: bool | None,
    ) -> None:
        super().__init__(name)
        self._attributes = attributes
        self._expected = expected
        self._failed = failed
        self._span = span

    def __call__(self, function: Any, /) -> Any:
        return self._decorate(function, self._attributes, self._expected, self._failed, self._span)

    def __reduce__(self) -> Any:
        return _MeasureWithOptions, (self._name, self._attributes, self._expected, self._failed, self._span)

    def __enter__(self) -> Measure:
        if self._started is not None:
            self._refuse_again()
        attributes = self._attributes
        if callable(attributes) or self._failed is not None:
            given = "failed" if self._failed is not None else "a callable for attributes"
            raise TypeError(
                f"clew.measure({self._name!r}): {given} looks at a call, and a block has none; use m.set() and "
                "m.fail() inside it"
            )
        self._begin(pipeline.current, attributes, self._expected, self._span)
        return self


@overload
def measure(function: F, /) -> F: ...
@overload
def measure(function: M, /) -> M: ...
@overload
def measure(
    name: str | None = None,
    /,
    *,
    attributes: Attributes | None = None,
    expected: Expectation = (),
    failed: Callable[[Any], object] | None = None,
    span: bool | None = None,
) -> Measure: ...
def measure(
    name: Any = None,
    /,
    attributes: Attributes | None = None,
    expected: Expectation = _NO_EXCEPTIONS,
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
        expected: An exception type, or a tuple of them, that may leave without being a failure; or a callable that
            gets the exception and tells whether it is expected. Where that raises, the exception is a failure.
        failed: As a decorator, a callable that gets the returned value and tells whether that is a failure; what it
            returns is the ``error.type`` as a `str`, `True` stands for ``_OTHER``.
        span: Whether each run also is a span; by default what ``CLEW_SPANS`` says.

    Raises:
        TypeError: An argument is of the wrong type, there is a function and something else, or the callable wants a
            parameter that the function does not have.
        ValueError: The name is empty, too long or not printable.
    """
    plain = attributes is None and expected is _NO_EXCEPTIONS and failed is None and span is None
    if plain and type(name) is str:
        current = pipeline.current
        binding = None if current is None else current.block_bindings.get(name)
        if binding is not None or name in checked_names:
            made = _new(Measure)  # without __init__, which costs a block 50 ns
            made._name = name  # pyright: ignore[reportPrivateUsage]
            made._binding = binding  # pyright: ignore[reportPrivateUsage]
            made._started = None  # pyright: ignore[reportPrivateUsage]
            return made
    if name is not None and not issubclass(type(name), str):  # a proxy only passes for one
        if is_decorated(name) or callable(name):
            if not plain:
                raise TypeError(f"clew.measure takes {name!r} alone; with more, write @clew.measure(…) above it")
            return Measure(None)(cast("Any", name))
        raise TypeError(f"clew.measure takes an operation's name or a function, not {name!r}")
    if name is not None:
        name = checked_name(str.__str__(name))
    owner = "clew.measure" if name is None else f"clew.measure({name!r})"
    if attributes is not None and not callable(attributes) and not isinstance(attributes, Mapping):
        raise TypeError(f"{owner}: attributes takes a mapping or a callable, not {attributes!r}")
    checked = expectation(expected, owner)
    if failed is not None and not callable(failed):
        raise TypeError(f"{owner}: failed takes a callable, not {failed!r}")
    if span is not None and not isinstance(span, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{owner}: span takes True, False or None, not {span!r}")
    if plain:
        return Measure(name)
    return _MeasureWithOptions(name, attributes, checked, failed, span)
