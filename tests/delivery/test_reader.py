"""The periodic reader: at its interval, one export at a time, outside every request, never longer than it may."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from delivery.listeners import eventually
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, create_key, detach, get_value, set_value
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

from clew.delivery import PeriodicReader, deliver, lost

REQUEST = create_key("a request")


class Recording(MetricExporter):
    """An exporter of the application's own: remembers what it was given and where, hangs while `hold` is cleared."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[int] = []
        self.contexts: list[tuple[object, object]] = []
        self.most_at_once = 0
        self.result = MetricExportResult.SUCCESS
        self.error: BaseException | None = None
        self.closed = 0
        self.hold = threading.Event()
        self.hold.set()
        self._now = 0

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        self.contexts.append((get_value(REQUEST), get_value(_SUPPRESS_INSTRUMENTATION_KEY)))
        (point,) = metrics_data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
        self.hold.wait(120)
        self.values.append(point.value)  # type: ignore[union-attr]
        self._now -= 1
        if self.error is not None:
            raise self.error
        return self.result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self.closed += 1
        self.hold.wait(120)


class Measured:
    def __init__(self, **arguments: Any) -> None:
        self.exporter = Recording()
        self.reader = PeriodicReader(self.exporter, **arguments)
        self.provider = MeterProvider(metric_readers=[self.reader], shutdown_on_exit=False)
        self.counter = self.provider.get_meter("test").create_counter("orders")


@pytest.fixture
def measured() -> Iterator[Any]:
    made: list[Measured] = []

    def make(**arguments: Any) -> Measured:
        made.append(Measured(**arguments))
        return made[-1]

    yield make
    for each in made:
        each.exporter.hold.set()
        each.reader.shutdown(timeout_millis=1000)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "clew-metrics"]


def test_no_thread_runs_before_the_start_and_none_after_the_end(measured: Any) -> None:
    before = threads()
    made = measured()
    made.counter.add(1)
    assert threads() == before
    made.reader.start()
    made.reader.start()
    assert len(threads()) == len(before) + 1
    made.reader.shutdown()
    assert made.exporter.values == [1]
    eventually(lambda: threads() == before)


def test_a_reader_that_was_never_started_exports_nothing_at_its_end(measured: Any) -> None:
    made = measured()
    made.counter.add(1)
    assert deliver([made.reader], closing=True, timeout=60)
    assert made.exporter.values == []
    assert made.exporter.closed == 1


def test_it_exports_at_its_interval(measured: Any) -> None:
    made = measured(interval=0.05)
    made.counter.add(1)
    made.reader.start()
    eventually(lambda: len(made.exporter.values) >= 3)
    made.counter.add(1)
    eventually(lambda: made.exporter.values[-1] == 2)


def test_exports_are_outside_every_request_and_not_instrumented(measured: Any) -> None:
    made = measured()
    made.counter.add(1)
    token = attach(set_value(REQUEST, "id"))
    try:
        assert made.reader.force_flush()
        made.reader.collect()
        assert get_value(REQUEST) == "id"
    finally:
        detach(token)
    assert made.exporter.contexts == [(None, True)] * 2


def test_two_exports_never_run_at_once(measured: Any) -> None:
    made = measured(interval=0.01)
    made.counter.add(1)
    made.reader.start()
    callers = [threading.Thread(target=made.reader.force_flush) for _ in range(4)]
    callers += [threading.Thread(target=made.reader.collect) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert made.exporter.most_at_once == 1


@pytest.mark.parametrize("error", [None, RuntimeError("disk full"), SystemExit(3)])
def test_a_failing_exporter_is_false_counted_and_survived(
    measured: Any, error: BaseException | None, caplog: pytest.LogCaptureFixture
) -> None:
    made = measured()
    before = lost()["metric points"]
    made.exporter.result = MetricExportResult.FAILURE
    made.exporter.error = error
    made.counter.add(1)
    assert not made.reader.force_flush()
    assert not made.reader.force_flush()
    assert len(caplog.records) == 1
    assert lost()["metric points"] == before  # the total comes with the next export
    made.exporter.error = None
    made.exporter.result = MetricExportResult.SUCCESS
    assert made.reader.force_flush()


def test_a_flush_and_an_end_are_bounded_though_the_exporter_hangs(
    measured: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = measured()
    before = lost()["metric points"]
    made.exporter.hold.clear()
    made.counter.add(1)
    started = time.monotonic()
    assert not made.reader.force_flush(timeout_millis=200)
    assert not deliver([made.reader], closing=True, timeout=0.3)
    assert not deliver([made.reader], closing=True, timeout=60)
    made.provider.shutdown()
    assert time.monotonic() - started < 30
    assert lost()["metric points"] == before + 1
    assert [record.getMessage() for record in caplog.records if "not delivered" in record.getMessage()] == [
        "not delivered at the end, for which there are 0.3 s: 1 metric points (no answer came in time)"
    ]


def test_the_providers_flush_and_shutdown_reach_it(measured: Any) -> None:
    made = measured()
    made.counter.add(1)
    assert made.provider.force_flush()
    made.counter.add(1)
    made.provider.shutdown()
    assert made.exporter.values == [1, 2]
    assert made.exporter.closed == 1


def test_an_end_may_be_asked_for_again_and_by_several_threads(measured: Any) -> None:
    made = measured()
    made.counter.add(1)
    made.reader.start()
    answers: list[bool] = []
    callers = [
        threading.Thread(target=lambda: answers.append(deliver([made.reader], closing=True, timeout=60)))
        for _ in range(5)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert answers == [True] * 5
    assert made.exporter.values == [1]
    assert made.exporter.closed == 1


def test_where_no_thread_can_be_started_the_calling_one_does_it(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = measured()
    made.counter.add(1)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    made.reader.start()
    assert made.reader.force_flush()
    assert made.exporter.values == [1]


def test_a_renewed_reader_has_the_exporter_and_the_old_one_exports_no_more(measured: Any) -> None:
    made = measured()
    made.counter.add(1)
    fresh = made.reader.renewed()
    made.provider.add_metric_reader(fresh)
    made.provider.remove_metric_reader(made.reader)
    assert made.exporter.values == []
    assert made.exporter.closed == 0
    made.counter.add(4)
    assert fresh.force_flush()
    assert made.exporter.values == [4]
    fresh.shutdown()
    assert made.exporter.closed == 1


def test_a_foreign_part_is_flushed_and_ended_within_the_deadline() -> None:
    go_on = threading.Event()

    class Part:
        def __init__(self, hang: bool) -> None:
            self.hang = hang
            self.asked: list[str] = []

        def force_flush(self, timeout_millis: int = 1) -> bool:
            self.asked.append("flush")
            if self.hang:
                go_on.wait(120)
            return True

        def shutdown(self) -> None:
            self.asked.append("shutdown")
            if self.hang:
                raise OSError("no disk")

    good, bad = Part(False), Part(True)
    assert deliver([good], closing=False, timeout=60)
    assert deliver([good], closing=True, timeout=60)
    assert good.asked == ["flush", "shutdown"]
    started = time.monotonic()
    assert not deliver([good, bad], closing=False, timeout=0.2)
    assert not deliver([object(), bad], closing=True, timeout=0.2)
    assert time.monotonic() - started < 60
    go_on.set()
