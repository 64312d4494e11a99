"""Workers started by `clew run`, and programs that give them work; none of them imports clew."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from lifetime.receiver import points
from real_parts import Program, eventually
from run.conftest import CLEW_RUN, Endpoint
from workers.conftest import needs, redis_server, redis_url

__all__ = ["redis_server", "redis_url"]  # fixtures

CELERY = """
import logging, os
from celery import Celery

app = Celery("tasks", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])

@app.task
def add(a, b):
    logging.getLogger("shop").warning("added")
    return a + b
"""
CELERY_CLIENT = """
import clew
from tasks import add

with clew.request("order-1"):
    print(add.delay(1, 2).get(timeout=50))
"""

RQ = """
import logging

def add(a, b):
    logging.getLogger("shop").warning("added")
    return a + b
"""
RQ_CLIENT = """
import os, time
import clew, redis
from rq import Queue
from tasks import add

with clew.request("order-1"):
    job = Queue(connection=redis.Redis.from_url(os.environ["REDIS_URL"])).enqueue(add, 1, 2)
while job.return_value() is None:
    time.sleep(0.05)
print(job.return_value())
"""

DRAMATIQ = """
import logging, os
import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=os.environ["REDIS_URL"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["REDIS_URL"])))
dramatiq.set_broker(broker)

@dramatiq.actor(store_results=True)
def add(a, b):
    logging.getLogger("shop").warning("added")
    return a + b
"""
DRAMATIQ_CLIENT = """
import clew
from tasks import add

with clew.request("order-1"):
    message = add.send(1, 2)
print(message.get_result(block=True, timeout=50_000))
"""

WORKERS = {
    "celery": (CELERY, CELERY_CLIENT, ("celery", "-A", "tasks", "worker", "-c", "1", "-l", "INFO"), "tasks.add"),
    "celery-threads": (CELERY, CELERY_CLIENT, ("celery", "-A", "tasks", "worker", "-P", "threads"), "tasks.add"),
    "rq": (RQ, RQ_CLIENT, ("rq", "worker", "--url", "REDIS_URL"), "tasks.add"),
    "dramatiq": (DRAMATIQ, DRAMATIQ_CLIENT, ("dramatiq", "tasks", "-p", "1", "-t", "1"), "add"),
}


@pytest.mark.parametrize(
    ("worker", "by_name"), [*((worker, "") for worker in WORKERS), ("celery", "tasks:*"), ("rq", "tasks:*")]
)
def test_a_task_runs_in_the_request_that_sent_it_and_is_measured_once(
    worker: str,
    by_name: str,
    start: Callable[..., Program],
    write: Callable[..., None],
    environment: dict[str, str],
    endpoint: Endpoint,
    redis_url: str,
    tmp_path: Path,
) -> None:
    needs(worker.partition("-")[0])
    tasks, client, command, operation = WORKERS[worker]
    write(tasks=tasks, client=client)
    variables = {"REDIS_URL": redis_url, "PYTHONPATH": str(tmp_path), "CLEW_MEASURE": by_name}
    program = start(*(redis_url if word == "REDIS_URL" else word for word in command), **variables)
    sent = subprocess.run(
        [*CLEW_RUN, "python", "client.py"],
        cwd=tmp_path,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=80,
    )
    assert (sent.stdout, sent.returncode) == ("3\n", 0), sent.stderr
    eventually(lambda: endpoint.operations().get(operation) == 1, what="the run has been measured", timeout=30)
    assert endpoint.request_ids("operation.duration") == {"order-1"}
    eventually(lambda: endpoint.logged("added"), what="the record has come", timeout=30)
    assert [found["request_id"] for found in endpoint.logged("added")] == ["order-1"]
    assert list(points(endpoint, "operation.time_in_queue"))
    program.stop()
    assert endpoint.operations() == {operation: 1}
