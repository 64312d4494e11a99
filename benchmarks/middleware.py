"""`python -m benchmarks.middleware`: what a middleware for request IDs costs a request, ours and others."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import child, machine
from benchmarks.middleware_django import django_stacks
from benchmarks.middleware_report import CASES, Costs, Found
from benchmarks.middleware_servers import measure_server
from benchmarks.middleware_stacks import GIVEN, Stack, asgi_stacks, wsgi_stacks

INTERFACES: dict[str, Callable[[], Iterator[Stack | str]]] = {
    "asgi": asgi_stacks,
    "wsgi": wsgi_stacks,
    "django": django_stacks,
}
SERVERS = ("uvicorn", "gunicorn")
PACKAGES = ("clew", "asgi-correlation-id", "starlette-context", "django-guid", "django", "uvicorn", "gunicorn")

HELP = """\
Measures what a middleware for request IDs costs a request: the same duties for all (an ID accepted or made, put on
the response and on a log record), first without a server, then behind a real uvicorn and a real gunicorn. Takes about
five minutes. How it measures and what the figures mean: docs/performance.md.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; return 0, or 1 where a middleware has not done its duty."""
    options = _parser().parse_args(arguments)
    for name in [name for name in os.environ if name.startswith(("OTEL_", "CLEW_"))]:
        del os.environ[name]
    os.environ.update(child.clean_environment())
    order = random.Random(options.seed)
    found = Found()
    _measure_in_process(found, options, order)
    rounds, seconds = (2, 0.2) if options.quick else (max(1, options.rounds // 3), 1.0)
    for name in [server for server in SERVERS if server in options.parts]:
        if importlib.util.find_spec(name) is None:
            found.missing.append(name)
            continue
        _say(name)
        outcomes, mistakes = measure_server(name, _labels(), rounds, seconds, order)
        found.served += outcomes
        found.mistakes += mistakes
    print(found.as_text())
    if options.json is not None:
        options.json.write_text(json.dumps(found.as_json(), indent=1) + "\n")
    return 1 if found.mistakes else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.middleware", description=HELP)
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parts = (*INTERFACES, *SERVERS)
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="measure only these")
    parser.add_argument("--rounds", type=int, default=60, help="of the contest (default: 60; a third behind servers)")
    parser.add_argument("--turn", type=int, default=8, metavar="MS", help="how long a turn is (default: 8)")
    parser.add_argument("--seed", type=int, default=1, help="of the shuffling (default: 1)")
    return parser


def _labels() -> dict[str, str]:
    both = [*asgi_stacks(), *wsgi_stacks()]
    return {stack.key: stack.label for stack in both if not isinstance(stack, str)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _say(what: str) -> None:
    print(f"{what} …", file=sys.stderr, flush=True)


def _measure_in_process(found: Found, options: argparse.Namespace, order: random.Random) -> None:
    """Call the applications as a server would, with no server."""
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    import clew
    from clew.operations import pipeline

    reader = InMemoryMetricReader()
    telemetry = clew.configure(metric_readers=[reader])
    recorder = type(getattr(pipeline.current, "recorder", None)).__name__
    found.machine = {**machine.describe(recorder), "packages": {name: _version(name) for name in PACKAGES}}
    for interface in [name for name in INTERFACES if name in options.parts]:
        _say(interface)
        made = list(INTERFACES[interface]())
        found.missing += [each for each in made if isinstance(each, str)]
        stacks = [each for each in made if not isinstance(each, str)]
        found.mistakes += [mistake for stack in stacks for mistake in _mistakes(stack)]
        before = _counted(reader)
        costs, measured = _contest(stacks, 3 if options.quick else options.rounds, options.turn, order)
        found.costs += costs
        counted = _counted(reader) - before
        if counted != measured:
            found.mistakes.append(f"{interface}: {counted} durations were recorded for {measured} requests")
    telemetry.shutdown()


def _mistakes(stack: Stack) -> Iterator[str]:
    """Ask once each way: the ID has to be on the response and on the record, and be the one that came in."""
    for is_given, case in CASES.items():
        echoed, recorded = stack.answer(is_given)
        if stack.key.endswith("-bare"):
            if echoed is not None or recorded is not None:
                yield f"{stack.key}, {case}: there is an ID without a middleware"
        elif echoed is None or echoed != recorded or (is_given and echoed != GIVEN):
            yield f"{stack.key}, {case}: {echoed!r} on the response, {recorded!r} on the record"


def _counted(reader: Any) -> int:
    data = reader.get_metrics_data()
    return sum(
        point.count
        for resource in (data.resource_metrics if data is not None else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "http.server.request.duration"
        for point in metric.data.data_points
    )


def _contest(stacks: Sequence[Stack], rounds: int, turn_ms: int, order: random.Random) -> tuple[list[Costs], int]:
    """Let all take turns, in shuffled rounds; return their costs, and how many requests were to be measured."""
    costs = {(stack.key, is_given): Costs(stack, is_given) for stack in stacks for is_given in CASES}
    sizes = {
        key: max(20, turn_ms * 1_000_000 * 100 // max(1, one.stack.turn(100, key[1]))) for key, one in costs.items()
    }
    made = sum(100 for one in costs.values() if one.stack.is_measured)
    for _ in range(rounds):
        turns = list(costs)
        order.shuffle(turns)
        with _no_garbage():
            for key in turns:
                one = costs[key]
                one.whole.append(one.stack.turn(sizes[key], key[1]) / sizes[key])
                made += sizes[key] if one.stack.is_measured else 0
        for one in costs.values():
            one.over.append(one.whole[-1] - costs[f"{one.stack.interface}-bare", one.is_given].whole[-1])
    return list(costs.values()), made


@contextmanager
def _no_garbage() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


if __name__ == "__main__":
    sys.exit(main())
