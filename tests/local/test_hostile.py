"""What a sender may do wrong: text that is not UTF-8, half a character, bytes of any kind. It costs no neighbour."""

from __future__ import annotations

import gzip
import json

import grpc
import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)

SECOND = 10**9


def send_over_grpc(collector, service, body):
    with grpc.insecure_channel(collector.grpc.removeprefix("http://")) as channel:
        return channel.unary_unary(f"/opentelemetry.proto.collector.{service}/Export")(body, timeout=60)


def texts_of(clew, collector):
    answer = clew("follow", "r", "--store", collector.store, "--format", "json")
    return sorted(event["text"] for event in answer.json["events"])


def set_body(record):
    record.body.string_value = SPOILT


def set_key(record):
    record.attributes.add(key=SPOILT)


def set_nested_value(record):
    record.attributes.add(key="k").value.array_value.values.add().kvlist_value.values.add(
        key="x"
    ).value.string_value = SPOILT


def set_event_name(record):
    record.event_name = SPOILT


def set_severity_text(record):
    record.severity_text = SPOILT


SPOILT = "spoilt by the test"


def spoilt(message):
    """Turn what is marked into bytes that are no UTF-8, of the same length."""
    return message.SerializeToString().replace(SPOILT.encode(), b"\xff\xc0\x80" + SPOILT.encode()[3:])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("spoil", [set_body, set_key, set_nested_value, set_event_name, set_severity_text])
def test_of_log_lines_with_a_text_that_is_no_utf_8_only_these_go(collector, clew, exports, now, protocol, spoil):
    message = None
    for number in range(5):
        message = exports.log_line(f"line {number}", at=now + number, attributes={"request_id": "r"}, message=message)
    for number in (1, 3):
        spoil(message.resource_logs[number].scope_logs[0].log_records[0])
    if protocol == "http":
        answer = collector.post("/v1/logs", spoilt(message))
        assert answer.status == 200
        body = answer.body
    else:
        body = send_over_grpc(collector, "logs.v1.LogsService", spoilt(message))
    partial = ExportLogsServiceResponse.FromString(body).partial_success
    assert partial.rejected_log_records == 2
    assert "UTF-8 (2)" in partial.error_message
    assert texts_of(clew, collector) == ["line 0", "line 2", "line 4"]


def test_of_spans_and_data_points_too_and_what_they_share_is_kept(collector, clew, exports, now):
    message = None
    for number in range(3):
        message = exports.span(
            f"span {number}",
            start=now,
            end=now + 5,
            trace_id=b"t" * 16,
            span_id=bytes([number + 1]) * 8,
            attributes={"request_id": "r"},
            message=message,
        )
    message.resource_spans[0].scope_spans[0].spans[0].name = SPOILT
    message.resource_spans[1].scope_spans[0].spans[0].events.add(name=SPOILT)
    message.resource_spans[2].scope_spans[0].schema_url = SPOILT
    answer = collector.post("/v1/traces", spoilt(message))
    assert answer.status == 200
    assert ExportTraceServiceResponse.FromString(answer.body).partial_success.rejected_spans == 1
    assert texts_of(clew, collector) == ["span 1", "span 2"]

    points = None
    for number in range(4):
        attributes = {"operation.name": f"step {number}"}
        exemplar = (0.1, now, "x")
        points = exports.histogram(
            [0.1], at=now, start=now - 1, attributes=attributes, exemplars=[exemplar], message=points
        )
    senders = points.resource_metrics
    data_points = [sender.scope_metrics[0].metrics[0].histogram.data_points[0] for sender in senders]
    data_points[0].attributes.add(key=SPOILT)
    data_points[1].exemplars[0].filtered_attributes.add(key=SPOILT)
    senders[2].resource.attributes[0].value.string_value = SPOILT
    answer = collector.post("/v1/metrics", spoilt(points))
    assert answer.status == 200
    assert ExportMetricsServiceResponse.FromString(answer.body).partial_success.rejected_data_points == 1
    report = clew("report", "--store", collector.store, "--format", "json").json["operations"]
    found = {one["name"]: (one["service"], len(one["slowest"])) for one in report}
    assert found == {"step 1": ("shop", 0), "step 2": ("���" + SPOILT[3:], 1), "step 3": ("shop", 1)}


half_characters = st.sampled_from(["\ud800", "a\udfffb", "\udc00\ud800"]).map(lambda text: json.dumps(text)[1:-1])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    half=half_characters,
    place=st.sampled_from(["name", "key", "stringValue", "traceState", "schemaUrl", "unknown"]),
    as_key=st.booleans(),
)
def test_json_with_half_a_character_is_a_400_wherever_it_stands(collector, half, place, as_key):
    text = {"resourceSpans": [{"schemaUrl": "schemaUrl", "scopeSpans": [{"spans": [
        {"name": "name", "traceState": "traceState", "unknown": ["unknown"],
         "attributes": [{"key": "key", "value": {"stringValue": "stringValue"}}]}]}]}]}  # fmt: skip
    body = json.dumps(text)
    body = body.replace(f'"{place}":', f'"{half}":') if as_key else body.replace(f': "{place}"', f': "{half}"')
    body = body.replace('["unknown"]', f'["{half}"]')
    answer = collector.post("/v1/traces", body.encode(), "application/json")
    assert answer.status == 400
    assert "JSON" in json.loads(answer.body)["message"]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_is_sent_is_answered_and_costs_no_neighbour(collector, exports, now, data):
    path, message = data.draw(
        st.sampled_from(
            [
                ("/v1/logs", exports.log_line("x", at=now, attributes={"a": 1})),
                ("/v1/metrics", exports.histogram([0.1], at=now, start=now - 1, exemplars=[(0.1, now, "r")])),
                ("/v1/traces", exports.span("s", start=now, end=now, trace_id=b"t" * 16, span_id=b"s" * 8)),
            ]
        )
    )
    as_json = data.draw(st.booleans())
    body = bytearray(json_format.MessageToJson(message).encode() if as_json else message.SerializeToString())
    for _ in range(data.draw(st.integers(0, 4))):
        position = data.draw(st.integers(0, len(body) - 1))
        body[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    headers = {}
    if data.draw(st.booleans()):
        body = bytearray(gzip.compress(body))
        del body[len(body) - data.draw(st.integers(0, 9)) :]
        headers["Content_Encoding"] = data.draw(st.sampled_from(["gzip", "GZIP", "identity", "br", "\xff"]))
    types = ["application/json", "application/x-protobuf", "application/json;charset=utf-16", "text/plain", "", "\xff"]
    answer = collector.post(path, bytes(body), data.draw(st.sampled_from(types)), **headers)
    assert answer.status in (200, 400, 415)


def test_a_body_of_empty_gzip_members_is_refused_soon(collector, exports, now):
    answer = collector.post("/v1/logs", gzip.compress(b"") * 100_000, Content_Encoding="gzip")
    assert answer.status == 400
    collector.send(exports.log_line("still here", at=now))
