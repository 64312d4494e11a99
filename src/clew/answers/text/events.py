"""Spans and log lines, a line each: when, by which service, and what is worth reading of their attributes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from clew.answers.questions.events import Event
from clew.answers.text.quantities import duration
from clew.answers.text.terminal import print_line, printable

_WIDEST = 28  # characters of a service or instance
_UUID = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}(-\d+)?", re.IGNORECASE)
TRACEBACK = "exception.stacktrace"
"""The attribute that holds an exception's traceback."""

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


def named(events: Sequence[Event], several: frozenset[str | None]) -> Iterable[tuple[Event, str]]:
    """Pair each event with the name of its service or instance, all equally wide."""
    names = [instance_name(event.service, event.instance, event.service in several) for event in events]
    width = min(max(map(len, names), default=0), _WIDEST)
    return [(event, f"{name:{width}}") for event, name in zip(events, names, strict=True)]


def print_event(console: Console, event: Event, name: str, origin: int, after: Text) -> None:
    """Print one event: its distance from `origin` in time, what it says, `after`, and its attributes."""
    severity = printable(event.severity or "")
    label = f"{duration(event.duration):>7}" if event.duration is not None else f"{severity:7}"
    style = _SEVERITY_STYLES.get(severity, "")
    print_line(
        console,
        Text.assemble(
            (f"{_offset(event.time - origin):>12}  ", "dim"),
            (f"{name}  ", "cyan"),
            (f"{'▶' if event.kind == 'span' else ' '} {label}  ", style or "bold"),
            (printable(event.text.rstrip()), style if severity not in ("INFO", "DEBUG", "TRACE") else ""),
            after,
            (_attributes(event), "dim"),
        ),
    )


def _offset(nanoseconds: int) -> str:
    return f"{round(nanoseconds / 1e6, 1) + 0.0:+,.1f} ms"  # + 0.0: a zero has no minus


def _attributes(event: Event) -> str:
    shown = [
        f"{printable(key)}={printable(str(value))}"
        for key, value in event.attributes.items()
        if _is_told(key, event) and not (isinstance(value, str) and _says_the_same(key, value, event))
    ]
    operations = event.attributes.get(_OPERATIONS)
    if isinstance(operations, dict):
        shown.extend(_operation(name, told) for name, told in operations.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return f"  {printable(' '.join(shown))}" if shown else ""


def _operation(name: str, told: Any) -> str:
    """Write what a canonical log line says of an operation: how often it ran, where that is not once, and how long."""
    try:
        often = f"{int(told['count'])}× " if told["count"] != 1 else ""
        failed = f" ({int(told['failed'])} failed)" if told["failed"] else ""
        return f"[{printable(name)} {often}{duration(float(told['duration']))}{failed}]"
    except (KeyError, TypeError, ValueError, OverflowError):
        return f"[{printable(name)} {printable(str(told))}]"


def _is_told(key: str, event: Event) -> bool:
    if isinstance(event.attributes.get(_OPERATIONS), dict) and key in {*_IN_THE_TEXT, _OPERATIONS}:
        return False
    if key in _SHOWN:
        return True
    if key in ("exception.message", "otel.status_description"):
        return not event.attributes.keys() & {TRACEBACK, "error.type"}
    return not key.startswith(_NOT_SHOWN)


def _says_the_same(key: str, value: str, event: Event) -> bool:
    """Return whether the event's text has the value already."""
    return (key == "operation.name" and value == event.text) or (key == "http.route" and event.text.endswith(value))


def instance_name(service: str | None, instance: str | None, several: bool) -> str:
    """Write where something happened: the service, and which instance of it where it has `several`.

    An instance that is named after its service stands alone; a UUID is cut to its first eight characters.
    """
    if not several or instance is None:
        return printable(service or "?")
    short = instance[:8] if _UUID.fullmatch(instance) else instance
    return printable(short if service and short.startswith(service) else f"{service or '?'}/{short}")
