"""What configures `clew`: each variable's meaning, its default, and the message for a wrong value."""

from __future__ import annotations

import logging
import math
import os
import pickle
import socket
import traceback
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource

import clew
from clew import diagnostics
from clew.settings import ConfigurationError, Settings, identity_in_child, load_settings
from clew.settings.clew_variables import CLEW_SETTINGS, ClewArguments

PEM = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"


@pytest.fixture(autouse=True)
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "_warned", set())


def load(**environ: str) -> Settings:
    return load_settings(environ)


def problems(environ: dict[str, str], **overrides: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ, **overrides)
    return [str(problem) for problem in caught.value.problems]


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = load()
    assert not settings.disabled
    assert settings.strict
    assert settings.metric_exporters == settings.span_exporters == settings.log_exporters == ("otlp",)
    assert settings.metrics_otlp.protocol == "http/protobuf"
    assert settings.metrics_otlp.endpoint == "http://localhost:4318/v1/metrics"
    assert settings.traces_otlp.endpoint == "http://localhost:4318/v1/traces"
    assert settings.logs_otlp.endpoint == "http://localhost:4318/v1/logs"
    assert settings.logs_otlp.timeout == 10
    assert settings.logs_otlp.compression == "none"
    assert settings.metric_export_interval == 60
    assert settings.metric_export_timeout == 30
    assert settings.temporality_preference == "cumulative"
    assert settings.default_histogram_aggregation == "explicit_bucket_histogram"
    assert settings.sampler == "parentbased_always_on"
    assert (settings.propagators, settings.exemplar_filter, settings.config_file) == (None, None, None)
    assert (settings.spans_batch.delay, settings.logs_batch.delay) == (5, 1)
    assert (settings.spans_batch.queue_size, settings.spans_batch.batch_size) == (2048, 512)
    assert (settings.limits.span_attributes, settings.limits.log_attribute_length) == (128, None)
    assert settings.request_id_header == "X-Request-ID"
    assert settings.request_id_attribute == "request_id"
    assert settings.trust_request_id
    assert settings.request_id_hosts is None
    assert settings.expected == ()
    assert not settings.spans
    assert settings.cardinality_limit == 100
    assert settings.shutdown_timeout == 3


def test_an_empty_value_is_an_unset_one() -> None:
    names = ["OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_PROPAGATORS", "CLEW_SPANS", "CLEW_NO_SUCH"]
    settings = load(**dict.fromkeys(names, " "))
    assert settings.metric_exporters == ("otlp",)
    assert settings.propagators is None


@pytest.mark.parametrize(
    ("endpoint", "protocol", "metrics", "insecure"),
    [
        ("http://collector:4317", "grpc", "collector:4317", True),
        ("https://collector:4317/", "grpc", "collector:4317", False),
        ("collector:4317", "grpc", "collector:4317", False),
        ("[::1]:4317", "grpc", "[::1]:4317", False),
        ("http://collector:4318", "http/protobuf", "http://collector:4318/v1/metrics", True),
        ("https://collector/otlp/", "http/protobuf", "https://collector/otlp/v1/metrics", False),
        ("https://collector/otlp?key=1", "http/protobuf", "https://collector/otlp/v1/metrics?key=1", False),
    ],
)
def test_the_port_chooses_the_protocol_and_the_scheme_the_security(
    endpoint: str, protocol: str, metrics: str, insecure: bool
) -> None:
    otlp = load(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint).metrics_otlp
    assert (otlp.protocol, otlp.endpoint, otlp.insecure) == (protocol, metrics, insecure)


def test_a_protocol_that_is_set_is_kept_whatever_the_port() -> None:
    settings = load(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4317",
        OTEL_EXPORTER_OTLP_PROTOCOL="HTTP/Protobuf",
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="grpc",
    )
    assert settings.metrics_otlp.endpoint == "http://collector:4317/v1/metrics"
    assert settings.traces_otlp.endpoint == "collector:4317"
    assert load(OTEL_EXPORTER_OTLP_PROTOCOL="grpc").logs_otlp.endpoint == "localhost:4317"
    target = load(OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_EXPORTER_OTLP_ENDPOINT="unix:/run/otel.sock").logs_otlp
    assert (target.endpoint, target.insecure) == ("unix:/run/otel.sock", False)


def test_the_name_of_an_exporter_may_ask_for_a_protocol() -> None:
    settings = load(OTEL_METRICS_EXPORTER="otlp_proto_grpc,console", OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
    assert settings.metric_exporters == ("otlp_proto_grpc", "console")
    assert settings.metrics_otlp.protocol == "grpc"
    assert settings.logs_otlp.protocol == "http/protobuf"


def test_a_signals_own_variables_win_over_the_general_ones(tmp_path: Path) -> None:
    certificate = tmp_path / "ca.pem"
    certificate.write_text(PEM)
    settings = load(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://general:4318",
        OTEL_EXPORTER_OTLP_LOGS_ENDPOINT="http://own:4318/insert",
        OTEL_EXPORTER_OTLP_HEADERS="a=general",
        OTEL_EXPORTER_OTLP_LOGS_HEADERS="b=own",
        OTEL_EXPORTER_OTLP_TIMEOUT="1000",
        OTEL_EXPORTER_OTLP_LOGS_TIMEOUT="2000",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_LOGS_COMPRESSION="NONE",
        OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE=str(certificate),
        OTEL_EXPORTER_OTLP_INSECURE="true",
    )
    own, general = settings.logs_otlp, settings.metrics_otlp
    assert (own.endpoint, general.endpoint) == ("http://own:4318/insert", "http://general:4318/v1/metrics")
    assert (own.headers, general.headers) == ((("b", "own"),), (("a", "general"),))
    assert (own.timeout, general.timeout) == (2, 1)
    assert (own.compression, general.compression) == ("none", "gzip")
    assert (own.certificate, general.certificate) == (str(certificate), None)


def test_insecure_counts_for_grpc_where_no_scheme_says_it() -> None:
    environ = {"OTEL_EXPORTER_OTLP_INSECURE": "true", "OTEL_EXPORTER_OTLP_LOGS_INSECURE": "false"}
    settings = load_settings({**environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"})
    assert settings.metrics_otlp.insecure
    assert not settings.logs_otlp.insecure
    assert not load_settings({**environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "https://c:4317"}).metrics_otlp.insecure


@pytest.mark.parametrize(
    ("text", "seconds", "is_logged"),
    [("10000", 10, False), ("100", 0.1, False), ("10", 10, True), ("2.5", 2.5, True), ("0", math.inf, False)],
)
def test_a_timeout_is_in_milliseconds_and_one_under_a_hundred_is_taken_for_seconds_and_logged_once(
    text: str, seconds: float, is_logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert load(OTEL_EXPORTER_OTLP_TIMEOUT=text).metrics_otlp.timeout == seconds
    assert load(OTEL_EXPORTER_OTLP_TIMEOUT=text).logs_otlp.timeout == seconds
    assert len(caplog.records) == is_logged
    if is_logged:
        assert f"OTEL_EXPORTER_OTLP_TIMEOUT={text} is taken for" in caplog.text


def test_headers_are_percent_decoded_and_lower_case_and_never_shown() -> None:
    otlp = load(OTEL_EXPORTER_OTLP_HEADERS="Authorization=Basic%20YTpi, x-Key = a b=c ,,").metrics_otlp
    assert otlp.headers == (("authorization", "Basic YTpi"), ("x-key", "a b=c"))
    assert "YTpi" not in repr(otlp)
    (problem,) = problems({"OTEL_EXPORTER_OTLP_HEADERS": "authorization=sesame%0A,x"})
    assert problem.startswith("OTEL_EXPORTER_OTLP_HEADERS is 'authorization=***,***'; allowed: ")
    (problem,) = problems({"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://user:sesame@host/x?key=sesame"})
    assert problem.startswith("OTEL_EXPORTER_OTLP_ENDPOINT is 'ftp://***@host/x?***'; allowed: a URL http(s)://")
    assert load(OTEL_EXPORTER_OTLP_ENDPOINT="http://u:p@host/?k=1").logs_otlp.label == "http://***@host/v1/logs?***"


def test_resource_attributes_are_percent_decoded_and_the_service_name_wins() -> None:
    resource = load(
        OTEL_RESOURCE_ATTRIBUTES="service.name=old,team=a%2Cb, deployment.environment.name = test%20one ,",
        OTEL_SERVICE_NAME="shop",
    ).resource
    assert resource.attributes["service.name"] == "shop"
    assert resource.attributes["team"] == "a,b"
    assert resource.attributes["deployment.environment.name"] == "test one"
    assert resource.attributes["telemetry.sdk.language"] == "python"


def test_a_service_without_a_name_is_unknown_and_has_an_instance_id_of_its_own() -> None:
    first, second = load(), load()
    assert str(first.resource.attributes["service.name"]).startswith("unknown_service:python")
    ids = {str(settings.resource.attributes["service.instance.id"]) for settings in (first, second)}
    assert len(ids) == 2
    assert not first.instance_id_given
    child = identity_in_child(first.resource, instance_id_given=False)
    assert child.attributes["service.instance.id"] not in ids


def test_an_instance_id_that_the_user_gave_is_kept_and_told_apart_in_a_child() -> None:
    settings = load(OTEL_RESOURCE_ATTRIBUTES="service.instance.id=pod-7")
    assert settings.resource.attributes["service.instance.id"] == "pod-7"
    assert settings.instance_id_given
    child = identity_in_child(settings.resource, instance_id_given=True)
    assert str(child.attributes["service.instance.id"]).startswith("pod-7-")


def test_a_process_is_known_by_its_host_and_its_process_id() -> None:
    settings = load()
    assert settings.resource.attributes["host.name"] == socket.gethostname()
    assert settings.resource.attributes["process.pid"] == os.getpid()
    assert "process.command_line" not in settings.resource.attributes
    child = identity_in_child(settings.resource, instance_id_given=False)
    assert set(child.attributes) == {"service.instance.id", "process.pid"}


def test_beside_an_instance_id_of_the_user_s_there_is_no_process_id_that_changes() -> None:
    settings = load(OTEL_RESOURCE_ATTRIBUTES="service.instance.id=pod-7")
    assert settings.resource.attributes["host.name"] == socket.gethostname()
    assert "process.pid" not in settings.resource.attributes
    assert set(identity_in_child(settings.resource, instance_id_given=True).attributes) == {"service.instance.id"}


def test_the_host_s_name_in_the_environment_wins() -> None:
    assert load(OTEL_RESOURCE_ATTRIBUTES="host.name=node-3").resource.attributes["host.name"] == "node-3"


@pytest.mark.parametrize("detectors", ["os", "otel", "service_instance"])
def test_a_list_of_detectors_stands_as_it_is(detectors: str) -> None:
    found = load(OTEL_EXPERIMENTAL_RESOURCE_DETECTORS=detectors).resource.attributes
    assert "host.name" not in found
    assert "process.pid" not in found


@pytest.mark.parametrize("given", [Resource({"service.name": "code", "a": 1}), {"service.name": "code", "a": 1}])
def test_a_resource_given_in_code_wins(given: Any) -> None:
    resource = load_settings({"OTEL_SERVICE_NAME": "shop"}, resource=given).resource
    assert resource.attributes["service.name"] == "code"
    assert resource.attributes["a"] == 1
    assert "service.instance.id" in resource.attributes


def test_resource_detectors_are_asked_in_their_order() -> None:
    settings = load(
        OTEL_EXPERIMENTAL_RESOURCE_DETECTORS="process,os", OTEL_RESOURCE_ATTRIBUTES="process.runtime.name=mine"
    )
    assert settings.resource.attributes["process.runtime.name"] == "mine"
    assert "os.type" in settings.resource.attributes
    assert not settings.instance_id_given
    first = load(
        OTEL_EXPERIMENTAL_RESOURCE_DETECTORS="otel,process", OTEL_RESOURCE_ATTRIBUTES="process.runtime.name=mine"
    )
    assert first.resource.attributes["process.runtime.name"] != "mine"
    assert "host.name" in load(OTEL_EXPERIMENTAL_RESOURCE_DETECTORS="*").resource.attributes
    (problem,) = problems({"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process,nowhere"})
    assert "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS is 'nowhere'; allowed: *, host, os" in problem


def test_lists_of_names_are_deduplicated_and_none_is_an_empty_one() -> None:
    settings = load(OTEL_PROPAGATORS="baggage, TraceContext,baggage,request_id", OTEL_LOGS_EXPORTER="None")
    assert settings.propagators == ("baggage", "tracecontext", "request_id")
    assert settings.log_exporters == ()
    assert load(OTEL_PROPAGATORS="none").propagators == ()


def test_limits_fall_back_to_the_general_ones() -> None:
    limits = load(
        OTEL_ATTRIBUTE_COUNT_LIMIT="7", OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="9", OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="0"
    ).limits
    assert (limits.span_attributes, limits.event_attributes, limits.log_attributes) == (9, 7, 7)
    assert (limits.span_attribute_length, limits.log_attribute_length, limits.span_events) == (0, 0, 128)


def test_batches_and_intervals_are_read() -> None:
    settings = load(
        OTEL_BSP_SCHEDULE_DELAY="250",
        OTEL_BSP_MAX_QUEUE_SIZE="100",
        OTEL_BLRP_MAX_EXPORT_BATCH_SIZE="10",
        OTEL_BLRP_EXPORT_TIMEOUT="0",
        OTEL_METRIC_EXPORT_INTERVAL="1500",
    )
    assert (settings.spans_batch.delay, settings.spans_batch.queue_size, settings.spans_batch.batch_size) == (
        0.25,
        100,
        100,
    )
    assert (settings.logs_batch.batch_size, settings.logs_batch.timeout) == (10, math.inf)
    assert settings.metric_export_interval == 1.5


def test_clews_own_variables_are_read() -> None:
    settings = load(
        CLEW_REQUEST_ID_HEADER="X-Correlation-ID",
        CLEW_REQUEST_ID_ATTRIBUTE="correlation.id",
        CLEW_TRUST_REQUEST_ID="False",
        CLEW_REQUEST_ID_HOSTS="shop.example,.Internal:8080, [::1]",
        CLEW_EXPECTED="django.http.Http404,KeyError",
        CLEW_SPANS="TRUE",
        CLEW_CARDINALITY_LIMIT="20",
        CLEW_SHUTDOWN_TIMEOUT="0.5",
        CLEW_STRICT="true",
    )
    assert settings.request_id_header == "X-Correlation-ID"
    assert settings.request_id_attribute == "correlation.id"
    assert not settings.trust_request_id
    assert settings.request_id_hosts == ("shop.example", ".internal:8080", "[::1]")
    assert settings.expected == ("django.http.Http404", "KeyError")
    assert settings.spans
    assert (settings.cardinality_limit, settings.shutdown_timeout) == (20, 0.5)


def test_keyword_arguments_win_over_variables_and_none_is_not_given() -> None:
    settings = load_settings(
        {"CLEW_SPANS": "true", "CLEW_EXPECTED": "KeyError", "CLEW_CARDINALITY_LIMIT": "7"},
        spans=False,
        expected=(ValueError, "shop.OutOfStock"),
        request_id_hosts=["a.example", ".b"],
        shutdown_timeout=1e-3,
        cardinality_limit=None,
    )
    assert not settings.spans
    assert settings.expected == (ValueError, "shop.OutOfStock")
    assert settings.request_id_hosts == ("a.example", ".b")
    assert (settings.shutdown_timeout, settings.cardinality_limit) == (0.001, 7)
    assert load_settings({}, shutdown_timeout=1).shutdown_timeout == 1
    for several in ([KeyError], {KeyError}, frozenset({KeyError}), KeyError):
        assert load_settings({}, expected=several).expected == (KeyError,)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("OTEL_SDK_DISABLED", "1", "true or false"),
        ("OTEL_METRICS_EXPORTER", "oltp", "a list of console, none, otlp"),
        ("OTEL_TRACES_SAMPLER", "always_on,always_off", "one of always_off, always_on, parentbased_always_off"),
        ("OTEL_TRACES_EXPORTER", "otlp,none", "none only by itself"),
        ("OTEL_LOGS_EXPORTER", "otlp,otlp_proto_http", "one of otlp, otlp_proto_grpc, otlp_proto_http at a time"),
        ("OTEL_PROPAGATORS", "b4", "baggage"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "grpc, http/protobuf"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector", "a URL http(s)://host[:port][/path]"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "a URL http(s)://host[:port][/path]"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:99999", "a URL http(s)://host[:port][/path]"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317/v1/metrics", "over gRPC there is no path"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://a b/", "a URL http(s)://host[:port][/path]"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1", "milliseconds from 0"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds from 0"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "none, gzip, deflate"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "yes", "true or false"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such.pem", "a file that can be read (No such file or directory)"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", pytest.__file__, "a file in PEM format"),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "gcp", "none is installed"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "milliseconds from 1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1e3", "milliseconds from 1"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "sum", "cumulative, delta, lowmemory"),
        ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "x", "base2_exponential_bucket_histogram"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "on", "always_on, always_off, trace_based"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "one of always_off, always_on, parentbased_always_off"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "a whole number from 1"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096", "at most OTEL_BSP_MAX_QUEUE_SIZE, which is 2048"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "٣", "milliseconds from 1"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "99999999999", "a whole number from 0 to 2147483647"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c", "name=value pairs between commas"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=100%", "a percent sign itself is written %25"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=%ff", "percent-encoded UTF-8"),
        ("OTEL_CONFIG_FILE", "/no/such.yaml", "a file that can be read"),
        ("CLEW_REQUEST_ID_HEADER", "X Request", "the name of an HTTP header"),
        ("CLEW_REQUEST_ID_ATTRIBUTE", "error.type", "none of operation.name, error.type"),
        ("CLEW_REQUEST_ID_HOSTS", "http://shop", "each an exact host or a .suffix"),
        ("CLEW_REQUEST_ID_HOSTS", "shop:0", "each an exact host or a .suffix"),
        ("CLEW_EXPECTED", "not-a-name", "dotted names of exception types"),
        ("CLEW_SPANS", "on", "true or false"),
        ("CLEW_CARDINALITY_LIMIT", "0", "a whole number from 1 to 100000"),
        ("CLEW_SHUTDOWN_TIMEOUT", "nan", "a number of seconds from 0 to 3600"),
        ("CLEW_SPAN", "true", "perhaps CLEW_SPANS"),
    ],
)
def test_a_wrong_value_names_the_variable_the_value_and_what_is_allowed(name: str, value: str, allowed: str) -> None:
    (problem,) = problems({name: value})
    shown = "no setting" if name == "CLEW_SPAN" else value if name.endswith("BATCH_SIZE") else repr(value)
    assert problem.startswith(f"{name} is {shown}; allowed: ")
    assert allowed in problem


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (".5", 0.5),
        ("1.", 1.0),
        ("1e-3", 0.001),
        ("5E-1", 0.5),
        ("1.e+0", 1.0),
        (".1e1", 1.0),
        ("0", 0.0),
        ("00.50", 0.5),
    ],
)
def test_a_number_is_written_as_programs_write_them(text: str, number: float) -> None:
    read = load(CLEW_SHUTDOWN_TIMEOUT=text, CLEW_LOGS_SLOW=text, CLEW_LOGS_SAMPLE_RATIO=text)
    assert (read.shutdown_timeout, read.logs_slow, read.logs_sample_ratio) == (number, number, number)
    sampler = load(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG=text)
    assert float(sampler.sampler_argument or "nan") == number


@pytest.mark.parametrize("text", [".", "e1", ".e1", "1e", "0x1", "1_0", "inf", "nan", "1,5", "١", "1e999", "-1", "1 0"])
def test_what_is_no_number_is_none(text: str) -> None:
    (problem,) = problems({"CLEW_LOGS_SLOW": text})
    assert "a number of seconds from 0 to 86400" in problem


def test_a_small_number_in_code_stays_what_it_is() -> None:
    assert load_settings({}, logs_sample_ratio=1e-12, logs_slow=1e-11).logs_sample_ratio == 1e-12


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPONT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTEL_EXPORTER_OTLP_TRACE_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ("OTEL_SERVICE_NAEM", "OTEL_SERVICE_NAME"),
        ("otel_service_name", "OTEL_SERVICE_NAME"),
        ("OTEL_RESOURCE_ATTRIBUTE", "OTEL_RESOURCE_ATTRIBUTES"),
        ("clew_spans", "CLEW_SPANS"),
    ],
)
def test_a_misspelt_variable_is_logged_once(name: str, meant: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        load(**{name: "something"})
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == f"{name} is no variable that clew reads; perhaps {meant} is meant"


@pytest.mark.parametrize(
    "name",
    [
        "OTEL_EXPORTER_PROMETHEUS_PORT",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST",
        "OTEL_SEMCONV_STABILITY_OPT_IN",
        "OTEL_EXPORTER_ZIPKIN_ENDPOINT",
        "OTEL_SERVICE_VERSION",
        "OTEL_LOG_LEVEL",
        "HOTEL_SERVICE_NAME",
    ],
)
def test_variables_of_others_are_not_remarked_upon(name: str, caplog: pytest.LogCaptureFixture) -> None:
    load(**{name: "9464"})
    assert not caplog.records


def test_a_traceback_names_the_error_as_users_do() -> None:
    with pytest.raises(clew.ConfigurationError) as caught:
        load_settings({"CLEW_SPANS": "on"})
    (first, *_) = traceback.format_exception_only(caught.type, caught.value)
    assert first.startswith("clew.ConfigurationError: a wrong setting:")
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("spans", "true", "True or False"),
        ("cardinality_limit", True, "a whole number from 1"),
        ("cardinality_limit", 2.5, "a whole number from 1"),
        ("shutdown_timeout", math.nan, "a number of seconds from 0 to 3600"),
        ("shutdown_timeout", -1, "a number of seconds from 0 to 3600"),
        ("shutdown_timeout", "3", "a number of seconds from 0 to 3600"),
        ("request_id_header", 3, "the name of an HTTP header"),
        ("request_id_hosts", [3], "hosts"),
        ("request_id_hosts", (), "host"),
        ("expected", 3, "exception types"),
        ("expected", int, "exception types"),
        ("expected", ("no name!",), "exception types"),
        ("request_id_hosts", ["a.example,b.example"], "one or more hosts"),
        ("resource", "shop", "a Resource or a mapping of attributes"),
    ],
)
def test_a_wrong_keyword_argument_is_a_problem_too(name: str, value: object, allowed: str) -> None:
    (problem,) = problems({}, **{name: value})
    assert problem.startswith(f"configure({name}=…) is {value!r}; allowed: ")
    assert allowed in problem


def test_functions_are_named_by_module_and_name() -> None:
    expected = ("shop.orders:*", "shop.db:query", "shop.db:Store.get")
    assert load(CLEW_MEASURE=" shop.orders:* ,shop.db:query, shop.db:Store.get,").measure == expected
    assert load_settings({}, measure=list(expected)).measure == expected
    assert load().measure == load(CLEW_MEASURE=" ").measure == ()


@pytest.mark.parametrize(
    "text",
    ["shop", "shop:", ":query", "shop:que*", "shop:*.get", "shop..db:query", "shop:a:b", "sho p:query", ",", "1:f"],
)
def test_what_names_no_function_is_refused(text: str) -> None:
    (problem,) = problems({"CLEW_MEASURE": f"shop.orders:*,{text}" if text != "," else text})
    assert problem.startswith("CLEW_MEASURE is ")
    assert "shop.orders:*,shop.db:query,shop.db:Store.get" in problem


def test_a_keyword_argument_that_is_no_setting_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"no settings: span; clew\.configure\(\) takes .*spans, .*log_processors"):
        load_settings({}, span=True)


def test_all_problems_are_reported_at_once_and_each_once() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "nowhere",
        "OTEL_EXPORTER_OTLP_HEADERS": "secret",
        "OTEL_METRIC_EXPORT_INTERVAL": "x",
        "CLEW_SPANS": "x",
    }
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ, cardinality_limit=0)
    error = caught.value
    assert isinstance(error, ValueError)
    assert {problem.name for problem in error.problems} == {*environ, "configure(cardinality_limit=…)"}
    assert len(error.problems) == 5
    assert str(error).startswith("5 wrong settings:\n  ")
    assert all(str(problem) in str(error) for problem in error.problems)
    assert "secret" not in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_not_strict_logs_all_in_one_text_and_treats_wrong_ones_as_unset(caplog: pytest.LogCaptureFixture) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "nowhere",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://own:4318/x",
        "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "zip",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "CLEW_CARDINALITY_LIMIT": "many",
        "CLEW_NO_SUCH_THING": "1",
    }
    settings = load_settings(environ, strict=False)
    load_settings(environ, strict=False)
    assert settings.metrics_otlp.endpoint == "http://localhost:4318/v1/metrics"
    assert settings.logs_otlp.endpoint == "http://own:4318/x"
    assert settings.logs_otlp.compression == "gzip"
    assert settings.cardinality_limit == 100
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name == "clew"
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "LOGS_COMPRESSION", "CLEW_CARDINALITY_LIMIT", "CLEW_NO_SUCH_THING"):
        assert name in record.getMessage()


def test_whether_to_be_strict_is_a_setting_like_the_others() -> None:
    wrong = {"CLEW_SPANS": "x"}
    assert not load_settings({**wrong, "CLEW_STRICT": "false"}).strict
    assert not load_settings({**wrong, "CLEW_STRICT": "true"}, strict=False).strict
    assert not load_settings({**wrong, "CLEW_STRICT": "false"}, strict=None).strict
    assert len(problems({**wrong, "CLEW_STRICT": "false"}, strict=True)) == 1
    assert len(problems({**wrong, "CLEW_STRICT": "maybe"})) == 2


@pytest.mark.parametrize(
    ("name", "value"), [("cardinality_limit", 0), ("spans", "x"), ("resource", 3), ("strict", "false"), ("strict", 0)]
)
def test_a_wrong_keyword_argument_raises_without_being_strict_too(name: str, value: object) -> None:
    found = problems({"CLEW_STRICT": "false", "CLEW_SPANS": "x"}, **{name: value})
    assert {text.partition(" is ")[0] for text in found} == {"CLEW_SPANS", f"configure({name}=…)"}


def test_the_typed_keyword_arguments_are_the_settings_there_are() -> None:
    assert ClewArguments.__annotations__.keys() == CLEW_SETTINGS.keys()


def test_a_client_key_needs_its_certificate(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text(PEM)
    (problem,) = problems({"OTEL_EXPORTER_OTLP_CLIENT_KEY": str(key)})
    assert "a client key together with a client certificate" in problem
    otlp = load(
        OTEL_EXPORTER_OTLP_CLIENT_KEY=str(key),
        OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE=str(key),
        OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=str(key),
    ).logs_otlp
    assert otlp.client_key == otlp.client_certificate == str(key)


def test_a_ratio_sampler_has_its_ratio() -> None:
    settings = load(OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0.25")
    assert (settings.sampler, settings.sampler_argument) == ("parentbased_traceidratio", "0.25")
    (problem,) = problems({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"})
    assert problem == "OTEL_TRACES_SAMPLER_ARG is '2'; allowed: a number from 0 to 1"
    assert load(OTEL_TRACES_SAMPLER_ARG="2").sampler_argument is None


def test_beside_a_configuration_file_the_other_standard_variables_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "otel.yaml"
    file.write_text("file_format: '1.0'\n")
    settings = load(
        OTEL_CONFIG_FILE=str(file), OTEL_EXPORTER_OTLP_ENDPOINT="nowhere", OTEL_SDK_DISABLED="true", CLEW_SPANS="true"
    )
    assert settings.config_file == str(file)
    assert settings.disabled
    assert settings.spans
    assert settings.logs_otlp.endpoint == "http://localhost:4318/v1/logs"
    wrong = load_settings(
        {"OTEL_CONFIG_FILE": "/no/such", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, strict=False
    )
    assert wrong.config_file is None
    assert wrong.logs_otlp.endpoint == "http://c:4318/v1/logs"


def test_a_long_value_is_shown_in_part() -> None:
    (problem,) = problems({"CLEW_SPANS": "x" * 10_000})
    assert len(problem) < 250
