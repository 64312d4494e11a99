"""The request ID with the tasks of Celery, and each run of one measured.

```python
clew.integrations.celery.instrument()
```

Celery's signals before and after a task are not used, since their handlers run in the order in which they were
connected: all that a worker does for a task is wrapped, and inside that the call of its body. For this
`celery.app.trace.build_tracer` is replaced, which is private to Celery, but which other instrumentations replace too.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib import import_module
from typing import Any
from weakref import WeakSet

from clew.integrations._shared.task_messages import put_request_id, put_time_sent, sent_at, target_of_host
from clew.integrations._shared.task_runs import (
    TaskRun,
    end_process,
    exception_types_of,
    report_not_run,
    report_not_sent,
    run_or_none,
    take_run,
    work_on,
)
from clew.interpreter.locks import renew_in_child
from clew.policy import policy
from clew.propagation.hosts import Target

try:
    import_module("celery")
except ImportError as error:
    raise ImportError("clew.integrations.celery needs Celery: pip install 'clew[celery]'") from error

__all__ = ["instrument", "uninstrument"]

_celery: Any = import_module("celery")
_trace: Any = import_module("celery.app.trace")
_signals: Any = import_module("celery.signals")
_exceptions: Any = import_module("celery.exceptions")

_EXPECTED: tuple[type[BaseException], ...] = (_exceptions.Retry, _exceptions.Ignore, _exceptions.Reject)
_IMPORTERS = ("celery.app.trace", "celery.worker.consumer.consumer")
"""The modules that hold `build_tracer` by name."""

_MARK = "_clew_original"

_lock = threading.RLock()
renew_in_child(globals(), "_lock")
_is_on = False
_send_task: Any = _celery.Celery.send_task
_build_tracer: Any = _trace.build_tracer
_wrapped: WeakSet[Any] = WeakSet()
"""The tasks, and classes of tasks, whose body is wrapped."""


def instrument() -> None:
    """Let tasks carry the request ID of their sender, and measure each run; a second call changes nothing.

    Call it where the Celery application is made, both in the processes that send tasks and in those that run them. A
    message has the ID in its headers (``X-Request-ID``, or as configured) and when it was sent (``clew-sent-at``).
    Each run is an operation of the task's name (``operation.duration``), for which `Retry`, `Ignore`, `Reject` and what
    the task's own `throws` names are no failures, and how long it waited is in ``operation.time_in_queue``.
    """
    global _is_on
    with _lock:
        _is_on = True
        _celery.Celery.send_task = _send_task_with_request
        _hold_build_tracer(_build_tracer, _build_tracer_with_request)
        shutdown = _signals.worker_process_shutdown
        if not hasattr(shutdown.send, _MARK):
            shutdown.send = _then_end_process(shutdown.send)


def uninstrument() -> None:
    """Let tasks be sent and run as if we were not there; messages under way keep their headers."""
    global _is_on
    with _lock:
        _is_on = False
        if _celery.Celery.send_task is _send_task_with_request:
            _celery.Celery.send_task = _send_task
        _hold_build_tracer(_build_tracer_with_request, _build_tracer)
        _signals.worker_process_shutdown.__dict__.pop("send", None)
        for owner in list(_wrapped):
            _unwrap_body(owner)
        _wrapped.clear()


def _hold_build_tracer(before: Any, now: Any) -> None:
    for name in _IMPORTERS:
        module = sys.modules.get(name)
        if module is not None and getattr(module, "build_tracer", None) is before:
            module.build_tracer = now  # type: ignore[attr-defined]


# sending


@functools.wraps(_send_task)
def _send_task_with_request(self: Any, /, *args: Any, **options: Any) -> Any:
    try:
        headers = dict(options.get("headers") or {})
        put_time_sent(headers)
        put_request_id(headers, functools.partial(_broker, self, args, options))
        options["headers"] = headers
    except Exception as error:
        report_not_sent(error)
    return _send_task(self, *args, **options)


def _broker(app: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> Target | None:
    """Return host and port of the broker that a task is sent to, or None where they are not known."""
    given = inspect.signature(_send_task).bind_partial(app, *args, **options).arguments
    producer = given.get("producer") or given.get("publisher")
    connection = producer.connection if producer is not None else given.get("connection") or app.connection_for_write()
    return target_of_host(connection.hostname, connection.port)


# running


@functools.wraps(_build_tracer)
def _build_tracer_with_request(name: str, task: Any, *args: Any, **options: Any) -> Callable[..., Any]:
    try:
        _wrap_body(task)
    except Exception as error:
        report_not_run(error)
    tracer = _build_tracer(name, task, *args, **options)

    @functools.wraps(tracer)
    def trace_in_request(uuid: Any, args: Any, kwargs: Any, request: Any = None) -> Any:
        if not _is_on:
            return tracer(uuid, args, kwargs, request)

        def make() -> TaskRun:
            nonlocal request
            request = dict(request or {})
            return _run_of(task, name, request)

        run = run_or_none(make)
        if run is None:
            return tracer(uuid, args, kwargs, request)
        return work_on(task, run, tracer, uuid, args, kwargs, request)

    return trace_in_request


def _run_of(task: Any, name: str, request: dict[str, Any]) -> TaskRun:
    """Make the run that `request` asks for, and let `request` carry its ID: to handlers, and to a retry."""
    expected = (*_EXPECTED, *exception_types_of(getattr(task, "throws", None)))
    header = policy.header
    if request.get("is_eager"):
        headers = dict(request.get("headers") or {})
        run = TaskRun(name, found=headers.get(header), is_eager=True, expected=expected)
        request["headers"] = {**headers, header: run.request_id}
    else:
        delivery: dict[str, Any] = request.get("delivery_info") or {}
        run = TaskRun(
            name,
            found=request.get(header),
            due_at=_due_at(request),
            queue=delivery.get("routing_key"),
            expected=expected,
        )
    request[header] = run.request_id
    return run


def _due_at(request: Mapping[str, Any]) -> float | None:
    """Return when the task could have begun: when it was sent, or at its `eta`."""
    sent = sent_at(request)
    eta = request.get("eta")
    if sent is None or not isinstance(eta, str):
        return sent
    try:
        due = datetime.fromisoformat(eta.replace("Z", "+00:00"))
    except ValueError:
        return sent
    return max(sent, (due if due.tzinfo is not None else due.replace(tzinfo=timezone.utc)).timestamp())


def _wrap_body(task: Any) -> None:
    """Wrap what the tracer of `task` calls: its own `__call__` where it has one, or its `run`."""
    has_call: bool = _trace.task_has_custom(task, "__call__")
    owner: Any = task.__class__ if has_call else task
    name = "__call__" if has_call else "run"
    body: Callable[..., Any] = getattr(owner, name)
    if hasattr(body, _MARK):
        return

    @functools.wraps(body)
    def in_run(*args: Any, **kwargs: Any) -> Any:
        run = take_run(args[0] if has_call else task)
        return body(*args, **kwargs) if run is None else run.call(body, *args, **kwargs)

    own: dict[str, Any] = owner.__dict__
    setattr(in_run, _MARK, own.get(name))
    setattr(owner, name, in_run)
    _wrapped.add(owner)


def _unwrap_body(owner: Any) -> None:
    own: dict[str, Any] = dict(owner.__dict__)
    for name in ("run", "__call__"):
        body = own.get(name)
        if not hasattr(body, _MARK):
            continue
        original = getattr(body, _MARK)
        if original is None:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


# the end of a process of the pool


def _then_end_process(send: Callable[..., Any]) -> Callable[..., Any]:
    """Send what has been measured when all handlers of the signal are done, since the process then ends abruptly."""

    @functools.wraps(send)
    def send_and_end(*args: Any, **named: Any) -> Any:
        try:
            return send(*args, **named)
        finally:
            end_process()

    setattr(send_and_end, _MARK, send)
    return send_and_end
