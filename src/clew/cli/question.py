"""What the commands that ask a question share: the source that they ask, and what they say of its answers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from clew.cli.output import UNREACHABLE, say

if TYPE_CHECKING:
    from clew.answers.questions.operations import Operation
    from clew.answers.source import Source

Question = Callable[[argparse.Namespace, "Source"], int]
"""A command's own part: asks a source, prints the answer, and returns the exit status."""


def ask(chosen: argparse.Namespace, question: Question) -> int:
    """Ask the source that was chosen and return the exit status; the message of a source that fails is printed."""
    from clew.answers.source import SourceError

    try:
        source = _opened(chosen)
        try:
            return question(chosen, source)
        finally:
            source.close()
    except SourceError as error:
        return say(str(error), UNREACHABLE)


def warn_of_mixed_writers(operations: Iterable[Operation]) -> None:
    """Warn of operations of which too many calls are counted."""
    names = sorted(f"{one.name} of {one.service or '(no service.name)'}" for one in operations)
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        say(
            f"too many calls are counted of {', '.join(names[:5])}{more}: their counts fall and come back, as if "
            "several processes sent as one. Give each its own service.instance.id, or its own start time",
        )


def _opened(chosen: argparse.Namespace) -> Source:
    from clew.local.source import LocalSource

    return LocalSource(chosen.store)
