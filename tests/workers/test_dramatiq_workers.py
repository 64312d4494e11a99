"""Dramatiq's own workers, in processes of their own, with a real redis-server between them and the sender."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from real_parts import Program, eventually
from workers.conftest import Endpoint, needs

import clew

pytestmark = pytest.mark.real

ACTORS = """
import os
import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO, CurrentMessage
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
import clew
import clew.integrations.dramatiq

clew.configure()
broker = RedisBroker(url=os.environ["REDIS_URL"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["REDIS_URL"])))
broker.add_middleware(AsyncIO())
broker.add_middleware(CurrentMessage())
broker.add_middleware(clew.integrations.dramatiq.RequestMiddleware())
dramatiq.set_broker(broker)

@dramatiq.actor(store_results=True)
def who(*results):
    return [*(results[0] if results else []), clew.request_id()]

@dramatiq.actor(store_results=True)
async def who_async():
    return clew.request_id()

@dramatiq.actor(store_results=True, min_backoff=10, max_retries=2)
def flaky():
    if CurrentMessage.get_current_message().options.get("retries", 0) < 2:
        raise ConnectionError("try again")
    return clew.request_id()

@dramatiq.actor(store_results=True)
def again():
    if CurrentMessage.get_current_message().options.get("retries", 0) < 1:
        raise dramatiq.errors.Retry("later", delay=10)
    return clew.request_id()

@dramatiq.actor(max_retries=0, throws=(KeyError,))
def failing(kind):
    raise {"lookup": LookupError, "key": KeyError}[kind]("no such order")
"""


@pytest.fixture
def send(redis_url: str) -> Iterator[Callable[..., Any]]:
    """Send a message from here, where actors are known by name alone, and return it."""
    needs("dramatiq")
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend

    from clew.integrations.dramatiq import RequestMiddleware

    broker = RedisBroker(url=redis_url)
    backend = RedisBackend(url=redis_url)
    broker.add_middleware(Results(backend=backend))
    broker.add_middleware(RequestMiddleware())

    class Sent:
        def __init__(self, message: Any) -> None:
            self.message = message

        def result(self) -> Any:
            return backend.get_result(self.message, block=True, timeout=90_000)

    def enqueue(actor: str, *args: Any, delay: int | None = None, **options: Any) -> Sent:
        message: Any = dramatiq.Message("default", actor, args, {}, options)
        broker.enqueue(message, delay=delay)
        return Sent(message)

    yield enqueue
    broker.close()


@pytest.fixture
def worker(start: Callable[..., Program], send: Any) -> Callable[..., Program]:
    def begin(**variables: str) -> Program:
        return start(ACTORS, "-m", "dramatiq", "tasks", "--processes", "2", "--threads", "2", **variables)

    return begin


def test_workers_carry_the_request_and_count_exactly(
    worker: Callable[..., Program], send: Callable[..., Any], endpoint: Endpoint
) -> None:
    sent = time.time()
    with clew.request("r-1"):
        early = send("who")
    program = worker()
    assert early.result() == ["r-1"]
    waited = time.time() - sent

    with clew.request("r-1"):
        plain = [send("who") for _ in range(4)]
        other = send("who_async")
        following: Any = {"queue_name": "default", "actor_name": "who", "args": (), "kwargs": {}, "options": {}}
        following |= {"message_id": "the-second", "message_timestamp": int(time.time() * 1000)}
        piped = send("who", pipe_target=following)
        delayed = send("who", delay=500)
    with clew.request("r-retry"):
        flaky, again = send("flaky"), send("again")
    with clew.request("r-fail"):
        send("failing", "lookup")
        send("failing", "key")
    fresh = [send("who"), send("who", **{"X-Request-ID": "not\nvalid"})]

    assert [message.result() for message in plain] == [["r-1"]] * 4
    assert other.result() == "r-1"
    assert piped.result() == ["r-1"]
    piped.message = piped.message.copy(message_id="the-second")
    assert piped.result() == ["r-1", "r-1"]
    assert delayed.result() == ["r-1"]
    assert flaky.result() == "r-retry"
    assert again.result() == "r-retry"
    names = [message.result()[0] for message in fresh]
    assert len(set(names)) == 2
    assert all(name and "\n" not in name and not name.startswith("r-") for name in names)

    for error in ("LookupError", "KeyError"):
        eventually(lambda error=error: error in program.log(), what=f"the actor has failed with {error}")
    assert program.stop() == 0
    assert endpoint.runs() == {
        "who": {None: 10},
        "who_async": {None: 1},
        "flaky": {"ConnectionError": 2, None: 1},
        "again": {None: 2},
        "failing": {"LookupError": 1, None: 1},
    }
    assert {name: count for name, (count, _) in endpoint.waited().items()} == {
        name: sum(by_type.values()) for name, by_type in endpoint.runs().items()
    }
    assert 0.3 < endpoint.waited()["who"][1] < waited + 90
    assert endpoint.request_ids("flaky") == {"r-retry"}
    assert endpoint.request_ids("failing") == {"r-fail"}
    assert endpoint.request_ids("who_async", "operation.time_in_queue") == {"r-1"}
    assert sum(endpoint.counters_of("clew.events").values()) == 1
