"""Spans and log lines as a timeline: one request's, or those of a window with what its bad requests share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from clew.answers.questions.around import Around
from clew.answers.questions.follow import Event, Followed
from clew.answers.questions.shared_values import Shared
from clew.answers.text.tracebacks import folded, same_exception
from clew.answers.text.words import clock, duration, instance_name, line, percent, plain

NOTABLE = 1.5
"""Lifts under this are not shown."""

_SHARED = 8  # values shown
_ALSO = 3  # and others that say the same
_FAILURES = 8  # kinds of failures shown
_WIDEST = 28  # characters of a service or instance
_WIDEST_COLUMN = 60  # characters to which the columns of failures are aligned
_TRACEBACK = "exception.stacktrace"
_NOT_SHOWN = (  # what instrumentations say of every call; --format json has all of it
    "request_id",
    "asgi.",
    "client.",
    "code.",
    "exception.",
    "http.",
    "net.",
    "network.",
    "otel.",
    "process.",
    "server.",
    "telemetry.",
    "thread.",
    "url.",
    "user_agent.",
)
_SHOWN = {  # and what of it is worth reading
    "exception.type",
    "http.response.status_code",
    "http.route",
    "http.status_code",
    "http.target",
    "http.url",
    "url.full",
    "url.path",
}
_OPERATIONS = "request.operations"
"""Of a canonical log line; its text has what the next ones say."""

_IN_THE_TEXT = {"error.type", "http.route", "request.duration", "request.name", "request.outcome"}
_SEVERITY_STYLES = {
    "TRACE": "dim",
    "DEBUG": "dim",
    "INFO": "green",
    "WARN": "yellow",
    "ERROR": "bold red",
    "FATAL": "bold red",
}


def print_followed(console: Console, answer: Followed) -> None:
    """Print one request as a timeline over all services; an exception's traceback once, folded."""
    assert answer.start is not None
    assert answer.end is not None
    services = sorted({event.service or "?" for event in answer.events})
    failed = any(event.failed for event in answer.events)
    console.print()
    line(console, Text.assemble("request ", (plain(answer.request_id), "bold cyan")))
    line(
        console,
        Text.assemble(
            f"{clock(answer.start, 0)}  {duration((answer.end - answer.start) / 1e9)}  over ",
            ", ".join(plain(service) for service in services),
            *([("  failed", "bold red")] if failed else []),
        ),
    )
    console.print()
    told: set[tuple[str, ...]] = set()
    for event, name in _named(answer.events, answer.several):
        traceback = str(event.attributes.get(_TRACEBACK, ""))
        same = same_exception(traceback)
        repeated = bool(traceback) and same in told
        _print_event(console, event, name, answer.start, Text("  (traceback above)" if repeated else "", "dim"))
        if traceback and not repeated:
            told.add(same)
            for written in folded(traceback):
                line(console, Text(f"{'':14}{plain(written)}", style="dim"))


def print_around(console: Console, answer: Around, events: int) -> None:
    """Print a window: what its bad requests share, what failed, and the `events` that are nearest to its middle."""
    console.print()
    line(
        console,
        Text.assemble(
            (f"{clock(answer.start, 0)} – {clock(answer.end, answer.start)}", "bold"),
            f"  {answer.requests:,} requests seen, ",
            (f"{answer.failed:,} failed", "bold red" if answer.failed else ""),
        ),
    )
    console.print()
    _print_shared(console, answer.shared)
    _print_failures(console, answer)
    _print_middle(console, answer, events)


def _print_shared(console: Console, every: Sequence[Shared]) -> None:
    notable = [shared for shared in every if shared.lift >= NOTABLE][:_SHARED]
    if not notable:
        line(console, Text("The failed and the slowest share nothing that the rest does not.", style="dim"))
        return
    line(console, Text("What the failed and the slowest share, the strongest first:", style="bold"))
    for shared in notable:
        also = ", ".join(_pair(attribute, value) for attribute, value in shared.also[:_ALSO])
        more = f" and {len(shared.also) - _ALSO} more" if len(shared.also) > _ALSO else ""
        line(
            console,
            Text.assemble(
                (f"  {shared.lift:6.1f}×  ", "yellow"),
                (_pair(shared.attribute, shared.value), "cyan"),
                f"  {percent(shared.share_of_bad)} of them, {percent(shared.share_of_rest)} of the rest",
                ("" if shared.basis == "counts" else "  (of the requests seen)", "dim"),
                (f"  (also {also}{more})" if also else "", "dim"),
            ),
        )


def _print_failures(console: Console, answer: Around) -> None:
    if not answer.failures:
        return
    console.print()
    line(console, Text("What failed, the most often first, with the last request:", style="bold"))
    rows = [
        (
            one,
            instance_name(one.service, one.instance, one.service in answer.several),
            plain(one.text),
            plain(one.error_type or ""),
        )
        for one in answer.failures[:_FAILURES]
    ]
    name_width, text_width, error_width = (
        min(max(len(str(row[column])) for row in rows), _WIDEST_COLUMN) for column in (1, 2, 3)
    )
    for one, name, text, error in rows:
        line(
            console,
            Text.assemble(
                (f"  {one.count:6,}  ", "bold red"),
                (f"{name:{name_width}}  ", "cyan"),
                f"{text:{text_width}}  ",
                (f"{error:{error_width}}  ", "red"),
                (plain(one.request_id or ""), "cyan"),
            ),
        )
    left_out = len(answer.failures) - len(rows)
    if left_out:
        line(console, Text(f"  … and {left_out} more", "dim"))


def _print_middle(console: Console, answer: Around, events: int) -> None:
    middle = (answer.start + answer.end) // 2
    nearest = sorted(answer.events, key=lambda one: abs(one.event.time - middle))[:events]
    nearest.sort(key=lambda one: one.event.time)
    if nearest:
        console.print()
        line(console, Text(f"What happened nearest to {clock(middle, answer.start)}:", style="bold"))
    for one, (event, name) in zip(nearest, _named([one.event for one in nearest], answer.several), strict=True):
        _print_event(console, event, name, middle, Text(f"  {plain(one.request_id)}" if one.request_id else "", "cyan"))
    left_out = len(answer.events) - len(nearest) + answer.events_left_out
    if left_out:
        console.print()
        line(console, Text(f"… and {left_out:,} events more: --events, --window", "dim"))


def _named(events: Sequence[Event], several: frozenset[str | None]) -> Iterable[tuple[Event, str]]:
    """Pair each event with who did it, all written equally wide."""
    names = [instance_name(event.service, event.instance, event.service in several) for event in events]
    width = min(max(map(len, names), default=0), _WIDEST)
    return [(event, f"{name:{width}}") for event, name in zip(events, names, strict=True)]


def _print_event(console: Console, event: Event, name: str, origin: int, after: Text) -> None:
    severity = plain(event.severity or "")
    label = f"{duration(event.duration):>7}" if event.duration is not None else f"{severity:7}"
    style = _SEVERITY_STYLES.get(severity, "")
    line(
        console,
        Text.assemble(
            (f"{_offset(event.time - origin):>12}  ", "dim"),
            (f"{name}  ", "cyan"),
            (f"{'▶' if event.kind == 'span' else ' '} {label}  ", style or "bold"),
            (plain(event.text.rstrip()), style if severity not in ("INFO", "DEBUG", "TRACE") else ""),
            after,
            (_attributes(event), "dim"),
        ),
    )


def _offset(nanoseconds: int) -> str:
    return f"{round(nanoseconds / 1e6, 1) + 0.0:+,.1f} ms"  # + 0.0: a zero has no minus


def _attributes(event: Event) -> str:
    shown = [
        f"{plain(key)}={plain(str(value))}"
        for key, value in event.attributes.items()
        if _is_told(key, event) and not (isinstance(value, str) and _says_the_same(key, value, event))
    ]
    operations = event.attributes.get(_OPERATIONS)
    if isinstance(operations, dict):
        shown.extend(_operation(name, told) for name, told in operations.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return f"  {plain(' '.join(shown))}" if shown else ""


def _operation(name: str, told: Any) -> str:
    """Write what a canonical log line tells of an operation: how often it ran where that is not once, and how long."""
    try:
        often = f"{int(told['count'])}× " if told["count"] != 1 else ""
        failed = f" ({int(told['failed'])} failed)" if told["failed"] else ""
        return f"[{plain(name)} {often}{duration(float(told['duration']))}{failed}]"
    except (KeyError, TypeError, ValueError, OverflowError):
        return f"[{plain(name)} {plain(str(told))}]"


def _is_told(key: str, event: Event) -> bool:
    if isinstance(event.attributes.get(_OPERATIONS), dict) and key in {*_IN_THE_TEXT, _OPERATIONS}:
        return False
    if key in _SHOWN:
        return True
    if key in ("exception.message", "otel.status_description"):
        return not event.attributes.keys() & {_TRACEBACK, "error.type"}
    return not key.startswith(_NOT_SHOWN)


def _says_the_same(key: str, value: str, event: Event) -> bool:
    """Say whether the event's text has the value already."""
    return (key == "operation.name" and value == event.text) or (key == "http.route" and event.text.endswith(value))


def _pair(attribute: str, value: Any) -> str:
    return f"{plain(attribute)}={plain(value if isinstance(value, str) else json.dumps(value))}"
