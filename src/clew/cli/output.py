"""What a command leaves: an exit status, words on standard error, JSON on standard output."""

from __future__ import annotations

import sys
from typing import Any

ANSWERED, NOTHING_FOUND, WRONG_USE, UNREACHABLE = 0, 1, 2, 3
"""The exit statuses of every command but `clew run`, which has its program's."""


def say(message: str, status: int = ANSWERED) -> int:
    """Print a message on standard error, without what would steer the terminal, and return the exit status."""
    shown = "".join(character if character.isprintable() or character == "\n" else "�" for character in message)
    print(f"clew: {shown}", file=sys.stderr, flush=True)
    return status


def print_json(answer: dict[str, Any]) -> None:
    """Print what an answer's `as_json` gave on standard output."""
    from clew.answers.json_format import as_text

    sys.stdout.write(as_text(answer))
    sys.stdout.flush()
