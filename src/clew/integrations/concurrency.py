"""The request ID on work that a request hands to threads, pools and processes.

```python
clew.integrations.concurrency.instrument()
```

`asyncio` carries the Context by itself, `asyncio.to_thread` too.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.pool import Pool
from multiprocessing.process import BaseProcess
from typing import Any

from opentelemetry.context import Context, get_current

from clew._request import request
from clew.interpreter.current_context import make_current
from clew.interpreter.locks import renew_in_child
from clew.propagation.cell import cell_in, request_id, with_cell

__all__ = ["instrument", "uninstrument"]

_SERVES_ALL = (
    "anyio.",
    "asyncio.",
    "clew.",
    "concurrent.futures.",
    "logging.",
    "multiprocessing.",
    "opentelemetry.",
)
"""Modules whose threads and processes serve all callers: they belong to no request, even if one has started them."""

_PROCESSES = ("multiprocessing.context", "multiprocessing.process")

_POOL_METHODS = ("apply_async", "map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered")

_lock = threading.RLock()
renew_in_child(globals(), "_lock")
_originals: dict[tuple[type, str], Any] = {}


def instrument() -> None:
    """Let threads, pools and processes that are used inside a request carry it; a second call changes nothing.

    A `threading.Thread` and a task of a `ThreadPoolExecutor` run in the whole OpenTelemetry Context in which they were
    started, span included. A process, a task of a `ProcessPoolExecutor` and one of a `multiprocessing` pool run in a
    request of the same ID. Outside a request nothing is changed.
    """
    with _lock:
        if _originals:
            return
        _replace(threading.Thread, "start", _start_thread)
        _replace(BaseProcess, "start", _start_process)
        _replace(ThreadPoolExecutor, "submit", _submit_to_thread)
        _replace(ProcessPoolExecutor, "submit", _submit_to_process)
        for name in _POOL_METHODS:
            _replace(Pool, name, _submit_to_pool)


def uninstrument() -> None:
    """Leave threads, pools and processes as they were."""
    with _lock:
        for (kind, name), original in _originals.items():
            setattr(kind, name, original)
        _originals.clear()


def _replace(kind: type, name: str, replacement: Callable[..., Any]) -> None:
    original = getattr(kind, name)

    @functools.wraps(original)
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if cell_in(get_current()) is None:
            return original(self, *args, **kwargs)
        return replacement(original, self, *args, **kwargs)

    _originals[kind, name] = original
    setattr(kind, name, call)


class _InContext:
    """Runs a function in an OpenTelemetry Context, in another thread of this process."""

    __slots__ = ("_context", "_function")

    def __init__(self, context: Context, function: Callable[..., Any]) -> None:
        self._context = context
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before = get_current()
        try:
            make_current(self._context)
            return self._function(*args, **kwargs)
        finally:
            make_current(before)


class _InRequest:
    """Runs a function in a request of the same ID, in another process; it can be pickled as the function can."""

    __slots__ = ("_function", "_request_id")

    def __init__(self, request_id: str | None, function: Callable[..., Any]) -> None:
        self._request_id = request_id
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._request_id is None:
            return self._function(*args, **kwargs)
        with request(self._request_id):
            return self._function(*args, **kwargs)


class _RunInRequest:
    """The `run` of a process until it is called in the child, where it enters the request first."""

    def __init__(self, request_id: str | None, process: BaseProcess) -> None:
        self._request_id = request_id
        self._process = process

    def __call__(self) -> None:
        vars(self._process).pop("run", None)
        _InRequest(self._request_id, self._process.run)()


def _start_thread(start: Callable[..., None], thread: threading.Thread) -> None:
    if _serves_all(thread):
        return _start_outside(start, thread)
    run = thread.run
    context = get_current()

    def run_in_context() -> None:
        vars(thread).pop("run", None)
        _InContext(context, run)()

    thread.run = run_in_context  # type: ignore[method-assign]
    try:
        return start(thread)
    except BaseException:
        vars(thread).pop("run", None)
        raise


def _start_process(start: Callable[..., None], process: BaseProcess) -> None:
    if _serves_all(process):
        return _start_outside(start, process)
    process.run = _RunInRequest(request_id(), process)  # type: ignore[method-assign]
    try:
        return start(process)
    finally:
        vars(process).pop("run", None)


def _start_outside(start: Callable[..., None], worker: Any) -> None:
    """Start what serves all callers in no request: a forked process keeps the Context that it was started in."""
    before = get_current()
    try:
        make_current(with_cell(None, before))
        return start(worker)
    finally:
        make_current(before)


def _submit_to_thread(
    submit: Callable[..., Any], pool: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    return submit(pool, _InContext(get_current(), function), *args, **kwargs)


def _submit_to_process(
    submit: Callable[..., Any], pool: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    return submit(pool, _InRequest(request_id(), function), *args, **kwargs)


def _submit_to_pool(method: Callable[..., Any], pool: Any, /, *args: Any, **kwargs: Any) -> Any:
    if args:
        return method(pool, _InRequest(request_id(), args[0]), *args[1:], **kwargs)
    return method(pool, **{**kwargs, "func": _InRequest(request_id(), kwargs["func"])})


def _serves_all(worker: Any) -> bool:
    """Tell by the function that it runs, or by its class, whether a thread or process serves all callers."""
    target = getattr(worker, "_target", None)
    if target is not None:
        module = getattr(target, "__module__", None)
    else:
        own = type(worker).__module__
        module = None if own in ("threading", *_PROCESSES) else own
    return isinstance(module, str) and f"{module}.".startswith(_SERVES_ALL)
