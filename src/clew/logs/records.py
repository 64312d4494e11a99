"""What the records of `logging` are made of."""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import Any, cast

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None]

OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""The attributes that `logging` itself gives to a record."""


def filtered(filterer: logging.Filterer, record: logging.LogRecord) -> logging.LogRecord | None:
    """Return the record that the filters of a logger or handler let pass, or None where they do not.

    From Python 3.12 on a filter may replace the record.
    """
    passed: Any = filterer.filter(record)
    if not passed:
        return None
    return passed if isinstance(passed, logging.LogRecord) else record


def exception_info_of(exc_info: object) -> ExceptionInfo | None:
    """Return what `exc_info` stands for, in the form that `sys.exc_info` has, or None where it is no exception.

    Loggers take an exception, such a tuple, or anything that is true for the exception that is being handled.
    """
    if isinstance(exc_info, BaseException):
        return type(exc_info), exc_info, exc_info.__traceback__
    found: object = exc_info
    if exc_info and not isinstance(exc_info, tuple):
        found = sys.exc_info()
    if not isinstance(found, tuple):
        return None
    parts: tuple[Any, ...] = found  # pyright: ignore[reportUnknownVariableType]
    return cast("ExceptionInfo", parts) if len(parts) == 3 and isinstance(parts[1], BaseException) else None
