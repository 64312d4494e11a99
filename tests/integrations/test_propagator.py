"""The propagator `request_id`, and the span processor beside it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from recorded import Recorded

import clew
from clew.policy import policy
from clew.propagation.cell import request_id_in
from clew.propagation.ids import is_valid
from clew.propagation.propagator import RequestIdPropagator
from clew.propagation.spans import RequestIdSpanProcessor

propagator = RequestIdPropagator()


def extracted(carrier: Any, **arguments: Any) -> str | None:
    return request_id_in(propagator.extract(carrier, **arguments))


def injected(**carrier: str) -> dict[str, str]:
    propagator.inject(carrier)
    return carrier


def test_the_id_goes_out_in_a_header_and_comes_in_by_it() -> None:
    with clew.request("abc"):
        carrier = injected()
    assert carrier == {"X-Request-ID": "abc"}
    assert extracted(carrier) == "abc"
    assert propagator.fields == {"X-Request-ID"}


def test_outside_a_request_nothing_is_written() -> None:
    assert injected() == {}


def test_the_header_is_the_configured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "header", "X-Correlation-ID")
    with clew.request("abc"):
        assert injected() == {"X-Correlation-ID": "abc"}
    assert extracted({"x-correlation-id": "abc"}) == "abc"
    assert extracted({"X-Request-ID": "abc"}) is None


@pytest.mark.parametrize("name", ["X-Request-ID", "x-request-id", "X-Request-Id", "X-REQUEST-ID"])
def test_the_case_of_the_header_does_not_matter(name: str) -> None:
    assert extracted({name: "abc"}) == "abc"


@pytest.mark.parametrize("value", ["one,two", "one, two", ["one", "two"], ("one",), [b"one"]])
def test_the_first_of_several_values_counts(value: Any) -> None:
    assert extracted({"X-Request-ID": value}) == "one"


@pytest.mark.parametrize("value", ["", [], "a b", "x" * 119, "a\r\nb", "ö", None, 7, [None], object()])
def test_what_is_no_id_binds_a_request_without_one(value: Any) -> None:
    context = propagator.extract({"X-Request-ID": value})
    assert request_id_in(context) is None


@pytest.mark.parametrize("carrier", [None, 7, "text", [], object(), [("X-Request-ID", "abc")]])
def test_no_carrier_makes_it_raise(carrier: Any) -> None:
    assert request_id_in(propagator.extract(carrier)) is None
    with clew.request():
        propagator.inject(carrier)


class Broken(Getter[Any]):
    def get(self, carrier: Any, key: str) -> list[str] | None:
        raise RuntimeError("broken")

    def keys(self, carrier: Any) -> list[str]:
        raise RuntimeError("broken")


def test_a_getter_and_a_setter_that_raise_are_survived() -> None:
    class BrokenSetter:
        def set(self, carrier: Any, key: str, value: str) -> None:
            raise RuntimeError("broken")

    assert extracted({}, getter=Broken()) is None
    with clew.request():
        propagator.inject({}, setter=BrokenSetter())  # type: ignore[arg-type]


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.binary(), st.lists(st.text()), st.none(), st.integers())))
def test_whatever_comes_in_only_a_valid_id_is_bound(carrier: dict[str, Any]) -> None:
    found = extracted(carrier)
    assert found is None or is_valid(found)


@given(st.text())
def test_whatever_the_header_says_only_a_valid_id_is_bound(value: str) -> None:
    found = extracted({"X-Request-ID": value})
    assert found is None or is_valid(found)


def test_what_extraction_was_given_stays_in_the_context() -> None:
    context = propagator.extract({"X-Request-ID": "abc"}, context=Context({"other": 1}))
    assert context["other"] == 1
    assert request_id_in(context) == "abc"


def test_a_message_without_an_id_that_is_read_inside_a_request_is_not_that_request() -> None:
    with clew.request("outer"):
        for carrier in ({}, {"other": "header"}):
            context = propagator.extract(carrier, context=propagator.extract({"X-Request-ID": "message"}))
            assert request_id_in(context) is None


def test_a_request_that_nobody_has_named_is_named_by_what_runs_inside() -> None:
    context = propagator.extract({})
    token = attach(context)
    try:
        assert clew.request_id() is None
        with clew.request("inside"):
            assert clew.request_id() == "inside"
        assert clew.request_id() == "inside"
    finally:
        detach(token)
    assert request_id_in(context) == "inside"


def test_without_trust_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "trust", False)
    assert extracted({"X-Request-ID": "abc"}) is None


def test_a_bad_id_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "clew"):
        for _ in range(3):
            extracted({"X-Request-ID": "a b"})
    assert len(caplog.records) == 1


def test_the_propagator_is_found_by_its_name() -> None:
    code = "from opentelemetry.propagate import get_global_textmap; print(sorted(get_global_textmap().fields))"
    environment = {**os.environ, "OTEL_PROPAGATORS": "tracecontext,request_id"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['X-Request-ID', 'traceparent', 'tracestate']"
    assert done.stderr == ""


# where it may go


def client_span(exporter: Any = None, **attributes: Any) -> Any:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    return tracer.start_as_current_span("GET", kind=SpanKind.CLIENT, attributes=attributes)


ALLOWED = ("internal.example", ".svc.example:8080", "127.0.0.1")


@pytest.mark.parametrize(
    ("attributes", "goes"),
    [
        ({"url.full": "http://internal.example/x"}, True),
        ({"url.full": "https://INTERNAL.example:444/x"}, True),
        ({"url.full": "http://a.svc.example:8080/"}, True),
        ({"url.full": "http://a.svc.example/"}, False),
        ({"url.full": "http://svc.example:8080/"}, False),
        ({"url.full": "http://evilinternal.example/"}, False),
        ({"url.full": "http://internal.example.evil/"}, False),
        ({"url.full": "http://internal.example@evil/"}, False),
        ({"url.full": "http://127.0.0.1:9/"}, True),
        ({"url.full": "not a url"}, False),
        ({"http.url": "http://internal.example/x"}, True),
        ({"server.address": "internal.example", "server.port": 80}, True),
        ({"server.address": "b.svc.example", "server.port": 8080}, True),
        ({"server.address": "b.svc.example", "server.port": 8081}, False),
        ({"net.peer.name": "internal.example"}, True),
        ({}, False),
        ({"url.full": 7}, False),
    ],
)
def test_with_hosts_set_it_goes_only_where_the_client_span_names_an_allowed_one(
    monkeypatch: pytest.MonkeyPatch, attributes: dict[str, Any], goes: bool
) -> None:
    monkeypatch.setattr(policy, "hosts", ALLOWED)
    with clew.request("abc"), client_span(**attributes):
        assert injected() == ({"X-Request-ID": "abc"} if goes else {})


def test_with_hosts_set_it_does_not_go_where_the_target_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "hosts", ("internal.example",))
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with clew.request("abc"):
        assert injected() == {}
        with tracer.start_as_current_span(
            "GET /", kind=SpanKind.SERVER, attributes={"server.address": "internal.example"}
        ):
            assert injected() == {}  # that is this server itself


def test_an_id_that_a_redirect_carries_to_another_host_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "hosts", ("internal.example",))
    with clew.request("abc"), client_span(**{"url.full": "http://elsewhere.example/"}):
        carrier = {"x-request-id": "abc", "accept": "*/*"}
        propagator.inject(carrier)
        assert carrier == {"accept": "*/*"}
        other = {"X-Request-ID": "the-partner-asked-for-this"}
        propagator.inject(other)
        assert other == {"X-Request-ID": "the-partner-asked-for-this"}


# spans


@pytest.fixture
def spans() -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(RequestIdSpanProcessor())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def found(exporter: InMemorySpanExporter) -> dict[str, Any]:
    return {span.name: (span.attributes or {}).get("request_id") for span in exporter.get_finished_spans()}


def test_every_span_of_a_request_carries_its_id(spans: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    provider, exporter = spans
    tracer = provider.get_tracer("test")
    with clew.request("abc"), tracer.start_as_current_span("outer"), tracer.start_as_current_span("inner"):
        pass
    with tracer.start_as_current_span("outside"):
        pass
    assert found(exporter) == {"inner": "abc", "outer": "abc", "outside": None}


def test_a_span_that_began_before_its_request_had_a_name_gets_it_when_it_comes(
    spans: tuple[TracerProvider, InMemorySpanExporter],
) -> None:
    provider, exporter = spans
    tracer = provider.get_tracer("test")
    context = propagator.extract({})
    token = attach(context)
    try:
        with tracer.start_as_current_span("server", context=context):
            with tracer.start_as_current_span("ended before"):
                pass
            with clew.request("late"):
                pass
    finally:
        detach(token)
    assert found(exporter) == {"ended before": None, "server": "late"}


def test_the_attribute_has_the_configured_name(
    monkeypatch: pytest.MonkeyPatch, spans: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    monkeypatch.setattr(policy, "attribute", "rid")
    provider, exporter = spans
    with clew.request("abc"), provider.get_tracer("test").start_as_current_span("span"):
        pass
    assert (exporter.get_finished_spans()[0].attributes or {})["rid"] == "abc"


def test_configured_spans_carry_the_id(configured: Callable[..., Recorded]) -> None:
    recorded = configured(spans=True)

    @clew.measure("work")
    def work() -> None:
        pass

    with clew.request("abc"):
        work()
    assert [(span.name, (span.attributes or {})["request_id"]) for span in recorded.spans()] == [("work", "abc")]


def test_configuring_sets_the_propagators(recorded: Recorded) -> None:
    assert "X-Request-ID" in propagate.get_global_textmap().fields
    assert trace.get_current_span().is_recording() is False
