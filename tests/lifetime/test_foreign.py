"""Providers that the application set itself: `clew` works with them, and they stay the application's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from lifetime.receiver import points, spans

PREAMBLE = """
import json, logging, os, sys
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="LOG %(message)s")
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import DropAggregation, ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

reader = InMemoryMetricReader()
ended = []
class Provider(MeterProvider):
    def shutdown(self, *args, **kwargs):
        ended.append(True)

def plain_provider():
    metrics.set_meter_provider(Provider([reader], shutdown_on_exit=False))

def provider(*mine):
    import clew
    metrics.set_meter_provider(
        Provider(
            [reader],
            views=clew.views(*mine),
            exemplar_filter=clew.exemplar_filter(),
            shutdown_on_exit=False,
        )
    )

def told():
    found = {}
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                points = found.setdefault(metric.name, [])
                for point in metric.data.data_points:
                    value = point.count if hasattr(point, "count") else point.value
                    ids = [each.filtered_attributes.get("request_id") for each in point.exemplars]
                    attributes = dict(point.attributes)
                    points.append({"value": value, "ids": ids, "attributes": attributes, "scope": scope.scope.name})
    print("TOLD", json.dumps(found), flush=True)

def work():
    with clew.request("r-1"), clew.measure("work"):
        clew.counter("orders").add(1)
        clew.histogram("price").record(3)
        metrics.get_meter("library").create_counter("plain").add(1)
"""

ORDERS: dict[str, str] = {
    "before the import": "{provide}\nimport clew\nwork()",
    "after the import": "import clew\n{provide}\nwork()",
    "before configure": "import clew\n{provide}\ntelemetry = clew.configure()\nwork()",
    "configured before the import": "{provide}\nimport clew\ntelemetry = clew.configure()\nwork()",
    "work before it is set": "import clew\nwork()\n{provide}\nwork()",
}

NOTHING_SENT = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("METRICS", "TRACES", "LOGS")}


def told(program: Any, which: int = -1) -> dict[str, list[dict[str, Any]]]:
    import json

    found: dict[str, list[dict[str, Any]]] = json.loads(program.values("TOLD")[which])
    return found


@pytest.mark.parametrize("order", ORDERS)
def test_clew_records_into_it_with_request_ids_on_exemplars(order: str, run: Callable[..., Any]) -> None:
    program = run(ORDERS[order].format(provide="provider()") + "\ntold()", preamble=PREAMBLE, **NOTHING_SENT)
    found = told(program)
    for name in ("operation.duration", "orders", "price", "plain"):
        (point,) = found[name]
        if order != "work before it is set" or name != "plain":  # the API's proxy does not keep what comes before
            assert point["value"] == 1, name
        assert "r-1" in point["ids"], name
        assert "request_id" not in point["attributes"]
    assert found["operation.active"][0]["value"] == 0
    assert "keeps no request IDs" not in program.errors


@pytest.mark.parametrize("order", ORDERS)
def test_what_one_lacks_for_request_ids_is_logged_once_and_counts_are_right(
    order: str, run: Callable[..., Any]
) -> None:
    program = run(ORDERS[order].format(provide="plain_provider()") + "\ntold()", preamble=PREAMBLE, **NOTHING_SENT)
    found = told(program)
    for name in ("operation.duration", "orders", "price"):
        assert [point["value"] for point in found[name]] == [1], name
    assert program.errors.count("keeps no request IDs on exemplars") == 1
    assert "views=clew.views(…), exemplar_filter=clew.exemplar_filter()" in program.errors


def test_it_is_not_shut_down_and_measures_on(run: Callable[..., Any]) -> None:
    program = run(
        """
import clew
provider()
telemetry = clew.configure()
work()
assert telemetry.force_flush()
assert telemetry.shutdown()
work()
metrics.get_meter("library").create_counter("plain").add(1)
assert not ended
clew.configure()
work()
told()
import atexit
atexit.register(lambda: print("SHUT", len(ended)))
""",
        preamble=PREAMBLE,
        **NOTHING_SENT,
    )
    found = told(program)
    assert found["plain"][0]["value"] == 4
    assert found["orders"][0]["value"] == 2  # not while clew was shut down
    assert program.values("SHUT") == ["0"]


def test_an_operation_under_way_while_configure_comes_leaves_no_run_behind(run: Callable[..., Any]) -> None:
    program = run(
        """
import clew
provider()
with clew.measure("across"):
    clew.configure()
told()
""",
        preamble=PREAMBLE,
        **NOTHING_SENT,
    )
    assert [point["value"] for point in told(program)["operation.active"]] == [0]


def test_a_flush_reaches_it(run: Callable[..., Any], http: Any) -> None:
    program = run(
        """
import clew
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
metrics.set_meter_provider(
    MeterProvider(
        [PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=60_000)],
        resource=Resource({"service.instance.id": "mine"}),
        shutdown_on_exit=False,
    )
)
telemetry = clew.configure()
work()
assert telemetry.force_flush(60)
os._exit(0)
""",
        http.port,
        preamble=PREAMBLE,
        OTEL_TRACES_EXPORTER="none",
        OTEL_LOGS_EXPORTER="none",
    )
    assert program
    assert [(instance, point.as_int) for instance, _, point in points(http, "orders")] == [("mine", 1)]


def test_views_of_the_application_keep_their_meaning_and_make_no_second_stream(run: Callable[..., Any]) -> None:
    program = run(
        """
import clew
provider(
    View(instrument_name="orders", name="sold"),
    View(instrument_name="price", aggregation=ExplicitBucketHistogramAggregation([1, 2, 5])),
    View(instrument_name="plain", attribute_keys={"kept"}),
    View(instrument_name="noise", aggregation=DropAggregation()),
)
clew.counter("noise").add(1)
work()
with clew.request("r-2"):
    metrics.get_meter("library").create_counter("plain").add(1, {"kept": "yes", "lost": "no"})
told()
""",
        preamble=PREAMBLE,
    )
    found = told(program)
    assert "orders" not in found
    assert "noise" not in found
    assert [point["value"] for point in found["sold"]] == [1]
    assert found["sold"][0]["ids"] == ["r-1"]
    assert [point["ids"] for point in found["price"]] == [["r-1"]]
    assert sorted((point["attributes"].get("kept"), point["value"]) for point in found["plain"] if point["attributes"])
    assert {tuple(point["attributes"]) for point in found["plain"]} == {(), ("kept",)}
    assert "conflicting" not in program.errors


def test_equal_names_in_two_scopes_are_two_metrics_without_a_warning(run: Callable[..., Any]) -> None:
    program = run(
        """
import clew
provider()
for scope in ("one", "two"):
    metrics.get_meter(scope).create_counter("same", unit="1").add(1)
    clew.histogram("clews", scope=scope).record(1)
told()
""",
        preamble=PREAMBLE,
    )
    found = told(program)
    assert sorted((point["scope"], point["value"]) for point in found["same"]) == [("one", 1), ("two", 1)]
    assert sorted(point["scope"] for point in found["clews"]) == ["one", "two"]
    assert "conflicting" not in program.errors


def test_readers_given_to_configure_are_added_to_it_and_taken_back(run: Callable[..., Any]) -> None:
    program = run(
        """
import clew
provider()
mine = InMemoryMetricReader()
telemetry = clew.configure(metric_readers=[mine])
work()
assert mine.get_metrics_data() is not None
assert telemetry.shutdown()
again = clew.configure(metric_readers=[InMemoryMetricReader()])
work()
told()
""",
        preamble=PREAMBLE,
        **NOTHING_SENT,
    )
    assert told(program)["orders"][0]["value"] == 2


def test_a_no_op_provider_means_that_nothing_is_measured_and_that_is_logged(run: Callable[..., Any]) -> None:
    program = run(
        """
import clew
metrics.set_meter_provider(metrics.NoOpMeterProvider())
telemetry = clew.configure()
work()
assert telemetry.force_flush() and telemetry.shutdown()
""",
        preamble=PREAMBLE,
        **NOTHING_SENT,
    )
    assert program.errors.count("NoOpMeterProvider: nothing is measured") == 1


def test_spans_of_a_tracer_provider_of_the_application_carry_the_request_id(run: Callable[..., Any]) -> None:
    run(
        """
import clew
kept = InMemorySpanExporter()
mine = TracerProvider(shutdown_on_exit=False)
mine.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(mine)
also = InMemorySpanExporter()
for _ in range(2):
    telemetry = clew.configure(spans=True)
    with clew.request("r-1"), trace.get_tracer("library").start_as_current_span("step"), clew.measure("work"):
        pass
    telemetry.shutdown()
assert trace.get_tracer_provider() is mine
found = [(span.name, span.attributes["request_id"]) for span in kept.get_finished_spans()]
assert sorted(found) == [("step", "r-1")] * 2 + [("work", "r-1")] * 2, found
""",
        preamble=PREAMBLE,
        **NOTHING_SENT,
    )


def test_log_records_go_to_a_logger_provider_of_the_application_with_the_request_id(run: Callable[..., Any]) -> None:
    run(
        """
from opentelemetry._logs import LogRecord, get_logger, set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
import clew
kept = InMemoryLogRecordExporter()
mine = LoggerProvider(shutdown_on_exit=False)
mine.add_log_record_processor(SimpleLogRecordProcessor(kept))
set_logger_provider(mine)
telemetry = clew.configure()
with clew.request("r-1"):
    logging.getLogger("program").info("by logging")
    get_logger("library").emit(LogRecord(body="by the API", attributes={}))
found = [(each.log_record.body, dict(each.log_record.attributes)["request_id"]) for each in kept.get_finished_logs()]
assert found == [("by logging", "r-1"), ("by the API", "r-1")], found
telemetry.shutdown()
logging.getLogger("program").info("afterwards")
get_logger("library").emit(LogRecord(body="afterwards"))
assert len(kept.get_finished_logs()) == 3
""",
        preamble=PREAMBLE,
        **NOTHING_SENT,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("configured", [False, True])
def test_what_is_under_way_at_a_fork_is_the_parents_alone(run: Callable[..., Any], configured: bool) -> None:
    program = run(
        f"""
import threading
import clew
plain_provider()
telemetry = clew.configure() if {configured} else None

def run_until(event):
    with clew.measure("in a thread"):
        begun.set()
        event.wait(60)

begun, over = threading.Event(), threading.Event()
thread = threading.Thread(target=run_until, args=(over,))
thread.start()
begun.wait(60)
with clew.measure("main"), clew.measure("main"):
    child = os.fork()
    if child == 0:
        told()
        with clew.measure("main"):
            told()
if child == 0:
    with clew.measure("in a thread"):
        pass
    told()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
told()
over.set()
thread.join()
told()
""",
        preamble=PREAMBLE,
        **NOTHING_SENT,
    )
    active = [
        {point["attributes"]["operation.name"]: point["value"] for point in told(program, which)["operation.active"]}
        for which in range(5)
    ]
    assert active[:3] == [
        {"in a thread": 0, "main": 0},
        {"in a thread": 0, "main": 1},
        {"in a thread": 0, "main": 0},
    ]
    assert active[3:] == [{"in a thread": 1, "main": 0}, {"in a thread": 0, "main": 0}]


def test_one_provider_of_the_application_leaves_the_others_to_clew(run: Callable[..., Any], http: Any) -> None:
    run("import clew\nprovider()\nclew.configure(spans=True)\nwork()\n", http.port, preamble=PREAMBLE)
    assert [name for _, name in spans(http)] == ["work"]
    assert not list(points(http, "orders"))


def test_its_providers_without_configure_do_not_keep_a_program_from_ending(run: Callable[..., Any]) -> None:
    program = run("import clew\nprovider()\nwork()\ntold()", preamble=PREAMBLE, OTEL_SDK_DISABLED="true")
    assert told(program) == {}
