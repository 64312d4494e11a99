"""Answers as people read them, with `rich`. A request ID is never cut or wrapped, so that it can be copied."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clew.local.questions import Around, Followed, Report
from clew.local.questions.follow import Event
from clew.local.questions.report import OperationReport, Sample
from clew.local.statistics import Quantile, Trend

_SHOWN = 5  # requests a list
_ATTRIBUTES_KNOWN = ("request_id", "code.", "thread.", "telemetry.", "otel.", "process.")
_TRACEBACK = "exception.stacktrace"  # shown below its line
_SEVERITY_STYLES = {
    "TRACE": "dim",
    "DEBUG": "dim",
    "INFO": "green",
    "WARN": "yellow",
    "ERROR": "bold red",
    "FATAL": "bold red",
}


def print_report(console: Console, answer: Report) -> None:
    """Print the report: a table a service, then the requests behind each operation."""
    assert answer.start is not None
    assert answer.end is not None
    console.print()
    _line(
        console,
        Text.assemble(
            (f"{_clock(answer.start, answer.end)} – {_clock(answer.end, answer.end)}", "bold"),
            f"  observed {duration(answer.observed)}, against {duration(answer.compare)} before",
        ),
    )
    for service, operations in groupby(answer.operations, key=lambda one: one.operation.service):
        group = list(operations)
        console.print()
        _line(console, Text(_plain(service or "(no service.name)"), style="bold cyan"))
        console.print(_operations_table(group))
        for operation in group:
            _print_requests(console, operation)
    console.print()
    _line(
        console,
        Text("▲ ▼ beyond noise, = level, · not enough to tell. Requests are samples that exemplars kept,", "dim"),
    )
    _line(console, Text("out of all calls. What happened to one: clew follow ID", "dim"))


def print_followed(console: Console, answer: Followed) -> None:
    """Print one request as a timeline over all services."""
    assert answer.start is not None
    assert answer.end is not None
    services = sorted({event.service or "?" for event in answer.events})
    failed = any(event.failed for event in answer.events)
    console.print()
    _line(console, Text.assemble("request ", (_plain(answer.request_id), "bold cyan")))
    _line(
        console,
        Text.assemble(
            f"{_clock(answer.start, 0)}  {duration((answer.end - answer.start) / 1e9)}  over ",
            ", ".join(_plain(service) for service in services),
            *([("  failed", "bold red")] if failed else []),
        ),
    )
    console.print()
    _print_events(console, answer.events, answer.start)


def print_around(console: Console, answer: Around) -> None:
    """Print a window: what its bad requests share, then what happened in it."""
    console.print()
    _line(
        console,
        Text.assemble(
            (f"{_clock(answer.start, 0)} – {_clock(answer.end, answer.start)}", "bold"),
            f"  {answer.requests:,} requests seen, ",
            (f"{answer.failed:,} failed", "bold red" if answer.failed else ""),
        ),
    )
    console.print()
    if answer.shared:
        _line(console, Text("What the failed and the slowest share, the strongest first:", style="bold"))
        for shared in answer.shared:
            value = shared.value if isinstance(shared.value, str) else json.dumps(shared.value)
            _line(
                console,
                Text.assemble(
                    (f"  {shared.lift:6.1f}×  ", "yellow"),
                    (f"{_plain(shared.attribute)}={_plain(value)}", "cyan"),
                    f"  {_percent(shared.share_of_bad)} of them, {_percent(shared.share_of_rest)} of the rest",
                    ("" if shared.basis == "counts" else "  (of the requests seen)", "dim"),
                ),
            )
    else:
        _line(console, Text("The failed and the slowest share nothing that the rest does not.", style="dim"))
    console.print()
    _print_events(
        console, [one.event for one in answer.events], answer.start, [one.request_id for one in answer.events]
    )


def duration(seconds: float) -> str:
    """Write a duration with three digits and the unit that suits it."""
    if seconds <= 0:
        return "0 s"
    if seconds < 99.5:
        unit, factor = ("s", 1.0) if seconds >= 0.9995 else ("ms", 1e3) if seconds >= 0.9995e-3 else ("µs", 1e6)
        value = seconds * factor
        return f"{value:.{max(0, 2 - math.floor(math.log10(max(value, 1))))}f} {unit}"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def _operations_table(operations: Iterable[OperationReport]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), collapse_padding=True, header_style="dim")
    table.add_column("operation", overflow="fold", min_width=12)
    for title in ("calls", "load", "failed", "p50", "p95", "p99", "duration"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in operations:
        table.add_row(
            Text.assemble(
                (_plain(one.operation.name), "bold"),
                ("" if one.operation.kind == "operation" else f" {one.operation.kind}", "dim"),
            ),
            Text(f"{one.calls:,}"),
            _with_trend(_rate(one.rate), one.load),
            _failures(one),
            *(Text(_quantile(found)) for found in (one.p50, one.p95, one.p99)),
            _with_trend("", one.duration),
        )
    return table


def _failures(one: OperationReport) -> Text:
    failed = sum(one.errors.values())
    return _with_trend(_percent(failed / one.calls) if failed else "0", one.errors_trend, style="red" if failed else "")


def _with_trend(value: str, trend: Trend, style: str = "") -> Text:
    sign = {"up": "▲", "down": "▼", "level": "=", "unknown": "·"}[trend.direction]
    factor = ""
    if trend.direction in ("up", "down"):
        factor = f"{trend.ratio:.2g}×" if trend.ratio is not None else "new"
    colour = {"up": "yellow", "down": "cyan"}.get(trend.direction, "dim")
    return Text.assemble((value, style), " " if value else "", (f"{sign}{factor}", colour))


def _print_requests(console: Console, one: OperationReport) -> None:
    if not one.slowest and not one.errors:
        return
    _line(console, Text(_plain(one.operation.name), style="bold"))
    if one.errors:
        kinds = ", ".join(f"{_plain(error)} {count:,}" for error, count in one.errors.items())
        _line(console, Text.assemble("  errors   ", (kinds, "red")))
    _print_samples(console, "slowest", one.slowest[:_SHOWN])
    _print_samples(console, "failed", one.failed[:_SHOWN])


def _print_samples(console: Console, title: str, samples: list[Sample]) -> None:
    width = max((len(sample.request_id or "") for sample in samples), default=0)
    for number, sample in enumerate(samples):
        name = _plain(sample.request_id) if sample.request_id else "(no request ID)"
        _line(
            console,
            Text.assemble(
                (f"  {title if not number else '':8} ", "dim"),
                (f"{name:{min(width, 40)}}", "cyan"),
                f"  {duration(sample.duration):>8}  {_age(sample.time):>12}",
                (f"  {_plain(sample.error_type)}" if sample.error_type else "", "red"),
            ),
        )


def _print_events(
    console: Console, events: Sequence[Event], origin: int, request_ids: Sequence[str | None] | None = None
) -> None:
    services = min(max((len(_plain(event.service or "?")) for event in events), default=0), 20)
    for event, request_id in zip(events, request_ids or [None] * len(events), strict=True):
        severity = event.severity or ""
        label = f"{duration(event.duration):>7}" if event.duration is not None else f"{severity:7}"
        style = _SEVERITY_STYLES.get(severity, "")
        _line(
            console,
            Text.assemble(
                (f"{_offset(event.time - origin):>12}  ", "dim"),
                (f"{_plain(event.service or '?'):{services}}  ", "cyan"),
                (f"{'▶' if event.kind == 'span' else ' '} {label}  ", style or "bold"),
                (_plain(event.text), style if severity not in ("INFO", "DEBUG", "TRACE") else ""),
                (f"  {_plain(request_id)}" if request_id else "", "cyan"),
                (_attributes(event), "dim"),
            ),
        )
        if request_ids is None:
            for line in str(event.attributes.get(_TRACEBACK, "")).splitlines():
                _line(console, Text(f"{'':14}{_plain(line)}", style="dim"))


def _attributes(event: Event) -> str:
    shown = [
        f"{_plain(key)}={_plain(str(value))}"
        for key, value in event.attributes.items()
        if not key.startswith(_ATTRIBUTES_KNOWN) and key != _TRACEBACK
    ]
    return f"  {' '.join(shown)}" if shown else ""


def _line(console: Console, text: Text) -> None:
    """Print one line as it is: what is wider than the terminal is left to the terminal, nothing is cut."""
    console.print(text, soft_wrap=True, highlight=False)


def _plain(text: str) -> str:
    """Return text of somebody else's without what would steer the terminal."""
    return "".join(character if character.isprintable() else "⏎" if character == "\n" else "�" for character in text)


def _quantile(found: Quantile | None) -> str:
    return "–" if found is None else duration(found.value)


def _rate(rate: float | None) -> str:
    if not rate:
        return "–" if rate is None else "0/s"
    if rate >= 0.095:
        return f"{rate:,.1f}/s" if rate < 100 else f"{rate:,.0f}/s"
    return f"{rate * 60:.1f}/min" if rate * 60 >= 0.095 else f"{rate * 3600:.1f}/h"


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %" if share < 0.0995 else f"{share * 100:.0f} %"


def _offset(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:+,.1f} ms"


def _clock(moment: int, today: int) -> str:
    """Write a time in the local zone, with the date unless it is the day of `today`."""
    local = datetime.fromtimestamp(moment / 1e9).astimezone()
    same = today and local.date() == datetime.fromtimestamp(today / 1e9).astimezone().date()
    return local.strftime("%H:%M:%S" if same else "%Y-%m-%d %H:%M:%S")


def _age(moment: int) -> str:
    seconds = max(datetime.now().timestamp() - moment / 1e9, 0.0)
    for most, unit, factor in ((100, "s", 1), (6000, "min", 60), (172800, "h", 3600)):
        if seconds < most:
            return f"{round(seconds / factor)} {unit} ago"
    return f"{round(seconds / 86400)} d ago"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line to end in silence, where rich would exit with status 1."""
        raise BrokenPipeError


def console() -> Console:
    """Return a console on standard output; where that is no terminal, 80 columns without colours."""
    return _Console(highlight=False)
