"""Arguments that several commands have, and how durations, sizes, numbers and ports are written."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

Commands = argparse._SubParsersAction  # pyright: ignore[reportPrivateUsage]

_STORE = Path("clew.sqlite")
_DURATIONS = {"ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_LONGEST = 100 * 366 * 86400  # seconds


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add ``--store``, the file of the local store."""
    parser.add_argument(
        "--store",
        type=Path,
        default=_STORE,
        metavar="FILE",
        help="the SQLite file (default: %(default)s in this folder)",
    )


def add_question(parser: argparse.ArgumentParser) -> None:
    """Add what every question has: where it is asked, and the format of its answer."""
    add_store(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="(default: text)")


def add_window(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--window``, in seconds once it is parsed."""
    parser.add_argument(
        "--window", type=duration, default=default, metavar="TIME", help=f"length of the window (default: {default})"
    )


def add_most(parser: argparse.ArgumentParser, name: str, default: int, what: str) -> None:
    """Add an option that says how many of `what` the text shows."""
    parser.add_argument(
        name, type=number, default=default, metavar="N", help=f"how many {what} (default: {default}); JSON has all"
    )


def duration(text: str) -> float:
    """Parse a length of time like ``30s`` into seconds."""
    found = re.fullmatch(rf"({_NUMBER})(ms|s|min|m|h|d|w)", text.strip())
    seconds = float(found[1]) * _DURATIONS[found[2]] if found else 0.0
    if not 0 < seconds <= _LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time; allowed are numbers with ms, s, m, h, d or w, like 30s or 24h"
        )
    return seconds


def size(text: str) -> int:
    """Parse a size of the store like ``500MB`` into bytes."""
    from clew.local.retention import SMALLEST

    found = re.fullmatch(rf"({_NUMBER})\s*([KMG]?I?B|)", text.strip().upper())
    bytes_ = float(found[1]) * _SIZES.get(found[2], 0) if found else 0.0
    if not SMALLEST <= bytes_ < 2**62:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size of at least 1MiB; allowed are numbers with KB, MB, GB, KiB, MiB or GiB, like 500MB"
        )
    return int(bytes_)


def number(text: str) -> int:
    """Parse a number of things to show."""
    if not re.fullmatch(r"\d{1,6}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; allowed are 1 to 999999")
    return int(text)


def port(text: str) -> int:
    """Parse a port, 0 for any that is free."""
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; allowed are 0 to 65535")
    return int(text)
