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
from collections.abc import Callable, MutableMapping
from importlib import import_module
from typing import Any

from opentelemetry.context import get_current

from clew.logs.records import exception_info_of
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

    Outside a request, an event with ``exc_info`` gets the ID of the request that the exception has left, and any other
    event gets none.
    """
    if policy.attribute not in event:
        exception = exception_info_of(event.get("exc_info"))
        name = request_id_now(None if exception is None else exception[1])
        if name is not None:
            event[policy.attribute] = name
    return event


class HoldingLoggerFactory:
    """Makes loggers whose lines wait until it is known that their request is worth reading about.

    What waits is what the last processor has made, usually a text. Which lines wait and when they are written is as for
    `clew.integrations.logging.HoldingHandler`.

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
