"""Tasks of Celery run eagerly, and by a worker in a thread of this process, read in memory."""

from __future__ import annotations

import gc
import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.context import attach, detach, get_current, get_value, set_value
from recorded import Recorded

import clew
from clew import by_name
from clew.policy import policy
from clew.propagation.ids import is_valid

pytest.importorskip("celery", reason="celery is not installed")

import celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Ignore, Reject

from clew.integrations import concurrency
from clew.integrations.celery import instrument, uninstrument


@pytest.fixture(autouse=True)
def instrumented() -> Iterator[None]:
    instrument()
    yield
    uninstrument()


NAMED = """
import celery

app = celery.Celery("named", set_as_current=False)
app.conf.task_always_eager = True

@app.task(bind=True, max_retries=3)
def again(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return 5

@app.task(autoretry_for=(KeyError,), max_retries=0)
def fails():
    raise KeyError("gift")
"""


def test_a_task_that_is_measured_by_name_too_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: Recorded
) -> None:
    (tmp_path / "named_tasks.py").write_text(NAMED)
    monkeypatch.syspath_prepend(str(tmp_path))
    by_name.measure_by_name(["named_tasks:*"])
    try:
        named: Any = importlib.import_module("named_tasks")
        assert named.again.delay().get() == 5
        with pytest.raises(KeyError):
            named.fails.delay().get()
        assert recorded.calls("named_tasks.again") == {None: 3}
        assert recorded.calls("named_tasks.fails") == {"KeyError": 1}
    finally:
        by_name.measure_by_name(())
        sys.modules.pop("named_tasks", None)


class Tasks:
    """An application with a few tasks, which report what they saw."""

    def __init__(self, name: str, **settings: Any) -> None:
        self.app = celery.Celery(name, broker="memory://", backend="cache+memory://", set_as_current=False)
        self.app.conf.update(task_default_queue=name, worker_hijack_root_logger=False, **settings)
        self.app.conf.broker_transport_options = {"polling_interval": 0.01}
        self.seen: list[Any] = []
        self.raises: list[BaseException | type[BaseException]] = []
        tasks = self

        @self.app.task(bind=True, shared=False, name="look", throws=(KeyError,), max_retries=5)
        def look(self: Any, *args: Any) -> str | None:
            tasks.seen.append(clew.request_id())
            if tasks.raises:
                raise tasks.raises.pop(0)
            return clew.request_id()

        @self.app.task(bind=True, shared=False, name="again", max_retries=5)
        def again(self: Any) -> str | None:
            tasks.seen.append(clew.request_id())
            if self.request.retries < 2:
                raise self.retry(countdown=0)
            return clew.request_id()

        self.look, self.again = look, again


@pytest.fixture(scope="module")
def tasks() -> Iterator[Tasks]:
    """Tasks with a worker, whose thread was started inside the request ``of-the-worker``."""
    made = Tasks("orders")
    instrument()
    concurrency.instrument()
    with clew.request("of-the-worker"):
        worker = start_worker(made.app, perform_ping_check=False, loglevel="ERROR")
        worker.__enter__()
    concurrency.uninstrument()
    yield made
    worker.__exit__(None, None, None)
    uninstrument()
    gc.collect()
    made.app.close()


@pytest.fixture
def eager(request: pytest.FixtureRequest) -> Iterator[Tasks]:
    made = Tasks(request.node.name, task_always_eager=True)
    yield made
    made.app.close()


# eager


def test_an_eager_task_belongs_to_the_request_that_runs_it(eager: Tasks, recorded: Recorded) -> None:
    with clew.request("r-1"):
        assert eager.look.delay().get() == "r-1"
        assert clew.request_id() == "r-1"
    assert recorded.calls("look") == {None: 1}
    assert recorded.points("operation.time_in_queue") == []


def test_an_eager_task_outside_a_request_is_a_request(eager: Tasks) -> None:
    first, second = eager.look.delay().get(), eager.look.delay().get()
    assert is_valid(first)
    assert is_valid(second)
    assert first != second
    assert clew.request_id() is None


def test_each_eager_try_is_a_run_of_one_request(eager: Tasks, recorded: Recorded) -> None:
    eager.again.delay()
    with clew.request("r-1"):
        eager.again.delay()
    assert len(set(eager.seen[:3])) == 1
    assert eager.seen[3:] == ["r-1"] * 3
    assert recorded.calls("again") == {None: 6}


@pytest.mark.parametrize("error", [Ignore(), Reject("no"), KeyError("of throws")], ids=["Ignore", "Reject", "throws"])
def test_what_a_task_may_raise_is_no_failure(error: Exception, eager: Tasks, recorded: Recorded) -> None:
    eager.raises.append(error)
    eager.look.delay()
    assert recorded.calls("look") == {None: 1}


def test_any_other_exception_is_a_failure(eager: Tasks, recorded: Recorded) -> None:
    eager.raises.append(ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        eager.look.delay().get()
    assert recorded.calls("look") == {"ValueError": 1}


def test_a_task_that_is_called_as_a_function_is_no_run(eager: Tasks, recorded: Recorded) -> None:
    assert eager.look() is None
    assert recorded.durations("look") == []


def test_a_task_class_with_a_call_of_its_own_is_one_run(recorded: Recorded) -> None:
    app = celery.Celery("own-call", set_as_current=False)
    app.conf.task_always_eager = True

    class Base(celery.Task):  # type: ignore[misc]
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return "called", super().__call__(*args, **kwargs)

    @app.task(base=Base, shared=False, name="own")
    def own() -> str | None:
        return clew.request_id()

    @app.task(base=Base, shared=False, name="other")
    def other() -> Any:
        return own()

    with clew.request("r-1"):
        assert own.delay().get() == ("called", "r-1")
        assert other.delay().get() == ("called", ("called", "r-1"))
    assert recorded.calls("own") == {None: 1}
    assert recorded.calls("other") == {None: 1}
    app.close()


def test_whatever_a_task_is_called_it_is_measured(recorded: Recorded) -> None:
    app = celery.Celery("names", set_as_current=False)
    app.conf.task_always_eager = True
    for name in ("line\nbreak", "x" * 300):
        assert is_valid(app.task(clew.request_id, name=name, shared=False).delay().get())
    names = {point.attributes["operation.name"] for point in recorded.durations()}
    assert names == {"line?break", "x" * 255}
    app.close()


def test_after_uninstrument_nothing_is_carried_or_measured(eager: Tasks, recorded: Recorded) -> None:
    eager.look.delay()
    uninstrument()
    assert eager.look.delay().get() is None
    assert "_clew_original" not in vars(eager.look.run)
    assert recorded.calls("look") == {None: 1}


# by a worker


def test_handlers_that_leave_a_context_behind_do_not_reach_the_next_task(tasks: Tasks, recorded: Recorded) -> None:
    seen: list[Any] = []

    def before(**_: Any) -> None:
        seen.append((get_value("left"), clew.request_id()))
        attach(set_value("left", "behind"))

    def after(**_: Any) -> None:
        attach(set_value("left", "further", get_current()))

    celery.signals.task_prerun.connect(before)
    celery.signals.task_postrun.connect(after)
    try:
        for name in ("r-1", "r-2"):
            with clew.request(name):
                result = tasks.look.delay()
            assert result.get(90) == name
    finally:
        celery.signals.task_prerun.disconnect(before)
        celery.signals.task_postrun.disconnect(after)
    assert seen == [(None, "r-1"), (None, "r-2")]


def test_a_handler_that_attaches_an_empty_context_does_not_take_the_request_away(tasks: Tasks) -> None:
    tokens: list[Any] = []

    def before(**_: Any) -> None:
        from opentelemetry.context import Context

        tokens.append(attach(Context()))

    def after(**_: Any) -> None:
        detach(tokens.pop())

    celery.signals.task_prerun.connect(before)
    celery.signals.task_postrun.connect(after)
    try:
        with clew.request("r-1"):
            assert tasks.look.delay().get(90) == "r-1"
    finally:
        celery.signals.task_prerun.disconnect(before)
        celery.signals.task_postrun.disconnect(after)


def test_a_message_read_inside_a_request_is_not_that_request(tasks: Tasks) -> None:
    found = tasks.look.delay().get(90)
    assert is_valid(found)
    assert found != "of-the-worker"


def test_waiting_for_its_time_is_not_waiting_in_a_queue(tasks: Tasks, recorded: Recorded) -> None:
    began = time.time()
    with clew.request("r-1"):
        assert tasks.look.apply_async(countdown=1).get(90) == "r-1"
    elapsed = time.time() - began
    (point,) = recorded.points("operation.time_in_queue")
    assert dict(point.attributes) == {
        "operation.name": "look",
        "messaging.destination.name": "orders",
    }
    assert point.count == 1
    assert point.sum < elapsed - 0.99
    assert [exemplar.filtered_attributes["request_id"] for exemplar in point.exemplars] == ["r-1"]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    found=st.one_of(st.none(), st.integers(), st.text(max_size=200), st.lists(st.text(max_size=5), max_size=2)),
    sent=st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=5), st.integers()),
)
def test_no_header_whatever_it_is_reaches_a_task_unchecked(found: Any, sent: Any, eager: Tasks) -> None:
    eager.look.delay()  # so that it has been prepared
    seen = eager.seen
    seen.clear()
    from celery.app.trace import build_tracer

    tracer = build_tracer("look", eager.app.tasks["look"], app=eager.app)
    headers = {"X-Request-ID": found, "clew-sent-at": sent, "delivery_info": {"routing_key": "orders"}}
    tracer("an-id", (), {}, {"id": "an-id", **headers})
    (name,) = seen
    assert is_valid(name)
    assert name == found or not is_valid(found)


@pytest.mark.parametrize(
    ("hosts", "goes"), [(("queue.internal",), True), ((".internal",), True), (("other.internal",), False)]
)
def test_the_id_goes_only_to_brokers_that_may_have_it(
    hosts: tuple[str, ...], goes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = celery.Celery("hosts", broker="memory://queue.internal//", set_as_current=False)
    sent: list[Any] = []

    def published(headers: Any = None, **_: Any) -> None:
        sent.append(headers.get("X-Request-ID"))

    monkeypatch.setattr(policy, "hosts", hosts)
    celery.signals.before_task_publish.connect(published)
    try:
        with clew.request("r-1"):
            app.send_task("look", queue="hosts")
            app.send_task("look", queue="hosts", headers={"X-Request-ID": "r-1"})  # as a retry has it
    finally:
        celery.signals.before_task_publish.disconnect(published)
    assert sent == (["r-1", "r-1"] if goes else [None, None])
    app.close()


def test_headers_of_the_caller_are_not_changed(tasks: Tasks) -> None:
    headers = {"tenant": "acme"}
    with clew.request("r-1"):
        assert tasks.look.apply_async(headers=headers).get(90) == "r-1"
    assert headers == {"tenant": "acme"}


def test_it_works_without_telemetry(tasks: Tasks) -> None:
    with clew.request("r-1"):
        assert tasks.look.delay().get(90) == "r-1"
