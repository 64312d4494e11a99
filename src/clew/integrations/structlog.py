"""The request ID on the events of structlog.

```python
structlog.configure(processors=[clew.integrations.structlog.add_request_id, ...])
```

To hold what structlog writes itself, with ``CLEW_LOGS=interesting``:

```python
structlog.configure(logger_factory=clew.integrations.structlog.HoldingLoggerFactory(structlog.PrintLoggerFactory()))
```
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, MutableMapping
from importlib import import_module
from typing import Any, cast

from opentelemetry.context import get_current

from clew.logs_bridge.holding import RenderedRecord, hold, size_of, snapshot
from clew.logs_bridge.request_id import request_id_now
from clew.policy import policy

try:
    import_module("structlog")
except ImportError as error:
    raise ImportError("clew.integrations.structlog needs structlog: pip install 'clew[structlog]'") from error

__all__ = ["HoldingLoggerFactory", "add_request_id"]

_LEVELS = {
    "debug": 10,
    "info": 20,
    "log": 20,
    "msg": 20,
    "warn": 30,
    "warning": 30,
    "failure": 40,
    "err": 40,
    "error": 40,
    "exception": 40,
    "critical": 50,
    "fatal": 50,
}


def add_request_id(_logger: Any, _method_name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Set ``request_id`` on an event that has none; a processor, to stand before the renderer.

    Of an event with ``exc_info`` outside a request it is the ID of the request that the exception has left. Outside a
    request otherwise nothing is set.
    """
    if policy.attribute not in event:
        name = request_id_now(_error(event.get("exc_info")))
        if name is not None:
            event[policy.attribute] = name
    return event


def _error(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        parts = cast("tuple[object, ...]", exc_info)
        error = parts[1] if len(parts) == 3 else None
    else:
        error = sys.exc_info()[1] if exc_info else None
    return error if isinstance(error, BaseException) else None


class HoldingLoggerFactory:
    """Makes loggers whose lines wait until it is known that their request is worth reading about.

    What waits is what the last processor has made: a text, as a rule. Which lines wait and when they are written is as
    for `clew.integrations.logging.HoldingHandler`.

    Args:
        factory: Makes the loggers that write: ``PrintLoggerFactory()``, ``WriteLoggerFactory(…)``,
            ``BytesLoggerFactory()``. Not the one of `logging`, whose handlers are wrapped instead.

    Raises:
        TypeError: `factory` cannot be called, or makes loggers of `logging`.
    """

    def __init__(self, factory: Callable[..., Any]) -> None:
        if not callable(factory):
            raise TypeError(f"HoldingLoggerFactory takes a factory of loggers, not {factory!r}")
        if type(factory).__module__ == "structlog.stdlib":
            raise TypeError(
                "HoldingLoggerFactory takes a factory of loggers that write; where structlog hands its events to "
                "logging, wrap the handlers there in clew.integrations.logging.HoldingHandler"
            )
        self._factory = factory

    def __call__(self, *args: Any) -> _HoldingLogger:
        """Make a logger."""
        return _HoldingLogger(self._factory(*args))


class _HoldingLogger:
    """Stands in for a logger that writes."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def __repr__(self) -> str:
        return f"<{self._logger!r}, whose lines may be held>"

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._logger, name)
        level = _LEVELS.get(name)
        return found if level is None else functools.partial(_write, level, found)


def _write(level: int, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    def render() -> RenderedRecord:
        held, named = snapshot(list(args)), snapshot(kwargs)
        return RenderedRecord(functools.partial(method, *held, **named), size_of(held, named), may_wait=True)

    return None if hold(get_current(), level, render) else method(*args, **kwargs)
