"""The request ID on the records of loguru.

```python
logger.configure(patcher=clew.integrations.loguru.add_request_id)
logger.add(sys.stderr, format="{time} {extra[request_id]} {level} {message}")
```

To hold what goes to a sink, with ``CLEW_LOGS=interesting``:

```python
logger.add(clew.integrations.loguru.holding(sys.stderr), format="{time} {extra[request_id]} {level} {message}")
```
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from opentelemetry.context import get_current

from clew.logs_bridge.holding import RenderedRecord, hold, size_of
from clew.logs_bridge.request_id import NONE, request_id_now
from clew.policy import policy

try:
    import_module("loguru")
except ImportError as error:
    raise ImportError("clew.integrations.loguru needs loguru: pip install 'clew[loguru]'") from error

__all__ = ["add_request_id", "holding"]


def add_request_id(record: Any) -> None:
    """Set ``extra[request_id]`` on a record that has none, ``-`` outside a request; a patcher.

    Outside a request, a record with an exception gets the ID of the request that the exception has left.
    """
    extra = record["extra"]
    if policy.attribute not in extra:
        extra[policy.attribute] = request_id_now(getattr(record.get("exception"), "value", None)) or NONE


def holding(sink: Any) -> Any:
    """Return a sink whose lines wait until it is known that their request is worth reading about.

    Which lines wait and when they are written is as for `clew.integrations.logging.HoldingHandler`. What waits is the
    formatted line, its traceback included; a callable gets it with its `record`.

    Args:
        sink: A stream (an object with `write`) or a callable, for ``logger.add`` without ``enqueue=True``, which would
            write in a thread that knows of no request.

    Raises:
        TypeError: `sink` is neither. A handler of `logging` is wrapped in its `HoldingHandler`.
    """
    if hasattr(sink, "write"):
        return _HoldingStream(sink)
    if not callable(sink) or inspect.iscoroutinefunction(sink):
        raise TypeError(f"holding() takes a stream or a callable that is no coroutine function, not {sink!r}")
    return _HoldingCallable(sink)


class _HoldingStream:
    """Stands in for a stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, message: Any) -> None:
        _write(self._write, message, str(message))

    def _write(self, text: str) -> None:
        with self._lock:  # that of loguru is not held when a line is written later
            self._stream.write(text)
            if hasattr(self._stream, "flush"):
                self._stream.flush()


class _HoldingCallable:
    """Stands in for a callable."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        self._function = function
        self._lock = threading.RLock()

    def __call__(self, message: Any) -> None:
        _write(self._call, message, message)

    def _call(self, message: Any) -> None:
        with self._lock:
            self._function(message)


def _write(function: Callable[[Any], object], message: Any, given: Any) -> None:
    """Call `function` with `given`, now or when the request of `message` has ended."""
    level: int = message.record["level"].no

    def render() -> RenderedRecord:
        return RenderedRecord(functools.partial(function, given), size_of(str(message)), may_wait=True)

    if not hold(get_current(), level, render):
        function(given)
