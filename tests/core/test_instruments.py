"""The instruments for business metrics: the OTel API's own types, with a bind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import metrics
from recorded import Recorded

import clew

KINDS: list[tuple[str, str, type]] = [
    ("counter", "add", metrics.Counter),
    ("up_down_counter", "add", metrics.UpDownCounter),
    ("histogram", "record", metrics.Histogram),
    ("gauge", "set", metrics._Gauge),
]


@pytest.mark.parametrize(("kind", "verb", "api"), KINDS)
def test_each_is_the_apis_own_type_and_records(recorded: Recorded, kind: str, verb: str, api: type) -> None:
    instrument = getattr(clew, kind)("orders", unit="{order}", description="Orders.")
    assert isinstance(instrument, api)
    getattr(instrument, verb)(3, {"tier": "gold"})
    ((scope, metric),) = [(scope, m) for scope, m in recorded.metrics() if m.name == "orders"]
    assert (scope, metric.unit, metric.description) == (__name__, "{order}", "Orders.")
    (point,) = metric.data.data_points
    assert dict(point.attributes) == {"tier": "gold"}
    assert (point.sum if kind == "histogram" else point.value) == 3


@pytest.mark.parametrize(("kind", "verb", "api"), KINDS)
def test_a_bound_one_records_as_the_unbound_with_its_attributes(
    recorded: Recorded, kind: str, verb: str, api: type
) -> None:
    instrument = getattr(clew, kind)("bound", scope="test")
    attributes = {"tier": "gold"}
    bound = instrument.bind(attributes)
    attributes["tier"] = "changed after"
    with clew.request("mine"):
        getattr(bound, verb)(5)
    (point,) = recorded.points("bound", "test")
    assert dict(point.attributes) == {"tier": "gold"}
    assert [e.filtered_attributes for e in point.exemplars] == [{"request_id": "mine"}]


def test_one_that_is_made_and_bound_before_configure_records_from_then_on(
    configured: Callable[..., Recorded],
) -> None:
    counter = clew.counter("early", scope="test")
    bound = counter.bind({"tier": "gold"})
    counter.add(1)
    bound.add(1)
    for _ in range(2):
        recorded = configured()
        counter.add(2)
        bound.add(3)
        assert {p.attributes.get("tier"): p.value for p in recorded.points("early")} == {None: 2, "gold": 3}
        recorded.telemetry.shutdown()


def test_the_scope_is_the_callers_module_unless_given(recorded: Recorded) -> None:
    clew.counter("orders").add(1)
    clew.counter("orders", scope="elsewhere").add(5)
    assert {scope: m.data.data_points[0].value for scope, m in recorded.metrics() if m.name == "orders"} == {
        __name__: 1,
        "elsewhere": 5,
    }


def test_a_histogram_takes_its_bounds(recorded: Recorded) -> None:
    clew.histogram("sizes", bounds=(1, 10, 100)).record(7)
    (point,) = recorded.points("sizes")
    assert tuple(point.explicit_bounds) == (1, 10, 100)
    assert tuple(point.bucket_counts) == (0, 1, 0, 0)


def test_one_identity_is_one_instrument() -> None:
    assert clew.counter("same", unit="1") is clew.counter("same", unit="1")
    assert clew.counter("same", unit="1") is not clew.counter("same", unit="2")


def test_the_request_id_is_never_an_attribute_of_a_point(recorded: Recorded) -> None:
    clew.counter("orders").add(1, {"request_id": "x", "otel.thing": 1, "error.type": "E", "tier": "gold"})
    (point,) = recorded.points("orders")
    assert dict(point.attributes) == {"error.type": "E", "tier": "gold"}


@pytest.mark.parametrize("kind", [kind for kind, _, _ in KINDS])
@pytest.mark.parametrize("name", ["", "1st", "a b", "ä", "x" * 256, None, 7, "a\n"])
def test_a_name_that_breaks_the_rules_is_refused(kind: str, name: Any) -> None:
    with pytest.raises(ValueError, match="instrument's name"):
        getattr(clew, kind)(name)


def test_other_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="63 ASCII"):
        clew.counter("orders", unit="x" * 64)
    for bounds in ((3, 2), (1, 1), ("a",), (True, 2)):
        with pytest.raises(ValueError, match="rising numbers"):
            clew.histogram("sizes", bounds=bounds)  # type: ignore[arg-type]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    value=st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.complex_numbers(), st.lists(st.integers())),
    attributes=st.one_of(st.none(), st.text(), st.dictionaries(st.text(), st.one_of(st.none(), st.text()))),
)
@pytest.mark.parametrize(("kind", "verb", "api"), KINDS)
def test_no_measurement_raises(
    recorded: Recorded, kind: str, verb: str, api: type, value: Any, attributes: Any
) -> None:
    instrument = getattr(clew, kind)("fuzzed", scope="test")
    getattr(instrument, verb)(value, attributes)
    if isinstance(attributes, dict):
        getattr(instrument.bind(attributes), verb)(value)
    assert instrument.name == "fuzzed"
