"""The answer to `around`: what the bad requests of a window share, what failed, and what happened in its middle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from clew.answers.questions.around import Around
from clew.answers.questions.shared_values import SharedValue
from clew.answers.text.events import instance_name, named, print_event
from clew.answers.text.quantities import local_time, percent
from clew.answers.text.terminal import print_line, printable

NOTABLE = 1.5
"""Lifts under this are not shown."""

_SHARED = 8  # values shown
_ALSO = 3  # and others that say the same
_FAILURES = 8  # kinds of failures shown
_WIDEST_COLUMN = 60  # characters to which the columns of failures are aligned


def print_around(console: Console, answer: Around, events: int) -> None:
    """Print a window: what its bad requests share, what failed, and the `events` that are nearest to its middle."""
    console.print()
    print_line(
        console,
        Text.assemble(
            (f"{local_time(answer.start, 0)} – {local_time(answer.end, answer.start)}", "bold"),
            f"  {answer.requests:,} requests seen, ",
            (f"{answer.failed:,} failed", "bold red" if answer.failed else ""),
        ),
    )
    console.print()
    _print_shared(console, answer.shared)
    _print_failures(console, answer)
    _print_middle(console, answer, events)


def _print_shared(console: Console, every: Sequence[SharedValue]) -> None:
    notable = [shared for shared in every if shared.lift >= NOTABLE][:_SHARED]
    if not notable:
        print_line(console, Text("The failed and the slowest share nothing that the rest does not.", style="dim"))
        return
    print_line(console, Text("What the failed and the slowest share, the strongest first:", style="bold"))
    for shared in notable:
        also = ", ".join(_pair(attribute, value) for attribute, value in shared.also[:_ALSO])
        more = f" and {len(shared.also) - _ALSO} more" if len(shared.also) > _ALSO else ""
        print_line(
            console,
            Text.assemble(
                (f"  {shared.lift:6.1f}×  ", "yellow"),
                (_pair(shared.attribute, shared.value), "cyan"),
                f"  {percent(shared.share_of_bad)} of them, {percent(shared.share_of_rest)} of the rest",
                ("" if shared.basis == "counts" else "  (of the requests seen)", "dim"),
                (f"  (also {also}{more})" if also else "", "dim"),
            ),
        )


def _print_failures(console: Console, answer: Around) -> None:
    if not answer.failures:
        return
    console.print()
    print_line(console, Text("What failed, the most often first, with the last request:", style="bold"))
    rows = [
        (
            one,
            instance_name(one.service, one.instance, one.service in answer.several),
            printable(one.text),
            printable(one.error_type or ""),
        )
        for one in answer.failures[:_FAILURES]
    ]
    name_width, text_width, error_width = (
        min(max(len(str(row[column])) for row in rows), _WIDEST_COLUMN) for column in (1, 2, 3)
    )
    for one, name, text, error in rows:
        print_line(
            console,
            Text.assemble(
                (f"  {one.count:6,}  ", "bold red"),
                (f"{name:{name_width}}  ", "cyan"),
                f"{text:{text_width}}  ",
                (f"{error:{error_width}}  ", "red"),
                (printable(one.request_id or ""), "cyan"),
            ),
        )
    left_out = len(answer.failures) - len(rows)
    if left_out:
        print_line(console, Text(f"  … and {left_out} more", "dim"))


def _print_middle(console: Console, answer: Around, events: int) -> None:
    middle = (answer.start + answer.end) // 2
    nearest = sorted(answer.events, key=lambda one: abs(one.event.time - middle))[:events]
    nearest.sort(key=lambda one: one.event.time)
    if nearest:
        console.print()
        print_line(console, Text(f"What happened nearest to {local_time(middle, answer.start)}:", style="bold"))
    for one, (event, name) in zip(nearest, named([one.event for one in nearest], answer.several), strict=True):
        print_event(
            console, event, name, middle, Text(f"  {printable(one.request_id)}" if one.request_id else "", "cyan")
        )
    left_out = len(answer.events) - len(nearest) + answer.events_left_out
    if left_out:
        console.print()
        print_line(console, Text(f"… and {left_out:,} events more: --events, --window", "dim"))


def _pair(attribute: str, value: Any) -> str:
    return f"{printable(attribute)}={printable(value if isinstance(value, str) else json.dumps(value))}"
