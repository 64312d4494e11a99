"""The console that answers are written on, its lines, and the text of senders made harmless to a terminal."""

from __future__ import annotations

import io
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

_LONGEST = 2000  # characters of one text that are shown


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line to end in silence, where rich would exit with status 1."""
        raise BrokenPipeError


def console() -> Console:
    """Return a console on standard output; where that is no terminal, 80 columns without colours.

    What the encoding of standard output does not have is written as a question mark.
    """
    output: Any = sys.stdout
    if isinstance(output, io.TextIOWrapper):
        output.reconfigure(errors="replace")
    return _Console(highlight=False)


def print_line(console: Console, text: Text) -> None:
    """Print one line as it is: what is wider than the terminal is left to the terminal, nothing is cut."""
    console.print(text, soft_wrap=True, highlight=False)


def printable(text: str, most: int = _LONGEST) -> str:
    """Return a sender's text without what would steer the terminal, cut to `most` characters."""
    shown = "".join(
        character if character.isprintable() else "⏎" if character == "\n" else "�" for character in text[:most]
    )
    return shown if len(text) <= most else f"{shown}… ({len(text):,} characters; --format json has all)"
