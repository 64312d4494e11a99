"""The request ID on the records of `logging`, in the application's own formats and as OpenTelemetry log records.

`clew.configure()` installs what sends them. For a format of one's own:

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

import functools
import logging
import threading
from contextvars import ContextVar
from typing import Any

from opentelemetry._logs import LoggerProvider
from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,  # pyright: ignore[reportPrivateUsage]
    get_current,
)

from clew.diagnostics import count, say_once
from clew.integrations.log_translation import translate
from clew.request import policy, remembered_request_id, request_id

SERVER_LOGGERS = frozenset({"uvicorn", "uvicorn.access", "gunicorn.error", "gunicorn.access", "celery.task"})
"""Loggers that servers keep from the root logger (``propagate`` False); their records are sent all the same."""

_NONE = "-"

_CONTRIB_KEY = "suppress_instrumentation"
_OTHER_HANDLERS = (
    ("opentelemetry.sdk._logs._internal", "LoggingHandler"),
    ("opentelemetry.instrumentation.logging.handler", "LoggingHandler"),
)

_emitting: ContextVar[bool] = ContextVar("clew_emitting", default=False)


def request_id_of(record: logging.LogRecord) -> str | None:
    """Return the ID of the request that a record belongs to, or None.

    The record's own, if somebody has set it; else the current one; else the one of the request that the exception in
    ``exc_info`` has left, since servers log the traceback of a failed request afterwards.
    """
    own = getattr(record, policy.attribute, None)
    if isinstance(own, str) and own != _NONE:
        return own
    current = request_id()
    if current is not None:
        return current
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    return remembered_request_id(error)


class RequestIdFilter(logging.Filter):
    """Sets ``request_id`` on each record that has none, ``-`` outside a request, for the formats of a handler.

    It goes on handlers (a filter on a logger sees no records of the loggers below), on a `QueueHandler` rather than on
    what listens to the queue. It lets every record pass.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the attribute and return True."""
        if not hasattr(record, policy.attribute):
            setattr(record, policy.attribute, request_id_of(record) or _NONE)
        return True


class LogHandler(logging.Handler):
    """Sends records as OpenTelemetry log records through a LoggerProvider, with the ID of their request.

    Args:
        logger_provider: Where they go; of the OpenTelemetry API, each `logging` logger is a scope.
        level: The lowest level that is sent.

    Body, severity, attributes (``extra``, ``code.*``, ``exception.*``, ``request_id``) and the trace context follow
    OpenTelemetry's data model for logs and its semantic conventions. With a formatter set, the body is what it makes.
    Records made while telemetry is exported are not sent, since sending them would make further ones.
    """

    def __init__(self, logger_provider: LoggerProvider, level: int | str = logging.NOTSET) -> None:
        super().__init__(level)
        self._logger_provider = logger_provider

    def createLock(self) -> None:  # noqa: N802 - the name in logging
        """Need no lock: a LoggerProvider may be used by all threads at once."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Send `record` if the filters of this handler let it pass."""
        passed: Any = self.filter(record)
        if isinstance(passed, logging.LogRecord):  # from Python 3.12 on a filter may replace the record
            record = passed
        if passed:
            self.emit(record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Send `record`; never raises, what fails is counted and said once."""
        context = get_current()
        if context.get(_SUPPRESS_INSTRUMENTATION_KEY) or context.get(_CONTRIB_KEY) or _emitting.get():
            return
        token = _emitting.set(True)
        try:
            body = self.formatter.format(record) if self.formatter is not None else None
            translated = translate(record, context, request_id_of(record), body)
            self._logger_provider.get_logger(record.name).emit(translated)
        except Exception as trouble:
            count("log.not_sent")
            say_once(
                ("log.not_sent", type(trouble).__name__),
                "A log record could not be sent: %s: %s (said once; each one is counted)",
                type(trouble).__name__,
                trouble,
            )
        finally:
            _emitting.reset(token)


_lock = threading.Lock()
_installed: LogHandler | None = None
_original = logging.Logger.callHandlers


def install(logger_provider: LoggerProvider, level: int | str = logging.NOTSET) -> LogHandler:
    """Send the records of all loggers through `logger_provider`, as a handler on the root logger would.

    The handler stands in no list of handlers, so that `basicConfig`, `dictConfig`, `fileConfig`, the handler of last
    resort and whoever takes the root logger over see what they would see without it, and leave it in place. Of a record
    that a LoggingHandler of OpenTelemetry's sends too, this one sends nothing. Called again, the new one replaces the
    old one.

    Returns:
        The handler: levels and filters may be set on it as on any.
    """
    global _installed
    handler = LogHandler(logger_provider, level)
    with _lock:
        _installed = handler
        if logging.Logger.callHandlers is _original:
            logging.Logger.callHandlers = _call_handlers  # type: ignore[method-assign]
    return handler


def uninstall() -> None:
    """Send no records any more; nothing happens where nothing is installed."""
    global _installed
    with _lock:
        _installed = None
        if logging.Logger.callHandlers is _call_handlers:
            logging.Logger.callHandlers = _original  # type: ignore[method-assign]


@functools.wraps(_original)
def _call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
    handler = _installed
    if handler is not None and record.levelno >= handler.level and _is_for_root(self, record):
        handler.handle(record)
    _original(self, record)


def _is_for_root(logger: logging.Logger, record: logging.LogRecord) -> bool:
    """Tell whether a handler on the root logger (or on a server's own) would get a record that no other one sends."""
    reaches = False
    step: logging.Logger | None = logger
    while step is not None:
        for handler in step.handlers:
            if record.levelno >= handler.level and _sends(handler):
                return False
        reaches = reaches or step.parent is None or step.name in SERVER_LOGGERS
        step = step.parent if step.propagate else None
    return reaches


def _sends(handler: logging.Handler) -> bool:
    if isinstance(handler, LogHandler):
        return True
    return any((kind.__module__, kind.__name__) in _OTHER_HANDLERS for kind in type(handler).__mro__)
