"""From a record of `logging` to a log record of OpenTelemetry.

By the data model (https://opentelemetry.io/docs/specs/otel/logs/data-model/) and the semantic conventions for
exceptions in logs and for source code.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.semconv.attributes.code_attributes import (
    CODE_FILE_PATH,
    CODE_FUNCTION_NAME,
    CODE_LINE_NUMBER,
    CODE_STACKTRACE,
)
from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)
from opentelemetry.semconv.attributes.otel_attributes import OTEL_EVENT_NAME

from clew.any_value import nearest_text, nearest_value, text_of
from clew.diagnostics import count, warn_once
from clew.failures import error_type_of
from clew.interpreter.interruptions import let_through
from clew.logs.records import OWN_FIELDS
from clew.policy import policy


def translate(record: logging.LogRecord, context: Context, request_id: str | None, body: str | None) -> LogRecord:
    """Return `record` as an OpenTelemetry log record; `body` replaces its message."""
    attributes: dict[str, Any] = {
        text_of(name): nearest_value(value) for name, value in vars(record).items() if name not in OWN_FIELDS
    }
    leave_out_reserved(attributes)
    if record.pathname:  # of a line of code: the canonical line is of none
        attributes[CODE_FILE_PATH] = nearest_value(record.pathname)
        attributes[CODE_FUNCTION_NAME] = nearest_value(record.funcName or "")
        attributes[CODE_LINE_NUMBER] = nearest_value(record.lineno)
    if record.stack_info:
        attributes[CODE_STACKTRACE] = nearest_value(record.stack_info)
    if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
        kind, error, trace = record.exc_info
        attributes[EXCEPTION_TYPE] = error_type_of(kind)
        attributes[EXCEPTION_MESSAGE] = text_of(error)
        attributes[EXCEPTION_STACKTRACE] = nearest_text("".join(traceback.format_exception(kind, error, trace)))
    elif record.exc_text:  # of a record that came through a queue
        attributes[EXCEPTION_STACKTRACE] = nearest_text(record.exc_text)
    if request_id is not None:
        attributes[policy.attribute] = request_id
    else:
        attributes.pop(policy.attribute, None)
    return LogRecord(
        timestamp=int(record.created * 1e9),
        context=context,
        severity_text=text_of(record.levelname),
        severity_number=severity_of(record.levelno),
        body=message_of(record) if body is None else nearest_value(body),
        attributes=attributes,
    )


def leave_out_reserved(attributes: dict[str, Any]) -> None:
    """Take out what OpenTelemetry itself gives a meaning to: receivers make an event's name of ``otel.event.name``."""
    if OTEL_EVENT_NAME in attributes:
        del attributes[OTEL_EVENT_NAME]
        count("log_attribute.ignored")
        warn_once(
            "log_attribute.ignored",
            "The attribute %s of log records is OpenTelemetry's own and is left out (logged once; each one is counted)",
            OTEL_EVENT_NAME,
        )


def severity_of(level: int) -> SeverityNumber:
    """Return the severity number for a level of `logging`: each ten of levels is a range of four numbers."""
    if level <= 0:
        return SeverityNumber.UNSPECIFIED
    tens, ones = min(level // 10, 5), level % 10
    if level >= 60:
        ones = 9
    return SeverityNumber((1, 5, 9, 13, 17, 21)[tens] + min(ones, 3))


def message_of(record: logging.LogRecord) -> Any:
    """Return the message: a text, or a value of another kind as it was logged."""
    if not record.args and not isinstance(record.msg, str):
        return nearest_value(record.msg)
    try:
        return nearest_text(record.getMessage())
    except Exception as error:  # arguments that do not fit the text: nothing of it is lost
        let_through(error)
        return f"{text_of(record.msg)} {text_of(record.args)}"
