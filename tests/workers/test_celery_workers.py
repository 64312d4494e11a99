"""Celery's own workers, in processes of their own, with a real redis-server between them and the sender of tasks."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_parts import Program, eventually
from workers.conftest import Endpoint, needs

import clew

pytestmark = pytest.mark.real

TASKS = """
import os
import celery
import clew
import clew.integrations.celery

clew.configure()
clew.integrations.celery.instrument()
app = celery.Celery("tasks", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(broker_connection_retry_on_startup=True, task_default_retry_delay=0)

@app.task
def who(*results):
    return clew.request_id()

@app.task
def early():
    return clew.request_id()

@app.task
def step(*results):
    return [*(results[0] if results else []), clew.request_id()]

@app.task
def gather(results):
    return [results, clew.request_id()]

@app.task(bind=True, max_retries=2)
def flaky(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return clew.request_id()

@app.task
def failing():
    raise LookupError("no such order")

@app.task
def ignored():
    raise celery.exceptions.Ignore()

@app.task
def rejected():
    raise celery.exceptions.Reject("not this one", requeue=False)

@app.task(bind=True)
def headers(self):
    return {name: self.request.headers.get(name) for name in ("tenant", "X-Request-ID")}
"""


@pytest.fixture
def app(redis_url: str) -> Iterator[Any]:
    """The application of the sender of tasks: it knows them by name alone."""
    needs("celery")
    import celery

    import clew.integrations.celery

    clew.integrations.celery.instrument()
    app = celery.Celery("sender", broker=redis_url, backend=redis_url, set_as_current=False)
    yield app
    gc.collect()  # results that nobody asked for unsubscribe from the server when they are collected
    app.backend.result_consumer.subscribed_to.clear()  # what is collected later sends nothing to a server that is gone
    app.close()
    clew.integrations.celery.uninstrument()


@pytest.fixture
def worker(start: Callable[..., Program], app: Any) -> Callable[..., Program]:
    def begin(*options: str, code: str = TASKS, **variables: str) -> Program:
        return start(code, "-m", "celery", "-A", "tasks", "worker", "--loglevel=INFO", *options, **variables)

    return begin


def send(app: Any, name: str, *args: Any, **options: Any) -> Any:
    return app.send_task(f"tasks.{name}", args, **options)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_every_pool_carries_the_request_and_counts_exactly(
    pool: str, worker: Callable[..., Program], app: Any, endpoint: Endpoint
) -> None:
    if pool == "gevent":
        needs("gevent")
    from celery import chain, chord, group

    signature: Callable[..., Any] = lambda name: app.signature(f"tasks.{name}")  # noqa: E731
    sent = time.time()
    with clew.request("r-early"):
        early = send(app, "early")
    program = worker(f"--pool={pool}", "--concurrency=2")

    assert early.get(90) == "r-early"
    waited = time.time() - sent
    with clew.request("r-plain"):
        plain = [send(app, "who") for _ in range(5)]
    with clew.request("r-group"):
        grouped = group(signature("who") for _ in range(3)).apply_async()
    with clew.request("r-chain"):
        chained = chain(signature("step"), signature("step"), signature("step")).apply_async()
    with clew.request("r-chord"):
        gathered = chord([signature("who"), signature("who")])(signature("gather"))
    with clew.request("r-retry"):
        flaky = send(app, "flaky")
    with clew.request("r-fail"):
        failing = send(app, "failing")
        send(app, "ignored", ignore_result=True)
        send(app, "rejected", ignore_result=True)
    with clew.request("r-own"):
        own = send(app, "headers", headers={"tenant": "acme", "X-Request-ID": "theirs"})
    fresh = [send(app, "who"), send(app, "who"), send(app, "who", headers={"X-Request-ID": "not\nvalid"})]

    assert [result.get(90) for result in plain] == ["r-plain"] * 5
    assert grouped.get(90) == ["r-group"] * 3
    assert chained.get(90) == ["r-chain"] * 3
    assert gathered.get(90) == [["r-chord"] * 2, "r-chord"]
    assert flaky.get(90) == "r-retry"
    with pytest.raises(LookupError):
        failing.get(90)
    assert own.get(90) == {"tenant": "acme", "X-Request-ID": "theirs"}
    names = [result.get(90) for result in fresh]
    assert len(set(names)) == 3
    assert all(name and "\n" not in name and not name.startswith("r-") for name in names)

    assert program.stop() == 0
    assert endpoint.runs() == {
        "tasks.early": {None: 1},
        "tasks.who": {None: 13},
        "tasks.step": {None: 3},
        "tasks.gather": {None: 1},
        "tasks.flaky": {None: 3},
        "tasks.failing": {"LookupError": 1},
        "tasks.ignored": {None: 1},
        "tasks.rejected": {None: 1},
        "tasks.headers": {None: 1},
    }
    assert {name: count for name, (count, _) in endpoint.waited().items()} == {
        name: sum(by_type.values()) for name, by_type in endpoint.runs().items()
    }
    assert 0.3 < endpoint.waited()["tasks.early"][1] < waited
    for operation, request_id in (
        ("early", "r-early"),
        ("step", "r-chain"),
        ("gather", "r-chord"),
        ("flaky", "r-retry"),
        ("failing", "r-fail"),
        ("ignored", "r-fail"),
        ("headers", "theirs"),
    ):
        assert endpoint.request_ids(f"tasks.{operation}") == {request_id}
        assert endpoint.request_ids(f"tasks.{operation}", "operation.time_in_queue") == {request_id}
    assert endpoint.counters_of("clew.events") == {"request_id.replaced": 1}


def test_a_process_of_the_pool_that_has_run_its_tasks_sends_what_it_has_before_it_is_replaced(
    worker: Callable[..., Program], app: Any, endpoint: Endpoint
) -> None:
    program = worker("--pool=prefork", "--concurrency=1", "--max-tasks-per-child=1")
    with clew.request("r-1"):
        assert send(app, "who").get(90) == "r-1"
    eventually(endpoint.runs, what="the process has sent what it measured")
    assert program.process.poll() is None
    assert endpoint.runs() == {"tasks.who": {None: 1}}
    assert endpoint.request_ids("tasks.who") == {"r-1"}


def test_telemetry_configured_in_each_process_of_the_pool_is_sent_at_its_end(
    worker: Callable[..., Program], app: Any, endpoint: Endpoint
) -> None:
    code = TASKS.replace(
        "\nclew.configure()\n",
        """
@celery.signals.worker_process_init.connect(weak=False)
def configure(**_):
    clew.configure()

@celery.signals.worker_process_shutdown.connect(weak=False)
def leave(**_):
    with clew.measure("leaving"):
        pass
""",
    )
    program = worker("--pool=prefork", "--concurrency=1", code=code)
    with clew.request("r-1"):
        assert send(app, "who").get(90) == "r-1"
    assert program.stop() == 0
    assert endpoint.runs() == {"tasks.who": {None: 1}, "leaving": {None: 1}}


def test_a_worker_that_trusts_no_ids_gives_each_run_its_own(
    worker: Callable[..., Program], app: Any, endpoint: Endpoint
) -> None:
    program = worker("--pool=solo", CLEW_TRUST_REQUEST_ID="false")
    with clew.request("r-1"):
        found = [send(app, "who").get(90), send(app, "who").get(90)]
    assert "r-1" not in found
    assert len(set(found)) == 2
    program.stop()
    assert endpoint.request_ids("tasks.who") <= set(found)


def test_what_beat_sends_is_a_new_request_each_time(
    worker: Callable[..., Program], app: Any, endpoint: Endpoint, tmp_path: Path
) -> None:
    code = TASKS + (
        'app.conf.beat_schedule = {"tick": {"task": "tasks.tick", "schedule": 0.2}}\n'
        '@app.task(name="tasks.tick")\n'
        "def tick():\n"
        '    open("ticks", "a").write(f"{clew.request_id()}\\n")\n'
    )
    program = worker("--pool=prefork", "--concurrency=1", "--beat", "--schedule", str(tmp_path / "beat"), code=code)
    ticks = tmp_path / "ticks"
    eventually(lambda: ticks.exists() and len(ticks.read_text().split()) >= 3, what="beat has sent three tasks")
    assert program.stop() == 0
    found = ticks.read_text().split()
    assert len(set(found)) == len(found)
    assert "None" not in found
    assert endpoint.runs() == {"tasks.tick": {None: len(found)}}


def test_a_process_of_the_pool_ends_in_time_when_the_collector_hangs(
    worker: Callable[..., Program], app: Any, endpoint: Endpoint
) -> None:
    program = worker(
        "--pool=prefork", "--concurrency=2", CLEW_SHUTDOWN_TIMEOUT="1", OTEL_EXPORTER_OTLP_TIMEOUT="180000"
    )
    with clew.request("r-1"):
        assert send(app, "who").get(90) == "r-1"
    endpoint.seconds = 180
    began = time.monotonic()
    assert program.stop(timeout=180) == 0
    assert time.monotonic() - began < 60  # a second each for a process of the pool and the worker, and Celery's own
