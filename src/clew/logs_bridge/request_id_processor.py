"""The request ID on OpenTelemetry's log records, whatever emits them: a processor for a LoggerProvider."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, cast

from opentelemetry.context import get_current
from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord

from clew.policy import policy
from clew.propagation.cell import request_id_in


class RequestIdLogRecordProcessor(LogRecordProcessor):
    """Sets the attribute ``request_id`` (or as configured) on each log record of a request that has none.

    It has to be the first processor of its LoggerProvider: the ones before it do not see what it sets.
    """

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Put the ID of the request that the record's Context belongs to on the record."""
        record = log_record.log_record
        name = request_id_in(record.context or get_current())
        attributes = record.attributes
        if name is not None and attributes is not None and policy.attribute not in attributes:
            cast("MutableMapping[str, Any]", attributes)[policy.attribute] = name

    def shutdown(self) -> None:
        """Do nothing: there is nothing to be sent."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return True: there is nothing to be sent."""
        return True
