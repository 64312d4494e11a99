"""The whole idea in a minute: a shop under load, the report of what it did, and the way from a number to one request.

python examples/shop/demo.py [--keep] [--requests 3000] [--seconds 30] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it is not part of the package `shop`

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from shop.load import Sent, print_sent
from shop.running import CLEW, NotReady, local_collector, running_shop, wait_until

AT_THE_START = """\
Four processes: a front, two instances of payments, a worker. Beside them `clew local` receives what they measure. Three
things are wrong with this shop. The customers come now, for half a minute."""

AT_THE_COUNTS = """\
The first thing to expect of a metric: that it counts right. Not most requests, not a sample: all of them, by route and
by how they were answered."""

AT_THE_REPORT = """\
Read the line `check out`. Half of the checkouts take a few hundredths of a second (p50), one in twenty nearly a whole
one (p95), and some fail. Why? A metric that only counts could not say. Here each line has below it the IDs of real
requests: the slowest one, and the last one that failed. Let us follow two of them."""

AT_THE_SLOWEST = """\
The slowest checkout that was paid in the end. One request ID went with it from the front to payments and, through a
job in a table, to the worker; ▶ are spans with their duration, the others are log lines. Look down the durations:
nearly all of the time went by inside `ask provider`, in the instance of payments that is named on that line."""

AT_THE_BUG = """\
The last checkout that ended with a 500. Its traceback (the frames of libraries are folded) ends in postage.py: the
weight is divided by the number of parcels, and a gift card goes in none. From a number to the line of the bug."""

AT_THE_WINDOW = """\
And the slow one: was it only that request? These are the ten seconds around it, over all requests. On top is what
the slow and failed ones have in common and the others do not: with enough customers, service.instance.id=payments-2. So
not the checkout, not payments as a whole: one machine, whose provider was sick for a third of the time."""


def main() -> int:
    """Run the demo; the exit status is 1 where something did not come out as it should."""
    parser = argparse.ArgumentParser(description="A small shop under load, and the way from a number to one request.")
    parser.add_argument("--keep", action="store_true", help="keep what was measured, and print how to go on with it")
    parser.add_argument("--requests", type=int, default=3_000, help="how many requests (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the load lasts (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="decides what the customers do (default: %(default)s)")
    chosen = parser.parse_args()
    try:
        with folder(keep=chosen.keep) as place:
            return show(place, chosen.requests, chosen.seconds, chosen.seed)
    except NotReady as error:
        print(f"The demo could not go on: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


@contextmanager
def folder(*, keep: bool) -> Generator[Path]:
    """A temporary folder, which stays with `keep`."""
    place = Path(tempfile.mkdtemp(prefix="clew-demo-"))
    try:
        yield place
    finally:
        if keep:
            print_how_to_go_on(place)
        else:
            shutil.rmtree(place, ignore_errors=True)


def show(place: Path, requests: int, seconds: float, seed: int) -> int:
    """The demo itself, with all its files in `place`."""
    title("The shop opens")
    say(AT_THE_START)
    with local_collector(place) as collector:
        with running_shop(collector.http, place) as shop:
            with customers(requests) as progress:
                sent = shop.drive(requests=requests, seconds=seconds, seed=seed, progress=progress)
            shop.wait_until_idle()
        print()
        print_sent(sent)
        wait_until(lambda: counted(report_on(collector.store)) >= len(sent.requests), "all has been counted", 60.0)
        report = report_on(collector.store)
        print(f"\nSent by the customers: {len(sent.requests):,}. Counted by clew at the front: {counted(report):,}.")
        say(AT_THE_COUNTS)

        command(place, "report", "--top", "8")
        say(AT_THE_REPORT)

        slowest, broken = checkouts_to_follow(report, sent)
        if slowest:
            command(place, "follow", slowest)
            say(AT_THE_SLOWEST)
        if broken:
            command(place, "follow", broken)
            say(AT_THE_BUG)
        if slowest:
            command(place, "around", slowest, "--window", "10s", "--events", "6")
            say(AT_THE_WINDOW)
    return 0 if counted(report) == len(sent.requests) else 1


def report_on(store: Path) -> dict[str, Any]:
    """The output of ``clew report``."""
    answer: dict[str, Any] = json.loads(ask("report", "--store", str(store), "--format", "json") or "{}")
    return answer


def counted(report: dict[str, Any]) -> int:
    """How many requests the report counts at the front."""
    return sum(
        operation["calls"]
        for operation in report.get("operations", ())
        if operation["service"] == "front" and operation["kind"] == "http"
    )


def checkouts_to_follow(report: dict[str, Any], sent: Sent) -> tuple[str | None, str | None]:
    """The request IDs of the slowest checkout that was paid and of the last one that the bug ended, or None."""
    paid = {request.request_id for request in sent.requests if request.status == "201"}
    checkouts = [one for one in report["operations"] if one["service"] == "front" and one["name"] == "check out"]
    slowest = [sample["request_id"] for one in checkouts for sample in one["slowest"] if sample["request_id"] in paid]
    broken = [
        sample["request_id"]
        for one in checkouts
        for sample in one["failed"]
        if sample["error_type"] == ZeroDivisionError.__name__
    ]
    return next(iter(slowest), None), next(iter(broken), None)


@contextmanager
def customers(requests: int) -> Generator[Callable[[int], None]]:
    """A bar that shows how many requests have been answered, on a terminal."""
    columns = TextColumn("customers"), BarColumn(), MofNCompleteColumn(), TextColumn("requests")
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("", total=requests)
        yield lambda sent: progress.update(task, completed=sent)


def ask(*arguments: str) -> str:
    """What ``clew`` prints for these arguments."""
    asked = subprocess.run(
        [*CLEW, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False, timeout=180
    )
    return asked.stdout


def command(place: Path, *arguments: str) -> None:
    """Run ``clew`` for the reader to see, in the folder with the store."""
    title("$ clew " + " ".join(arguments))
    subprocess.run([*CLEW, *arguments], cwd=place, check=True, timeout=180)


def title(text: str) -> None:
    """Print what comes next."""
    print(f"\n──── {text}", flush=True)


def say(text: str) -> None:
    """Print a paragraph."""
    print("\n" + fill(text.replace("\n", " "), 100), flush=True)


def print_how_to_go_on(place: Path) -> None:
    """Print the commands that go on from what was kept."""
    store = place / "clew.sqlite"
    title("What is kept")
    print(f"\nWhat was measured:  {store}")
    print(f"The services' logs: {place}/*.log")
    print("Go on with, for example:")
    clew = "clew" if shutil.which("clew") else f"{sys.executable} -m clew.cli"
    for question in ("report --service payments", "follow ID", "around ID --window 5s"):
        print(f"  {clew} {question} --store {store}")
    print(f"or send more to the same store: {clew} local --store {store}")


if __name__ == "__main__":
    sys.exit(main())
