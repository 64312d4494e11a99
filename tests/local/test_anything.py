"""Messages that parse and make no sense: stored or rejected, never an error, and every question still answers."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from clew.answers.questions.around import around
from clew.answers.questions.follow import follow
from clew.answers.questions.report import report
from clew.local import otlp, payload
from clew.local.retention import Retention
from clew.local.source import LocalSource
from clew.local.store import WritableStore
from clew.local.writer import Writer

names = st.sampled_from(
    [
        "operation.duration",
        "http.server.request.duration",
        "rpc.server.duration",
        "request_id",
        "service.name",
        "error.type",
        "",
    ]
)
numbers = {
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_FIXED32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SINT32: st.one_of(st.integers(-4, 20), st.integers(-(2**31), 2**31 - 1)),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_SFIXED64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: st.one_of(st.integers(0, 9), st.integers(0, 2**64 - 1)),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_BYTES: st.one_of(st.just(b"t" * 16), st.just(b"s" * 8), st.binary(max_size=20)),
    FieldDescriptor.TYPE_STRING: st.one_of(names, st.text(max_size=8)),
}


def value_of(draw, field, depth):
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return message_of(draw, field.message_type._concrete_class, depth + 1)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return draw(st.integers(0, 3))
    if field.type == FieldDescriptor.TYPE_FIXED64:
        moments = st.integers(-100, 10).map(lambda seconds: time.time_ns() + seconds * 10**9)
        return draw(
            st.one_of(st.integers(0, 9), moments, st.integers(0, 2**64 - 1))
            if "time" in field.name
            else st.integers(0, 9)
        )
    return draw(numbers[field.type])


def message_of(draw, kind, depth=0):
    message = kind()
    fields = list(kind.DESCRIPTOR.fields)
    for oneof in kind.DESCRIPTOR.oneofs:
        if len(oneof.fields) > 1:
            kept = draw(st.sampled_from(list(oneof.fields)))
            fields = [field for field in fields if field.containing_oneof != oneof or field == kept]
    for field in fields:
        if depth > 9 or "entity" in field.name or "strindex" in field.name:
            continue
        if not field.is_repeated:
            if depth < 6 or draw(st.booleans()):
                value = value_of(draw, field, depth)
                if field.type == FieldDescriptor.TYPE_MESSAGE:
                    getattr(message, field.name).CopyFrom(value)
                else:
                    setattr(message, field.name, value)
            continue
        for _ in range(1 if depth < 4 else draw(st.integers(0, 2))):
            getattr(message, field.name).append(value_of(draw, field, depth))
    return message


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (otlp.metrics, ExportMetricsServiceRequest),
        (otlp.spans, ExportTraceServiceRequest),
        (otlp.log_lines, ExportLogsServiceRequest),
    ],
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_parses_is_stored_or_rejected_and_can_be_asked_for(rows, kind, data):
    messages = [message_of(data.draw, kind) for _ in range(3)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clew.sqlite"
        reported: list[str] = []
        store = WritableStore(path)
        writer = Writer(store, Retention(3600, 2**20, reported.append), reported.append)
        for message in messages:
            writer.write(rows(message, "request_id")).result(10)
        writer.close()
        store.close()
        assert reported == []
        with contextlib.closing(LocalSource(path)) as source:
            answers = [report(source, 3600, 86400), follow(source, "request_id"), around(source, "12:00", 86400 * 2)]
            for answer in answers:
                assert answer is not None
                json.dumps(answer.as_json(), allow_nan=False)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["resourceSpans", "scopeSpans", "spans", "traceId", "attributes", "value", "key"]),
                inner,
                max_size=3,
            ),
        ),
    )
)
def test_whatever_json_is_a_message_or_malformed(content):
    with contextlib.suppress(payload.MalformedError):
        payload.from_json(ExportTraceServiceRequest, json.dumps(content).encode())


@given(st.binary(max_size=300))
def test_whatever_bytes_are_a_message_or_malformed(body):
    for parse in (payload.from_json, payload.from_protobuf):
        with contextlib.suppress(payload.MalformedError):
            parse(ExportMetricsServiceRequest, body)
    compressed = payload.Body(compressed=True)
    with contextlib.suppress(payload.MalformedError):
        compressed.feed(body)
        compressed.end()
