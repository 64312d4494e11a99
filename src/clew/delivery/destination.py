"""Where data goes: an exporter, told about in the log when it starts and stops failing, its losses counted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from clew.diagnostics import count, counts, logger, warn_once

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


class Stakes(NamedTuple):
    """What else there is to know of items that were not delivered.

    `again` is how many of them come again with the next export, as cumulative totals do; `exemplars` how many exemplars
    they had, which do not.
    """

    again: int = 0
    exemplars: int = 0


class UndeliveredError(Exception):
    """Raised by an exporter that could not deliver all of a batch.

    `reason` is for people; `undelivered` is how many items did not arrive, None for the whole batch; `refused` whether
    the endpoint answered that it does not want these; `stakes` what else there is to know of them.
    """

    def __init__(
        self, reason: str, undelivered: int | None = None, *, refused: bool = False, stakes: Stakes | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.undelivered = undelivered
        self.refused = refused
        self.stakes = stakes


def lost() -> dict[str, int]:
    """How many metric points, spans and log records this process could not deliver so far, by kind."""
    happened = counts()
    return {kind: happened.get(event, 0) for kind, event in _EVENTS.items()}


def count_lost(kind: Kind, number: int) -> None:
    """Add to what `lost` tells."""
    if number:
        count(_EVENTS[kind], number)


def count_lost_exemplars(number: int) -> None:
    """Count exemplars of an export that was not delivered: they are of its interval, and do not come again."""
    if number:
        count("exemplars.lost", number)


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

    def send(
        self,
        batch: Any,
        number: int,
        timeout: float,
        stakes_of: Callable[[Any], Stakes] | None = None,
        *,
        is_last: bool = False,
    ) -> int:
        """Export a batch of `number` items within `timeout` seconds; return how many were not delivered.

        `stakes_of` tells of a batch what else hangs on it; None where all that is not delivered is lost, as it is where
        no export follows, which `is_last` says.
        """
        if not number:
            return 0
        _hush.sending.active = True
        _hush.sending.heard = None
        missing = number
        stakes: Stakes | None = None
        is_refused = False
        try:
            result = self._export(batch, timeout)
            failed = getattr(result, "name", "SUCCESS") != "SUCCESS"
            reason = (_hush.sending.heard or "the exporter failed and gave no reason") if failed else None
        except UndeliveredError as error:
            reason, is_refused, stakes = error.reason, error.refused, error.stakes
            missing = number if error.undelivered is None else error.undelivered
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        finally:
            _hush.sending.active = False
        if self._given_up:
            return missing if reason else 0
        if reason is None:
            self._works()
            return 0
        if is_refused and missing < number:
            self._works()
            self._say_refused(missing, number, reason)
        else:
            self._fails(_one_line(reason))
        if stakes_of is None:
            count_lost(self.kind, missing)
        else:
            stakes = stakes_of(batch) if stakes is None else stakes
            count_lost(self.kind, missing if is_last else missing - stakes.again)
            count_lost_exemplars(stakes.exemplars)
        return missing

    def give_up(self) -> None:
        """Say and count nothing more: whoever waited for an export that hangs has counted it as lost."""
        self._given_up = True
        self.reason = self.reason or "no answer came in time"

    def _say_refused(self, refused: int, number: int, reason: str) -> None:
        warn_once(
            ("rejected", self.kind, self.label),
            "%s took %d of %d %s and refused the rest: %s; refusals that follow are counted and not said",
            self.label,
            number - refused,
            number,
            self.kind,
            _one_line(reason),
        )

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
