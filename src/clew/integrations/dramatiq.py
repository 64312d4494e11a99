"""The request ID with the messages of Dramatiq, and each run of an actor measured.

```python
broker.add_middleware(clew.integrations.dramatiq.RequestMiddleware())
```
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from clew.integrations._shared.auto_instrument import patch
from clew.integrations._shared.task_messages import (
    put_request_id,
    put_time_sent,
    redis_target,
    sent_at,
    target_of_host,
)
from clew.integrations._shared.task_runs import (
    TaskRun,
    exception_types_of,
    report_not_sent,
    run_or_none,
    take_run,
    work_on,
)
from clew.policy import policy
from clew.propagation.cell import request_id
from clew.propagation.hosts import Target

try:
    import_module("dramatiq")
except ImportError as error:
    raise ImportError("clew.integrations.dramatiq needs Dramatiq: pip install 'clew[dramatiq]'") from error

from dramatiq.errors import RateLimitExceeded, Retry
from dramatiq.middleware import Middleware

if TYPE_CHECKING:
    from dramatiq import Actor, Broker, Message
    from dramatiq.worker import WorkerThread

__all__ = ["RequestMiddleware", "instrument_all"]

_MARK = "_clew_original"


class RequestMiddleware(Middleware):
    """Lets messages carry the request ID of their sender, and measures each run of an actor.

    It may stand anywhere among the middlewares of a broker: what a worker does for a message, their handlers included,
    is in the message's request, and so is the actor's function. A message has the ID in its options,
    under the name of the header (``X-Request-ID``, or as configured), and when it was enqueued (``clew-sent-at``). Each
    run is an operation of the actor's name (``operation.duration``), for which `Retry`, `RateLimitExceeded` and what
    the `throws` of the actor or the message names are no failures; how long it waited is in
    ``operation.time_in_queue``.
    """

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        """Put the current request ID into a message that is sent, and the time into every one."""
        try:
            put_time_sent(message.options)
            if request_id() is not None:  # without one it is a retry, or was delayed, and keeps its own
                message.options.pop(policy.header, None)
                put_request_id(message.options, lambda: _target(broker))
        except Exception as error:
            report_not_sent(error)

    def after_declare_actor(self, broker: Broker, actor: Actor[Any, Any]) -> None:
        """Let the actor's function run inside the request of its message."""
        function = actor.fn
        if hasattr(function, _MARK):
            return

        @functools.wraps(function)
        def in_run(*args: Any, **kwargs: Any) -> Any:
            run = take_run(actor)
            return function(*args, **kwargs) if run is None else run.call(function, *args, **kwargs)

        setattr(in_run, _MARK, function)
        actor.fn = in_run

    def after_worker_thread_boot(self, broker: Broker, thread: WorkerThread) -> None:
        """Let all that this thread of a worker does for a message be in the message's request."""
        process = thread.process_message
        if hasattr(process, _MARK):
            return

        @functools.wraps(process)
        def process_in_request(message: Any) -> None:
            run = run_or_none(lambda: _run_of(broker, message))
            if run is None:
                process(message)
            else:
                work_on(_actor_of(broker, message), run, process, message)

        setattr(process_in_request, _MARK, process)
        thread.process_message = process_in_request  # type: ignore[method-assign]


def instrument_all() -> None:
    """Add the middleware to every broker that is made from now on and has none; a second call changes nothing."""
    patch(import_module("dramatiq.broker").Broker, "__init__", _made)


def _made(make: Callable[..., None]) -> Callable[..., None]:
    def make_instrumented(self: Any, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        if not any(isinstance(found, RequestMiddleware) for found in self.middleware):
            self.add_middleware(RequestMiddleware())

    return make_instrumented


def _actor_of(broker: Any, message: Any) -> Any:
    """Return the actor that a message is for, or None where the broker has none of that name."""
    return broker.actors.get(message.actor_name)


def _run_of(broker: Any, message: Any) -> TaskRun:
    options: dict[str, Any] = message.options
    actor = _actor_of(broker, message)
    throws = options.get("throws") or (None if actor is None else actor.options.get("throws"))
    run = TaskRun(
        message.actor_name,
        found=options.get(policy.header),
        due_at=sent_at(options),
        queue=message.queue_name,
        expected=(Retry, RateLimitExceeded, *exception_types_of(throws)),
    )
    options[policy.header] = run.request_id  # for a retry
    return run


def _target(broker: Any) -> Target | None:
    """Return host and port of the broker that messages are sent to, or None where they are not known."""
    client = getattr(broker, "client", None)
    if client is not None:
        return redis_target(client)
    several: Any = getattr(broker, "parameters", None)  # pika's, of RabbitMQ
    parameters: list[Any] = [*several] if isinstance(several, list) else [several]  # pyright: ignore[reportUnknownArgumentType]
    return target_of_host(getattr(parameters[0], "host", None), getattr(parameters[0], "port", None))
