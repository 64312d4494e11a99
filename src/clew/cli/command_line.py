"""The command line: reads it, runs the command that it names, and returns its exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from clew.__about__ import __version__
from clew.cli import around, follow, local, report, run
from clew.cli.output import ANSWERED, UNREACHABLE, WRONG_USE, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; wrong use ends in SystemExit with 2, as argparse does it."""
    parser = argparse.ArgumentParser(
        prog="clew",
        description="From a metric to the requests behind it: see what a system does, then follow one request.",
    )
    parser.add_argument("--version", action="version", version=f"clew {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for command in (run, local, report, follow, around):
        command.add(commands)
    given = list(sys.argv[1:] if arguments is None else arguments)
    of_program: list[str] = []
    if given[:1] == ["run"] and given[1:2] not in (["-h"], ["--help"]):  # what follows is not for argparse to read
        given, of_program = given[:1], given[1:]
    chosen = parser.parse_args(given)
    chosen.program = of_program
    if chosen.command is None:
        parser.print_help(sys.stderr)
        return WRONG_USE
    run_command: Callable[[argparse.Namespace], int] = chosen.run
    try:
        return run_command(chosen)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "clew":
            raise
        return say(f"`clew {chosen.command}` needs the package {error.name!r}: pip install 'clew[local]'", UNREACHABLE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has left; not even a flush fails
        return ANSWERED
