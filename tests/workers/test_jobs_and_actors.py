"""Jobs of RQ run synchronously, and actors of Dramatiq run by a worker in threads of this process, read in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from recorded import Recorded
from workers.conftest import needs

import clew
from clew.policy import policy
from clew.propagation.ids import is_valid


@pytest.fixture
def queue(redis_url: str) -> Iterator[Callable[..., Any]]:
    """Make a queue of RQ."""
    needs("rq")
    import redis
    import rq

    import clew.integrations.rq

    clew.integrations.rq.instrument()
    with redis.Redis.from_url(redis_url) as connection:
        yield lambda **options: rq.Queue("orders", connection=connection, **options)
    clew.integrations.rq.uninstrument()


@pytest.mark.real
def test_a_synchronous_job_belongs_to_the_request_that_runs_it(queue: Callable[..., Any], recorded: Recorded) -> None:
    with clew.request("r-1"):
        assert queue(is_async=False).enqueue(clew.request_id).return_value() == "r-1"
        assert clew.request_id() == "r-1"
    assert is_valid(queue(is_async=False).enqueue(clew.request_id).return_value())
    assert recorded.calls("clew.propagation.cell.request_id") == {None: 2}
    assert recorded.points("operation.time_in_queue") == []


@pytest.mark.real
def test_a_job_read_inside_a_request_is_not_that_request(
    queue: Callable[..., Any], recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rq

    orders = queue()
    job = orders.enqueue(clew.request_id)
    worker = rq.SimpleWorker([orders], connection=orders.connection)
    monkeypatch.setattr(worker, "_install_signal_handlers", lambda: None)  # those of this process stay
    with clew.request("of-the-worker"):
        worker.work(burst=True, logging_level="ERROR")
        assert clew.request_id() == "of-the-worker"
    assert is_valid(job.return_value())
    assert job.return_value() != "of-the-worker"
    (point,) = recorded.points("operation.time_in_queue")
    assert dict(point.attributes) == {
        "operation.name": "clew.propagation.cell.request_id",
        "messaging.destination.name": "orders",
    }


@pytest.mark.real
@pytest.mark.parametrize(("hosts", "goes"), [(("127.0.0.1",), True), (("other.internal",), False)])
def test_the_id_of_a_job_goes_only_to_servers_that_may_have_it(
    hosts: tuple[str, ...], goes: bool, queue: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "hosts", hosts)
    with clew.request("r-1"):
        job = queue().enqueue(clew.request_id, meta={"tenant": "acme"})
    assert job.meta == {"tenant": "acme", **({"X-Request-ID": "r-1"} if goes else {})}


@pytest.mark.real
def test_after_uninstrument_jobs_are_as_they_were(queue: Callable[..., Any], recorded: Recorded) -> None:
    clew.integrations.rq.uninstrument()
    with clew.request("r-1"):
        job = queue().enqueue(clew.request_id)
    assert job.meta == {}
    assert queue(is_async=False).enqueue(clew.request_id).return_value() is None
    assert recorded.durations() == []


@pytest.fixture
def broker() -> Iterator[Any]:
    """A broker of Dramatiq in memory, with a worker, and two middlewares around ours that leave Contexts behind."""
    needs("dramatiq")
    import dramatiq
    from dramatiq.brokers.stub import StubBroker
    from opentelemetry.context import Context, attach, get_value, set_value

    from clew.integrations.dramatiq import RequestMiddleware

    class Leaving(dramatiq.Middleware):
        seen: list[Any] = []  # noqa: RUF012

        def before_process_message(self, broker: Any, message: Any) -> None:
            self.seen.append((get_value("left"), clew.request_id()))
            attach(set_value("left", "behind", Context()))

    class LeavingToo(Leaving):
        pass

    broker = StubBroker()
    broker.emit_after("process_boot")
    broker.add_middleware(Leaving())
    broker.add_middleware(RequestMiddleware())
    broker.add_middleware(LeavingToo())
    broker.seen = Leaving.seen  # type: ignore[attr-defined]
    yield broker
    broker.close()


def test_actors_run_in_the_request_of_their_message_whatever_stands_around(broker: Any, recorded: Recorded) -> None:
    import dramatiq

    seen: list[str | None] = []

    @dramatiq.actor(broker=broker, max_retries=0)
    def inner() -> None:
        seen.append(clew.request_id())

    @dramatiq.actor(broker=broker, max_retries=0)
    def outer() -> None:
        inner()  # as a function
        inner.send()

    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
    worker.start()
    try:
        for name in ("r-1", "r-2"):
            with clew.request(name):
                outer.send()
            broker.join("default", fail_fast=True)
    finally:
        worker.stop()
    assert seen == ["r-1", "r-1", "r-2", "r-2"]
    ours, theirs = broker.seen[::2], broker.seen[1::2]
    assert ours == [(None, "r-1"), (None, "r-1"), (None, "r-2"), (None, "r-2")]
    assert {left for left, _ in theirs} == {"behind"}
    assert recorded.calls("outer") == recorded.calls("inner") == {None: 2}


def test_a_message_that_is_sent_again_in_another_request_belongs_to_that_one(broker: Any) -> None:
    import dramatiq

    seen: list[str | None] = []

    @dramatiq.actor(broker=broker, max_retries=0)
    def look() -> None:
        seen.append(clew.request_id())

    message = look.message()
    for name in ("r-1", "r-2"):
        with clew.request(name):
            broker.enqueue(message)
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
    worker.start()
    broker.join("default", fail_fast=True)
    worker.stop()
    assert sorted(map(str, seen)) == ["r-1", "r-2"]


def test_where_no_ids_are_trusted_each_run_of_an_actor_has_its_own(
    broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dramatiq

    monkeypatch.setattr(policy, "trust", False)
    seen: list[str | None] = []

    @dramatiq.actor(broker=broker, max_retries=1, min_backoff=1)
    def look() -> None:
        seen.append(clew.request_id())
        if len(seen) == 1:
            raise dramatiq.errors.Retry("later", delay=1)

    with clew.request("r-1"):
        look.send()
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
    worker.start()
    broker.join("default")
    worker.stop()
    assert len(set(seen)) == 2
    assert all(is_valid(name) and name != "r-1" for name in seen)


def test_a_message_to_a_broker_that_may_not_have_ids_has_none(broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import dramatiq

    monkeypatch.setattr(policy, "hosts", ("queue.internal",))

    @dramatiq.actor(broker=broker)
    def look() -> None:
        pass

    with clew.request("r-1"):
        message = look.send()
    assert "X-Request-ID" not in message.options
    assert message.options["clew-sent-at"] > 0
