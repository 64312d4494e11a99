"""A running `clew local`, and OTLP made by hand, for every test of the local collector."""

from __future__ import annotations

import bisect
import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from clew.cli import main
from clew.local import otlp
from clew.local.retention import Retention
from clew.local.store import WritableStore
from clew.local.writer import Writer

SECOND = 10**9
CLEW = (sys.executable, "-m", "clew.cli")
DEADLINE = 60.0
PROTOBUF = "application/x-protobuf"


@dataclass
class Answer:
    """What a run of the command line left."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


@dataclass
class HttpAnswer:
    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass
class Collector:
    """One `clew local` process."""

    process: subprocess.Popen[str]
    store: Path
    errors: Path
    grpc: str
    http: str

    def post(self, path: str, body: bytes, content_type: str = PROTOBUF, **headers: str) -> HttpAnswer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"{self.http}{path}", body, {"Content-Type": content_type, **named})
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                return HttpAnswer(answer.status, answer.read(), answer.headers)
        except urllib.error.HTTPError as answer:
            return HttpAnswer(answer.code, answer.read(), answer.headers)

    def send(self, *messages: Any) -> None:
        """Send exports and insist on their being stored."""
        for message in messages:
            path = {
                ExportMetricsServiceRequest: "/v1/metrics",
                ExportTraceServiceRequest: "/v1/traces",
                ExportLogsServiceRequest: "/v1/logs",
            }[type(message)]
            answer = self.post(path, message.SerializeToString())
            assert (answer.status, answer.body) == (200, b"")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    @property
    def stderr(self) -> str:
        return self.errors.read_text()


class Exports:
    """Makes OTLP messages, in as few words as a test can."""

    second = SECOND
    bounds = (0.001, 0.01, 0.1, 1.0, 10.0)

    @staticmethod
    def attributes(target: Any, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            attribute = target.add(key=key)
            if isinstance(value, bool):
                attribute.value.bool_value = value
            elif isinstance(value, int):
                attribute.value.int_value = value
            elif isinstance(value, float):
                attribute.value.double_value = value
            elif isinstance(value, Mapping):
                Exports.attributes(attribute.value.kvlist_value.values, value)
            else:
                attribute.value.string_value = value

    def histogram(
        self,
        durations: Sequence[float],
        *,
        at: int,
        start: int,
        name: str = "operation.duration",
        unit: str = "s",
        attributes: Mapping[str, Any] | None = None,
        resource: Mapping[str, Any] | None = None,
        exemplars: Sequence[tuple[float, int, str]] = (),
        delta: bool = False,
        message: ExportMetricsServiceRequest | None = None,
    ) -> ExportMetricsServiceRequest:
        """One explicit histogram; exemplars are value, time, request ID. Adds to `message` if there is one."""
        message = message or ExportMetricsServiceRequest()
        sender = message.resource_metrics.add()
        self.attributes(sender.resource.attributes, resource or {"service.name": "shop"})
        metric = sender.scope_metrics.add().metrics.add(name=name, unit=unit)
        metric.histogram.aggregation_temporality = 1 if delta else 2
        counts = [0] * (len(self.bounds) + 1)
        for duration in durations:
            counts[bisect.bisect_left(self.bounds, duration)] += 1
        point = metric.histogram.data_points.add(
            start_time_unix_nano=start,
            time_unix_nano=at,
            count=len(durations),
            sum=sum(durations),
            bucket_counts=counts,
            explicit_bounds=self.bounds,
        )
        self.attributes(point.attributes, {"operation.name": "checkout"} if attributes is None else attributes)
        for value, moment, request_id in exemplars:
            exemplar = point.exemplars.add(as_double=value, time_unix_nano=moment)
            self.attributes(exemplar.filtered_attributes, {"request_id": request_id} if request_id else {})
        return message

    def span(
        self,
        name: str,
        *,
        start: int,
        end: int,
        trace_id: bytes,
        span_id: bytes,
        parent_id: bytes = b"",
        failed: bool = False,
        attributes: Mapping[str, Any] | None = None,
        resource: Mapping[str, Any] | None = None,
        message: ExportTraceServiceRequest | None = None,
    ) -> ExportTraceServiceRequest:
        message = message or ExportTraceServiceRequest()
        sender = message.resource_spans.add()
        self.attributes(sender.resource.attributes, resource or {"service.name": "shop"})
        span = sender.scope_spans.add().spans.add(
            name=name,
            start_time_unix_nano=start,
            end_time_unix_nano=end,
            trace_id=trace_id,
            span_id=span_id,
            parent_span_id=parent_id,
        )
        if failed:
            span.status.code = 2
        self.attributes(span.attributes, attributes or {})
        return message

    def log_line(
        self,
        body: str,
        *,
        at: int,
        severity: int = 9,
        trace_id: bytes = b"",
        span_id: bytes = b"",
        attributes: Mapping[str, Any] | None = None,
        resource: Mapping[str, Any] | None = None,
        message: ExportLogsServiceRequest | None = None,
    ) -> ExportLogsServiceRequest:
        message = message or ExportLogsServiceRequest()
        sender = message.resource_logs.add()
        self.attributes(sender.resource.attributes, resource or {"service.name": "shop"})
        record = sender.scope_logs.add().log_records.add(
            time_unix_nano=at, severity_number=severity, trace_id=trace_id, span_id=span_id
        )
        record.body.string_value = body
        self.attributes(record.attributes, attributes or {})
        return message


@dataclass
class Starter:
    """Starts collectors and kills those that a test leaves running."""

    folder: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, *arguments: str, store: Path | None = None) -> Collector:
        store = store or self.folder / "clew.sqlite"
        errors = self.folder / f"stderr-{len(self.running)}"
        with errors.open("w") as file:
            process = subprocess.Popen(
                [*CLEW, "local", "--store", str(store), "--grpc-port", "0", "--http-port", "0", *arguments],
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self.running.append(process)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        addresses = [found[0] for line in lines if (found := re.search(r"http://\S+:\d+", line))]
        assert len(addresses) == 2, (lines, errors.read_text())
        return Collector(process, store, errors, *addresses)


@pytest.fixture
def start_collector(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    for process in starter.running:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.fixture
def collector(start_collector: Starter) -> Collector:
    return start_collector()


@dataclass
class Stored:
    """A store that is written without a process and a network between, which is quicker where only answers matter."""

    store: Path

    def send(self, *messages: Any) -> None:
        """Store exports, and insist on nothing being left out."""
        reported: list[str] = []
        store = WritableStore(self.store)
        writer = Writer(store, Retention(None, 2**30, reported.append), reported.append)
        for message in messages:
            rows = {
                ExportMetricsServiceRequest: otlp.metrics,
                ExportTraceServiceRequest: otlp.spans,
                ExportLogsServiceRequest: otlp.log_lines,
            }[type(message)]
            batch = writer.write(rows(message, "request_id")).result(DEADLINE)
            assert not batch.reasons
        writer.close()
        store.close()
        assert reported == []


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    found = Stored(tmp_path / "clew.sqlite")
    found.send()
    return found


@pytest.fixture(scope="session")
def clew() -> Callable[..., Answer]:
    """Run the command line: `local` as a process of its own, questions in this one, which is quicker."""

    def run(*arguments: object) -> Answer:
        if arguments[:1] == ("local",):
            done = subprocess.run([*CLEW, *map(str, arguments)], capture_output=True, text=True, timeout=120)
            return Answer(done.returncode, done.stdout, done.stderr)
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setenv("COLUMNS", "80")
            try:
                status = main([str(argument) for argument in arguments])
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 0
        return Answer(status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def exports() -> Exports:
    return Exports()


@pytest.fixture
def now() -> int:
    """The present, whole seconds, in nanoseconds."""
    return int(time.time()) * SECOND
