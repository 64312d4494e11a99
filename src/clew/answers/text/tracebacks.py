"""Python tracebacks without the frames of libraries, for reading; the store and ``--format json`` have all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from clew import __about__

_FRAME = re.compile(r"(?P<margin>[\s|]*)File \"(?P<file>[^\"]+)\", line \d+")
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\](?P<package>[^/\\]+)")
_STANDARD = re.compile(r"[/\\](?:lib|Lib)(?:[/\\]python3\.\d+t?)?[/\\](?P<module>[^/\\]+)|<frozen (?P<frozen>[\w.]+)>")
_OURS = str(Path(__about__.__file__).parent)
_MOST = 100  # lines of its beginning, and of its end
_NAMED = 4  # packages that a fold names


class _Part(NamedTuple):
    """Some lines of a traceback: a frame with its `margin`, or other text; `package` is the frame's library."""

    lines: list[str]
    margin: str | None
    package: str | None


def folded(traceback: str) -> list[str]:
    """Return a traceback's lines with each run of library frames as one line.

    Where all frames are a library's, the last stays: something has to say where it was raised. What is no Python
    traceback comes back as it is. Of a very long one the middle is left out.
    """
    lines = _folded(traceback)
    left_out = len(lines) - 2 * _MOST
    if left_out <= 0:
        return lines
    return [*lines[:_MOST], f"… {left_out:,} lines; --format json has all", *lines[-_MOST:]]


def _folded(traceback: str) -> list[str]:
    parts = _parts(traceback.splitlines())
    if all(part.package for part in parts if part.margin is not None):
        kept = max((number for number, part in enumerate(parts) if part.margin is not None), default=0)
        parts = [part._replace(package=None) if number == kept else part for number, part in enumerate(parts)]
    lines: list[str] = []
    for foreign, group in groupby(parts, key=lambda part: part.package is not None):
        run = list(group)
        if not foreign:
            lines += [line for part in run for line in part.lines]
            continue
        packages = list(dict.fromkeys(part.package for part in run if part.package))
        more = ", …" if len(packages) > _NAMED else ""
        frames = "1 frame" if len(run) == 1 else f"{len(run)} frames"
        lines.append(f"{run[0].margin}… {frames} of {', '.join(packages[:_NAMED])}{more}")
    return lines


def same_exception(traceback: str) -> tuple[str, ...]:
    """Return what two records of one exception have in common: where it was raised, and what it says.

    A record that is logged further out has more frames, but the same last one.
    """
    lines = traceback.splitlines()
    last = max((number for number, line in enumerate(lines) if _FRAME.match(line)), default=0)
    return tuple(line.strip() for line in lines[last:])


def _parts(lines: Sequence[str]) -> list[_Part]:
    parts: list[_Part] = []
    for line in lines:
        found = _FRAME.match(line)
        if found:
            parts.append(_Part([line], found["margin"], _package(found["file"])))
        elif parts and parts[-1].margin is not None and _continues(line, parts[-1].margin):
            parts[-1].lines.append(line)
        else:
            parts.append(_Part([line], None, None))
    return [part._replace(lines=list(_without_underlines(part.lines))) for part in parts]


def _continues(line: str, margin: str) -> bool:
    """Return whether a line below a frame is its source, its underline, or how often it was repeated."""
    return line.startswith((f"{margin}  ", f"{margin}[Previous line repeated"))


def _package(file: str) -> str | None:
    """Return which library a file belongs to, None for the user's own."""
    if file.startswith((_OURS, "<clew.")):  # and the text that `clew.operations.fast_path` compiles
        return "clew"
    if found := _INSTALLED.search(file):
        return found["package"].removesuffix(".py")
    if found := _STANDARD.search(file):
        return (found["module"] or found["frozen"]).removesuffix(".py")
    return None


def _without_underlines(lines: Iterable[str]) -> Iterator[str]:
    """Leave out underlines that mark a whole line, and so nothing."""
    before = ""
    for line in lines:
        marks = line.strip(" |")
        if not marks or set(marks) != {"^"} or len(marks) < len(before.strip(" |")):
            yield line
        before = line
