"""The whole idea in a minute: a shop under load, the report of what it did, and the way from a number to one request.

python examples/shop/demo.py [--keep] [--requests 3000] [--seconds 30] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import os
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

AT_THE_REPORT = """\
Look at `check out` of the front: half of them take a few hundredths of a second, but p95 and p99 come near a whole
one, and under `slowest` stand the names of those requests. Some failed: ZeroDivisionError is a bug of our own,
PaymentsUnavailable is payments' doing, and declined cards are counted at `charge card`, since they are no failure of
the checkout. `search products` is slow too, but that is a missing index, and will be as slow tomorrow."""

AT_THE_SLOWEST = """\
This is the slowest checkout that was paid in the end, found by the name that the report gave it. Its way leads from the
front to payments and, by a job in a table, to the worker; one request ID goes all the way. Most of its time went by
inside `ask provider` in payments, while the others did what they always do."""

AT_THE_BUG = """\
And this is the last checkout that the bug ended: the requests behind failures are followed in the same way. The log
line has the exception with its traceback, and its last lines name the place: `postage.py`, where a weight is spread
over no parcel, since a gift card weighs nothing. There is no `reserve stock` and no `charge card`: nobody lost
anything."""

AT_THE_WINDOW = """\
Was it only that request? On top stands what the slow and failed requests of those ten seconds share and the others do
not: one instance of payments, payments-2, whose provider was sick for a third of the time. So it was one machine, and
not the checkout."""


def main() -> int:
    """Run the demo; the exit status is 1 where something did not come out as it should."""
    parser = argparse.ArgumentParser(description="A small shop under load, and the way from a number to one request.")
    parser.add_argument("--keep", action="store_true", help="leave what was measured, and tell how to go on with it")
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
            tell_how_to_go_on(place)
        else:
            shutil.rmtree(place, ignore_errors=True)


def show(place: Path, requests: int, seconds: float, seed: int) -> int:
    """The demo itself, with all its files in `place`."""
    title("The shop opens: a front, two instances of payments, a worker. `clew local` listens.")
    with local_collector(place) as collector:
        with running_shop(collector.http, place) as shop:
            with customers(requests) as progress:
                sent = shop.drive(requests=requests, seconds=seconds, seed=seed, progress=progress)
            shop.wait_until_idle()
        print_sent(sent)
        store = "--store", str(collector.store)
        wait_until(lambda: counted(report_on(collector.store)) >= len(sent.requests), "all has been counted", 10.0)
        report = report_on(collector.store)
        print(f"\nSent by the customers: {len(sent.requests):,}. Counted by clew at the front: {counted(report):,}.")

        command("report", *store)
        say(AT_THE_REPORT)

        slowest, broken = checkouts_to_follow(report, sent)
        if slowest:
            command("follow", slowest, *store)
            say(AT_THE_SLOWEST)
        if broken:
            command("follow", broken, *store, first=10, last=10)
            say(AT_THE_BUG)
        if slowest:
            command("around", slowest, "--window", "10s", *store, first=24)
            say(AT_THE_WINDOW)
    return 0 if counted(report) == len(sent.requests) else 1


def report_on(store: Path) -> dict[str, Any]:
    """What ``clew report`` says."""
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
    """What ``clew`` prints when asked this, as it would look where this program prints."""
    width = {"COLUMNS": str(shutil.get_terminal_size().columns)}
    colours = {"FORCE_COLOR": "1"} if sys.stdout.isatty() else {}
    asked = subprocess.run(
        [*CLEW, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | width | colours,
        check=False,
        timeout=60,
    )
    return asked.stdout


def command(*arguments: str, first: int | None = None, last: int = 0) -> None:
    """Run ``clew`` for the reader to see; with `first` no more than the first and `last` lines of what it prints."""
    title("$ clew " + " ".join(arguments))
    if first is None:
        subprocess.run([*CLEW, *arguments], check=True, timeout=60)
        return
    printed = ask(*arguments).splitlines()
    left_out = len(printed) - first - last
    if left_out > 0:
        printed[first : first + left_out] = [f"… {left_out:,} lines more, not shown here"]
    print("\n".join(printed))


def title(text: str) -> None:
    """Print what comes next."""
    print(f"\n──── {text}\n", flush=True)


def say(text: str) -> None:
    """Print a paragraph."""
    print("\n" + fill(text.replace("\n", " "), 100), flush=True)


def tell_how_to_go_on(place: Path) -> None:
    """Print the commands that go on from what was kept."""
    store = place / "clew.sqlite"
    title("Kept")
    print(f"What was measured:  {store}")
    print(f"The services' logs: {place}/*.log")
    print("Go on with, for example:")
    clew = "clew" if shutil.which("clew") else f"{sys.executable} -m clew.cli"
    for question in ("report", "follow ID", "around ID --window 5s"):
        print(f"  {clew} {question} --store {store}")
    print(f"or send more to the same store: {clew} local --store {store}")


if __name__ == "__main__":
    sys.exit(main())
