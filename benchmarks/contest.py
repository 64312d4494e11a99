"""The contest: all contestants in one process, interleaved in shuffled rounds."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.contestant import BLOCK, Contestant, Form
from benchmarks.statistics import Spread, paired_ratio, spread

BASELINES: Mapping[Form, str] = {
    Form.FUNCTION: "bare",
    Form.COROUTINE: "bare-async",
    Form.GENERATOR: "bare-generator",
    Form.ASYNC_GENERATOR: "bare-async-generator",
}
"""The bare call that the cost of a contestant of that form is counted from."""

_WARM_UP_BLOCKS = 8


@dataclass(frozen=True)
class Plan:
    """How long the contest is.

    Attributes:
        rounds: In each, every contestant has one turn.
        turn_ns: How long a turn is to be, in nanoseconds.
        collects_garbage: Whether Python's cyclic garbage collector stays on during the turns.
    """

    rounds: int
    turn_ns: int
    collects_garbage: bool = False


class Results:
    """Nanoseconds per call, of each contestant in each round."""

    def __init__(self, contestants: Sequence[Contestant], rounds: Sequence[Mapping[str, float]]) -> None:
        self.contestants = list(contestants)
        self._rounds = rounds
        self._forms = {contestant.key: contestant.form for contestant in contestants}

    def __contains__(self, key: str) -> bool:
        return key in self._forms

    def whole(self, key: str) -> Spread:
        """Return the cost of a whole call, the function itself and the loop included."""
        return spread([one[key] for one in self._rounds])

    def costs(self, key: str) -> list[float]:
        """Return, for each round, what a call cost over the bare call of the same round."""
        baseline = BASELINES[self._forms[key]]
        return [one[key] - one[baseline] for one in self._rounds]

    def cost(self, key: str) -> Spread:
        """Return what a call costs over the bare call."""
        return spread(self.costs(key))

    def ratio(self, key: str, against: str) -> Spread:
        """Return the cost of one over that of another, paired within rounds."""
        return paired_ratio(self.costs(key), self.costs(against))


def is_baseline(contestant: Contestant) -> bool:
    return contestant.key in BASELINES.values()


def contest(
    contestants: Sequence[Contestant], plan: Plan, order: random.Random, between: Callable[[], None]
) -> Results:
    """Let the contestants take turns.

    Args:
        contestants: The bare call of each of their forms among them.
        plan: How long.
        order: Shuffles the order of each round.
        between: Called before each round, outside the measured time.
    """
    held = _used_heap()
    blocks = {contestant.key: _calibrated(contestant, plan.turn_ns) for contestant in contestants}
    rounds: list[dict[str, float]] = []
    for _ in range(plan.rounds):
        between()
        turns = list(contestants)
        order.shuffle(turns)
        with garbage(collected=plan.collects_garbage):
            rounds.append(
                {one.key: one.turn(blocks[one.key]) / (blocks[one.key] * BLOCK) for one in turns},
            )
    del held
    return Results(contestants, rounds)


def _used_heap() -> list[object]:
    """Return objects that keep free places for small objects of every size between them, as a program's heap has.

    In some runs single contestants cost 0.8 us more, or twice that, in every round. It was not proven, but looked
    like an allocator at its edge, where a call takes a new arena from the system and gives it back; these prevent that.
    """
    objects: list[object] = []
    for size in range(8, 480, 16):
        objects += [bytes(size) for _ in range(2_000)]
    objects += [object() for _ in range(2_000)]
    objects += [float(number) for number in range(2_000)]
    del objects[::2]
    return objects


def _calibrated(contestant: Contestant, turn_ns: int) -> int:
    """Return how many blocks of calls make a turn; the calls made here let the interpreter specialise its code."""
    contestant.turn(_WARM_UP_BLOCKS)
    block_ns = contestant.turn(_WARM_UP_BLOCKS) / _WARM_UP_BLOCKS
    return max(1, round(turn_ns / block_ns))


@contextmanager
def garbage(*, collected: bool) -> Iterator[None]:
    """Start without garbage, and let the collector run meanwhile only where it is wanted."""
    gc.collect()
    if not collected:
        gc.disable()
    try:
        yield
    finally:
        gc.enable()
