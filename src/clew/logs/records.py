"""What the records of `logging` are made of."""

from __future__ import annotations

import logging
from typing import Any

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
