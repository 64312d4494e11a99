"""One value that cannot be sent costs itself at most: whatever is recorded in any way, its neighbours arrive."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from delivery.listeners import HttpEndpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Status, StatusCode

import clew
from clew.delivery import PeriodicReader, UndeliveredError
from clew.diagnostics import counts
from clew.exporters import OtlpMetricExporter, metric_exporters
from clew.settings import load_settings

DEEP: list[Any] = []
for _ in range(20_000):
    DEEP = [DEEP]
AROUND: list[Any] = [1]
AROUND.append(AROUND)
AROUND_BY_NAME: dict[str, Any] = {}
AROUND_BY_NAME["again"] = AROUND_BY_NAME


class Whole:
    """A number as numpy has them: of no class that Python knows."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value

    def __le__(self, other: Any) -> bool:
        return self.value <= other

    __ge__ = __gt__ = __lt__ = __le__


class Broken:
    """Something that answers nothing."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __float__ = __index__ = __str__  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Broken()"


texts = st.text(st.characters(exclude_categories=()), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63 - 1, 2**63, -(2**63) - 1, 2**64, 2**62, 10**400, -(10**400)])
    | st.floats()
    | st.decimals()
    | st.fractions()
    | st.complex_numbers()
    | st.binary(max_size=20)
    | texts
    | st.datetimes()
    | st.builds(Whole, st.integers())
    | st.builds(object)
    | st.builds(Broken)
)
values = scalars | st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | texts | st.none() | st.booleans(), inner, max_size=3)
        | st.frozensets(st.integers(), max_size=3)
    ),
    max_leaves=6,
)


class Sent:
    """A configured process and its endpoint; `neighbours` are recorded around whatever is tried."""

    def __init__(self, http: HttpEndpoint, telemetry: clew.Telemetry) -> None:
        self.http = http
        self.telemetry = telemetry
        self.number = 0

    def neighbours(self) -> None:
        self.number += 1
        clew.counter("neighbour").add(1)
        clew.counter("neighbour.bound").bind({"tier": "gold"}).add(1)
        self.telemetry.meter_provider.get_meter("theirs").create_counter("neighbour.theirs").add(1)
        with self.telemetry.tracer_provider.get_tracer("theirs").start_as_current_span(f"neighbour-{self.number}"):
            logging.getLogger("neighbour").warning("neighbour-%d", self.number)

    def check(self) -> None:
        """What stands beside has arrived, all of it, once."""
        self.http.received.messages.clear()
        self.telemetry.force_flush(60)
        received = self.http.received
        for name in ("neighbour", "neighbour.bound", "neighbour.theirs"):
            assert received.counters.get(name) == [self.number], name
        wanted = [f"neighbour-{self.number - 1}", f"neighbour-{self.number}"]
        assert [name for name in received.spans if name.startswith("neighbour")] == wanted
        assert [text for text in received.logs if text.startswith("neighbour")] == wanted


@pytest.fixture
def sent(http: HttpEndpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sent]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", http.url)
    monkeypatch.setenv("CLEW_ZERO_POINTS", "false")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "3600000")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    telemetry = clew.configure(
        spans=True, resource={"service.name": "caf\udce9", "odd": 2**64, "odder": ["\ud800", "fine"]}
    )
    yield Sent(http, telemetry)
    telemetry.shutdown()


ODD = (
    *(2**64, 2**63, -(2**63) - 1, True, 10**400, 10**5000, Decimal("1.5"), Decimal("sNaN"), Fraction(1, 3)),
    *(math.nan, math.inf, "caf\udce9.txt", "\ud83d\ude00", b"\xff", "\x00", DEEP, AROUND, AROUND_BY_NAME),
    *({1: 2, None: "\ud800"}, [1, "a", None], [True, 1], Whole(3), Broken(), memoryview(b"ab")),
)
"""Those that were seen to cost something, and those that no strategy makes or prints."""


def test_any_measurement_leaves_its_neighbours_alone(sent: Sent) -> None:
    observed: list[Any] = []
    meter = sent.telemetry.meter_provider.get_meter("theirs")
    meter.create_observable_gauge("theirs.observed", [lambda options: [Observation(each) for each in observed]])
    meter.create_observable_counter("theirs.counted", [lambda options: [Observation(each) for each in observed]])
    ours = [
        (clew.counter("odd.counter"), "add"),
        (clew.up_down_counter("odd.up_down"), "add"),
        (clew.histogram("odd.histogram"), "record"),
        (clew.histogram("odd.bounds", bounds=(1, 2)), "record"),
        (clew.gauge("odd.gauge"), "set"),
    ]
    theirs = [
        (meter.create_counter("theirs.counter"), "add"),
        (meter.create_up_down_counter("theirs.up_down"), "add"),
        (meter.create_histogram("theirs.histogram"), "record"),
        (meter.create_gauge("theirs.gauge"), "set"),
    ]

    def check(value: Any) -> None:
        sent.neighbours()
        observed[:] = [value]
        for instrument, verb in ours:
            getattr(instrument, verb)(value)
            getattr(instrument.bind({"bound": "yes"}), verb)(value)
            getattr(instrument, verb)(1, {"odd": value})
        for other, verb in theirs:
            with suppress(Exception):  # what the SDK itself makes of it does not matter here
                getattr(other, verb)(value)
            with suppress(Exception):
                getattr(other, verb)(1, {"odd": value})
        sent.neighbours()
        sent.check()

    for value in ODD:
        check(value)
    settings(max_examples=60)(given(values)(check))()


def test_any_value_in_operations_spans_and_log_records_leaves_its_neighbours_alone(sent: Sent) -> None:
    logger = logging.getLogger("odd")
    loggers = sent.telemetry.logger_provider
    assert loggers is not None
    tracer = sent.telemetry.tracer_provider.get_tracer("theirs")

    def check(value: Any) -> None:
        sent.neighbours()
        with clew.request(), clew.measure("odd", attributes={"given": value}) as m:
            m.set("set", value)
            m.note("note", value)
            m.fail(value)
        with suppress(ValueError), clew.measure("raises"):
            raise ValueError(value)
        with suppress(Exception):  # what `logging` and its handlers do with a message that has no text
            logger.warning(value)
        with suppress(Exception):
            logger.warning("%s", value)
        logger.warning("with extras", extra={"odd": value, "endless": range(10**12)})
        with suppress(Exception):
            try:
                raise RuntimeError(value)
            except RuntimeError:
                logger.exception("failed")
        loggers.get_logger("theirs").emit(LogRecord(body=value, attributes={"odd": "fine"}))
        with suppress(Exception):  # here too
            loggers.get_logger("theirs").emit(LogRecord(body="x", attributes={"odd": value}))
        with suppress(Exception), tracer.start_as_current_span("odd", attributes={"odd": value}) as span:
            span.add_event("odd", {"odd": value})
            span.set_attribute("odd", value)
            span.record_exception(ValueError(value))
            span.set_status(Status(StatusCode.ERROR, value))
        with suppress(Exception), tracer.start_as_current_span(value):
            pass
        sent.neighbours()
        sent.check()

    for value in ODD:
        check(value)
    settings(max_examples=60)(given(values)(check))()


def numbers(http: HttpEndpoint, name: str) -> list[Any]:
    """The values that a sum or a gauge had, each time that it came."""
    found: list[Any] = []
    for message in http.received.messages:
        for resource in getattr(message, "resource_metrics", ()):
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        data = getattr(metric, metric.WhichOneof("data"))
                        found += [getattr(point, point.WhichOneof("value")) for point in data.data_points]
    return found


def test_a_measurement_that_is_too_large_is_sent_as_a_float(sent: Sent) -> None:
    clew.counter("large").add(2**64)
    clew.gauge("gauge").set(2**63)
    summed = clew.counter("summed").bind({})
    for _ in range(4):
        summed.add(2**62)
    clew.gauge("true").set(True)
    clew.counter("exact").bind({}).add(Decimal("1.5"))
    clew.counter("exact").bind({}).add(2)
    sent.telemetry.meter_provider.get_meter("theirs").create_counter("theirs.large").add(2**64)
    assert sent.telemetry.force_flush(60)
    assert numbers(sent.http, "large") == [float(2**64)]
    assert numbers(sent.http, "gauge") == [float(2**63)]
    assert numbers(sent.http, "summed") == [float(2**64)]
    assert numbers(sent.http, "true") == [1]
    assert numbers(sent.http, "exact") == [3.5]
    assert numbers(sent.http, "theirs.large") == [float(2**64)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, "12", None, Decimal("NaN"), 1j], ids=repr)
def test_what_is_no_number_is_left_out_and_counted_and_the_sum_goes_on(sent: Sent, value: Any) -> None:
    before = counts().get("measurement.ignored", 0)
    for kind in (clew.counter, clew.up_down_counter):
        instrument = kind(f"left_out.{kind.__name__}")
        for each in (instrument, instrument.bind({})):
            each.add(1)  # type: ignore[union-attr]
            each.add(value)  # type: ignore[union-attr]
            each.add(2)  # type: ignore[union-attr]
    histogram = clew.histogram("left_out.histogram")
    for one in (histogram, histogram.bind({})):
        one.record(1)  # type: ignore[attr-defined]
        one.record(value)  # type: ignore[attr-defined]
    assert counts()["measurement.ignored"] == before + 6
    assert sent.telemetry.force_flush(60)
    for kind in (clew.counter, clew.up_down_counter):
        assert numbers(sent.http, f"left_out.{kind.__name__}") == [6]


def bodies(http: HttpEndpoint) -> list[str]:
    return [text for text in http.received.logs if text]


def test_a_text_that_is_none_and_an_integer_that_is_too_large_are_sent_as_what_python_shows(sent: Sent) -> None:
    logger = logging.getLogger("odd")
    logger.warning(2**64)
    logger.warning("caf\udce9.txt")
    logger.warning("extras", extra={"odd": 2**64})
    assert sent.telemetry.force_flush(60)
    assert bodies(sent.http) == ["18446744073709551616", "caf\\udce9.txt", "extras"]
    resource = next(
        {each.key: each.value for each in resource.resource.attributes}
        for message in sent.http.received.messages
        for resource in getattr(message, "resource_logs", ())
    )
    assert resource["service.name"].string_value == "caf\\udce9"
    assert resource["odd"].string_value == "18446744073709551616"


def test_a_point_of_others_that_no_number_stands_for_is_left_out_alone(http: HttpEndpoint) -> None:
    (exporter,) = metric_exporters(load_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": http.url}))
    assert isinstance(exporter, OtlpMetricExporter)
    points = [NumberDataPoint({}, 1, 2, value) for value in ("text", 7, None)]  # type: ignore[arg-type]
    scope = ScopeMetrics(InstrumentationScope("theirs"), [Metric("odd", "", "", Gauge(points))], "")
    with pytest.raises(UndeliveredError, match="cannot be put into OTLP") as raised:
        exporter.export(MetricsData([ResourceMetrics(Resource({}), [scope], "")]))
    assert (raised.value.undelivered, raised.value.refused) == (2, True)
    assert numbers(http, "odd") == [7]


def test_what_is_left_out_is_found_though_the_encoders_logger_is_off(http: HttpEndpoint, telemetry: Any) -> None:
    logger = logging.getLogger("opentelemetry.exporter.otlp.proto.common._internal")
    made = telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": http.url})
    logger.disabled = True
    try:
        with made.tracers.get_tracer("test").start_as_current_span("odd", attributes={"odd": "\ud800"}):
            pass
        assert made.spans.force_flush()
    finally:
        logger.disabled = False
    (span,) = http.received.messages[0].resource_spans[0].scope_spans[0].spans
    assert [each.value.string_value for each in span.attributes] == ["\\ud800"]


def test_resources_and_scopes_of_others_are_corrected_too(http: HttpEndpoint) -> None:
    (exporter,) = metric_exporters(load_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": http.url}))
    reader = PeriodicReader(exporter, interval=3600)  # type: ignore[arg-type]
    provider = MeterProvider([reader], resource=Resource({"odd": 2**64, "fine": "yes"}), shutdown_on_exit=False)
    provider.get_meter("caf\udce9", "\ud800").create_counter("orders", description="\ud800").add(1)
    assert reader.force_flush()
    provider.shutdown()
    resource = http.received.messages[0].resource_metrics[0]
    assert {each.key: each.value.string_value for each in resource.resource.attributes} == {
        "odd": str(2**64),
        "fine": "yes",
    }
    assert resource.scope_metrics[0].scope.name == "caf\\udce9"
    assert resource.scope_metrics[0].metrics[0].description == "\\ud800"
