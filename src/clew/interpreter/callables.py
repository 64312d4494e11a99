"""What a decorator makes of a callable: one of the same kind, with the parameters and the globals of the function.

Frameworks look at what they are given: whether it is a function, a bound method, a `functools.partial` or an object,
what its ``__call__`` is, in whose globals its annotations stand. So a bound method is decorated as one, a partial as
one, and an object with ``__call__`` as an object, which is bound in a class where the original is.
"""

from __future__ import annotations

import functools
import inspect
import linecache
from collections.abc import Callable
from types import CodeType, FunctionType, MethodType
from typing import Any, cast

from clew.interpreter.untrusted import class_of

Function = Callable[..., Any]


def is_decorated(function: Any) -> bool:
    """Tell whether `function` is something that can be decorated: no class, and no property."""
    kind = class_of(function)
    if issubclass(kind, (staticmethod, classmethod, functools.partialmethod)):
        return True
    return callable(function) and not issubclass(kind, type)


def alike(function: Any, decorate: Callable[[Any], Any], decorator: Callable[[Any], Any]) -> Any:
    """Return a callable of the kind that `function` is, whose calls go through what `decorate` makes.

    Args:
        function: A function, a method, a partial, an object that can be called, or what becomes a method in a class.
        decorate: Takes a function, or a callable that is written in C, and returns a function.
        decorator: What an object is decorated by again when it is copied or unpickled.
    """
    if issubclass(type(function), (staticmethod, classmethod)):
        return type(function)(alike(function.__func__, decorate, decorator))
    kind = class_of(function)
    if kind is functools.partialmethod:
        return functools.partialmethod(alike(function.func, decorate, decorator), *function.args, **function.keywords)
    if kind is MethodType:
        return MethodType(alike(function.__func__, decorate, decorator), function.__self__)
    if kind is functools.partial:
        made = functools.partial(alike(function.func, decorate, decorator), *function.args, **function.keywords)
        return functools.update_wrapper(made, function)
    if kind is FunctionType or _is_function_like(function):
        return decorate(function)
    call = inspect.getattr_static(kind, "__call__", None)
    called = MethodType(decorate(call), function) if type(call) is FunctionType else decorate(function)
    base = _Descriptor if hasattr(kind, "__get__") else _Object
    members = {"__call__": staticmethod(called), "__doc__": getattr(function, "__doc__", None)}
    return type(kind.__name__, (base,), members)(function, decorator)


def is_coroutine_function(function: Any) -> bool:
    """Tell whether calling `function` runs nothing but makes a coroutine.

    A function that is only marked as one runs when it is called; what it returns is looked at then.
    """
    code = getattr(function, "__code__", None)
    return inspect.iscoroutinefunction(function) and bool(getattr(code, "co_flags", 0) & inspect.CO_COROUTINE)


def _is_function_like(function: Any) -> bool:
    """Tell whether `inspect` takes it for a function of a form that only functions have, as Cython's."""
    return (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    ) and isinstance(getattr(function, "__code__", None), CodeType)


class _Object:
    """Stands in for an object that can be called; attributes are read from that object, and set on it."""

    __wrapped__: Any

    def __init__(self, wrapped: Any, decorator: Callable[[Any], Any]) -> None:
        for name in ("__module__", "__name__", "__qualname__"):
            if hasattr(wrapped, name):
                object.__setattr__(self, name, getattr(wrapped, name))
        object.__setattr__(self, "__wrapped__", wrapped)
        object.__setattr__(self, "_clew_decorator", decorator)

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__wrapped__, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__wrapped__, name)

    def __reduce__(self) -> Any:
        return self._clew_decorator, (self.__wrapped__,)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)


class _Descriptor(_Object):
    """The same of an object that becomes a method in a class."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        wrapped = self.__wrapped__
        bound: Any = cast("Any", class_of(wrapped)).__get__(wrapped, instance, owner)
        if bound is wrapped:
            return self
        if class_of(bound) is MethodType and bound.__func__ is wrapped:
            return MethodType(cast("Any", self), bound.__self__)
        return self._clew_decorator(bound)


def as_of(function: Function, measured: Any) -> Function:
    """Return `measured`, which uses no globals, with all that `function` has: its globals too."""
    if isinstance(function, FunctionType):
        measured = FunctionType(measured.__code__, function.__globals__, measured.__name__, None, measured.__closure__)
    return functools.wraps(function)(measured)


_GLOBALS: dict[str, Any] = {"__name__": __name__}


def made_of(text: str, name: str) -> Callable[..., Any]:
    """Return the function ``make`` that `text` defines; `name` is what a traceback calls it."""
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name  # what a traceback shows
    made: dict[str, Any] = {}
    exec(compile(text, name, "exec"), _GLOBALS, made)
    return made["make"]  # type: ignore[no-any-return]


_COROUTINE = """\
def make(function, begin):
    async def call({parameters}):
        with begin():
            return await function({arguments})

    return call
"""


def within(function: Function, begin: Callable[[], Any]) -> Function:
    """Return a coroutine function like `function`, each of whose coroutines runs in a block of what `begin` makes."""
    names = Parameters(function) if isinstance(function, FunctionType) else None
    parameters, arguments = ("*args, **kwargs",) * 2 if names is None else (names.parameters, names.arguments)
    text = _COROUTINE.format(parameters=parameters, arguments=arguments)
    call = made_of(text, f"<clew.request async def {parameters}>")(function, begin)
    return as_of(function, call) if names is None else names.given_to(call)


class Parameters:
    """The parameters of a function, written out under names that are then replaced by its own.

    Attributes:
        parameters: As in its definition, without defaults.
        arguments: As in a call that hands them on.
        packed: The same as a tuple and a dictionary.
        takes_any: Whether it has ``*args`` or ``**kwargs``.
    """

    __slots__ = ("_by_keyword", "_function", "arguments", "packed", "parameters", "takes_any")

    def __init__(self, function: FunctionType) -> None:
        self._function = function
        code = function.__code__
        positional = [f"p{number}" for number in range(code.co_argcount)]
        self._by_keyword = by_keyword = tuple(f"k{number}" for number in range(code.co_kwonlyargcount))
        rest = ["*rest"] if code.co_flags & inspect.CO_VARARGS else []
        named = ["**named"] if code.co_flags & inspect.CO_VARKEYWORDS else []
        self.takes_any = bool(rest or named)
        self.parameters = ", ".join([*positional, *(rest or (["*"] if by_keyword else [])), *by_keyword, *named])
        self.arguments = ", ".join([*positional, *rest, *(f"{name}={name}" for name in by_keyword), *named])
        packed_by_keyword = ", ".join([*(f'"{name}": {name}' for name in by_keyword), *named])
        self.packed = f"({''.join(f'{name}, ' for name in [*positional, *rest])}), {{{packed_by_keyword}}}"

    def given_to(self, measured: Any) -> Function:
        """Return `measured`, which has the parameters written out, with the function's names and defaults for them."""
        measured.__code__ = self._named(measured.__code__)
        own = as_of(self._function, measured)
        own.__defaults__ = self._function.__defaults__
        own.__kwdefaults__ = self._function.__kwdefaults__
        return own

    def _named(self, code: CodeType) -> CodeType:
        """Return `code` with the function's names; all other names become such as no parameter can have."""
        of, by_keyword = self._function.__code__, self._by_keyword
        flags = code.co_flags
        number = code.co_argcount + code.co_kwonlyargcount
        number += bool(flags & inspect.CO_VARARGS) + bool(flags & inspect.CO_VARKEYWORDS)
        names = of.co_varnames[:number]
        own = dict(zip(by_keyword, names[code.co_argcount :], strict=False))

        def renamed(constant: Any) -> Any:
            if class_of(constant) is tuple:
                return tuple([renamed(item) for item in constant])
            return own.get(constant, constant) if isinstance(constant, str) else constant

        return code.replace(
            co_posonlyargcount=of.co_posonlyargcount,
            co_varnames=(*names, *(f".{name}" for name in code.co_varnames[number:])),
            co_freevars=tuple(f".{name}" for name in code.co_freevars),
            co_consts=tuple(renamed(constant) for constant in code.co_consts),
        )
