"""An instrument has 2,000 attribute sets and one overflow point, on an SDK without that limit too."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from clew import diagnostics
from clew.metrics.limits import limited
from clew.metrics.sdk import views

OVERFLOW = ("otel.metric.overflow", bool, True)


@pytest.fixture(autouse=True)
def no_limit_in_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "HAS_CARDINALITY_LIMIT", False)
    monkeypatch.setattr(diagnostics, "_warned", set())


def points(reader: InMemoryMetricReader) -> dict[tuple[Any, ...], Any]:
    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    return {
        tuple((name, type(value), value) for name, value in point.attributes.items()): point.value
        for point in metric.data.data_points
    }


def test_further_attribute_sets_go_to_one_overflow_point_and_the_total_is_exact(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader = InMemoryMetricReader()
    counter = MeterProvider([reader], shutdown_on_exit=False).get_meter("library").create_counter("orders")
    add = limited(counter.add, "orders", 5)
    for _ in range(2):
        for number in range(8):
            add(1, {"number": number}, None)
    found = points(reader)
    assert found == {
        **{(("number", int, number),): 2 for number in range(5)},
        (OVERFLOW,): 6,
    }
    assert diagnostics.counts()["attributes.overflow"] >= 6
    assert len([record for record in caplog.records if "more than 5 attribute sets" in record.getMessage()]) == 1


def test_no_attributes_are_a_set_and_values_are_told_apart_by_type() -> None:
    reader = InMemoryMetricReader()
    counter = MeterProvider([reader], shutdown_on_exit=False).get_meter("library").create_counter("orders")
    add = limited(counter.add, "orders", 4)
    for attributes in (None, {}, {"x": 1}, {"x": True}, {"x": 1.0}, {"x": "1"}):
        add(1, attributes, None)
    found = points(reader)
    assert len(found) == 5
    assert found[()] == 2
    assert found[OVERFLOW,] == 1


def test_threads_together_stay_within_the_limit() -> None:
    reader = InMemoryMetricReader()
    counter = MeterProvider([reader], shutdown_on_exit=False).get_meter("library").create_counter("orders")
    add = limited(counter.add, "orders", 50)

    def work(begin: int) -> None:
        for number in range(200):
            add(1, {"number": (begin + number) % 200}, None)

    threads = [threading.Thread(target=work, args=(begin,)) for begin in (0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = points(reader)
    assert len(found) == 51
    assert sum(found.values()) == 800


def test_where_the_sdk_has_a_limit_nothing_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "HAS_CARDINALITY_LIMIT", True)

    def record(value: float, attributes: Any, context: Any) -> None: ...

    assert limited(record, "orders") is record
