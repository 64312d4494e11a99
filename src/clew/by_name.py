"""``CLEW_MEASURE``: functions that are measured by their names, without a change in their code.

`clew.measure` is added as the innermost decorator when a module is compiled, so that what a framework registers at
import (views, tasks, tables of handlers) is measured too. The lines stay where they are, and nothing is written to the
interpreter's cache of compiled modules.

Not covered are modules that are imported already, ``__main__``, what has no source in Python, properties, and functions
that are made at run time.
"""

from __future__ import annotations

import ast
import atexit
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any

from clew import imports, lifetime
from clew._measure import measure
from clew.diagnostics import warn_once

ALL = "*"
"""Instead of a name: the public functions and methods that are defined in a module."""

_PROPERTIES = frozenset({"property", "cached_property", "setter", "getter", "deleter", "abstractproperty"})
_ONLY_TYPED = "overload"
_MEASURED = "measure"


class _Module:
    """A module, the names in it that are to be measured, and whether it has been seen."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wanted: set[str] = set()
        self.is_seen = False

    def make_code(self, name: str, loader: Any) -> CodeType | None:
        """Compile the module with the decorator on what is wanted; None where it has no source or does not compile."""
        self.is_seen = True
        try:
            source: str | None = loader.get_source(name) if hasattr(loader, "get_source") else None
            if source is None:
                self._warn("has no source in Python, so nothing in it is measured")
                return None
            path = str(loader.get_filename(name))
            tree = ast.parse(source, path)
            missing = self.wanted - set(_decorated(tree.body, self.wanted))
            code: CodeType = compile(tree, path, "exec", dont_inherit=True)
        except Exception:  # the loader itself then raises what is wrong with the module
            return None
        if missing:
            self._warn(
                "defines no function or method that could be measured by the name "
                + ", ".join(sorted(missing))
                + ": a property, what is made at run time or comes from another module is none"
            )
        return code

    def check_imported(self) -> None:
        """Warn where it is too late for this module."""
        if self.name == "__main__":
            self._warn("is the program itself, where nothing can be measured by name")
        elif self.name in sys.modules and not self.is_seen:
            self.is_seen = True
            self._warn("is imported already, so nothing in it is measured: that is settled when it is compiled")

    def check_at_exit(self) -> None:
        """Warn where the module was never imported, in a process that uses its package or has no such package."""
        package = self.name.partition(".")[0]
        if not self.is_seen and (package in sys.modules or _cannot_be_found(package)):
            self._warn("was never imported, so nothing in it was measured")

    def _warn(self, what: str) -> None:
        warn_once(("CLEW_MEASURE", self.name, what), "CLEW_MEASURE: %s %s", self.name, what)


_modules: dict[str, _Module] = {}
_operations: set[str] = set()
_is_checked_at_exit = False


def measure_by_name(names: Iterable[str]) -> None:
    """Measure the functions of these names, such as ``shop.orders:*``, in modules that are imported from now on.

    The names of an earlier call no longer count, but what they have decorated stays decorated.
    """
    global _is_checked_at_exit
    wanted: dict[str, set[str]] = {}
    for item in names:
        name, _, function = item.partition(":")
        wanted.setdefault(name, set()).add(function)
    for name in _modules.keys() - wanted.keys():
        imports.make_code_of(name, None)
        del _modules[name]
    for name, functions in wanted.items():
        module = _modules.setdefault(name, _Module(name))
        module.wanted = functions
        module.check_imported()
        imports.make_code_of(name, module.make_code)
    if wanted and not _is_checked_at_exit:
        _is_checked_at_exit = True
        atexit.register(_check_at_exit)
        lifetime.before_sigterm(_check_at_exit)


def measured(function: Any) -> Any:
    """Decorate a function as `clew.measure` does; return it as it is if that fails, or if it is of ``__main__``."""
    if getattr(function, "__module__", None) == "__main__":
        return function
    try:
        repeats = _repeats()
        wrapper = measure(expected=repeats)(function) if repeats else measure(function)
        _operations.add(f"{function.__module__}.{function.__qualname__}")
        return wrapper
    except Exception as error:
        warn_once(("CLEW_MEASURE", str(function)), "CLEW_MEASURE: %r is not measured: %s", function, error)
        return function


def measures(operation: str) -> bool:
    """Tell whether a function has been decorated that is measured under this name."""
    return operation in _operations


def _repeats() -> tuple[type[BaseException], ...]:
    """Return the exceptions by which a Celery task tells what happens to it next, which are no failures."""
    celery = sys.modules.get("celery.exceptions")
    names = ("Retry", "Ignore", "Reject")
    return tuple(getattr(celery, name) for name in names if hasattr(celery, name))


def _check_at_exit() -> None:
    for module in _modules.values():
        module.check_at_exit()


def _cannot_be_found(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is None
    except Exception:
        return False


def _decorated(statements: Iterable[ast.stmt], wanted: set[str], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Add the decorator to each function that is wanted, and yield the name by which it is."""
    for statement in statements:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names = {_called(decorator) for decorator in statement.decorator_list}
            found = _wanted_by((*path, statement.name), wanted)
            if found is not None and names.isdisjoint(_PROPERTIES) and _ONLY_TYPED not in names:
                if _MEASURED not in names:
                    statement.decorator_list.append(_decorator(statement))
                yield found
        elif isinstance(statement, ast.ClassDef):
            yield from _decorated(statement.body, wanted, (*path, statement.name))
        else:
            yield from _decorated(_inside(statement), wanted, path)


def _inside(statement: ast.AST) -> Iterator[ast.stmt]:
    """Find the statements within one that is no function or class: the branches of an ``if``, a ``try`` and others."""
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.stmt):
            yield child
        elif isinstance(child, (ast.ExceptHandler, ast.match_case)):
            yield from child.body


def _wanted_by(path: tuple[str, ...], wanted: set[str]) -> str | None:
    """Return which of the names asks for the function: its own, its class's, or the one for all."""
    for length in range(len(path), 0, -1):
        name = ".".join(path[:length])
        if name in wanted and _are_public(path[length:]):
            return name
    return ALL if ALL in wanted and _are_public(path) else None


def _are_public(names: Iterable[str]) -> bool:
    return not any(name.startswith("_") for name in names)


def _called(decorator: ast.expr) -> str:
    """Return the last part of a decorator's name, without its arguments."""
    if isinstance(decorator, ast.Call):
        decorator = decorator.func
    if isinstance(decorator, ast.Attribute):
        return decorator.attr
    return decorator.id if isinstance(decorator, ast.Name) else ""


def _decorator(function: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.expr:
    """Return an expression for `measured` that needs no name in the module, placed where the function begins."""
    expression = ast.parse("__import__('clew.by_name', None, None, ('measured',)).measured", mode="eval").body
    for node in ast.walk(expression):
        ast.copy_location(node, function)
        if isinstance(node, ast.expr):
            node.end_lineno, node.end_col_offset = function.lineno, function.col_offset
    return expression
