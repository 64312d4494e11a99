"""The `clew` command.

Each subcommand is one function that adds its parser and one that runs it; what a subcommand needs is imported when it
runs. Exit status: 0 answered, 1 nothing found, 2 wrong use, 3 the source cannot be reached.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clew.__about__ import __version__

if TYPE_CHECKING:
    from clew.local.questions.operations import Operation
    from clew.local.source import Source

ANSWERED, NOTHING_FOUND, WRONG_USE, UNREACHABLE = 0, 1, 2, 3

_STORE = Path("clew.sqlite")
_DURATIONS = {"ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_LONGEST = 100 * 366 * 86400  # seconds

Commands = argparse._SubParsersAction  # pyright: ignore[reportPrivateUsage]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; wrong use ends in SystemExit with 2, as argparse does it."""
    parser = argparse.ArgumentParser(
        prog="clew",
        description="From a metric to the requests behind it: see what a system does, then follow one request.",
    )
    parser.add_argument("--version", action="version", version=f"clew {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for add in (_add_run, _add_local, _add_report, _add_follow, _add_around):
        add(commands)
    given = list(sys.argv[1:] if arguments is None else arguments)
    of_program: list[str] = []
    if given[:1] == ["run"] and given[1:2] not in (["-h"], ["--help"]):  # what follows is not for argparse to read
        given, of_program = given[:1], given[1:]
    chosen = parser.parse_args(given)
    chosen.program = of_program
    if chosen.command is None:
        parser.print_help(sys.stderr)
        return WRONG_USE
    run: Callable[[argparse.Namespace], int] = chosen.run
    try:
        return run(chosen)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "clew":
            raise
        return _say(f"`clew {chosen.command}` needs the package {error.name!r}: pip install 'clew[local]'", UNREACHABLE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has left; not even a flush fails
        return ANSWERED


def _add_run(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "run",
        help="start a program with telemetry, without a change in its code",
        usage="clew run [-h] -- PROGRAM [ARGUMENT ...]",
        description="Start a program so that its Python processes have request IDs, metrics with exemplars and logs, "
        "without a change in its code. It is configured by the environment (OTEL_*, CLEW_*); CLEW_MEASURE names "
        "functions to measure. Signals and the exit status are the program's own.",
        epilog="Examples: clew run -- python app.py; clew run -- gunicorn -w 4 shop:app",
    )
    parser.set_defaults(run=_run_program)


def _run_program(chosen: argparse.Namespace) -> int:
    from clew.run.command import CannotRunError, run

    command: list[str] = chosen.program[1:] if chosen.program[:1] == ["--"] else chosen.program
    if not command:
        return _say("run needs a program: clew run -- PROGRAM [ARGUMENT ...]", WRONG_USE)
    if command is chosen.program and command[0].startswith("-"):
        return _say(f"run has no option {command[0]}: clew run -- PROGRAM [ARGUMENT ...]", WRONG_USE)
    try:
        return run(command[0], command[1:])
    except CannotRunError as error:
        return _say(str(error), WRONG_USE)


def _add_local(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "local",
        help="receive OTLP on this machine and keep it in one SQLite file",
        description="Receive OTLP over gRPC and HTTP (protobuf and JSON) and keep it in one SQLite file, till stopped.",
    )
    _add_store(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--grpc-port", type=_port, default=4317, metavar="PORT", help="0 picks a free one (default: 4317)"
    )
    parser.add_argument(
        "--http-port", type=_port, default=4318, metavar="PORT", help="0 picks a free one (default: 4318)"
    )
    parser.add_argument(
        "--max-age", type=_duration, metavar="TIME", help="delete what is older, like 7d; metrics stay 49 h at least"
    )
    parser.add_argument(
        "--max-size",
        type=_size,
        default=2**30,
        metavar="SIZE",
        help="size of the file, like 500MB; over it the oldest log lines go first, then spans, exemplars, metrics "
        "(default: 1GiB)",
    )
    parser.set_defaults(run=_run_local)


def _run_local(chosen: argparse.Namespace) -> int:
    from clew.local.collector import ListenError, Settings, serve
    from clew.local.store import StoreError

    settings = Settings(
        store=chosen.store,
        host=chosen.host,
        grpc_port=chosen.grpc_port,
        http_port=chosen.http_port,
        max_age=chosen.max_age,
        max_size=chosen.max_size,
        request_id_attribute=os.environ.get("CLEW_REQUEST_ID_ATTRIBUTE") or "request_id",
    )
    if chosen.host not in ("localhost", "::1") and not chosen.host.startswith("127."):
        _say(f"listening on {chosen.host}: whoever reaches it may send, nobody is asked for a name", ANSWERED)
    try:
        serve(settings)
    except (StoreError, ListenError) as error:
        return _say(str(error), UNREACHABLE)
    return ANSWERED


def _add_report(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "report",
        help="load, errors and duration of each operation, and the requests behind them",
        description="Load, errors and duration of each operation against the same window before, and the slowest and "
        "failed requests. The window ends at the last export.",
    )
    _add_question(parser)
    _add_window(parser, "1h")
    parser.add_argument(
        "--compare",
        type=_duration,
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
    _add_most(parser, "--top", 10, "operations the text shows, the worst first")
    parser.set_defaults(run=_ask, question=_report)


def _report(chosen: argparse.Namespace, source: Source) -> int:
    from clew.local.questions import report

    answer = report(source, chosen.window, chosen.compare, services=chosen.service, operations=chosen.operation)
    for signal, reason, count in answer.refusals:
        _say(f"not in here, refused when it came: {signal}: {reason} ({count})", ANSWERED)
    _say_mixed(one.operation for one in answer.operations if one.mixed)
    if chosen.format == "json":
        _print_json(answer.as_json())
    if not answer.operations:
        asked = "".join(
            f" with {what} {' or '.join(map(repr, names))}"
            for what, names in (("service", chosen.service), ("name", chosen.operation))
            if names
        )
        return _say(
            f"no operation{asked} was measured in the last {chosen.window:g} s of {chosen.store}", NOTHING_FOUND
        )
    if chosen.format == "text":
        from clew.local.text import console, print_report

        print_report(console(), answer, chosen.top)
    return ANSWERED


def _add_follow(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "follow",
        help="what happened to one request, over all services",
        description="The spans and log lines of one request, from every service, in order of time.",
    )
    parser.add_argument("id", metavar="ID", help="the request ID")
    _add_question(parser)
    parser.set_defaults(run=_ask, question=_follow)


def _follow(chosen: argparse.Namespace, source: Source) -> int:
    from clew.local.questions import follow

    answer = follow(source, chosen.id)
    if chosen.format == "json":
        _print_json(answer.as_json())
    if not answer.events:
        measured = len(source.exemplar_times_of(chosen.id))
        known = (
            f"; it was measured ({measured} exemplars), but nothing sent log lines or spans of it" if measured else ""
        )
        return _say(f"no span and no log line of request {chosen.id!r} in {chosen.store}{known}", NOTHING_FOUND)
    if chosen.format == "text":
        from clew.local.text import console, print_followed

        print_followed(console(), answer)
    return ANSWERED


def _add_around(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "around",
        help="what else happened around a request or a time, and what the bad requests share",
        description="All requests, log lines and failures in the window around a request or a time, and what the "
        "failed and the slowest requests share that the others do not.",
    )
    parser.add_argument(
        "what", metavar="ID|TIME", help="a request ID, looked up first; or a time like 2026-11-24T14:03:27Z or 14:03:27"
    )
    _add_question(parser)
    _add_window(parser, "30s")
    _add_most(parser, "--events", 12, "events the text shows, those nearest to the middle of the window")
    parser.set_defaults(run=_ask, question=_around)


def _around(chosen: argparse.Namespace, source: Source) -> int:
    from clew.local.questions import around

    answer = around(source, chosen.what, chosen.window)
    if answer is None:
        if chosen.format == "json":
            nothing: dict[str, Any] = {"shared": [], "failures": [], "events": []}
            _print_json({"version": 1, "start": None, "end": None, "requests": 0, "failed": 0, **nothing})
        times = "it is not a time either, like 14:03:27 or 2026-11-24T14:03:27Z"
        return _say(f"no request {chosen.what!r} in {chosen.store}; {times}", NOTHING_FOUND)
    _say_mixed(answer.mixed)
    if chosen.format == "json":
        if answer.events_left_out:
            _say(f"{answer.events_left_out} events are left out; a shorter --window shows all", ANSWERED)
        _print_json(answer.as_json())
    if not answer.requests and not answer.events:
        return _say(f"nothing happened around {chosen.what!r} in {chosen.store}", NOTHING_FOUND)
    if chosen.format == "text":
        from clew.local.text import console, print_around

        print_around(console(), answer, chosen.events)
    return ANSWERED


def _ask(chosen: argparse.Namespace) -> int:
    from clew.local.source import Source
    from clew.local.store import StoreError

    try:
        source = Source(chosen.store)
    except StoreError as error:
        return _say(str(error), UNREACHABLE)
    try:
        question: Callable[[argparse.Namespace, Source], int] = chosen.question
        return question(chosen, source)
    except StoreError as error:
        return _say(str(error), UNREACHABLE)
    finally:
        source.close()


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        type=Path,
        default=_STORE,
        metavar="FILE",
        help="the SQLite file (default: %(default)s in this folder)",
    )


def _add_question(parser: argparse.ArgumentParser) -> None:
    _add_store(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="(default: text)")


def _add_window(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--window", type=_duration, default=default, metavar="TIME", help=f"length of the window (default: {default})"
    )


def _add_most(parser: argparse.ArgumentParser, name: str, default: int, what: str) -> None:
    parser.add_argument(
        name, type=_number, default=default, metavar="N", help=f"how many {what} (default: {default}); JSON has all"
    )


def _print_json(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(_finite(answer), ensure_ascii=True, allow_nan=False, indent=2) + "\n")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    """Return an answer with null for numbers that are none: senders may send any, and JSON has no word for them."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _say_mixed(operations: Iterable[Operation]) -> None:
    """Tell of operations whose calls are too many."""
    names = sorted(f"{one.name} of {one.service or '(no service.name)'}" for one in operations)
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        _say(
            f"too many calls are counted of {', '.join(names[:5])}{more}: their counts fall and come back, as if "
            "several processes sent as one. Give each its own service.instance.id, or its own start time",
            ANSWERED,
        )


def _say(message: str, status: int) -> int:
    shown = "".join(character if character.isprintable() or character == "\n" else "�" for character in message)
    print(f"clew: {shown}", file=sys.stderr, flush=True)
    return status


def _duration(text: str) -> float:
    found = re.fullmatch(rf"({_NUMBER})(ms|s|min|m|h|d|w)", text.strip())
    seconds = float(found[1]) * _DURATIONS[found[2]] if found else 0.0
    if not 0 < seconds <= _LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time; allowed are numbers with ms, s, m, h, d or w, like 30s or 24h"
        )
    return seconds


def _size(text: str) -> int:
    from clew.local.retention import SMALLEST

    found = re.fullmatch(rf"({_NUMBER})\s*([KMG]?I?B|)", text.strip().upper())
    size = float(found[1]) * _SIZES.get(found[2], 0) if found else 0.0
    if not SMALLEST <= size < 2**62:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size of at least 1MiB; allowed are numbers with KB, MB, GB, KiB, MiB or GiB, like 500MB"
        )
    return int(size)


def _number(text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; allowed are 1 to 999999")
    return int(text)


def _port(text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; allowed are 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
