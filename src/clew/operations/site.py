"""What is known of a decorated function before any call, and where its binding to the current pipeline is kept."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any

from clew.attributes import Computed, Value, key_of
from clew.failures import Checked
from clew.interpreter.weak import WeakCollection
from clew.operations import pipeline
from clew.operations.pipeline import Pipeline


class Site:
    """One decorated function: what is known of its operation before any call, and where its binding is kept."""

    __slots__ = (
        "__weakref__",
        "_cell",
        "_holder",
        "attributes",
        "compute",
        "expected",
        "failed",
        "key",
        "name",
        "span",
        "tried",
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
        self.tried: Pipeline | None = None
        """The pipeline that the function was bound to, or could not be."""
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

    def is_to_bind(self, current: Pipeline) -> bool:
        """Tell whether a binding to this pipeline can be kept, and was not tried before."""
        return current is not self.tried and self._cell is not None

    def set_binding(self, binding: Any) -> None:
        """Let the calls take the fast path over this binding; the slow path where it is None."""
        self._cell.cell_contents = binding

    def remember_class(self, result: object) -> None:
        """Remember the class of what a call has returned that took the slow path."""
        binding = None if self._cell is None else self._cell.cell_contents
        if binding is not None:
            binding.returned = type(result)

    def unbind(self) -> None:
        """Let go of the pipeline."""
        self.tried = None
        if self._cell is not None:
            self._cell.cell_contents = None


sites: WeakCollection[Site] = WeakCollection()
"""All the functions that are measured, called or not."""
