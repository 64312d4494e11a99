"""Four threads: how much of the throughput of one thread is left, and whether any measurement is lost."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns, process_time_ns
from typing import Any, NamedTuple

import clew
from benchmarks.contest import garbage
from benchmarks.contestant import BLOCK, REQUEST_ID, Contestant, Form
from benchmarks.statistics import Spread, spread

THREADS = 4

KEYS = (
    "bare",
    "minimum",
    "minimum-locked",
    "clew-decorator",
    "clew-block",
    "clew-computed-attributes",
    "clew-counter-bound",
    "sdk-request-id",
    "sdk-histogram-request-id",
    "prometheus-bound",
)
"""Those that are measured; all are functions."""


@dataclass(frozen=True)
class Threaded:
    """What one contestant did.

    Attributes:
        key, label, group: The contestant's.
        one, four: Million calls per second, of one thread, and of four together.
        ratio: Of the throughputs, paired within rounds.
        ratio_of_work: The same per second of processor time: what is lost to work (handing locks over, sharing caches),
            not to waiting. Other programs on the machine do not disturb it.
        done: How many calls were made in all.
        lost: How many of them are not in what was recorded; None where nothing is recorded.
    """

    key: str
    label: str
    group: str
    one: Spread
    four: Spread
    ratio: Spread
    ratio_of_work: Spread
    done: int
    lost: int | None

    def as_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "label": self.label,
            "group": self.group,
            "one": self.one.as_json(),
            "four": self.four.as_json(),
            "ratio": self.ratio.as_json(),
            "ratio_of_work": self.ratio_of_work.as_json(),
            "done": self.done,
            "lost": self.lost,
        }


class Rates(NamedTuple):
    """Calls per second of the wall clock, and per second of the processor."""

    wall: float
    work: float


def throughput(contestant: Contestant, threads: int, blocks: int) -> Rates:
    """Return the rates of `threads` threads that make `blocks` blocks of calls each, from the first to the last."""
    ready = threading.Barrier(threads)
    times: list[tuple[int, int]] = []

    def work() -> None:
        with clew.request(REQUEST_ID):
            ready.wait()
            started = perf_counter_ns()
            contestant.loop(contestant.call, blocks)
            times.append((started, perf_counter_ns()))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    before = process_time_ns()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    worked = process_time_ns() - before
    elapsed = max(ended for _, ended in times) - min(started for started, _ in times)
    calls = threads * blocks * BLOCK
    contestant.done += calls
    return Rates(calls / elapsed * 1e9, calls / worked * 1e9)


Pairs = list[tuple[Rates, Rates]]
"""Of one contestant, round by round: one thread, and four."""


def measure_threads(
    contestants: Sequence[Contestant], rounds: int, turn_ns: int, order: random.Random
) -> dict[str, Pairs]:
    """Return the rates of each contestant; one thread does as much in all as four do together."""
    chosen = [one for one in contestants if one.key in KEYS]
    assert all(one.form is Form.FUNCTION for one in chosen)
    blocks = {one.key: max(1, round(turn_ns / THREADS / (one.turn(8) / 8))) for one in chosen}
    found: dict[str, Pairs] = {one.key: [] for one in chosen}
    for _ in range(rounds):
        order.shuffle(chosen)
        for contestant in chosen:
            share = blocks[contestant.key]
            with garbage(collected=False):
                one = throughput(contestant, 1, share * THREADS)
                found[contestant.key].append((one, throughput(contestant, THREADS, share)))
    return found


def summarised(contestants: Sequence[Contestant], found: Mapping[str, Pairs]) -> list[Threaded]:
    """Return what was found, with what was lost; everything has been collected before."""
    return [
        Threaded(
            one.key,
            one.label,
            one.group,
            spread([alone.wall for alone, _ in pairs]).scaled(1e-6),
            spread([four.wall for _, four in pairs]).scaled(1e-6),
            spread([four.wall / alone.wall for alone, four in pairs]),
            spread([four.work / alone.work for alone, four in pairs]),
            one.done,
            _lost(one),
        )
        for one in contestants
        if one.key in found
        for pairs in [found[one.key]]
    ]


def _lost(contestant: Contestant) -> int | None:
    if contestant.recorded is None:
        return None
    return max(abs(contestant.done - count) for count in contestant.recorded().counts.values())
