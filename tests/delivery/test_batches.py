"""Spans and log records wait in a bounded queue, leave in batches, and what is lost is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from delivery.listeners import eventually
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, get_value
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from clew.delivery import SpanBatchProcessor, deliver, lost


class Recording(SpanExporter):
    """Remembers the names in each batch; hangs while `hold` is cleared."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.suppressed: list[object] = []
        self.entered = threading.Event()
        self.hold = threading.Event()
        self.hold.set()
        self.result = SpanExportResult.SUCCESS

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        self.hold.wait(120)
        self.suppressed.append(get_value(_SUPPRESS_INSTRUMENTATION_KEY))
        self.batches.append([span.name for span in spans])
        return self.result

    def shutdown(self) -> None:
        self.hold.wait(120)


class Traced:
    def __init__(self, **arguments: Any) -> None:
        self.exporter = Recording()
        self.spans = SpanBatchProcessor(self.exporter, **{"delay": 60, **arguments})
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(self.spans)
        self._lost_before = lost()["spans"]

    def span(self, *names: str) -> None:
        for name in names:
            with self.provider.get_tracer("test").start_as_current_span(name):
                pass

    @property
    def lost(self) -> int:
        return lost()["spans"] - self._lost_before


@pytest.fixture
def traced() -> Iterator[Any]:
    made: list[Traced] = []

    def make(**arguments: Any) -> Traced:
        made.append(Traced(**arguments))
        return made[-1]

    yield make
    for each in made:
        each.exporter.hold.set()
        each.provider.shutdown()


def test_a_flush_sends_all_in_batches_in_order(traced: Any) -> None:
    made = traced(batch_size=2, queue_size=10)
    made.exporter.hold.clear()
    made.span("a", "b", "c", "d", "e")
    made.exporter.hold.set()
    assert made.provider.force_flush()
    assert [name for batch in made.exporter.batches for name in batch] == ["a", "b", "c", "d", "e"]
    assert max(map(len, made.exporter.batches)) == 2
    assert set(made.exporter.suppressed) == {True}
    assert made.provider.force_flush()
    assert made.lost == 0


def test_a_full_batch_goes_before_the_delay_is_over(traced: Any) -> None:
    made = traced(batch_size=3)
    made.span("a", "b", "c", "d")
    eventually(lambda: made.exporter.batches)
    assert made.exporter.batches[0] == ["a", "b", "c"]


def test_what_waits_goes_when_the_delay_is_over(traced: Any) -> None:
    made = traced(delay=0.05)
    made.span("a")
    eventually(lambda: made.exporter.batches == [["a"]])


def test_what_does_not_fit_into_the_queue_is_dropped_counted_and_logged_once(
    traced: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = traced(batch_size=2, queue_size=3)
    made.exporter.hold.clear()
    made.span("a", "b")
    assert made.exporter.entered.wait(60)
    made.span("c", "d", "e", "f", "g")
    assert made.lost == 2
    made.exporter.hold.set()
    assert made.provider.force_flush()
    assert [name for batch in made.exporter.batches for name in batch] == ["a", "b", "c", "d", "e"]
    (logged,) = caplog.records
    assert "spans are dropped: the queue of 3 is full" in logged.getMessage()


def test_a_span_that_is_not_sampled_is_not_sent(traced: Any) -> None:
    made = traced()
    made.provider.sampler = ALWAYS_OFF
    made.span("a")
    assert made.provider.force_flush()
    assert made.exporter.batches == []


def test_the_end_sends_what_waits_and_what_comes_after_it_is_counted(
    traced: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = traced()
    made.span("a")
    assert deliver([made.spans], closing=True, timeout=60)
    assert deliver([made.spans], closing=True, timeout=60)
    assert made.exporter.batches == [["a"]]
    made.span("b", "c")
    assert made.lost == 2
    assert len(caplog.records) == 1


def test_the_end_is_bounded_though_the_exporter_hangs_and_says_how_many_are_lost(
    traced: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = traced(batch_size=2, queue_size=10, shutdown_timeout=0.3)
    made.exporter.hold.clear()
    made.span("a", "b", "c", "d", "e")
    started = time.monotonic()
    assert not deliver([made.spans], closing=True, timeout=0.3)
    made.provider.shutdown()
    assert time.monotonic() - started < 60
    assert made.lost == 5
    assert [record.getMessage() for record in caplog.records if "not delivered" in record.getMessage()] == [
        "not delivered at the end, for which there are 0.3 s: 5 spans (no answer came in time)"
    ]


def test_the_processors_own_shutdown_is_bounded_too(traced: Any) -> None:
    made = traced(shutdown_timeout=0.2)
    made.exporter.hold.clear()
    made.span("a")
    started = time.monotonic()
    made.provider.shutdown()
    assert time.monotonic() - started < 60


def test_a_failed_batch_is_lost_counted_and_false(traced: Any) -> None:
    made = traced()
    made.exporter.result = SpanExportResult.FAILURE
    made.span("a", "b")
    assert not made.spans.force_flush(60_000)
    assert made.lost == 2


def test_after_a_fork_what_the_parent_had_waiting_is_dropped(traced: Any) -> None:
    made = traced()
    made.span("parent's")
    made.spans.restart_in_child()
    made.span("child's")
    assert made.spans.force_flush(60_000)
    assert made.exporter.batches == [["child's"]]


def test_many_threads_lose_nothing(traced: Any) -> None:
    made = traced(batch_size=50, queue_size=100_000)
    threads = [threading.Thread(target=made.span, args=["a"] * 500) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.provider.force_flush()
    assert sum(map(len, made.exporter.batches)) == 2000
    assert made.lost == 0
