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

import copy
import functools
import logging
import sys
import threading
from typing import Any

from opentelemetry._logs import LoggerProvider, LogRecord
from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,  # pyright: ignore[reportPrivateUsage]
    get_current,
)

from clew.diagnostics import count, report_failure
from clew.interpreter.current_context import Variable
from clew.interpreter.interruptions import is_called_amid, let_through
from clew.interpreter.locks import renew_in_child
from clew.logs.canonical import LOGGER as CANONICAL
from clew.logs_bridge.holding import Later, is_taken, size_of
from clew.logs_bridge.translation import OWN_FIELDS, message_of, snapshot, translate
from clew.metrics import sdk
from clew.policy import policy
from clew.propagation.cell import request_id
from clew.propagation.ids import remembered_request_id

SERVER_LOGGERS = frozenset(
    {
        *("uvicorn", "uvicorn.access", "gunicorn.error", "gunicorn.access", "hypercorn.error", "hypercorn.access"),
        *("_granian", "granian.access", "django.server", "celery.task"),
    }
)
"""Loggers that servers keep from the root logger (``propagate`` False); their records are sent all the same."""

_NONE = "-"

_CONTRIB_KEY = "suppress_instrumentation"
_OTHER_HANDLERS = (
    ("opentelemetry.sdk._logs._internal", "LoggingHandler"),
    ("opentelemetry.instrumentation.logging.handler", "LoggingHandler"),
)

_MOST_LOGGERS = 1_000

_sending: Variable[bool] = Variable("clew-sending-log")


def request_id_of(record: logging.LogRecord) -> str | None:
    """Return the ID of the request that a record belongs to, or None.

    The record's own, if somebody has set it; else the current one; else the one of the request that the exception in
    ``exc_info`` has left, since servers log the traceback of a failed request afterwards.
    """
    own = record.__dict__.get(policy.attribute)
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
        fields, name = record.__dict__, policy.attribute  # quicker than by getattr, and this is for every record
        if name not in fields:
            fields[name] = request_id_of(record) or _NONE
        return True


class _Unlocked(logging.Handler):
    """A handler whose `emit` may be called by all threads at once, so that it needs no lock."""

    def createLock(self) -> None:  # noqa: N802 - the name in logging
        """Make none."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit `record` if the filters of this handler let it pass."""
        passed: Any = self.filter(record)
        if isinstance(passed, logging.LogRecord):  # from Python 3.12 on a filter may replace the record
            record = passed
        if passed:
            self.emit(record)
        return bool(passed)


class LogHandler(_Unlocked):
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
        self._loggers: dict[str, Any] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Send `record`, or let its request hold it; never raises, what fails is counted and said once."""
        context = get_current()
        if context.get(_SUPPRESS_INSTRUMENTATION_KEY) or context.get(_CONTRIB_KEY):
            return
        if _sending.get() and not is_called_amid(_IN_THE_MIDDLE):
            count("log.within_log")
            return

        def translated() -> LogRecord:
            before = _sending.get()
            try:
                _sending.set(True)
                body = self.formatter.format(record) if self.formatter is not None else None
                return translate(record, context, request_id_of(record), body)
            finally:
                _sending.set(before)

        def render() -> Later:
            held = translated()
            return Later(functools.partial(self._send, record.name, held), size_of(held.body, held.attributes))

        try:
            if record.name == CANONICAL or not is_taken(context, record.levelno, render):
                self._send(record.name, translated())
        except Exception as trouble:
            report_failure("log.not_sent", trouble, "A log record could not be sent")

    def _logger(self, name: str) -> Any:
        """Return OpenTelemetry's logger of that name; asked for once, since that takes locks of the provider."""
        sdk.let_enter_again(self._logger_provider)
        found = self._logger_provider.get_logger(name)
        if len(self._loggers) < _MOST_LOGGERS:
            self._loggers[name] = found
        return found

    def _send(self, name: str, record: LogRecord) -> None:
        before = _sending.get()
        try:
            _sending.set(True)
            (self._loggers.get(name) or self._logger(name)).emit(record)
        except Exception as trouble:
            report_failure("log.not_sent", trouble, "A log record could not be sent")
        finally:
            _sending.set(before)


_IN_THE_MIDDLE = LogHandler.emit.__code__


class HoldingHandler(_Unlocked):
    """Passes records on to another handler when it is known that their request is worth reading about.

    With ``CLEW_LOGS=interesting`` the records of a request below WARNING wait in memory until the request ends, and are
    passed on only if it has failed, lasted long, logged an error, or is among the share that is kept. Everything else
    passes at once: WARNING and worse, what belongs to no request, everything where nothing is held.

    A record that waits is a copy: its text and traceback have been made, `exc_info` is None and `exc_text` has the
    traceback; values of ``extra`` that may change are copied, or are their text where they cannot be. The filters of
    the other handler see it when it comes, its formatter when it is passed on.

    Args:
        target: The handler that writes. It has its own level and filters, and stands in no other list of handlers. One
            that puts records into a queue is wrapped itself, not what listens to the queue.
        level: The lowest level that is passed on; `target` has one too.

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
            is_held = record.name != CANONICAL and is_taken(
                get_current(), record.levelno, functools.partial(_render_for, target, record)
            )
        except Exception as trouble:  # a filter or formatter of the target's, which deals with it in its own way
            let_through(trouble)
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


def _render_for(target: logging.Handler, record: logging.LogRecord) -> Later | None:
    """Return a copy that stays as it is now; None where the filters of the handler do not let the record pass."""
    record = copy.copy(record)
    passed: Any = target.filter(record)
    if not passed:
        return None
    if isinstance(passed, logging.LogRecord):  # from Python 3.12 on a filter may replace the record
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
    return Later(functools.partial(_emit, target, record), size_of(fields), may_wait=True)


_FORMATTER = logging.Formatter()


def _event(event: dict[Any, Any]) -> dict[Any, Any]:
    event = dict(event)
    given: Any = event.pop("exc_info", None)
    found: Any = given
    if isinstance(given, BaseException):
        found = (type(given), given, given.__traceback__)
    elif given and not isinstance(given, tuple):
        found = sys.exc_info()
    if found and found[0] is not None:
        event.setdefault("exception", _FORMATTER.formatException(found))
    return {key: value if str(key).startswith("_") else snapshot(value) for key, value in event.items()}


_lock = threading.RLock()
renew_in_child(globals(), "_lock")
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
