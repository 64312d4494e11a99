"""Where data goes: an exporter, told about in the log when it starts and stops failing, its losses counted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from clew.diagnostics import count, counts, logger, say_once

Kind = Literal["metric points", "spans", "log records"]

_EVENTS: dict[Kind, str] = {
    "metric points": "metric_points.lost",
    "spans": "spans.lost",
    "log records": "log_records.lost",
}

_QUIET_SECONDS = 300.0
"""An endpoint that fails by turns is said to fail at most once in this time."""

_LONGEST_REASON = 300

_OTLP_LOGGERS = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
)


class UndeliveredError(Exception):
    """Raised by an exporter that could not deliver all of a batch.

    `reason` is for people; `rejected` is how many items the endpoint refused while it took the rest, None where the
    whole batch was not delivered.
    """

    def __init__(self, reason: str, rejected: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rejected = rejected


def lost() -> dict[str, int]:
    """How many metric points, spans and log records this process could not deliver so far, by kind."""
    happened = counts()
    return {kind: happened.get(event, 0) for kind, event in _EVENTS.items()}


def count_lost(kind: Kind, number: int) -> None:
    """Add to what `lost` tells."""
    if number:
        count(_EVENTS[kind], number)


class _Hush(logging.Filter):
    """Keeps back what OpenTelemetry's own OTLP exporters log while we export, since we say it once; no one else's."""

    def __init__(self) -> None:
        super().__init__()
        self.sending = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(self.sending, "active", False):
            self.sending.heard = record.getMessage()
            return False
        return True


_hush = _Hush()


class Destination:
    """An exporter with what is known about it.

    `export` takes a batch and the seconds it may take, and returns None or an OpenTelemetry export result; `label`
    names the endpoint in messages.
    """

    def __init__(self, kind: Kind, label: str, export: Callable[[Any, float], Any]) -> None:
        self.kind: Kind = kind
        self.label = label
        self.reason: str | None = None
        """Why the last export failed; None after one that did not."""
        self._given_up = False
        self._export = export
        self._said = False
        self._said_at = -_QUIET_SECONDS
        for name in _OTLP_LOGGERS:
            filters = logging.getLogger(name).filters
            if _hush not in filters:
                filters.insert(0, _hush)  # before their own filter against repetitions, which would remember ours

    def send(self, batch: Any, number: int, timeout: float) -> int:
        """Export a batch of `number` items within `timeout` seconds; return how many were not delivered."""
        if not number:
            return 0
        _hush.sending.active = True
        _hush.sending.heard = None
        try:
            result = self._export(batch, timeout)
            failed = getattr(result, "name", "SUCCESS") != "SUCCESS"
            reason = (_hush.sending.heard or "the exporter failed and gave no reason") if failed else None
        except UndeliveredError as error:
            if error.rejected is not None:
                return self._rejected(error.rejected, number, error.reason)
            reason = error.reason
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        finally:
            _hush.sending.active = False
        if self._given_up:
            return number if reason else 0
        if reason is None:
            self._works()
            return 0
        self._fails(_one_line(reason))
        count_lost(self.kind, number)
        return number

    def give_up(self) -> None:
        """Say and count nothing more: whoever waited for an export that hangs has counted it as lost."""
        self._given_up = True

    def _rejected(self, rejected: int, number: int, reason: str) -> int:
        self._works()
        count_lost(self.kind, rejected)
        say_once(
            ("rejected", self.kind, self.label),
            "%s took %d of %d %s and refused the rest: %s; refusals that follow are counted and not said",
            self.label,
            number - rejected,
            number,
            self.kind,
            _one_line(reason),
        )
        return rejected

    def _fails(self, reason: str) -> None:
        self.reason = reason
        now = time.monotonic()
        if not self._said and now - self._said_at >= _QUIET_SECONDS:
            self._said = True
            self._said_at = now
            _warn("%s cannot be delivered to %s: %s; said once, then only counted", self.kind, self.label, reason)

    def _works(self) -> None:
        self.reason = None
        if self._said:
            self._said = False
            number = lost()[self.kind]
            _warn("%s are delivered to %s again; lost so far: %d", self.kind, self.label, number)


def _one_line(reason: str) -> str:
    """Return what an endpoint says so that it does no harm to a log: one line, printable, not too long."""
    line = " ".join(reason.split())
    printable = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in line)
    return printable if len(printable) <= _LONGEST_REASON else f"{printable[:_LONGEST_REASON]}…"


def _warn(message: str, *args: object) -> None:
    try:
        logger.warning(message, *args)
    except Exception:  # a handler of the application that raises must not end the delivering thread
        return
