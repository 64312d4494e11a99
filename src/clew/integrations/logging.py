"""The request ID on the records of `logging`, in the application's own formats and as OpenTelemetry log records.

`clew.configure()` installs a handler that sends them. For a format of your own:

```python
logging.config.dictConfig(
    {
        "version": 1,
        "filters": {"request_id": {"()": "clew.integrations.logging.RequestIdFilter"}},
        "formatters": {"line": {"format": "%(asctime)s %(request_id)s %(levelname)s %(message)s"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["request_id"], "formatter": "line"}},
        "root": {"handlers": ["console"], "level": "INFO"},
    }
)
```
"""

from __future__ import annotations

import copy
import functools
import logging
from typing import Any

from opentelemetry.context import get_current

from clew.interpreter.interruptions import let_through
from clew.logs.canonical import LOGGER as CANONICAL
from clew.logs.records import OWN_FIELDS, exception_info_of, filtered
from clew.logs_bridge.handler import LogHandler, UnlockedHandler
from clew.logs_bridge.holding import RenderedRecord, hold, size_of, snapshot
from clew.logs_bridge.request_id import RequestIdFilter
from clew.logs_bridge.translation import message_of

__all__ = ["HoldingHandler", "LogHandler", "RequestIdFilter"]


class HoldingHandler(UnlockedHandler):
    """Passes records on to another handler when it is known that their request is worth reading about.

    With ``CLEW_LOGS=interesting`` the records of a request below WARNING wait in memory until the request ends, and are
    passed on only if it has failed, lasted long, logged an error, or is in the sample (``CLEW_LOGS_SAMPLE_RATIO``).
    Everything else passes at once: WARNING and worse, what belongs to no request, everything where nothing is held.

    A record that waits is a copy: its text and traceback have been made, `exc_info` is None and `exc_text` has the
    traceback; values of ``extra`` that may change are copied, or are their text where they cannot be. The filters of
    the other handler see it when it comes, its formatter when it is passed on.

    Args:
        target: The handler that writes. It has its own level and filters, and stands in no other list of handlers. One
            that puts records into a queue is wrapped itself, not what listens to the queue.
        level: The lowest level that is passed on; `target` has a level of its own too.

    Raises:
        TypeError: `target` is no handler, or one that holds by itself.
    """

    def __init__(self, target: logging.Handler, level: int | str = logging.NOTSET) -> None:
        if isinstance(target, dict):
            raise TypeError(
                "HoldingHandler takes a handler; dictConfig makes them in the order of their names, so this one's name "
                "has to come after that of its target"
            )
        if not isinstance(target, logging.Handler):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"HoldingHandler takes the logging.Handler that writes, not {type(target).__name__}")
        if isinstance(target, (LogHandler, HoldingHandler)):
            raise TypeError(f"HoldingHandler takes a handler that writes; {type(target).__name__} holds by itself")
        super().__init__(level)
        self.target = target

    def emit(self, record: logging.LogRecord) -> None:
        """Pass `record` on, or let its request hold it."""
        target = self.target
        if record.levelno < target.level:
            return
        try:
            is_held = record.name != CANONICAL and hold(
                get_current(), record.levelno, functools.partial(_render_for, target, record)
            )
        except Exception as error:  # a filter or formatter of the target's, which deals with it in its own way
            let_through(error)
            is_held = False
        if not is_held:
            target.handle(record)

    def flush(self) -> None:
        """Flush the other handler; what is held stays held."""
        self.target.flush()

    def close(self) -> None:
        """Close the other handler too."""
        try:
            self.target.close()
        finally:
            super().close()


def _emit(target: logging.Handler, record: logging.LogRecord) -> None:
    """Do what a handler does with a record that its filters have let pass."""
    target.acquire()
    try:
        target.emit(record)
    finally:
        target.release()


def _render_for(target: logging.Handler, record: logging.LogRecord) -> RenderedRecord | None:
    """Return a copy that stays as it is now; None where the filters of the handler do not let the record pass."""
    passed = filtered(target, copy.copy(record))
    if passed is None:
        return None
    record = passed
    formatter = target.formatter or _FORMATTER
    if isinstance(record.msg, dict):  # an event of structlog on its way to its ProcessorFormatter
        record.msg = _event(record.msg)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
    else:
        record.msg, record.args = str(message_of(record)), None
    if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
        record.exc_text = record.exc_text or formatter.formatException(record.exc_info)
    record.exc_info = None
    fields = vars(record)
    for name, value in fields.items():
        if name not in OWN_FIELDS and not name.startswith("_"):  # which are those of a library
            fields[name] = snapshot(value)
    return RenderedRecord(functools.partial(_emit, target, record), size_of(fields), may_wait=True)


_FORMATTER = logging.Formatter()


def _event(event: dict[Any, Any]) -> dict[Any, Any]:
    event = dict(event)
    exception = exception_info_of(event.pop("exc_info", None))
    if exception is not None:
        event.setdefault("exception", _FORMATTER.formatException(exception))
    return {key: value if str(key).startswith("_") else snapshot(value) for key, value in event.items()}
