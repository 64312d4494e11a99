"""What is to happen when a module is imported: something right after it, or other code in its place.

One finder at the front of `sys.meta_path` looks at the names of modules. For those that have a callback or other code
it finds the spec as the finders behind it do, and gives that a copy of the loader, of the same class and with one
method changed: the module, its spec and its loader look as they would without us.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

from clew.diagnostics import warn_once
from clew.interpreter.locks import renew_in_child

Callback = Callable[[ModuleType], None]

MakeCode = Callable[[str, Any], CodeType | None]
"""Makes the code of a module, given its name and its loader; None for the loader's own."""


def after_import(name: str, callback: Callback) -> None:
    """Call `callback` with the module of that name when its code has run, or now if it is imported already.

    What it raises is logged once and goes no further. When the module is reloaded, it is called again.
    """
    _callbacks.setdefault(name, []).append(callback)
    _install()
    module = imported(name)
    if module is not None:
        _call(name, module, callback)
    elif name in sys.modules and name not in _followed:  # its import had begun before
        _late.append((name, callback))


def imported(name: str) -> Any:
    """Return the module of that name, or None where it is not imported yet.

    One that is being imported now, by another thread or by the code that this one interrupts, is not imported yet.
    """
    module = sys.modules.get(name)
    if module is None or getattr(getattr(module, "__spec__", None), "_initializing", False):
        return None
    return module


def make_code_of(name: str, make: MakeCode | None) -> None:
    """Have `make` make the code of the module of that name from now on, or its loader again where it is None."""
    if make is None:
        _makers.pop(name, None)
    else:
        _makers[name] = make
        _install()


_installing = threading.RLock()
renew_in_child(globals(), "_installing")
_callbacks: dict[str, list[Callback]] = {}
_makers: dict[str, MakeCode] = {}
_followed: set[str] = set()
"""The names whose import calls the callbacks."""

_late: list[tuple[str, Callback]] = []
"""Callbacks for modules whose import had begun before; called when another module is looked for after that."""


def _install() -> None:
    with _installing:
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)


class _Finder:
    """Asks the finders behind it, and changes what they have found for names that have a callback or other code."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if _late:
            _call_late()
        callbacks, make = _callbacks.get(name), _makers.get(name)
        if callbacks is None and make is None:
            return None
        spec = self._found_behind(name, path, target)
        if spec is not None and spec.loader is not None:
            try:
                if make is not None:
                    spec.loader = _with_code(spec.loader, make)
                if callbacks is not None:
                    spec.loader = _with_callbacks(spec.loader, name, callbacks)
                    _followed.add(name)
            except Exception as error:
                warn_once(
                    ("import", name), "The import of %s cannot be followed: %s: %s", name, type(error).__name__, error
                )
        return spec

    def _found_behind(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        finders: list[Any] = list(sys.meta_path)
        for finder in finders[finders.index(self) + 1 :] if self in finders else finders:
            find: Any = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                return spec
        return None


_finder: Any = _Finder()


def _copied(loader: Any) -> Any:
    # what loads built-in modules is a class, which all of them share
    return type(loader.__name__, (loader,), {}) if isinstance(loader, type) else copy.copy(loader)


def _with_code(loader: Any, make: MakeCode) -> Any:
    def get_code(name: str) -> CodeType | None:
        code = make(name, loader)
        return loader.get_code(name) if code is None else code

    changed = _copied(loader)
    changed.get_code = get_code
    return changed


def _with_callbacks(loader: Any, name: str, callbacks: list[Callback]) -> Any:
    execute: Callback = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        if module.__name__ == name:
            for callback in list(callbacks):
                _call(name, module, callback)

    changed = _copied(loader)
    changed.exec_module = exec_module
    return changed


def _call_late() -> None:
    for late in list(_late):
        module = imported(late[0])
        if module is not None or late[0] not in sys.modules:
            with suppress(ValueError):  # another thread was quicker
                _late.remove(late)
                if module is not None:
                    _call(late[0], module, late[1])


def _call(name: str, module: ModuleType, callback: Callback) -> None:
    try:
        callback(module)
    except Exception as error:
        warn_once(
            ("after import", name, type(error).__name__),
            "What was to happen after the import of %s failed: %s: %s",
            name,
            type(error).__name__,
            error,
        )
