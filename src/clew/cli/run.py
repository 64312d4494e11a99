"""`clew run`: a program, started with telemetry."""

from __future__ import annotations

import argparse

from clew.cli.arguments import Commands
from clew.cli.output import WRONG_USE, say


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `clew run` to the commands."""
    parser = commands.add_parser(
        "run",
        help="start a program with telemetry, without a change in its code",
        usage="clew run [-h] -- PROGRAM [ARGUMENT ...]",
        description="Start a program so that its Python processes have request IDs, metrics with exemplars and logs, "
        "without a change in its code. It is configured by the environment (OTEL_*, CLEW_*); CLEW_MEASURE names "
        "functions to measure. Signals and the exit status are the program's own.",
        epilog="Examples: clew run -- python app.py; clew run -- gunicorn -w 4 shop:app",
    )
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from clew.run.command import CannotRunError, run

    command: list[str] = chosen.program[1:] if chosen.program[:1] == ["--"] else chosen.program
    if not command:
        return say("run needs a program: clew run -- PROGRAM [ARGUMENT ...]", WRONG_USE)
    if command is chosen.program and command[0].startswith("-"):
        return say(f"run has no option {command[0]}: clew run -- PROGRAM [ARGUMENT ...]", WRONG_USE)
    try:
        return run(command[0], command[1:])
    except CannotRunError as error:
        return say(str(error), WRONG_USE)
