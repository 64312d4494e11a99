"""The telemetry of a test: what the fixture `telemetry` is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from weakref import WeakSet

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider
from opentelemetry.context import Context, get_current
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.metrics import Exemplar, MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

from clew.delivery import deliver
from clew.logs import tracking
from clew.operations import pipeline
from clew.operations.instrument import names as instrument_names
from clew.operations.site import sites
from clew.policy import policy
from clew.propagation.cell import request_id_in
from clew.providers.arguments import ProviderArguments
from clew.providers.signals import Signals
from clew.settings import Settings, load_settings
from clew.telemetry import Telemetry, new_pipeline, set_policy
from clew.testing.asked import AskedNames
from clew.testing.calls import Call, Calls, CapturingRecorder
from clew.testing.measurements import CapturedMetrics, Measurements, Point, request_id_of
from clew.testing.requests import CapturedRequest, LogLine, request_id_of_span, timeline
from clew.testing.tables import Listed
from clew.testing.watch import RequestWatch

_MOST_REQUESTS = 20


class CapturedTelemetry(Telemetry):
    """Everything recorded since the test began: by `clew`, and by any OpenTelemetry instrumentation.

    `clew.configure()` returns this object while the test runs: the settings that it is given hold, what it is given for
    providers and exporters does not. `shutdown()` ends nothing. Numbers count from the beginning of the test, and what
    belongs to a request that began before is left out.
    """

    def __init__(self, settings: Settings, arguments: Mapping[str, Any], signals: Signals, watch: RequestWatch) -> None:
        super().__init__(settings, arguments, signals)
        self._providers = signals
        self._given = arguments
        self._watch = watch
        self._calls: list[Call] = []
        self._spans: list[ReadableSpan] = []
        self._log_lines: list[LogLine] = []
        self._running: dict[int, bool] = {}
        self._metrics: list[CapturedMetrics] = []
        self._asked = AskedNames()
        self._recorder: CapturingRecorder | None = None

    def __repr__(self) -> str:
        return (
            f"<telemetry of a test: {len(self._calls)} calls, {len(self._log_lines)} log lines, "
            f"{len(self._spans)} spans>"
        )

    # what tests ask for

    def calls(
        self,
        operation: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        *,
        may_be_unknown: bool = False,
    ) -> Calls:
        """Return the calls that have ended, of one operation or of all.

        A name that nothing was measured under by the end of the test, and that no measured function has, fails the
        test: it is misspelt as a rule, and then its count of zero says nothing.

        Args:
            operation: Its name; None for all operations.
            attributes: Only the calls that have these among their attributes.
            may_be_unknown: Whether nothing has to know the name: a block that this test is not to come to.
        """
        wanted = dict(attributes or {})
        of = "any operation" if operation is None else repr(operation)
        if wanted:
            of += f" with {wanted}"
        found = list(self._calls)
        if operation is not None and not may_be_unknown and all(call.operation != operation for call in found):
            self._asked.operations.add(operation)
        return Calls(
            of,
            [
                call
                for call in found
                if operation in (None, call.operation) and wanted.items() <= dict(call.attributes).items()
            ],
            Counter(call.operation for call in found),
        )

    def metric(
        self, name: str, attributes: Mapping[str, Any] | None = None, *, may_be_unknown: bool = False
    ) -> Measurements:
        """Return what the metric `name`, of any scope, has recorded since the test began.

        A name that no metric has by the end of the test, and no instrument of `clew`, fails the test, as in `calls`.

        Args:
            name: Such as ``orders`` or ``http.server.request.duration``.
            attributes: Only the attribute sets that have these among them.
            may_be_unknown: Whether nothing has to know the name.

        Raises:
            RuntimeError: The test has ended.
        """
        if not self._metrics:
            raise RuntimeError(
                "metrics can be read while the test runs, and from a MeterProvider of OpenTelemetry's SDK"
            )
        begun = set(self._watch.request_ids())

        def is_kept(exemplar: Exemplar) -> bool:
            request_id = request_id_of(exemplar)
            return request_id is None or request_id in begun

        points: list[Point] = [point for each in self._metrics for point in each.points(is_kept)]
        if not may_be_unknown and all(point.metric != name for point in points):
            self._asked.metrics.add(name)
        wanted = dict(attributes or {})
        return Measurements(
            f"{name!r}" + (f" with {wanted}" if wanted else ""),
            [
                point
                for point in points
                if point.metric == name and all(point.attributes.get(key) == wanted[key] for key in wanted)
            ],
            sorted({point.metric for point in points}),
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have begun and ended in the test, in the order that they ended in."""
        return Listed(self._spans, self)

    @property
    def log_lines(self) -> list[LogLine]:
        """The log records, in order; the levels of loggers hold, so set pytest's ``log_level`` to see those of INFO."""
        return Listed(self._log_lines, self)

    @property
    def request_ids(self) -> list[str]:
        """The IDs of the requests that have begun in the test, in this order."""
        return Listed(self._watch.request_ids(), self)

    def request(self, request_id: str | None = None) -> CapturedRequest:
        """Return what is known of one request; without an ID, of the only one of the test.

        Raises:
            LookupError: There is none of that ID, or there is not one alone; it names those that there are.
        """
        known = self._watch.request_ids()
        there_are = f"there were {', '.join(known)}" if known else "there were none"
        if request_id is None:
            if len(known) != 1:
                raise LookupError(f"the test did not have one request alone: {there_are}")
            request_id = known[0]
        if request_id not in known:
            raise LookupError(f"no request {request_id!r} in this test: {there_are}")
        return self._request(request_id)

    def _request(self, request_id: str) -> CapturedRequest:
        found = [call for call in list(self._calls) if call.request_id == request_id]
        return CapturedRequest(
            request_id,
            Calls(f"any operation in the request {request_id}", found, {}),
            [line for line in list(self._log_lines) if line.request_id == request_id],
            [span for span in list(self._spans) if request_id_of_span(span) == request_id],
        )

    def table(self) -> list[str]:
        """Return all log lines and spans as the lines of a table."""
        return timeline(list(self._log_lines), list(self._spans))

    def report(self) -> str:
        """Return all that was recorded as a text: the calls, then request by request; empty where there is nothing."""
        lines = self.calls().table() if self._calls else []
        known = self._watch.request_ids()
        if len(known) > _MOST_REQUESTS:
            lines.append(f"… {len(known) - _MOST_REQUESTS} requests more before these")
        for request_id in known[-_MOST_REQUESTS:]:
            found = self._request(request_id)
            if found.calls or found.log_lines or found.spans:
                lines += found.table()
        others = set(known)
        log_lines = [line for line in list(self._log_lines) if line.request_id not in others]
        spans = [span for span in list(self._spans) if request_id_of_span(span) not in others]
        if log_lines or spans:
            lines += ["outside any request", *timeline(log_lines, spans)]
        return "\n".join(lines)

    def unknown_names(self) -> str:
        """Return a message on names that were asked for and that nothing has; empty where there are none."""
        begun: set[str] = set() if self._recorder is None else self._recorder.operations
        operations = begun | {call.operation for call in list(self._calls)} | {site.name for site in sites}
        metrics = {name for each in self._metrics for name in each.names()} | instrument_names
        return self._asked.unknown(operations, metrics)

    # what Telemetry is asked for

    def shutdown(self, timeout: float = 3.0) -> bool:
        """Send what there is, and go on: the next test finds everything as this one did."""
        return self.force_flush(timeout)

    def force_flush(self, timeout: float = 10.0) -> bool:
        """Flush the providers of the application; what the test sees is there at once."""
        return deliver(self._providers.foreign, closing=False, timeout=timeout)

    def end(self, *, at_exit: bool = False) -> None:
        """Do nothing: the end of the process has nothing to send of a test."""

    def begin_in_child(self) -> None:
        """Do nothing: what a forked child records stays there."""

    def configured_again(self, arguments: Mapping[str, Any]) -> Telemetry:
        """Let the settings that `configure()` is given hold for the test."""
        if arguments != self._given:
            of_providers = {field.name for field in fields(ProviderArguments)}
            settings = {name: value for name, value in arguments.items() if name not in of_providers}
            self.settings = load_settings(os.environ, strict=True, **settings)
            self._given = arguments
            set_policy(self.settings)
            self.record()
        return self

    # how it begins and ends

    def record(self) -> None:
        """Let operations be recorded for this test, as the settings say; no log records are held in a test."""
        before = pipeline.current
        tracking.exchange(
            tracking.RequestTracking(held_logs=None, canonical=True) if self.settings.logs_canonical else None
        )
        recorder = CapturingRecorder(self._providers.meter_provider, self._calls.append, self._watch)
        self._recorder = recorder
        pipeline.use(new_pipeline(self.settings, self._providers, recorder))
        if before is not None:
            before.is_open = True  # what runs already ends where it began

    def attach(self) -> None:
        """Listen to the providers that are recorded into, and to the global ones, where these are others."""
        for provider in _distinct(self._providers.meter_provider, metrics.get_meter_provider()):
            if isinstance(provider, MeterProvider):
                self._metrics.append(CapturedMetrics(provider))
        for provider in _distinct(self._providers.tracer_provider, trace.get_tracer_provider()):
            if isinstance(provider, TracerProvider) and provider not in captured_providers:
                captured_providers.add(provider)
                provider.add_span_processor(CapturingSpanProcessor())
        for provider in _distinct(self._providers.logger_provider, get_logger_provider()):
            if isinstance(provider, LoggerProvider) and provider not in captured_providers:
                captured_providers.add(provider)
                provider.add_log_record_processor(CapturingLogRecordProcessor())

    def detach(self) -> None:
        """Read no metrics any more; the processors of spans and log records stay where they are."""
        all_metrics, self._metrics = self._metrics, []
        for each in all_metrics:
            each.end()

    def span_begins(self, span_id: int, context: Context) -> None:
        """Learn of a span that begins."""
        self._running[span_id] = self._watch.includes(context)

    def span_ends(self, span: ReadableSpan) -> None:
        """Learn of a span that ends; it counts if it began in the test, and in no earlier request."""
        if span.context is not None and self._running.pop(span.context.span_id, False):
            self._spans.append(span)

    def logs(self, record: ReadWriteLogRecord) -> None:
        """Learn of a log record; it counts if it belongs to no earlier request."""
        found = record.log_record
        context = found.context or get_current()
        if not self._watch.includes(context):
            return
        attributes = dict(found.attributes or {})
        request_id = attributes.pop(policy.attribute, None)
        scope = record.instrumentation_scope
        self._log_lines.append(
            LogLine(
                text=str(found.body),
                severity=found.severity_text or "",
                logger="" if scope is None else scope.name,
                attributes=attributes,
                request_id=request_id_in(context) if request_id is None else str(request_id),
                time=found.timestamp or found.observed_timestamp or 0,
                trace_id=found.trace_id or None,
                span_id=found.span_id or None,
            )
        )


def _distinct(*providers: Any) -> list[Any]:
    return list({id(provider): provider for provider in providers}.values())


captured_providers: WeakSet[Any] = WeakSet()
active: list[CapturedTelemetry] = []


class CapturingSpanProcessor(SpanProcessor):
    """Tells the test that is running of spans; it stays, since processors cannot be taken from a provider."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Tell that a span begins."""
        context = get_current() if parent_context is None else parent_context
        for captured in active:
            captured.span_begins(span.get_span_context().span_id, context)

    def on_end(self, span: ReadableSpan) -> None:
        """Tell that a span has ended."""
        for captured in active:
            captured.span_ends(span)


class CapturingLogRecordProcessor(LogRecordProcessor):
    """Tells the test that is running of log records; it stays, as the one for spans does."""

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Tell of a record."""
        for captured in active:
            captured.logs(log_record)

    def shutdown(self) -> None:
        """Do nothing: there is nothing to be sent."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return True: there is nothing to be sent."""
        return True
