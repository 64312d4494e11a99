"""What `python -m benchmarks.middleware` has found, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.middleware_servers import CONNECTIONS, Outcome
from benchmarks.middleware_stacks import Stack
from benchmarks.statistics import Spread, paired_ratio, spread

RIVALS = {"asgi": "asgi-correlation-id", "wsgi": "wsgi-by-hand", "django": "django-guid"}
"""What the costs of each interface are divided by in the table."""

CASES = {True: "an ID comes in", False: "none comes in"}


@dataclass
class Costs:
    """Nanoseconds of processor time of one contestant and case, in each round; over the application by itself."""

    stack: Stack
    is_given: bool
    whole: list[float] = field(default_factory=list)
    over: list[float] = field(default_factory=list)


@dataclass
class Found:
    """All that one run has found."""

    machine: dict[str, Any] = field(default_factory=dict)
    costs: list[Costs] = field(default_factory=list)
    served: list[Outcome] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    def ratio(self, one: Costs) -> Spread | None:
        """Return the cost over that of the rival in the same case; None where there is none."""
        rival = RIVALS[one.stack.interface]
        for other in self.costs:
            if other.stack.key == rival and other.is_given is one.is_given:
                return paired_ratio(one.over, other.over)
        return None

    def as_json(self) -> dict[str, Any]:
        """Return all figures, with quartiles."""
        return {
            "version": 1,
            "machine": self.machine,
            "costs": [self._row(one) for one in self.costs],
            "served": [one.as_json() for one in self.served],
            "missing": self.missing,
            "mistakes": self.mistakes,
        }

    def _row(self, one: Costs) -> dict[str, Any]:
        ratio = self.ratio(one)
        return {
            "interface": one.stack.interface,
            "key": one.stack.key,
            "label": one.stack.label,
            "case": CASES[one.is_given],
            "ns_per_request": spread(one.whole).as_json(),
            "ns_over_none": spread(one.over).as_json(),
            "against": RIVALS[one.stack.interface],
            "ratio": None if ratio is None else ratio.as_json(),
        }

    def as_text(self) -> str:
        """Return the tables."""
        return "\n".join([*self._heading(), *self._costs_text(), *self._served_text(), *self._verdict()])

    def _heading(self) -> Iterator[str]:
        known = self.machine
        packages = ", ".join(f"{name} {version}" for name, version in known["packages"].items() if version is not None)
        yield f"{known['time']}, {known['processor']}, {known['cores']} cores, load {known['load_average']}"
        yield f"Python {known['python']}, {packages}"

    def _costs_text(self) -> Iterator[str]:
        for interface, rival in RIVALS.items():
            rows = [one for one in self.costs if one.stack.interface == interface]
            if not rows:
                continue
            yield f"\n{interface}: microseconds of processor time over the application by itself\n"
            yield f"{'':48}{'ID comes in':>12}{'quartiles':>17}{'none comes':>12}{'quartiles':>17}  / {rival}"
            for stack in dict.fromkeys(one.stack for one in rows):
                cases = [one for one in rows if one.stack is stack]
                cells = "".join(_cell(spread(one.over).scaled(1e-3)) for one in cases)
                ratios = ["   -" if ratio is None else f"{ratio.median:.2f}" for ratio in map(self.ratio, cases)]
                yield f"{stack.label:48}{cells}  {'  '.join(ratios)}"

    def _served_text(self) -> Iterator[str]:
        for server in dict.fromkeys(one.server for one in self.served):
            yield f"\n{server}, one worker, {CONNECTIONS} connections that stay open, an ID comes in\n"
            ratio = f"{'/ none':>8}{'quartiles':>15}"
            yield f"{'':40}{'requests/s':>11}{ratio}{'server us':>11}{ratio}"
            for one in (each for each in self.served if each.server == server):
                rate, cost = one.rate_ratio, one.cost_ratio
                yield (
                    f"{one.label:40}{one.rate.median:11,.0f}{rate.median:8.2f}{rate.low:8.2f} -{rate.high:5.2f}"
                    f"{one.cost.median:11.1f}{cost.median:8.2f}{cost.low:8.2f} -{cost.high:5.2f}"
                )

    def _verdict(self) -> Iterator[str]:
        if self.missing:
            yield f"\nLeft out: {', '.join(dict.fromkeys(self.missing))}. See requirements/bench.txt."
        if self.mistakes:
            yield "\nWRONG:\n  " + "\n  ".join(self.mistakes)
        else:
            yield "\nEvery middleware did its duty, and every request was counted."


def _cell(one: Spread) -> str:
    return f"{one.median:12.2f}{one.low:8.2f} -{one.high:7.2f}"
