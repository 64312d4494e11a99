"""OpenTelemetry's declarative configuration: ``OTEL_CONFIG_FILE`` names a file, which alone says where data goes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from delivery.listeners import silence, talking
from durations import assert_within
from lifetime.conftest import PROMPTLY, SLACK
from lifetime.receiver import instances, logs, points, resource_of, spans, totals
from lifetime.test_exit import all_three_signals_arrived
from lifetime.test_forks import exact

pytest.importorskip("opentelemetry.configuration", reason="the extra clew[config]")

FILE = """
file_format: "1.0"
resource:
  attributes:
    - {name: service.name, value: from-the-file}
    - {name: team, value: "${TEAM:-nobody}"}
propagator:
  composite:
    - baggage:
    - request_id:
meter_provider:
  readers:
    - periodic:
        interval: 60000
        exporter:
          otlp_http: {endpoint: "http://127.0.0.1:PORT/v1/metrics"}
  views:
    - selector: {instrument_name: orders}
      stream: {name: sold}
tracer_provider:
  processors:
    - batch:
        exporter:
          otlp_http: {endpoint: "http://127.0.0.1:PORT/v1/traces"}
logger_provider:
  processors:
    - batch:
        exporter:
          otlp_http: {endpoint: "http://127.0.0.1:PORT/v1/logs"}
"""

START = """
telemetry = clew.configure()
plain = metrics.get_meter("library").create_counter("plain")
with clew.request("r-1"):
    work()
"""


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """Write a configuration file that sends to a port, and return its path."""

    def write(port: int, text: str = FILE) -> str:
        path = tmp_path / "otel.yaml"
        path.write_text(text.replace("PORT", str(port)))
        return str(path)

    return write


def test_the_file_says_where_data_goes_and_the_end_of_the_program_sends_it(
    run: Callable[..., Any], file: Callable[..., str], http: Any
) -> None:
    program = run(START + "ending()", OTEL_CONFIG_FILE=file(http.port), TEAM="red", OTEL_TRACES_EXPORTER="none")
    assert {name: list(totals(http, name).values()) for name in ("operation.duration", "sold", "plain", "orders")} == {
        "operation.duration": [1],
        "sold": [1],
        "plain": [1],
        "orders": [],
    }
    assert [name for _, name in spans(http)] == ["step"]
    assert any(text.startswith("worked in") for _, text in logs(http))
    (resource,) = {
        tuple(sorted(resource_of(resource).items()))
        for message in http.received.messages
        for field in ("resource_metrics", "resource_spans", "resource_logs")
        for resource in getattr(message, field, ())
    }
    assert dict(resource)["service.name"] == "from-the-file"
    assert dict(resource)["team"] == "red"
    assert dict(resource)["service.instance.id"]
    assert program.ending < PROMPTLY
    assert "Traceback" not in program.errors


def test_request_ids_are_on_exemplars_spans_and_log_records(
    run: Callable[..., Any], file: Callable[..., str], http: Any
) -> None:
    run(START, OTEL_CONFIG_FILE=file(http.port))
    for name in ("operation.duration", "sold", "plain"):
        ((_, _, point),) = points(http, name)
        (exemplar,) = point.exemplars
        ids = {each.key: each.value.string_value for each in exemplar.filtered_attributes}
        assert ids["request_id"] == "r-1", name
    found = [
        attribute.value.string_value
        for message in http.received.messages
        for field, scopes, items in (
            ("resource_spans", "scope_spans", "spans"),
            ("resource_logs", "scope_logs", "log_records"),
        )
        for resource in getattr(message, field, ())
        for scope in getattr(resource, scopes)
        for item in getattr(scope, items)
        for attribute in item.attributes
        if attribute.key == "request_id"
    ]
    assert found == ["r-1", "r-1"]


def test_an_exemplar_filter_in_the_file_keeps_its_meaning(
    run: Callable[..., Any], file: Callable[..., str], http: Any
) -> None:
    text = FILE.replace("meter_provider:\n", "meter_provider:\n  exemplar_filter: always_off\n")
    run(START, OTEL_CONFIG_FILE=file(http.port, text))
    assert [len(point.exemplars) for _, _, point in points(http, "plain")] == [0]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (FILE, {"baggage", "x-request-id"}),
        (
            FILE.split("propagator:")[0] + "meter_provider" + FILE.split("meter_provider")[1],
            {"traceparent", "tracestate", "baggage", "x-request-id"},
        ),
    ],
    ids=["named", "not named"],
)
def test_the_propagators_are_those_of_the_file_or_else_ours_too(
    text: str, fields: set[str], run: Callable[..., Any], file: Callable[..., str], http: Any
) -> None:
    program = run(
        "from opentelemetry import propagate\nclew.configure()\n"
        "print('FIELDS', *(field.lower() for field in propagate.get_global_textmap().fields))",
        OTEL_CONFIG_FILE=file(http.port, text),
    )
    assert set(program.values("FIELDS")[0].split()) == fields


def test_what_the_file_leaves_out_is_not_measured(run: Callable[..., Any], file: Callable[..., str], http: Any) -> None:
    text = 'file_format: "1.0"\ntracer_provider:' + FILE.split("tracer_provider:")[1].split("logger_provider")[0]
    run(START, OTEL_CONFIG_FILE=file(http.port, text))
    assert [name for _, name in spans(http)] == ["step"]
    assert not list(points(http, "operation.duration"))
    assert not logs(http)


def test_a_file_that_disables_all_disables_all(run: Callable[..., Any], file: Callable[..., str], http: Any) -> None:
    run(
        START + "assert telemetry.force_flush() and telemetry.shutdown()",
        OTEL_CONFIG_FILE=file(http.port, "disabled: true\n" + FILE),
    )
    assert not http.received.messages


def test_a_program_ends_in_time_though_the_collector_hangs(run: Callable[..., Any], file: Callable[..., str]) -> None:
    def attempt() -> float:
        with talking(silence) as port:
            program = run(START + "ending()", OTEL_CONFIG_FILE=file(port), CLEW_SHUTDOWN_TIMEOUT="1")
        assert "not delivered at the end" in program.errors
        return float(program.ending)

    assert_within(1.0 + SLACK, attempt)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize(
    ("named", "there"), [("", True), ("  detection/development: {detectors: [{service: }]}\n", False)]
)
def test_the_host_is_named_unless_the_file_names_detectors(
    run: Callable[..., Any], file: Callable[..., str], http: Any, named: str, there: bool
) -> None:
    run(START, OTEL_CONFIG_FILE=file(http.port, FILE.replace("resource:\n", f"resource:\n{named}")))
    message = next(message for message in http.received.messages if hasattr(message, "resource_metrics"))
    resource = resource_of(message.resource_metrics[0])
    assert resource["service.name"] == "from-the-file"
    assert (resource.get("host.name") == socket.gethostname()) is there


def test_a_forked_child_counts_from_zero_under_its_own_identity(
    run: Callable[..., Any], file: Callable[..., str], http: Any
) -> None:
    run(
        START.replace("work()", "work(); work()")
        + """
child = os.fork()
if child == 0:
    work()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
        OTEL_CONFIG_FILE=file(http.port, FILE.replace("name: sold", "name: orders")),
    )
    exact(http, 1, 2)
    assert len(instances(http)) == 2


def test_what_is_given_in_code_goes_instead_of_what_the_file_names(
    run: Callable[..., Any], file: Callable[..., str], http: Any
) -> None:
    run(
        """
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
reader, kept = InMemoryMetricReader(), InMemorySpanExporter()
telemetry = clew.configure(
    resource={"team": "blue"}, metric_readers=[reader], span_processors=[SimpleSpanProcessor(kept)]
)
plain = metrics.get_meter("library").create_counter("plain")
work()
(resource,) = reader.get_metrics_data().resource_metrics
assert resource.resource.attributes["team"] == "blue"
names = {metric.name for scope in resource.scope_metrics for metric in scope.metrics}
assert {"operation.duration", "sold", "plain"} <= names, names
assert [span.name for span in kept.get_finished_spans()] == ["step"]
""",
        OTEL_CONFIG_FILE=file(http.port),
    )
    assert not list(points(http, "plain"))
    assert not spans(http)
    assert logs(http)


WRONG: dict[str, tuple[str, str]] = {
    "is no YAML": ("{", "OTEL_CONFIG_FILE is"),
    "breaks the schema": ('file_format: "1.0"\nmeter_provider: 3', "OTEL_CONFIG_FILE is"),
    "is of another version": ('file_format: "9.0"', "OTEL_CONFIG_FILE is"),
    "names an exporter that there is not": (
        'file_format: "1.0"\ntracer_provider: {processors: [{simple: {exporter: {nowhere: {}}}}]}',
        "nowhere",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_file_is_a_configuration_error(
    wrong: str, run: Callable[..., Any], file: Callable[..., str], http: Any
) -> None:
    text, message = WRONG[wrong]
    program = run(
        """
from opentelemetry import metrics
before = metrics.get_meter_provider()
try:
    clew.configure()
except clew.ConfigurationError as error:
    print("SAID", str(error).replace("\\n", " "))
assert metrics.get_meter_provider() is before
""",
        http.port,
        OTEL_CONFIG_FILE=file(http.port, text),
    )
    (found,) = program.values("SAID")
    assert "LOG" not in program.errors
    assert "OTEL_CONFIG_FILE" in found
    assert message in found


def test_a_wrong_file_is_treated_as_unset_where_not_strict(
    run: Callable[..., Any], file: Callable[..., str], http: Any
) -> None:
    program = run(START, http.port, OTEL_CONFIG_FILE=file(http.port, "{"), CLEW_STRICT="false")
    assert all_three_signals_arrived(http), http.received.messages
    assert program.errors.count("these are treated as unset") == 1


def test_without_the_package_the_error_says_what_to_install(
    run: Callable[..., Any], file: Callable[..., str], http: Any
) -> None:
    program = run(
        """
sys.modules["opentelemetry.configuration"] = None
try:
    clew.configure()
except clew.ConfigurationError as error:
    print("SAID", str(error).replace("\\n", " "))
""",
        OTEL_CONFIG_FILE=file(http.port),
    )
    assert "pip install 'clew[config]'" in program.values("SAID")[0]
    assert "OTEL_CONFIG_FILE is" in program.values("SAID")[0]
