"""What a run has found, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.contest import Results, is_baseline
from benchmarks.goals import Goal, goals
from benchmarks.statistics import Spread
from benchmarks.threads import Threaded

AGAINST = ("minimum", "sdk-request-id", "prometheus-bound")
"""Those whose cost every other cost is divided by in the table; for coroutine functions another minimum."""

ASYNC_MINIMUM = {"coroutine function": "minimum-async"}


@dataclass
class Run:
    """All that one run has found; what was left out is None."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    contest: Results | None = None
    disabled: Results | None = None
    threads: list[Threaded] | None = None
    memory: list[dict[str, Any]] | None = None
    imports: dict[str, Any] | None = None
    collection: dict[str, Any] | None = None
    missing: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    def goals(self) -> list[Goal]:
        return goals(self.contest, self.disabled, self.threads, self.memory, self.imports, self.collection)

    def as_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "machine": self.machine,
            "settings": self.settings,
            "contest": _contest_json(self.contest, ("minimum", "minimum-async", *AGAINST[1:])),
            "disabled": _contest_json(self.disabled, ("empty-wrapper",)),
            "threads": None if self.threads is None else [one.as_json() for one in self.threads],
            "memory": self.memory,
            "import": self.imports,
            "collection": self.collection,
            "goals": [goal.as_json() for goal in self.goals()],
            "missing": self.missing,
            "mistakes": self.mistakes,
        }

    def as_text(self) -> str:
        parts = [self._heading()]
        if self.contest is not None:
            parts.append(_contest_text(self.contest))
        if self.disabled is not None:
            parts.append(_disabled_text(self.disabled))
        if self.threads is not None:
            parts.append(_threads_text(self.threads))
        if self.memory is not None:
            parts.append(_memory_text(self.memory))
        if self.imports is not None:
            parts.append(_imports_text(self.imports))
        if self.collection is not None:
            parts.append(_collection_text(self.collection))
        parts.append(_goals_text(self.goals()))
        if self.missing:
            parts.append("Left out: " + "; ".join(self.missing) + ". See requirements/bench.txt.")
        if self.mistakes:
            parts.append("WRONG, what was recorded is not what was done:\n  " + "\n  ".join(self.mistakes))
        elif self.contest is not None or self.threads is not None or self.collection is not None:
            parts.append("Every contestant recorded exactly what was done.")
        return "\n\n".join(parts)

    def _heading(self) -> str:
        machine, settings = self.machine, self.settings
        packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items() if found is not None)
        load = machine["load_average"]
        return "\n".join(
            [
                f"{machine['time']}  {machine['processor']}, {machine['cores']} cores"
                + (f", load average {load:.1f} at the start" if load is not None else ""),
                f"{machine['implementation']} {machine['python']} on {machine['system']}",
                packages,
                f"clew's recorder: {machine['recorder']}",
                f"{settings['rounds']} rounds, turns of {settings['turn_ms']} ms, garbage collector "
                + ("on" if settings["gc"] else "off during the turns, run between the rounds")
                + ("; A SMOKE RUN, ITS FIGURES MEAN NOTHING" if settings["quick"] else ""),
            ]
        )


def _contest_json(results: Results | None, against: Sequence[str]) -> list[dict[str, Any]] | None:
    if results is None:
        return None
    return [
        {
            "key": one.key,
            "label": one.label,
            "group": one.group,
            "form": one.form.value,
            "emits": one.emits,
            "calls": one.done,
            "whole_ns": results.whole(one.key).as_json(),
            "cost_ns": results.cost(one.key).as_json(),
            "ratios": {
                other: results.ratio(one.key, other).as_json()
                for other in against
                if other in results and not is_baseline(one)
            },
        }
        for one in results.contestants
    ]


def _contest_text(results: Results) -> str:
    rows: list[Sequence[str]] = []
    group = ""
    for one in results.contestants:
        if one.group != group:
            group = one.group
            rows.append([group])
        if is_baseline(one):
            whole = results.whole(one.key)
            rows.append([f"  {one.label}", "", f"[{_number(whole.median)}]", _quartiles(whole)])
            continue
        minimum = ASYNC_MINIMUM.get(one.form.value, "minimum")
        rows.append(
            [
                f"  {one.label}",
                one.emits,
                _number(results.cost(one.key).median),
                _quartiles(results.cost(one.key)),
                *(
                    _ratio(results.ratio(one.key, other).median) if other in results else "-"
                    for other in (minimum, *AGAINST[1:])
                ),
            ]
        )
    head = ["a call", "records", "ns", "quartiles", "/ minimum", "/ OTel SDK", "/ prometheus"]
    return (
        "Cost of one measured call, in nanoseconds over the bare call of the same form (of bare calls, in brackets,\n"
        "the whole). Ratios are paired within rounds: to the hand-written minimum (of coroutine functions: its async\n"
        "form), to the OTel SDK by hand (counter + histogram, request ID by clew.views), and to prometheus_client\n"
        "(children bound beforehand, no exemplars).\n\n" + table(head, rows, left=2)
    )


def _disabled_text(results: Results) -> str:
    rows = [
        [
            one.label,
            _number(results.cost(one.key).median),
            _quartiles(results.cost(one.key)),
            _ratio(results.ratio(one.key, _empty_wrapper(one.form.value)).median),
        ]
        for one in results.contestants
        if not is_baseline(one)
    ]
    return "Before clew.configure(), nanoseconds over the bare call:\n\n" + table(
        ["a call", "ns", "quartiles", "/ empty wrapper"], rows
    )


def _empty_wrapper(form: str) -> str:
    return "empty-wrapper-async" if form == "coroutine function" else "empty-wrapper"


def _threads_text(threads: Iterable[Threaded]) -> str:
    rows = [
        [
            f"{one.group}: {one.label}",
            f"{one.one.median:.3f}",
            f"{one.four.median:.3f}",
            f"{one.ratio.median:.2f}",
            f"{one.ratio.low:.2f} - {one.ratio.high:.2f}",
            f"{one.ratio_of_work.median:.2f}",
            f"{one.done:,}",
            "-" if one.lost is None else f"{one.lost:,}",
        ]
        for one in threads
    ]
    return "Four threads, million calls a second (the bare call included), and what was lost:\n\n" + table(
        ["a call", "one thread", "four", "ratio", "quartiles", "of work", "calls made", "lost"], rows
    )


def _memory_text(memory: Iterable[dict[str, Any]]) -> str:
    rows = [[one["label"], f"{one['bytes'] / 1024:,.0f}"] for one in memory]
    return "Memory for 1,000 attribute sets with exemplars, KiB:\n\n" + table(["held by", "KiB"], rows)


def _imports_text(imports: dict[str, Any]) -> str:
    rows = [
        [label, f"{imports[key]['median']:.1f}", f"{imports[key]['low']:.1f} - {imports[key]['high']:.1f}"]
        for label, key in (
            ("opentelemetry.sdk.metrics", "sdk"),
            ("the same, then clew", "sdk_and_clew"),
            ("difference within pairs", "difference"),
        )
    ]
    return f"Import in fresh interpreters, {imports['pairs']} pairs, milliseconds:\n\n" + table(
        ["import", "ms", "quartiles"], rows
    )


def _collection_text(collection: dict[str, Any]) -> str:
    sides = {"clew": "clew", "sdk": "OpenTelemetry SDK"}
    times = [
        [
            sides[side],
            f"{collection['collect_ms'][side]['median']:.1f}",
            f"{collection['collect_and_encode_ms'][side]['median']:.1f}",
            f"{collection['collect_and_encode_ms'][side]['low']:.1f} - "
            f"{collection['collect_and_encode_ms'][side]['high']:.1f}",
        ]
        for side in sides
    ]
    waits = [
        [
            f"{sides[side]}, {words}",
            f"{found['calls']:,}",
            f"{found['runs']:,}",
            _number(found["median_ns"]),
            f"{found['p999_ms']:.3f}",
            f"{found['p9999_ms']:.3f}",
            f"{found['longest_ms']:.1f}",
        ]
        for side in sides
        for what, words in (("collecting", "another thread collects"), ("computing", "another thread only computes"))
        for found in [collection["waits"][side][what]]
    ]
    return (
        f"Collecting {collection['sets']:,} attribute sets, milliseconds:\n\n"
        + table(["", "collect", "and encode", "quartiles"], times)
        + "\n\nHow long a call of a recording thread takes meanwhile (its two clock reads included):\n\n"
        + table(["", "calls", "runs", "median ns", "99.9 % ms", "99.99 % ms", "longest ms"], waits)
    )


def _goals_text(found: Iterable[Goal]) -> str:
    rows = [
        [
            goal.what,
            f"{'at least' if goal.at_least else 'at most'} {_of_goal(goal, goal.limit)}",
            "-" if goal.measured is None else _of_goal(goal, goal.measured),
            "" if goal.spread is None else " - ".join(_of_goal(goal, edge) for edge in goal.spread),
            {True: "met", False: "NOT MET", None: "not measured"}[goal.met],
        ]
        for goal in found
    ]
    return "Goals:\n\n" + table(["what", "goal", "measured", "quartiles", ""], rows)


def _of_goal(goal: Goal, value: float) -> str:
    if goal.unit == "x":
        return f"{_ratio(value)} x"
    return f"{value:,.3g} {goal.unit}".rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _quartiles(found: Spread) -> str:
    return f"{found.low:,.0f} - {found.high:,.0f}"


def _ratio(value: float) -> str:
    """Write a ratio that is far below one as a fraction of one."""
    if 0 < value < 0.6:
        return f"1/{1 / value:.1f}".removesuffix(".0")
    return f"{value:,.2f}".removesuffix(".00") if value < 100 else f"{value:,.0f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Align columns, the first `left` of them to the left; a row of one cell is a heading."""
    lines = [head, *rows]
    widths = [
        max((len(line[column]) for line in lines if len(line) > column and len(line) > 1), default=0)
        for column in range(len(head))
    ]
    written = []
    for line in lines:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=False))
        ]
        written.append("  ".join(cells).rstrip())
    written.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(written)
