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
    """One decorated function: what is known of its operation before any call, and its link to the current pipeline."""

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

    def on_link(self, holder: Any) -> None:
        """Put each new link, and None when that is cut, into the variable ``link`` of the closure of a function."""
        names = [name.lstrip(".") for name in holder.__code__.co_freevars]
        self._cell = holder.__closure__[names.index("link")]
        self._holder = weakref.ref(holder)  # for whoever pickles it, such as cloudpickle
        pipeline.linked.add(self)

    def __reduce__(self) -> Any:
        given = (self.name, self.attributes, self.compute, self.expected, self.failed, self.span)
        return Site, given, None if self._holder is None else self._holder()

    def __setstate__(self, holder: Any) -> None:
        self.on_link(holder)

    def make_link(self) -> None:
        """Binding to the current pipeline if it has a short way for this function."""
        forks.notice()
        current = pipeline.current
        if current is None or current is self._asked or self._cell is None:
            return
        from clew.operations.bindings import bind_site  # only where there is something to link to

        self._asked = current
        try:
            self._cell.cell_contents = None if current.follows_requests else bind_site(self, current)
        except BaseException as trouble:
            self._asked = None
            let_through(trouble)
            self._asked = current
            warn_once(("link", self.name), "%s is measured the long way: %s", self.name, trouble)
        if current is not pipeline.current:  # it has changed meanwhile
            self.cut()

    def saw(self, result: object) -> None:
        """Tell the link what class a call has returned that went the long way."""
        link = None if self._cell is None else self._cell.cell_contents
        if link is not None:
            link.returned = type(result)

    def cut(self) -> None:
        """Let go of the pipeline."""
        self._asked = None
        if self._cell is not None:
            self._cell.cell_contents = None


sites: WeakCollection[Site] = WeakCollection()
"""All the functions that are measured, called or not."""
