"""Beside opentelemetry-python-contrib's instrumentation of Celery, in either order.

Needs opentelemetry-instrumentation-celery, which pins an older API and SDK.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from real_parts import eventually
from recorded import Recorded

import clew
from clew import diagnostics
from clew.policy import policy
from clew.propagation.ids import is_valid

pytest.importorskip("celery", reason="celery is not installed")
pytest.importorskip("opentelemetry.instrumentation.celery", reason="opentelemetry-instrumentation-celery is missing")

import celery
from celery.contrib.testing.worker import start_worker
from opentelemetry.instrumentation.celery import CeleryInstrumentor

from clew.integrations.celery import instrument, uninstrument


@pytest.fixture(scope="module")
def app() -> Iterator[Any]:
    """An application whose worker runs in a thread of this process."""
    app = celery.Celery("contrib", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(task_default_queue="contrib", worker_hijack_root_logger=False)
    app.conf.broker_transport_options = {"polling_interval": 0.01}

    @app.task(name="who", shared=False)
    def who(*results: Any) -> Any:
        return clew.request_id()

    instrument()
    with start_worker(app, perform_ping_check=False, loglevel="ERROR"):
        yield app
    uninstrument()
    gc.collect()
    app.close()


@pytest.fixture(params=["contrib first", "contrib second"])
def measured(request: pytest.FixtureRequest, app: Any, recorded: Recorded) -> Iterator[Recorded]:
    """Telemetry with contrib's handlers connected before or after all others."""
    if request.param == "contrib second":
        instrument()
    meters = recorded.telemetry.meter_provider
    CeleryInstrumentor().instrument(tracer_provider=recorded.telemetry.tracer_provider, meter_provider=meters)
    instrument()
    yield recorded
    CeleryInstrumentor().uninstrument()


def run_spans(recorded: Recorded) -> list[Any]:
    return [span for span in recorded.spans() if span.name == "run/who"]


def test_the_run_its_span_and_both_metrics_have_the_id_of_who_sent_it(measured: Recorded, app: Any) -> None:
    with clew.request("r-1"):
        assert app.tasks["who"].delay().get(90) == "r-1"
    eventually(lambda: run_spans(measured), what="contrib has ended its span")
    (span,) = run_spans(measured)
    assert span.attributes["request_id"] == "r-1"
    collected = {
        metric.name: [
            (point.count, [exemplar.filtered_attributes["request_id"] for exemplar in point.exemplars])
            for point in metric.data.data_points
        ]
        for _, metric in measured.metrics()
        if metric.name in ("operation.duration", "operation.time_in_queue", "flower.task.runtime.seconds")
    }
    assert len(collected) == 3
    assert all(points == [(1, ["r-1"])] for points in collected.values()), collected


@pytest.mark.parametrize("found", [None, "not\nvalid"])
def test_an_id_made_for_the_run_is_on_what_contrib_records(found: str | None, measured: Recorded, app: Any) -> None:
    headers = None if found is None else {"X-Request-ID": found}
    replaced = diagnostics.counts().get("request_id.replaced", 0)
    made = app.tasks["who"].apply_async(headers=headers).get(90)
    assert is_valid(made)
    eventually(lambda: run_spans(measured), what="contrib has ended its span")
    assert run_spans(measured)[0].attributes["request_id"] == made
    (point,) = measured.points("flower.task.runtime.seconds")
    assert [exemplar.filtered_attributes["request_id"] for exemplar in point.exemplars] == [made]
    assert diagnostics.counts().get("request_id.replaced", 0) == replaced + (found is not None)


def test_where_no_ids_are_trusted_both_have_the_fresh_one(
    measured: Recorded, app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "trust", False)
    with clew.request("r-1"):
        made = app.tasks["who"].delay().get(90)
    assert made != "r-1"
    eventually(lambda: run_spans(measured), what="contrib has ended its span")
    assert run_spans(measured)[0].attributes["request_id"] == made


def test_the_tasks_of_a_chain_are_of_one_request(measured: Recorded, app: Any) -> None:
    who = app.tasks["who"]
    with clew.request("r-1"):
        assert (who.si() | who.si() | who.si()).apply_async().get(90) == "r-1"
    assert measured.calls("who") == {None: 3}
