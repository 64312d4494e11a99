"""What could not be recorded when it ended, since the stack had no room left: it is recorded a little later.

At the recursion limit nothing can be called any more but what is built in. So the end of a run is put into a list
there, and the next run or collection, which has more room, records it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clew.diagnostics import report_failure

deferred: list[tuple[Any, ...]] = []
"""The calls that are deferred."""

defer: Callable[[tuple[Any, ...]], None] = deferred.append
"""Defers a call: takes a tuple of what is to be called and its arguments."""


def run_deferred() -> None:
    """Make the calls that were deferred."""
    while deferred:
        try:
            call, *arguments = one = deferred[-1]
            del deferred[-1]  # no method: after a call another thread may take it too, or a signal's handler raise
        except IndexError:  # another thread has taken it
            return
        try:
            call(*arguments)
        except RecursionError:
            defer(one)
            return
        except Exception as error:
            report_failure("operation.not_recorded", error, "A run could not be recorded")
