"""`clew.configure()` in one process: what it sets, what it refuses, and how it ends."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import metrics, propagate, trace
from opentelemetry._logs import get_logger_provider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricsData,
)
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from recorded import Recorded

import clew
from clew import diagnostics
from clew.operations import pipeline


@pytest.fixture(autouse=True)
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged once a process is logged once a test."""
    monkeypatch.setattr(diagnostics, "_warned", set())


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is sent, and what a test leaves configured is shut down."""
    for signal in ("METRICS", "TRACES", "LOGS"):
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "none")
    yield
    from clew import telemetry

    if telemetry._configured is not None:
        telemetry._configured.shutdown()


class Exporter(MetricExporter):
    """Takes what it is given, unless asked to fail or to hang."""

    def __init__(
        self, result: MetricExportResult = MetricExportResult.SUCCESS, go_on: threading.Event | None = None
    ) -> None:
        super().__init__()
        self.result = result
        self.go_on = go_on
        self.exports = 0
        self.shutdowns = 0

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        self.exports += 1
        if self.go_on is not None:
            self.go_on.wait(120)
        return self.result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self.shutdowns += 1


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """What an exporter that hangs waits for."""
    event = threading.Event()
    yield event
    event.set()


class FailingSpans(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        raise RuntimeError("on purpose")


# called again


def test_configured_again_with_the_same_arguments_it_returns_the_same_object(nowhere: None) -> None:
    first = clew.configure(resource={"team": "red"}, spans=True, views=[])
    assert clew.configure(resource={"team": "red"}, spans=True, views=()) is first
    assert clew.configure(resource={"team": "red"}, spans=True, expected=None) is first


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("spans", True),
        ("resource", {"team": "blue"}),
        ("metric_readers", [InMemoryMetricReader()]),
        ("views", [View(instrument_name="x")]),
        ("shutdown_timeout", 1.0),
    ],
)
def test_configured_again_with_another_argument_it_raises_and_names_it(
    argument: str, value: Any, nowhere: None
) -> None:
    first = clew.configure()
    with pytest.raises(clew.ConfigurationError, match=rf"configure\({argument}=…\)") as raised:
        clew.configure(**{argument: value})
    assert len(raised.value.problems) == 1
    assert clew.configure() is first


def test_every_argument_that_differs_is_named(nowhere: None) -> None:
    clew.configure(spans=True, resource={"team": "red"})
    with pytest.raises(clew.ConfigurationError) as raised:
        clew.configure(cardinality_limit=5)
    names = [problem.name for problem in raised.value.problems]
    assert names == ["configure(cardinality_limit=…)", "configure(resource=…)", "configure(spans=…)"]


def test_threads_that_configure_at_once_get_the_same_object(nowhere: None) -> None:
    found: list[clew.Telemetry] = []
    barrier = threading.Barrier(8)

    def configure() -> None:
        barrier.wait()
        found.append(clew.configure())

    threads = [threading.Thread(target=configure) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


# wrong arguments


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("views", ["not a View"]),
        ("metric_exporters", Exporter()),
        ("metric_exporters", [object()]),
        ("metric_readers", [Exporter()]),
        ("span_processors", [InMemorySpanExporter()]),
        ("log_processors", "console"),
        ("resource", 3),
        ("spans", "yes"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_configured(argument: str, value: Any, nowhere: None) -> None:
    with pytest.raises(clew.ConfigurationError) as raised:
        clew.configure(**{argument: value})
    assert [problem.name for problem in raised.value.problems] == [f"configure({argument}=…)"]
    assert pipeline.current is None


def test_all_wrong_arguments_and_variables_are_named_at_once(nowhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "soon")
    monkeypatch.setenv("CLEW_SPANS", "perhaps")
    with pytest.raises(clew.ConfigurationError) as raised:
        clew.configure(metric_readers=[None], cardinality_limit=-1)
    assert {problem.name for problem in raised.value.problems} == {
        "OTEL_METRIC_EXPORT_INTERVAL",
        "CLEW_SPANS",
        "configure(metric_readers=…)",
        "configure(cardinality_limit=…)",
    }


def test_a_setting_that_there_is_not_is_a_type_error(nowhere: None) -> None:
    with pytest.raises(TypeError, match="no settings: span"):
        clew.configure(span=True)


def test_a_reader_that_belongs_to_another_provider_is_refused_with_words(nowhere: None) -> None:
    reader = InMemoryMetricReader()
    MeterProvider([reader], shutdown_on_exit=False)
    with pytest.raises(clew.ConfigurationError, match=r"configure\(metric_readers=…\).*registered already"):
        clew.configure(metric_readers=[reader])
    assert pipeline.current is None


def test_where_something_cannot_be_built_nothing_is_set(nowhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = propagate.get_global_textmap()
    providers = metrics.get_meter_provider(), trace.get_tracer_provider(), get_logger_provider()
    monkeypatch.setenv("OTEL_PROPAGATORS", "baggage")
    reader = InMemoryMetricReader()
    MeterProvider([reader], shutdown_on_exit=False)
    with pytest.raises(clew.ConfigurationError):
        clew.configure(metric_readers=[reader])
    assert propagate.get_global_textmap() is before
    assert providers == (metrics.get_meter_provider(), trace.get_tracer_provider(), get_logger_provider())


def test_not_strict_wrong_settings_are_logged_once_and_treated_as_unset(
    nowhere: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CLEW_STRICT", "false")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "soon")
    monkeypatch.setenv("CLEW_SPANS", "perhaps")
    telemetry = clew.configure()
    assert telemetry.settings.metric_export_interval == 60.0
    assert not telemetry.settings.spans
    (record,) = [record for record in caplog.records if "OTEL_METRIC_EXPORT_INTERVAL" in record.getMessage()]
    assert "CLEW_SPANS is 'perhaps'; allowed: true or false" in record.getMessage()


def test_whether_to_be_strict_can_be_set_in_code_and_wins_over_the_variable(
    nowhere: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CLEW_STRICT", "true")
    monkeypatch.setenv("CLEW_CARDINALITY_LIMIT", "very many")
    with pytest.raises(clew.ConfigurationError, match="CLEW_CARDINALITY_LIMIT"):
        clew.configure()
    assert clew.configure(strict=False).settings.cardinality_limit == 100
    assert "CLEW_CARDINALITY_LIMIT is 'very many'; allowed: a whole number" in caplog.text


# what it sets


def test_the_global_providers_and_a_handler_of_log_records_are_set(nowhere: None) -> None:
    spans, records = InMemorySpanExporter(), InMemoryLogRecordExporter()
    telemetry = clew.configure(
        span_processors=[SimpleSpanProcessor(spans)], log_processors=[SimpleLogRecordProcessor(records)]
    )
    assert isinstance(metrics.get_meter_provider(), MeterProvider)
    assert isinstance(trace.get_tracer_provider(), TracerProvider)
    logging.getLogger("shop").warning("sold %s", "out")
    assert [record.log_record.body for record in records.get_finished_logs()] == ["sold out"]
    telemetry.shutdown()
    logging.getLogger("shop").warning("after")
    assert len(records.get_finished_logs()) == 1


def test_spans_and_log_records_of_a_request_carry_its_id(nowhere: None) -> None:
    records = InMemoryLogRecordExporter()
    telemetry = clew.configure(log_processors=[SimpleLogRecordProcessor(records)])
    with clew.request("r-1"):
        logging.getLogger("shop").warning("inside")
    logging.getLogger("shop").warning("outside")
    inside, outside = (record.log_record.attributes for record in records.get_finished_logs())
    assert inside is not None
    assert inside["request_id"] == "r-1"
    assert "request_id" not in (outside or {})
    telemetry.shutdown()


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (None, {"traceparent", "tracestate", "baggage", "X-Request-ID"}),
        ("request_id", {"X-Request-ID"}),
        ("baggage,tracecontext", {"traceparent", "tracestate", "baggage"}),
        ("none", set()),
    ],
)
def test_the_propagators_are_those_of_the_variable_or_else_ours_too(
    value: str | None, fields: set[str], nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("OTEL_PROPAGATORS", value)
    clew.configure()
    assert {field.lower() for field in propagate.get_global_textmap().fields} == {field.lower() for field in fields}


def test_disabled_it_sets_no_provider_and_request_ids_work(nowhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    before = metrics.get_meter_provider()
    telemetry = clew.configure()
    assert clew.configure() is telemetry
    assert metrics.get_meter_provider() is before
    assert pipeline.current is None
    carrier: dict[str, str] = {}
    with clew.request("r-1"), clew.measure("work"):
        propagate.inject(carrier)
    assert carrier["X-Request-ID"] == "r-1"
    assert telemetry.force_flush(0)
    assert telemetry.shutdown(0)
    assert telemetry.shutdown()


# after a shutdown


def test_after_a_shutdown_what_clew_made_goes_the_new_way(configured: Callable[..., Recorded]) -> None:
    orders = clew.counter("orders")
    bound = clew.counter("bound").bind({"tier": "gold"})

    @clew.measure("work")
    def work() -> None:
        orders.add(1)
        bound.add(1)

    first = configured()
    work()
    assert first.calls("work") == {None: 1}
    assert first.telemetry is not None
    assert first.telemetry.shutdown()
    work()
    second = configured()
    for _ in range(2):
        work()
    assert second.calls("work") == {None: 2}
    assert [point.value for point in second.points("orders")] == [2]
    assert [(point.value, point.attributes) for point in second.points("bound")] == [(2, {"tier": "gold"})]


def test_after_a_shutdown_the_global_providers_stay_the_first(configured: Callable[..., Recorded]) -> None:
    first = configured()
    before = metrics.get_meter_provider(), trace.get_tracer_provider()
    assert first.telemetry is not None
    first.telemetry.shutdown()
    second = configured()
    assert (metrics.get_meter_provider(), trace.get_tracer_provider()) == before
    assert second.telemetry is not first.telemetry


def test_an_operation_is_ended_where_it_began_or_nowhere(configured: Callable[..., Recorded]) -> None:
    first = configured()
    with clew.measure("across"):
        assert first.telemetry is not None
        first.telemetry.shutdown()
        second = configured()
        with clew.measure("within"):
            pass
    assert second.calls("across") == {}
    assert {point.attributes["operation.name"]: point.value for point in second.points("operation.active")} == {
        "within": 0
    }


# flushing and shutting down


def test_all_is_delivered_or_the_answer_is_false(nowhere: None) -> None:
    exporter = Exporter()
    telemetry = clew.configure(metric_exporters=[exporter])
    clew.counter("orders").add(1)
    assert telemetry.force_flush()
    assert exporter.exports == 1
    exporter.result = MetricExportResult.FAILURE
    assert not telemetry.force_flush()
    exporter.result = MetricExportResult.SUCCESS
    assert telemetry.force_flush()
    assert telemetry.shutdown()
    assert exporter.shutdowns == 1


def test_a_shutdown_called_again_answers_the_same_and_does_nothing(nowhere: None) -> None:
    exporter = Exporter(MetricExportResult.FAILURE)
    telemetry = clew.configure(metric_exporters=[exporter])
    clew.counter("orders").add(1)
    assert not telemetry.shutdown()
    exports = exporter.exports
    exporter.result = MetricExportResult.SUCCESS
    assert not telemetry.shutdown()
    assert not telemetry.force_flush()
    assert (exporter.exports, exporter.shutdowns) == (exports, 1)


def test_parts_given_by_the_user_are_flushed_and_shut_down_once(nowhere: None) -> None:
    class Reader(InMemoryMetricReader):
        shutdowns = 0

        def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
            Reader.shutdowns += 1

    spans = InMemorySpanExporter()
    telemetry = clew.configure(metric_readers=[Reader()], span_processors=[SimpleSpanProcessor(spans)])
    assert telemetry.force_flush()
    assert telemetry.shutdown()
    assert telemetry.shutdown()
    assert Reader.shutdowns == 1


def test_what_fails_in_parts_of_the_user_reaches_no_caller(nowhere: None) -> None:
    class Reader(InMemoryMetricReader):
        def force_flush(self, timeout_millis: float = 10_000) -> bool:
            raise RuntimeError("on purpose")

        def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
            raise RuntimeError("on purpose")

    telemetry = clew.configure(metric_readers=[Reader()])
    assert not telemetry.force_flush()
    assert not telemetry.shutdown()


@pytest.mark.parametrize("timeout", [0, 0.0, -1, 1e-9, math.inf, -math.inf, 1e300, math.nan])
def test_no_timeout_makes_it_raise(timeout: float, nowhere: None) -> None:
    telemetry = clew.configure(metric_exporters=[Exporter()])
    clew.counter("orders").add(1)
    assert telemetry.force_flush(timeout) in (True, False)
    assert telemetry.shutdown(timeout) in (True, False)


def test_one_deadline_holds_for_all_parts_together(nowhere: None, go_on: threading.Event) -> None:
    telemetry = clew.configure(metric_exporters=[Exporter(go_on=go_on) for _ in range(40)])
    clew.counter("orders").add(1)
    for end in (telemetry.force_flush, telemetry.shutdown):
        began = time.monotonic()
        assert not end(0.5)
        assert time.monotonic() - began < 10  # one after the other they would take 20


def test_threads_that_flush_and_shut_down_at_once_all_get_an_answer(nowhere: None, go_on: threading.Event) -> None:
    exporter = Exporter(go_on=go_on)
    telemetry = clew.configure(metric_exporters=[exporter])
    clew.counter("orders").add(1)
    answers: list[bool] = []
    barrier = threading.Barrier(12)

    def call(method: Callable[[float], bool]) -> None:
        barrier.wait()
        answers.append(method(60))

    threads = [
        threading.Thread(target=call, args=(method,)) for method in (telemetry.force_flush, telemetry.shutdown) * 6
    ]
    for thread in threads:
        thread.start()
    while not exporter.exports:
        time.sleep(0.001)
    go_on.set()
    for thread in threads:
        thread.join(90)
    assert answers == [True] * 12
    assert exporter.shutdowns == 1
    assert pipeline.current is None


def test_a_shutdown_waits_for_the_one_under_way_no_longer_than_it_may(nowhere: None, go_on: threading.Event) -> None:
    telemetry = clew.configure(metric_exporters=[Exporter(go_on=go_on)])
    clew.counter("orders").add(1)
    first = threading.Thread(target=telemetry.shutdown, args=(90,))
    first.start()
    while pipeline.current is not None:
        time.sleep(0.001)
    assert not telemetry.shutdown(0.1)
    assert first.is_alive()
    go_on.set()
    first.join()
    assert telemetry.shutdown(0.1)


def test_a_resource_object_is_taken_as_a_mapping_is(nowhere: None) -> None:
    reader = InMemoryMetricReader()
    clew.configure(metric_readers=[reader], resource=Resource({"team": "red"}))
    clew.counter("orders").add(1)
    data = reader.get_metrics_data()
    assert data is not None
    attributes = data.resource_metrics[0].resource.attributes
    assert attributes["team"] == "red"
    assert attributes["service.instance.id"]
    assert attributes["telemetry.sdk.name"] == "opentelemetry"


def test_views_of_the_user_make_no_second_stream_and_their_exemplars_have_request_ids(
    configured: Callable[..., Recorded], caplog: pytest.LogCaptureFixture
) -> None:
    recorded = configured(views=[View(instrument_name="plain", name="renamed")])
    assert recorded.telemetry is not None
    with clew.request("r-1"):
        recorded.telemetry.meter_provider.get_meter("one").create_counter("plain").add(1)
        for scope in ("one", "two"):
            recorded.telemetry.meter_provider.get_meter(scope).create_histogram("other").record(1)
    found = list(recorded.metrics())
    assert "plain" not in [metric.name for _, metric in found]
    for name, times in (("renamed", 1), ("other", 2)):
        points = [point for _, metric in found if metric.name == name for point in metric.data.data_points]
        ids = [[exemplar.filtered_attributes["request_id"] for exemplar in point.exemplars] for point in points]
        assert ids == [["r-1"]] * times, name
    assert not [record for record in caplog.records if "conflicting" in record.getMessage()]


@pytest.mark.parametrize(
    ("value", "ids"), [(None, ["r-1"]), ("always_on", ["r-1"]), ("trace_based", []), ("always_off", [])]
)
def test_an_exemplar_filter_that_is_set_keeps_its_meaning(
    value: str | None, ids: list[str], configured: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", value)
    recorded = configured()
    with clew.request("r-1"), clew.measure("work"):
        clew.counter("orders").add(1)
    metrics_by_name = {metric.name: metric for _, metric in recorded.metrics()}
    for name in ("orders", "operation.duration"):
        (point,) = metrics_by_name[name].data.data_points
        assert [exemplar.filtered_attributes.get("request_id") for exemplar in point.exemplars] == ids, name


def test_at_info_one_line_says_what_goes_where_how_and_how_often(
    monkeypatch: pytest.MonkeyPatch, nowhere: None, caplog: pytest.LogCaptureFixture
) -> None:
    for signal in ("METRICS", "TRACES", "LOGS"):
        monkeypatch.delenv(f"OTEL_{signal}_EXPORTER")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "15000")
    monkeypatch.setenv("CLEW_SHUTDOWN_TIMEOUT", "0")
    with caplog.at_level(logging.INFO, logger="clew"):
        clew.configure().shutdown(0)
    (logged,) = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert logged == (
        "shop sends metric points to http://***@127.0.0.1:1/v1/metrics (http/protobuf) every 15 s, "
        "spans to 127.0.0.1:4317 (grpc) every 5 s, "
        "log records to http://***@127.0.0.1:1/v1/logs (http/protobuf) every 1 s"
    )


def test_where_nothing_is_sent_that_is_logged(nowhere: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="clew"):
        clew.configure(resource={"service.name": "quiet"})
    assert [record.getMessage() for record in caplog.records] == ["quiet sends nothing"]
