"""The report: a table of operations, the worst first, and below it requests to follow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clew.answers.questions.report import OperationReport, Report, Sample
from clew.answers.statistics import Quantile, Trend
from clew.answers.text.quantities import age, duration, local_time, percent, rate
from clew.answers.text.terminal import print_line, printable

_LONGEST = 300  # characters of a name in the table
_NARROWEST = 16  # characters of an operation's name in a line
_LEFT_OUT = ("p99", "p50")  # columns, where the terminal is too narrow for all
_REQUESTS = ((2, 5), (4, 3), (10**9, 1))  # up to so many operations shown, so many requests of each kind


def print_report(console: Console, answer: Report, top: int) -> None:
    """Print the report as a table of the `top` worst operations, and below it requests of each to follow."""
    assert answer.start is not None
    assert answer.end is not None
    shown = sorted(answer.operations, key=_badness)[:top]
    compared = any(trend.direction != "unknown" for one in answer.operations for trend in _trends(one))
    console.print()
    print_line(
        console,
        Text.assemble(
            (f"{local_time(answer.start, answer.end)} – {local_time(answer.end, answer.end)}", "bold"),
            f"  observed {duration(answer.observed)}",
            f", against {duration(answer.compare)} before" if compared else "",
        ),
    )
    console.print()
    console.print(_operations_table(shown, compared, console.width))
    left_out = len(answer.operations) - len(shown)
    if left_out:
        print_line(console, Text(f" … and {left_out} operations more: --top, --service, --operation", "dim"))
    console.print()
    most = next(most for operations, most in _REQUESTS if len(shown) <= operations)
    for operation in shown:
        _print_requests(console, operation, most)
    console.print()
    if compared:
        print_line(console, Text("▲ ▼ beyond noise, = level, · not enough to tell.", "dim"))
    else:
        print_line(
            console, Text(f"Too little is known of {duration(answer.compare)} before to compare with it.", "dim")
        )
    print_line(
        console, Text("These requests are samples out of all calls. What happened to one: clew follow ID", "dim")
    )


def _badness(one: OperationReport) -> tuple[bool, float, float, str]:
    """Return a key that sorts the worst first: what has become worse, what fails most, what is slowest."""
    worse = one.errors_trend.direction == "up" or one.duration.direction == "up"
    failed = sum(one.errors.values()) / one.calls if one.calls else 0.0
    return (not worse, -failed, -(one.p95.value if one.p95 else 0.0), one.operation.name)


def _trends(one: OperationReport) -> tuple[Trend, Trend, Trend]:
    return one.load, one.errors_trend, one.duration


def _operations_table(operations: Sequence[OperationReport], compared: bool, width: int) -> Table:
    columns: dict[str, list[Text]] = {
        "calls": [Text(f"{one.calls:,}") for one in operations],
        "load": [_with_trend(rate(one.rate), one.load, compared) for one in operations],
        "failed": [_failures(one, compared) for one in operations],
        "p50": [_quantile(one.p50) for one in operations],
        "p95": [_quantile(one.p95) for one in operations],
        "p99": [_quantile(one.p99) for one in operations],
    }
    if compared:
        columns["mean"] = [_with_trend("", one.duration, compared) for one in operations]
    for title in _LEFT_OUT:
        if _width(columns) + _NARROWEST + 2 > width:
            columns.pop(title)
    services = {one.operation.service for one in operations}
    names = [_name(one, len(services) > 1) for one in operations]
    room = max(width - _width(columns) - 2, _NARROWEST)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), collapse_padding=True, header_style="dim")
    only = f" of {printable(next(iter(services)) or '(no service.name)', _LONGEST)}" if len(services) == 1 else ""
    table.add_column(Text(f"operation{only}"), no_wrap=True)
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for name, *cells in zip(names, *columns.values(), strict=True):
        table.add_row(_folded(name, room), *cells)
    return table


def _width(columns: Mapping[str, Sequence[Text]]) -> int:
    return sum(max(len(title), *(len(cell) for cell in cells)) + 2 for title, cells in columns.items())


def _name(one: OperationReport, with_service: bool) -> Text:
    kind = f" ({one.operation.kind})" if one.operation.kind in ("rpc", "messaging") else ""
    service = f" · {printable(one.operation.service or '(no service.name)', _LONGEST)}" if with_service else ""
    return Text.assemble((printable(one.operation.name, _LONGEST), "bold"), (f"{kind}{service}", "dim"))


def _folded(name: Text, room: int) -> Text:
    """Fold a name that is too long at a joint: after a blank, before a slash or a point."""
    lines: list[Text] = []
    begin = end = 0
    for joint in [found.end() for found in re.finditer(r"(?<=.)(?:\s+|(?=[/.:]))|$", name.plain)]:
        while joint - begin > room:
            if end == begin:
                end = begin + room  # no joint: cut it anywhere
            lines.append(name[begin:end])
            begin = end
        end = joint
    lines.append(name[begin:])
    return Text("\n").join(one for one in lines if one.plain.strip())


def _failures(one: OperationReport, compared: bool) -> Text:
    failed = sum(one.errors.values())
    share = percent(failed / one.calls) if failed else "0"
    return _with_trend(share, one.errors_trend, compared, style="red" if failed else "")


def _with_trend(value: str, trend: Trend, compared: bool, style: str = "") -> Text:
    if not compared:
        return Text(value, style)
    sign = {"up": "▲", "down": "▼", "level": "=", "unknown": "·"}[trend.direction]
    factor = ""
    if trend.direction in ("up", "down"):
        factor = f"{trend.ratio:.2g}×" if trend.ratio is not None else "new"
    colour = {"up": "yellow", "down": "cyan"}.get(trend.direction, "dim")
    return Text.assemble((value, style), " " if value else "", (f"{sign}{factor}", colour))


def _print_requests(console: Console, one: OperationReport, most: int) -> None:
    if not one.slowest and not one.errors:
        return
    kinds = ", ".join(f"{printable(error)} {count:,}" for error, count in one.errors.items())
    print_line(console, Text.assemble(_name(one, True), (f"  {kinds}" if kinds else "", "red")))
    _print_samples(console, "slowest", one.slowest[:most])
    _print_samples(console, "failed", one.failed[:most])


def _print_samples(console: Console, title: str, samples: list[Sample]) -> None:
    width = max((len(sample.request_id or "") for sample in samples), default=0)
    for number, sample in enumerate(samples):
        name = printable(sample.request_id) if sample.request_id else "(no request ID)"
        print_line(
            console,
            Text.assemble(
                (f"  {title if not number else '':8} ", "dim"),
                (f"{name:{min(width, 40)}}", "cyan"),
                f"  {duration(sample.duration):>8}  {age(sample.time):>12}",
                (f"  {printable(sample.error_type)}" if sample.error_type else "", "red"),
            ),
        )


def _quantile(found: Quantile | None) -> Text:
    return Text("–" if found is None else duration(found.value))
