"""Where data goes: an exporter whose failures and recoveries are logged, and its losses counted."""

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
"""The shortest time between two log lines that an endpoint fails, for one that works in between."""

_LONGEST_REASON = 300

_OTLP_LOGGERS = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
)


class LossDetails(NamedTuple):
    """What is lost for good of items that were not delivered.

    Attributes:
        repeated: How many of the items come again with the next export, as cumulative totals do.
        exemplars: How many exemplars they had, which do not come again.
    """

    repeated: int = 0
    exemplars: int = 0


class UndeliveredError(Exception):
    """Raised by an exporter that could not deliver all of a batch.

    Attributes:
        reason: Why, in words for people.
        undelivered: How many items did not arrive; None for the whole batch.
        refused: Whether the endpoint has rejected them.
        details: What of them is lost for good, where the exporter knows that.
    """

    def __init__(
        self, reason: str, undelivered: int | None = None, *, refused: bool = False, details: LossDetails | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.undelivered = undelivered
        self.refused = refused
        self.details = details


def lost() -> dict[str, int]:
    """How many metric points, spans and log records this process could not deliver so far, by kind."""
    happened = counts()
    return {kind: happened.get(event, 0) for kind, event in _EVENTS.items()}


def count_lost(kind: Kind, number: int) -> None:
    """Count items that are lost."""
    if number:
        count(_EVENTS[kind], number)


def count_lost_exemplars(number: int) -> None:
    """Count exemplars of an export that was not delivered: they are of its interval, and do not come again."""
    if number:
        count("exemplars.lost", number)


class _ExporterLogFilter(logging.Filter):
    """Holds back what OpenTelemetry's own OTLP exporters log during an export of ours, which logs it once itself."""

    def __init__(self) -> None:
        super().__init__()
        self.sending = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(self.sending, "active", False):
            self.sending.heard = record.getMessage()
            return False
        return True


_exporter_log_filter = _ExporterLogFilter()


class Destination:
    """An exporter, and whether it works.

    Args:
        kind: What it exports.
        label: The name of the endpoint in messages.
        export: Takes a batch and a timeout in seconds; returns None or an OpenTelemetry export result.
    """

    def __init__(self, kind: Kind, label: str, export: Callable[[Any, float], Any]) -> None:
        self.kind: Kind = kind
        self.label = label
        self.reason: str | None = None
        """Why the last export failed; None where it did not."""
        self._given_up = False
        self._export = export
        self._has_warned = False
        self._warned_at = -_QUIET_SECONDS
        for name in _OTLP_LOGGERS:
            filters = logging.getLogger(name).filters
            if _exporter_log_filter not in filters:
                filters.insert(
                    0, _exporter_log_filter
                )  # before their own filter against repetitions, which would remember ours

    def send(
        self,
        batch: Any,
        number: int,
        timeout: float,
        details_of: Callable[[Any], LossDetails] | None = None,
        *,
        is_last: bool = False,
    ) -> int:
        """Export a batch of `number` items within `timeout` seconds; return how many were not delivered.

        `details_of` returns what of the batch is lost for good if it is not delivered; None where all of it is. All of
        it is lost with the last export too, which `is_last` says.
        """
        if not number:
            return 0
        _exporter_log_filter.sending.active = True
        _exporter_log_filter.sending.heard = None
        missing = number
        details: LossDetails | None = None
        is_refused = False
        try:
            result = self._export(batch, timeout)
            failed = getattr(result, "name", "SUCCESS") != "SUCCESS"
            reason = (
                (_exporter_log_filter.sending.heard or "the exporter failed and gave no reason") if failed else None
            )
        except UndeliveredError as error:
            reason, is_refused, details = error.reason, error.refused, error.details
            missing = number if error.undelivered is None else error.undelivered
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        finally:
            _exporter_log_filter.sending.active = False
        if self._given_up:
            return missing if reason else 0
        if reason is None:
            self._worked()
            return 0
        if is_refused and missing < number:
            self._worked()
            self._warn_refused(missing, number, reason)
        else:
            self._failed(_one_line(reason))
        if details_of is None:
            count_lost(self.kind, missing)
        else:
            details = details_of(batch) if details is None else details
            count_lost(self.kind, missing if is_last else missing - details.repeated)
            count_lost_exemplars(details.exemplars)
        return missing

    def give_up(self) -> None:
        """Log and count nothing more: the export under way takes too long, and has been counted as lost."""
        self._given_up = True
        self.reason = self.reason or "no answer came in time"

    def _warn_refused(self, refused: int, number: int, reason: str) -> None:
        warn_once(
            ("rejected", self.kind, self.label),
            "%s took %d of %d %s and refused the rest: %s; further refusals are counted and not logged",
            self.label,
            number - refused,
            number,
            self.kind,
            _one_line(reason),
        )

    def _failed(self, reason: str) -> None:
        self.reason = reason
        now = time.monotonic()
        if not self._has_warned and now - self._warned_at >= _QUIET_SECONDS:
            self._has_warned = True
            self._warned_at = now
            _warn("%s cannot be delivered to %s: %s; logged once, then only counted", self.kind, self.label, reason)

    def _worked(self) -> None:
        self.reason = None
        if self._has_warned:
            self._has_warned = False
            number = lost()[self.kind]
            _warn("%s are delivered to %s again; lost so far: %d", self.kind, self.label, number)


def _one_line(reason: str) -> str:
    """Return what an endpoint says as it may go into a log: one line, printable, not too long."""
    line = " ".join(reason.split())
    printable = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in line)
    return printable if len(printable) <= _LONGEST_REASON else f"{printable[:_LONGEST_REASON]}…"


def _warn(message: str, *args: object) -> None:
    try:
        logger.warning(message, *args)
    except Exception:  # a handler of the application that raises must not end the delivering thread
        return
