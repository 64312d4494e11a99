"""`python -m benchmarks`: what a measured call costs, as tables, JSON and a plot."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from pathlib import Path

from benchmarks import child, importing, memory, plot, threads
from benchmarks.contestant import REQUEST_ID, close_event_loop
from benchmarks.report import Run

PARTS = ("disabled", "contest", "threads", "memory", "import", "collection")

HELP = """\
Measures what a call costs when it is measured: by clew in all its forms, by hand, and by others. Takes about three
minutes on two cores that have nothing else to do. How it measures and what the figures mean: docs/performance.md.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; return 0, or 1 where a contestant has not recorded what was done."""
    options = _parser().parse_args(arguments)
    for name in [name for name in os.environ if name.startswith(("OTEL_", "CLEW_"))]:
        del os.environ[name]
    os.environ.update(child.clean_environment())
    run = _measured(options)
    print(run.as_text())
    if options.json is not None:
        options.json.write_text(json.dumps(run.as_json(), indent=1) + "\n")
    if options.svg is not None:
        contest = run.as_json()["contest"]
        if contest is None:
            print("No plot was drawn: the part `contest` was left out.", file=sys.stderr)
        else:
            options.svg.write_text(plot.svg(contest, run.machine))
    return 1 if run.mistakes else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=HELP)
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the costs there")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="measure only these")
    parser.add_argument("--rounds", type=_positive, default=None, help="rounds of the contest (default: 150)")
    parser.add_argument("--turn", type=_positive, default=None, metavar="MS", help="a turn's length (default: 8)")
    parser.add_argument("--seed", type=int, default=1, help="of the shuffling (default: 1)")
    parser.add_argument("--gc", action="store_true", help="leave Python's garbage collector on during the turns")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _measured(options: argparse.Namespace) -> Run:
    """Measure the chosen parts. What has to come before `clew.configure()` comes first."""
    import clew
    from benchmarks import collecting, contestants, machine
    from benchmarks.contest import Plan, contest
    from benchmarks.reading import Reading

    order = random.Random(options.seed)
    rounds = options.rounds or (3 if options.quick else 150)
    turn_ms = options.turn or (1 if options.quick else 8)
    plan = Plan(rounds, turn_ms * 1_000_000, options.gc)
    run = Run(
        {}, {"quick": options.quick, "rounds": rounds, "turn_ms": turn_ms, "seed": options.seed, "gc": options.gc}
    )
    reading = Reading()
    with clew.request(REQUEST_ID):
        early = contestants.before_configure()
        if "disabled" in options.parts:
            _say(f"before configure: {len(early.contestants)} contestants, {rounds} rounds")
            run.disabled = contest(early.contestants, plan, order, early.collect)
        telemetry = clew.configure(metric_readers=[reading.reader])
        run.machine = machine.describe(_recorder())
        reading.collect()
        if reading.total("operation.duration", operation_name="disabled") or reading.total("disabled.counter"):
            run.mistakes.append("something was recorded before clew.configure()")
        everybody = contestants.after_configure(reading)
        run.missing += everybody.missing
        if "contest" in options.parts:
            _say(f"contest: {len(everybody.contestants)} contestants, {rounds} rounds")
            run.contest = contest(everybody.contestants, plan, order, everybody.collect)
        if "threads" in options.parts:
            _say("threads")
            found = threads.measure_threads(
                everybody.contestants, 2 if options.quick else 9, (5 if options.quick else 200) * 1_000_000, order
            )
            everybody.collect()
            run.threads = threads.summarised(everybody.contestants, found)
        run.mistakes += everybody.mistakes()
    close_event_loop()
    telemetry.shutdown()
    if "memory" in options.parts:
        _say("memory")
        run.memory = memory.measure_memory(run.missing)
    if "import" in options.parts:
        _say("import")
        run.imports = importing.measure_imports(2 if options.quick else 25, order)
    if "collection" in options.parts:
        _say("collection")
        run.collection = collecting.measure_collections(quick=options.quick)
        run.mistakes += run.collection["mistakes"]
    return run


def _recorder() -> str:
    """Return the name of the recorder that `clew.configure()` chose, so that figures are not mistaken."""
    from clew.operations import pipeline

    return type(getattr(pipeline.current, "recorder", None)).__name__


def _say(what: str) -> None:
    print(f"{what} …", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
