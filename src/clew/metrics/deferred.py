"""What could not be recorded when it ended, since the stack had no room left: it is recorded a little later.

At the recursion limit nothing can be called any more but what is built in. So the end of a run is put into a list
there, and whoever comes with more room (a collection, the next run) records it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clew.diagnostics import report_failure

owed: list[tuple[Any, ...]] = []
"""What has been put off."""

owe: Callable[[tuple[Any, ...]], None] = owed.append
"""Puts off a call: a tuple of what is to be called and its arguments."""


def settle() -> None:
    """Make the calls that were put off."""
    while owed:
        try:
            call, *arguments = one = owed[-1]
            del owed[-1]  # no call, after which another thread may settle, or the handler of a signal may raise
        except IndexError:  # somebody else settles too
            return
        try:
            call(*arguments)
        except RecursionError:
            owe(one)
            return
        except Exception as trouble:
            report_failure("operation.not_recorded", trouble, "A run could not be recorded")
