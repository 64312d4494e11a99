"""`clew around`: all that happened around a request or a time."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from clew.cli.arguments import Commands, add_most, add_question, add_window
from clew.cli.output import ANSWERED, NOTHING_FOUND, print_json, say
from clew.cli.question import ask, warn_of_mixed_writers

if TYPE_CHECKING:
    from clew.answers.source import Source


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `clew around` to the commands."""
    parser = commands.add_parser(
        "around",
        help="what else happened around a request or a time, and what the bad requests share",
        description="All requests, log lines and failures in the window around a request or a time, and what the "
        "failed and the slowest requests share that the others do not.",
    )
    parser.add_argument(
        "what", metavar="ID|TIME", help="a request ID, looked up first; or a time like 2026-11-24T14:03:27Z or 14:03:27"
    )
    add_question(parser)
    add_window(parser, "30s")
    add_most(parser, "--events", 12, "events the text shows, those nearest to the middle of the window")
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    return ask(chosen, _answer)


def _answer(chosen: argparse.Namespace, source: Source) -> int:
    from clew.answers.questions.around import around

    answer = around(source, chosen.what, chosen.window)
    if answer is None:
        if chosen.format == "json":
            nothing: dict[str, Any] = {"shared": [], "failures": [], "events": []}
            print_json({"version": 1, "start": None, "end": None, "requests": 0, "failed": 0, **nothing})
        times = "it is not a time either, like 14:03:27 or 2026-11-24T14:03:27Z"
        return say(f"no request {chosen.what!r} in {chosen.store}; {times}", NOTHING_FOUND)
    warn_of_mixed_writers(answer.mixed)
    if chosen.format == "json":
        if answer.events_left_out:
            say(f"{answer.events_left_out} events are left out; a shorter --window shows all")
        print_json(answer.as_json())
    if not answer.requests and not answer.events:
        return say(f"nothing happened around {chosen.what!r} in {chosen.store}", NOTHING_FOUND)
    if chosen.format == "text":
        from clew.answers.text import console, print_around

        print_around(console(), answer, chosen.events)
    return ANSWERED
