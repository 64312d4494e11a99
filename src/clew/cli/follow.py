"""`clew follow`: one request over all services."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from clew.cli.arguments import Commands, add_question
from clew.cli.output import ANSWERED, NOTHING_FOUND, print_json, say
from clew.cli.question import ask

if TYPE_CHECKING:
    from clew.answers.source import Source


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `clew follow` to the commands."""
    parser = commands.add_parser(
        "follow",
        help="what happened to one request, over all services",
        description="The spans and log lines of one request, from every service, in order of time.",
    )
    parser.add_argument("id", metavar="ID", help="the request ID")
    add_question(parser)
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    return ask(chosen, _answer)


def _answer(chosen: argparse.Namespace, source: Source) -> int:
    from clew.answers.questions.follow import follow

    answer = follow(source, chosen.id)
    if chosen.format == "json":
        print_json(answer.as_json())
    if not answer.events:
        measured = len(source.exemplar_times_of(chosen.id))
        known = (
            f"; it was measured ({measured} exemplars), but nothing sent log lines or spans of it" if measured else ""
        )
        return say(f"no span and no log line of request {chosen.id!r} in {chosen.store}{known}", NOTHING_FOUND)
    if chosen.format == "text":
        from clew.answers.text import console, print_followed

        print_followed(console(), answer)
    return ANSWERED
