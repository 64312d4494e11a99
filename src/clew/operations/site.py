"""What is known of a measured function before any call, and its binding to the current pipeline."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any

from clew.attributes import Computed, Value, key_of
from clew.diagnostics import warn_once
from clew.failures import Checked
from clew.interpreter import forks
from clew.interpreter.interruptions import let_through
from clew.interpreter.weak import WeakCollection
from clew.operations import pipeline


class Site:
    """One decorated function: what is known of its operation before any call, and where its binding is kept."""

    __slots__ = (
        "__weakref__",
        "_asked",
        "_cell",
        "_holder",
        "attributes",
        "compute",
        "expected",
        "failed",
        "key",
        "name",
        "span",
    )

    def __init__(
        self,
        name: str,
        attributes: dict[str, Value],
        compute: Computed | None,
        expected: Checked,
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
        self._asked: pipeline.Pipeline | None = None
        self._cell: Any = None
        self._holder: weakref.ref[FunctionType] | None = None
        sites.add(self)

    def keep_binding_in(self, holder: Any) -> None:
        """Put each new binding, or None, into the variable ``binding`` of the closure of this function."""
        names = [name.lstrip(".") for name in holder.__code__.co_freevars]
        self._cell = holder.__closure__[names.index("binding")]
        self._holder = weakref.ref(holder)  # for cloudpickle and others that pickle closures
        pipeline.bound.add(self)

    def __reduce__(self) -> Any:
        given = (self.name, self.attributes, self.compute, self.expected, self.failed, self.span)
        return Site, given, None if self._holder is None else self._holder()

    def __setstate__(self, holder: Any) -> None:
        self.keep_binding_in(holder)

    def bind(self) -> None:
        """Bind the function to the current pipeline, if it has a fast path for it."""
        forks.notice()
        current = pipeline.current
        if current is None or current is self._asked or self._cell is None:
            return
        from clew.operations.bindings import bind_site  # only where there is something to bind to

        self._asked = current
        try:
            self._cell.cell_contents = None if current.tracks_requests else bind_site(self, current)
        except BaseException as trouble:
            self._asked = None
            let_through(trouble)
            self._asked = current
            warn_once(("binding", self.name), "%s is measured on the slow path: %s", self.name, trouble)
        if current is not pipeline.current:  # it has changed meanwhile
            self.cut()

    def remember_class(self, result: object) -> None:
        """Remember the class of what a call has returned that took the slow path."""
        binding = None if self._cell is None else self._cell.cell_contents
        if binding is not None:
            binding.returned = type(result)

    def cut(self) -> None:
        """Let go of the pipeline."""
        self._asked = None
        if self._cell is not None:
            self._cell.cell_contents = None


sites: WeakCollection[Site] = WeakCollection()
"""All the functions that are measured, called or not."""
