"""The request ID with the jobs of RQ, and each run of one measured.

```python
clew.integrations.rq.instrument()
```
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from clew.integrations._shared.task_messages import put_request_id, redis_target
from clew.integrations._shared.task_runs import (
    TaskRun,
    end_process,
    report_not_sent,
    run_or_none,
    take_run,
    work_on,
)
from clew.interpreter.locks import renew_in_child
from clew.policy import policy

try:
    import_module("rq")
except ImportError as error:
    raise ImportError("clew.integrations.rq needs RQ: pip install 'clew[rq]'") from error

__all__ = ["instrument", "uninstrument"]

_Job: Any = import_module("rq.job").Job
_OutOfTime: type[Exception] = import_module("rq.timeouts").BaseTimeoutException
_Worker: Any = next(
    kind for kind in import_module("rq.worker").Worker.__mro__ if "perform_job" in vars(kind)
)  # the class that has the method, below which are all the others

_lock = threading.RLock()
renew_in_child(globals(), "_lock")
_own: dict[str, Any] = _Job.__dict__
_create: Callable[..., Any] = _own["create"].__func__
_perform: Callable[..., Any] = _Job.perform
_perform_job: Callable[..., Any] = _Worker.perform_job


def instrument() -> None:
    """Let jobs carry the request ID in which they are made, and measure each run; a second call changes nothing.

    Call it in the processes that enqueue jobs, and before the worker starts in those that run them. A job has the
    ID in its `meta`, under the name of the header (``X-Request-ID``, or as configured). Each run is an operation of the
    function's name (``operation.duration``), and how long it waited is in ``operation.time_in_queue``. The process that
    RQ forks for a job sends what it has measured before it ends, within ``CLEW_SHUTDOWN_TIMEOUT``.
    """
    with _lock:
        _Job.create = classmethod(_create_with_request)
        _Job.perform = _perform_in_run
        _Worker.perform_job = _perform_job_in_request


def uninstrument() -> None:
    """Let jobs be made and run as if we were not there; those under way keep their `meta`."""
    with _lock:
        _Job.create = classmethod(_create)
        _Job.perform = _perform
        _Worker.perform_job = _perform_job


@functools.wraps(_create)
def _create_with_request(cls: Any, /, *args: Any, **options: Any) -> Any:
    job = _create(cls, *args, **options)
    try:
        meta = dict(job.meta or {})  # a copy: one that the caller gives may serve for several jobs
        put_request_id(meta, lambda: redis_target(job.connection))
        job.meta = meta
    except Exception as error:
        report_not_sent(error)
    return job


@functools.wraps(_perform_job)
def _perform_job_in_request(self: Any, job: Any, /, *args: Any, **options: Any) -> Any:
    """Wrap all that a worker does for a job; in the process forked for it, nothing comes after that."""
    run = run_or_none(lambda: _run_of(job, is_eager=False))
    try:
        if run is None:
            return _perform_job(self, job, *args, **options)
        return work_on(job, run, _perform_job, self, job, *args, **options)
    finally:
        if getattr(self, "is_horse", False):
            end_process()


@functools.wraps(_perform)
def _perform_in_run(self: Any) -> Any:
    run = take_run(self)
    if run is not None:
        _import_function_of(self)
        return run.call(_perform, self)
    run = run_or_none(lambda: _run_of(self, is_eager=True))  # of a queue with is_async=False
    if run is None:
        return _perform(self)
    with run:
        _import_function_of(self)
        return run.call(_perform, self)


def _import_function_of(job: Any) -> None:
    """Import the job's function where functions are measured by name, so that it is known whether this one is.

    What fails here fails again when the job is performed, and is reported there; a job whose time is up ends here.
    """
    if "clew.by_name" not in sys.modules:
        return
    try:
        _ = job.func
    except _OutOfTime:
        raise
    except Exception:
        return


def _run_of(job: Any, *, is_eager: bool) -> TaskRun:
    meta: dict[str, Any] = job.meta or {}
    enqueued_at = None if is_eager else job.enqueued_at
    return TaskRun(
        job.func_name or "rq.job",
        found=meta.get(policy.header),
        is_eager=is_eager,
        due_at=None if enqueued_at is None else enqueued_at.timestamp(),
        queue=job.origin or None,
    )
