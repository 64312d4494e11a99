"""RQ's own workers, in processes of their own, with a real redis-server between them and the enqueuing process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from real_parts import Program, eventually
from workers.conftest import Endpoint, needs

import clew

pytestmark = pytest.mark.real

JOBS = """
import os
import rq
import clew
import clew.integrations.rq

clew.configure()
clew.integrations.rq.instrument()

def who():
    return clew.request_id()

async def who_async():
    return clew.request_id()

def nested():
    return rq.get_current_job().meta["tenant"], clew.request_id()

def flaky():
    if rq.get_current_job().retries_left:
        raise ConnectionError("try again")
    return clew.request_id()

def failing():
    raise LookupError("no such order")

class Worker(rq.Worker):
    pass

class SimpleWorker(rq.SimpleWorker):
    pass
"""


@pytest.fixture
def queue(redis_url: str) -> Iterator[Any]:
    """The queue of the process that enqueues jobs: it knows them by name alone."""
    needs("rq")
    import redis
    import rq

    import clew.integrations.rq

    clew.integrations.rq.instrument()
    with redis.Redis.from_url(redis_url) as connection:
        yield rq.Queue("orders", connection=connection)
    clew.integrations.rq.uninstrument()


@pytest.fixture
def worker(start: Callable[..., Program], queue: Any, redis_url: str) -> Callable[..., Program]:
    def begin(kind: str = "Worker", **variables: str) -> Program:
        command = ("-m", "rq.cli", "worker", "--url", redis_url, "--worker-class", f"tasks.{kind}", "orders")
        return start(JOBS, *command, **variables)

    return begin


def result(job: Any) -> Any:
    """What a job has returned, or the status that it failed with."""
    eventually(lambda: job.get_status() in ("finished", "failed"), what=f"{job.func_name} is done", timeout=90)
    return job.return_value(refresh=True) if job.get_status() == "finished" else "failed"


@pytest.mark.parametrize("kind", ["Worker", "SimpleWorker"])
def test_every_worker_carries_the_request_and_counts_exactly(
    kind: str, worker: Callable[..., Program], queue: Any, endpoint: Endpoint
) -> None:
    from rq import Retry

    sent = time.time()
    with clew.request("r-1"):
        early = queue.enqueue("tasks.who")
    program = worker(kind)
    assert result(early) == "r-1"
    waited = time.time() - sent

    meta = {"tenant": "acme"}
    with clew.request("r-1"):
        plain = [queue.enqueue("tasks.who") for _ in range(3)]
        others = [queue.enqueue("tasks.who_async"), queue.enqueue("tasks.nested", meta=meta)]
        chained = queue.enqueue("tasks.who", depends_on=plain)
    with clew.request("r-retry"):
        flaky = queue.enqueue("tasks.flaky", retry=Retry(max=2))
    with clew.request("r-fail"):
        failing = queue.enqueue("tasks.failing")
    fresh = [queue.enqueue("tasks.who"), queue.enqueue("tasks.who", meta={"X-Request-ID": "not\nvalid"})]

    assert [result(job) for job in (*plain, chained)] == ["r-1"] * 4
    assert [result(job) for job in others] == ["r-1", ("acme", "r-1")]
    assert meta == {"tenant": "acme"}
    assert result(flaky) == "r-retry"
    assert result(failing) == "failed"
    names = [result(job) for job in fresh]
    assert len(set(names)) == 2
    assert all(name and "\n" not in name and not name.startswith("r-") for name in names)

    assert program.stop() == 0
    assert endpoint.runs() == {
        "tasks.who": {None: 7},
        "tasks.who_async": {None: 1},
        "tasks.nested": {None: 1},
        "tasks.flaky": {None: 1, "ConnectionError": 2},
        "tasks.failing": {"LookupError": 1},
    }
    assert {name: count for name, (count, _) in endpoint.waited().items()} == {
        name: sum(by_type.values()) for name, by_type in endpoint.runs().items()
    }
    assert 0.3 < endpoint.waited()["tasks.who"][1] < waited + 90
    assert endpoint.request_ids("tasks.flaky") == {"r-retry"}
    assert endpoint.request_ids("tasks.failing") == {"r-fail"}
    assert "r-1" in endpoint.request_ids("tasks.who", "operation.time_in_queue")
    assert len(endpoint.instances()) == (1 if kind == "SimpleWorker" else 13)
    assert sum(endpoint.counters_of("clew.events").values()) == 1


def test_the_process_of_a_job_ends_in_time_when_the_collector_hangs(
    worker: Callable[..., Program], queue: Any, endpoint: Endpoint
) -> None:
    program = worker(CLEW_SHUTDOWN_TIMEOUT="1", OTEL_EXPORTER_OTLP_TIMEOUT="180000")
    with clew.request("r-1"):
        assert result(queue.enqueue("tasks.who")) == "r-1"
        endpoint.seconds = 180
        began = time.monotonic()
        jobs = [queue.enqueue("tasks.who") for _ in range(2)]
        assert [result(job) for job in jobs] == ["r-1"] * 2
    assert program.stop(timeout=180) == 0
    assert 2 < time.monotonic() - began < 60  # a second for each job's process, one for the worker's


def test_a_worker_that_trusts_no_ids_gives_each_run_its_own(worker: Callable[..., Program], queue: Any) -> None:
    program = worker("SimpleWorker", CLEW_TRUST_REQUEST_ID="false")
    with clew.request("r-1"):
        found = [result(queue.enqueue("tasks.who")) for _ in range(2)]
    assert "r-1" not in found
    assert len(set(found)) == 2
    assert program.stop() == 0
