"""Whatever a variable holds, there is a value or a ConfigurationError, and what was written is what is read."""

from __future__ import annotations

import string
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clew.settings import ConfigurationError, Problem, load_settings

# the first text that hypothesis ever makes on a machine takes it a second
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

OTLP = ["ENDPOINT", "PROTOCOL", "HEADERS", "TIMEOUT", "COMPRESSION", "INSECURE", "CERTIFICATE", "CLIENT_KEY"]
VARIABLES = [
    "OTEL_SDK_DISABLED",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SERVICE_NAME",
    "OTEL_PROPAGATORS",
    "OTEL_METRICS_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_CONFIG_FILE",
    *[f"OTEL_EXPORTER_OTLP_{part}{ending}" for ending in OTLP for part in ("", "LOGS_")],
    "CLEW_REQUEST_ID_HEADER",
    "CLEW_REQUEST_ID_ATTRIBUTE",
    "CLEW_REQUEST_ID_HOSTS",
    "CLEW_EXPECTED",
    "CLEW_CARDINALITY_LIMIT",
    "CLEW_SHUTDOWN_TIMEOUT",
    "CLEW_LOGS",
    "CLEW_STRICT",
    "CLEW_ANYTHING",
]
NEARLY = st.sampled_from(
    ["http://", "https://a", "://[", "http://[::1", "http://a:b", "a:4317", "unix:", "=", "a=%", "a=%zz", ",", ":", "*"]
)
TEXTS = st.one_of(st.text(max_size=40), st.builds(str.__add__, NEARLY, st.text(max_size=10)), NEARLY)


def problems(environ: dict[str, str], **overrides: Any) -> tuple[Problem, ...]:
    try:
        load_settings(environ, **overrides)
    except ConfigurationError as error:
        return error.problems
    return ()


@unhurried
@given(st.dictionaries(st.sampled_from(VARIABLES), TEXTS, max_size=4))
@example({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"})
@example({"OTEL_EXPORTER_OTLP_CERTIFICATE": "a\0b"})
@example({"OTEL_CONFIG_FILE": "\ud800"})
@example({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a\uff0f:4317"})
def test_there_is_a_value_or_a_configuration_error(environ: dict[str, str]) -> None:
    for problem in problems(environ):
        assert problem.name in environ
        assert problem.allowed
        assert str(problem).isprintable()
    assert load_settings({**environ, "CLEW_STRICT": "false"}) is not None


@unhurried
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=10).filter(lambda text: text.strip() == text),
        st.text(max_size=20).filter(lambda text: text.strip() == text),
        min_size=1,
        max_size=5,
    )
)
def test_resource_attributes_that_were_written_are_read(attributes: dict[str, str]) -> None:
    attributes = {f"x{name}": value for name, value in attributes.items()}
    text = ",".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in attributes.items())
    resource = load_settings({"OTEL_RESOURCE_ATTRIBUTES": text}).resource
    assert {name: resource.attributes[name] for name in attributes} == attributes


PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)
TOKEN = st.text(string.ascii_lowercase + string.digits + "!#$%&'*+-.^_`|~", min_size=1, max_size=20)


@unhurried
@given(st.dictionaries(TOKEN, PRINTABLE, min_size=1, max_size=5))
def test_headers_that_were_written_are_read(headers: dict[str, str]) -> None:
    text = ",".join(f"{name}={quote(value, safe='')}" for name, value in headers.items())
    assert dict(load_settings({"OTEL_EXPORTER_OTLP_HEADERS": text}).metrics_otlp.headers) == headers


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
HOST = st.builds(
    lambda dot, labels, port: f"{dot}{'.'.join(labels)}{port}",
    st.sampled_from(["", "."]),
    st.lists(LABEL, min_size=1, max_size=4),
    st.one_of(st.just(""), st.integers(1, 65535).map(":{}".format)),
)


@unhurried
@given(st.lists(HOST, min_size=1, max_size=5, unique=True))
def test_hosts_that_were_written_are_read(hosts: list[str]) -> None:
    assert load_settings({"CLEW_REQUEST_ID_HOSTS": ", ".join(hosts)}).request_id_hosts == tuple(hosts)
    assert load_settings({}, request_id_hosts=hosts).request_id_hosts == tuple(hosts)


@unhurried
@given(st.integers(100, 2**31 - 1))
def test_durations_that_were_written_are_read(milliseconds: int) -> None:
    settings = load_settings(
        dict.fromkeys(["OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_METRIC_EXPORT_INTERVAL"], str(milliseconds))
    )
    assert settings.metrics_otlp.timeout == settings.metric_export_interval == pytest.approx(milliseconds / 1000)


@unhurried
@given(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()), st.just(int))
)
def test_any_keyword_argument_is_a_value_or_a_configuration_error(value: object) -> None:
    for name in ("spans", "cardinality_limit", "shutdown_timeout", "expected", "request_id_hosts", "request_id_header"):
        assert {problem.name for problem in problems({}, **{name: value})} <= {f"configure({name}=…)"}
