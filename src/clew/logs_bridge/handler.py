"""The handler that sends the records of `logging` as OpenTelemetry log records, and how it is installed.

`clew.configure()` installs it where log records go somewhere. Users import it from `clew.integrations.logging`.
"""

from __future__ import annotations

import functools
import logging
import threading
from typing import Any

from opentelemetry._logs import LoggerProvider, LogRecord
from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,  # pyright: ignore[reportPrivateUsage]
    get_current,
)

from clew.diagnostics import count, report_failure
from clew.interpreter.current_context import Variable
from clew.interpreter.interruptions import is_called_amid
from clew.interpreter.locks import renew_in_child
from clew.logs.canonical import LOGGER as CANONICAL
from clew.logs.records import filtered
from clew.logs_bridge.holding import RenderedRecord, hold, size_of
from clew.logs_bridge.request_id import request_id_of
from clew.logs_bridge.translation import translate
from clew.metrics.sdk.providers import let_enter_again

SERVER_LOGGERS = frozenset(
    {
        *("uvicorn", "uvicorn.access", "gunicorn.error", "gunicorn.access", "hypercorn.error", "hypercorn.access"),
        *("_granian", "granian.access", "django.server", "celery.task"),
    }
)
"""Loggers that servers keep from the root logger (``propagate`` False); their records are sent all the same."""

_CONTRIB_KEY = "suppress_instrumentation"
_OTHER_HANDLERS = (
    ("opentelemetry.sdk._logs._internal", "LoggingHandler"),
    ("opentelemetry.instrumentation.logging.handler", "LoggingHandler"),
)

_MOST_LOGGERS = 1_000

_sending: Variable[bool] = Variable("clew-sending-log")


class UnlockedHandler(logging.Handler):
    """A handler whose `emit` may be called by all threads at once, so that it needs no lock."""

    def createLock(self) -> None:  # noqa: N802 - the name in logging
        """Make none."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit `record` if the filters of this handler let it pass."""
        passed = filtered(self, record)
        if passed is not None:
            self.emit(passed)
        return passed is not None


class LogHandler(UnlockedHandler):
    """Sends records as OpenTelemetry log records through a LoggerProvider, with the ID of their request.

    Args:
        logger_provider: Where they go, of the OpenTelemetry API; each logger of `logging` is a scope there.
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
        """Send `record`, or let its request hold it; never raise: a failure is counted and logged once."""
        context = get_current()
        if context.get(_SUPPRESS_INSTRUMENTATION_KEY) or context.get(_CONTRIB_KEY):
            return
        if _sending.get() and not is_called_amid(_EMIT):
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

        def render() -> RenderedRecord:
            held = translated()
            return RenderedRecord(functools.partial(self._send, record.name, held), size_of(held.body, held.attributes))

        try:
            if record.name == CANONICAL or not hold(context, record.levelno, render):
                self._send(record.name, translated())
        except Exception as error:
            report_failure("log.not_sent", error, "A log record could not be sent")

    def _logger(self, name: str) -> Any:
        """Return OpenTelemetry's logger of that name, which is remembered: the provider takes locks to look it up."""
        let_enter_again(self._logger_provider)
        found = self._logger_provider.get_logger(name)
        if len(self._loggers) < _MOST_LOGGERS:
            self._loggers[name] = found
        return found

    def _send(self, name: str, record: LogRecord) -> None:
        before = _sending.get()
        try:
            _sending.set(True)
            (self._loggers.get(name) or self._logger(name)).emit(record)
        except Exception as error:
            report_failure("log.not_sent", error, "A log record could not be sent")
        finally:
            _sending.set(before)


_EMIT = LogHandler.emit.__code__


_lock = threading.RLock()
renew_in_child(globals(), "_lock")
_installed: LogHandler | None = None
_original = logging.Logger.callHandlers


def install(logger_provider: LoggerProvider, level: int | str = logging.NOTSET) -> LogHandler:
    """Send the records of all loggers through `logger_provider`, as a handler on the root logger would.

    The handler stands in no list of handlers, so that `basicConfig`, `dictConfig`, `fileConfig`, the handler of last
    resort and any code that replaces the root logger's handlers see what they would see without it, and leave it in
    place. A record that a LoggingHandler of OpenTelemetry's sends too is not sent a second time. Called again, the new
    handler replaces the old one.

    Returns:
        The handler: levels and filters may be set on it as on any other.
    """
    global _installed
    handler = LogHandler(logger_provider, level)
    with _lock:
        _installed = handler
        if logging.Logger.callHandlers is _original:
            logging.Logger.callHandlers = _call_handlers  # type: ignore[method-assign]
    return handler


def installed() -> LogHandler | None:
    """Return the handler that is installed, or None."""
    return _installed


def uninstall() -> None:
    """Send no records from now on; nothing happens where no handler is installed."""
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
