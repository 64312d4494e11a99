"""`clew report`: the operations of a window."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from clew.cli.arguments import Commands, add_most, add_question, add_window, duration
from clew.cli.output import ANSWERED, NOTHING_FOUND, print_json, say
from clew.cli.question import ask, warn_of_mixed_writers

if TYPE_CHECKING:
    from clew.answers.source import Source


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `clew report` to the commands."""
    parser = commands.add_parser(
        "report",
        help="load, errors and duration of each operation, and the requests behind them",
        description="Load, errors and duration of each operation against the same window before, and the slowest and "
        "failed requests. The window ends at the last export.",
    )
    add_question(parser)
    add_window(parser, "1h")
    parser.add_argument(
        "--compare",
        type=duration,
        default="24h",
        metavar="TIME",
        help="how long before to compare with (default: 24h)",
    )
    for what in ("service", "operation"):
        parser.add_argument(
            f"--{what}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"only this {what}; a name or a pattern with * and ?, more than once for several",
        )
    add_most(parser, "--top", 10, "operations the text shows, the worst first")
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    return ask(chosen, _answer)


def _answer(chosen: argparse.Namespace, source: Source) -> int:
    from clew.answers.questions.report import report

    answer = report(source, chosen.window, chosen.compare, services=chosen.service, operations=chosen.operation)
    for signal, reason, count in answer.refusals:
        say(f"not in here, refused when it came: {signal}: {reason} ({count})")
    warn_of_mixed_writers(one.operation for one in answer.operations if one.mixed)
    if chosen.format == "json":
        print_json(answer.as_json())
    if not answer.operations:
        asked = "".join(
            f" with {what} {' or '.join(map(repr, names))}"
            for what, names in (("service", chosen.service), ("name", chosen.operation))
            if names
        )
        return say(f"no operation{asked} was measured in the last {chosen.window:g} s of {chosen.store}", NOTHING_FOUND)
    if chosen.format == "text":
        from clew.answers.text import console, print_report

        print_report(console(), answer, chosen.top)
    return ANSWERED
