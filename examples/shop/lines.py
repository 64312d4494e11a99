"""How many log lines remain: the shop under load with CLEW_LOGS=interesting, what was logged and what was sent.

python examples/shop/lines.py [--requests 3000] [--seconds 30] [--seed 1]

Each program still writes every line to its own log file; what is sent by OTLP, and kept by ``clew local``, are the
held lines of the requests that are worth reading.
"""

from __future__ import annotations

import argparse
import re
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it is not part of the package `shop`

from shop.load import Sent
from shop.running import NotReady, RunningShop, local_collector, running_shop

SLOW = 0.5
"""In seconds: a request that lasts longer is worth reading about."""

_LINE = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ \S+ \[(?P<request_id>[^\]]+)\] (?P<text>.*)$",
    re.MULTILINE,
)

Line = tuple[str, str, str]
"""Service, request ID (``-`` outside a request), text."""


@dataclass(frozen=True)
class Lines:
    """All log lines of a day of the shop, and those that were sent: how often each came."""

    sent: Sent
    logged: Counter[Line]
    kept: Counter[Line]
    by_request: Mapping[str, Counter[Line]]

    def failed(self) -> list[str]:
        """The IDs of the requests that the front answered with 500 or more."""
        failed = [request.request_id for request in self.sent.requests if request.status >= "500"]
        return [request_id for request_id in failed if request_id is not None]

    def missing(self, request_id: str, service: str) -> Counter[Line]:
        """The lines that a service logged in a request and that were not sent."""
        logged = self.by_request.get(request_id, Counter[Line]())
        return Counter({line: number for line, number in logged.items() if line[0] == service}) - self.kept


def main() -> int:
    """Run the shop and print the result; the exit status is 1 where a line of a failed request is missing."""
    parser = argparse.ArgumentParser(description="How many log lines of the shop remain with CLEW_LOGS=interesting.")
    parser.add_argument("--requests", type=int, default=3_000, help="how many requests (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the load lasts (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="decides what the customers do (default: %(default)s)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clew-lines-") as place:
        try:
            lines = run(Path(place), requests=chosen.requests, seconds=chosen.seconds, seed=chosen.seed)
        except NotReady as error:
            print(f"The shop could not go on: {error}", file=sys.stderr)
            return 1
    logged, kept = lines.logged.total(), lines.kept.total()
    failed = lines.failed()
    missing = sum(lines.missing(name, "front").total() for name in failed)
    print(f"requests                               {len(lines.sent.requests):>7,}, of which {len(failed):,} failed")
    print(f"log lines                              {logged:>7,}")
    print(f"sent with CLEW_LOGS=interesting        {kept:>7,}, {kept / logged:.1%} of all")
    print(f"missing of the front's failed requests {missing:>7,}")
    return 1 if missing else 0


def run(folder: Path, *, requests: int, seconds: float, seed: int, slow: float = SLOW) -> Lines:
    """Run the shop with its lines held, in an empty folder, and gather both kinds of lines.

    Args:
        folder: An empty folder for databases, log files and what is sent.
        requests, seconds, seed: What the load is.
        slow: In seconds: a request that lasts longer keeps its lines.

    Raises:
        NotReady: A program did not start, or the worker did not finish.
    """
    settings = {"CLEW_LOGS": "interesting", "CLEW_LOGS_SLOW": f"{slow:g}"}
    with local_collector(folder) as collector:
        with running_shop(collector.http, folder, settings=settings) as shop:
            sent = shop.drive(requests=requests, seconds=seconds, seed=seed)
            shop.wait_until_idle()
        logged = [line for name in shop.programs for line in logged_by(shop, name)]
        kept = kept_in(collector.store)
    by_request: dict[str, Counter[Line]] = {}
    for line in logged:
        by_request.setdefault(line[1], Counter())[line] += 1
    return Lines(sent, Counter(logged), Counter(kept), by_request)


def logged_by(shop: RunningShop, name: str) -> list[Line]:
    """What one program has logged while it had telemetry: every line of its log file."""
    service = name.partition("-")[0]
    text = shop.log_files[name].read_text(errors="replace")
    return [(service, found["request_id"], found["text"].rstrip()) for found in _LINE.finditer(text)]


def kept_in(store: Path) -> list[Line]:
    """What has been sent to the local collector."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT service, request_id, body FROM log_lines JOIN resources ON resources.id = log_lines.resource"
        )
        return [(service, request_id or "-", body.rstrip()) for service, request_id, body in rows]


if __name__ == "__main__":
    sys.exit(main())
