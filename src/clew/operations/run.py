"""One run of an operation, from its start to its end, whatever form the measured code has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from time import perf_counter as clock
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry.context import Context, get_current
from opentelemetry.trace import Span, Status, StatusCode, get_current_span, set_span_in_context

from clew.any_value import nearest_text
from clew.attributes import Key, Value, clean, key_of
from clew.diagnostics import count, report_failure, warn_once
from clew.failures import OTHER, Checked, failure, failure_of_kind, reason_of
from clew.interpreter.current_context import make_current
from clew.interpreter.interruptions import begins_at_once, let_through
from clew.interpreter.untrusted import text_of
from clew.metrics.deferred import deferred, run_deferred
from clew.metrics.recorder import NO_REQUEST
from clew.operations import pipeline as pipelines
from clew.operations.tracked import TrackedOperation, track

if TYPE_CHECKING:
    from clew.operations.pipeline import Pipeline
    from clew.operations.site import Site

R = TypeVar("R")


class Run:
    """One run of an operation, which ends once. Nothing here raises into the measured code."""

    __slots__ = (
        "_added",
        "_before",
        "_context",
        "_expected",
        "_is_recorded",
        "_name",
        "_operation",
        "_pipeline",
        "_reason",
        "_started",
        "_tracked",
        "_within",
        "attributes",
        "is_under_way",
        "key",
        "span",
    )

    def __init__(
        self,
        pipeline: Pipeline,
        name: str,
        attributes: Mapping[str, Value],
        key: Key,
        expected: Checked,
        *,
        span: bool | None,
        keeps_context: bool = False,
        started: float | None = None,
    ) -> None:
        """Begin a run, or take over one that has begun at `started` (of `perf_counter`) as a plain one.

        The caller sets `is_under_way` of one that it takes over.
        """
        self._pipeline = pipeline
        self._name = name
        self._expected = expected
        self.attributes = attributes
        self.key = key
        self._added: dict[str, Value] | None = None
        self._reason: str | None = None
        self._before: Context | None = None
        self._within: Context | None = None
        self.span: Span | None = None
        self._context: Context | None = get_current() if keeps_context else None
        self._tracked: TrackedOperation | None = None
        self._is_recorded = False
        self.is_under_way = False
        self._operation = pipeline.operation(name)
        if started is not None:
            self._started = started
            return
        self._operation.recorder.begin()
        self.is_under_way = True
        try:
            if span if span is not None else pipeline.spans:
                self._start_span(keeps_context)
            if pipeline.tracks_requests:
                self._tracked = track(name, is_generator=keeps_context)
            self._started = clock()
        except BaseException:  # of a signal's handler, in the middle
            self._forget()
            raise

    if sys.version_info >= (3, 11):  # before, what a handler raises could be lost in here

        @begins_at_once
        def __del__(self) -> None:
            """End a run that was begun and forgotten: what a signal's handler raises may come anywhere."""
            try:
                if self.is_under_way:
                    self._forget()
            except AttributeError:  # it was not even made
                return

    @begins_at_once
    def _forget(self) -> None:
        """End a run that has begun, and whose code never runs."""
        try:
            self._leave_span()
        finally:
            self.abandon()

    def _start_span(self, keeps_context: bool) -> None:
        tracer = self._pipeline.tracer
        if tracer is None:
            return
        try:
            self.span = tracer.start_span(self._name, attributes={"operation.name": self._name, **self.attributes})
        except Exception as error:  # of a sampler or a span processor
            _report_span_failure(self._name, error)
            return
        before = get_current()
        within = set_span_in_context(self.span, before)
        if keeps_context:  # the steps of a generator run in the Context of its consumer
            self._context = within
            return
        self._before, self._within = before, within  # first, since a signal's handler may raise when it is current
        if not make_current(within):
            self._context = within

    # a call that has returned something to be awaited

    def pause(self) -> None:
        """Be no longer under way, until what the call has returned is awaited."""
        self.leave()
        self._started -= clock()  # how long the call took, below zero
        self.is_under_way = False
        if self._pipeline.is_open:
            self._operation.recorder.abandon()

    def resume(self) -> None:
        """Be under way again."""
        if self._pipeline.is_open:
            self._operation.recorder.begin()
            self.is_under_way = True
        if self.span is not None:
            before = get_current()
            within = set_span_in_context(self.span, before)
            if make_current(within):
                self._before, self._within = before, within
        if self._pipeline.tracks_requests:
            self._tracked = track(self._name, is_generator=False)
        self._started += clock()

    def leave(self) -> None:
        """Be no longer current, for what comes after the call."""
        if self._tracked is not None:
            self._tracked.leave()
        if self._within is not None and get_current() is self._within and self._before is not None:
            make_current(self._before)

    # what the measured code says of its run

    def set(self, name: str, value: Any) -> None:
        """Add an attribute to the metric, the span and the log line of this run."""
        cleaned = clean({name: value})
        if self._added is None:
            self._added = {}
        self._added.update(cleaned)
        self._set_on_span(cleaned)
        self._set_on_line(cleaned)

    def note(self, name: str, value: Any) -> None:
        """Add an attribute to the span and the log line of this run."""
        cleaned = clean({name: value})
        self._set_on_span(cleaned)
        self._set_on_line(cleaned)

    def _set_on_span(self, attributes: Mapping[str, Value]) -> None:
        span = self.span if self.span is not None else get_current_span(self._context)
        if span.is_recording():
            span.set_attributes(attributes)

    def _set_on_line(self, attributes: Mapping[str, Value]) -> None:
        request = None if self._tracked is None else self._tracked.request
        if request is not None and request.line is not None and request.is_current:
            request.line.add_values(attributes)

    def fail(self, reason: object) -> None:
        """Mark the run as failed, for a reason that becomes its ``error.type``."""
        self._reason = reason_of(reason)

    # how it ends

    @begins_at_once
    def end(self, error: BaseException | None = None) -> None:
        """End the run, with the exception that leaves it or None, and record it."""
        seconds = 0.0
        error_type = self._reason if error is None else OTHER
        try:
            seconds = clock() - self._started
            if error is not None:
                error_type = failure(error, self._expected, self._pipeline.expected) or self._reason
        finally:  # what `expected` raises may be for the program, such as a KeyboardInterrupt
            try:
                seconds = seconds or clock() - self._started
                self._record(seconds, error_type)
            except RecursionError:
                raise
            except Exception as internal_error:
                _report_failure(self._name, internal_error)
            finally:
                try:
                    if self._tracked is not None:
                        self._tracked.end(seconds, error_type)
                finally:
                    if self.span is not None:
                        self._end_span(error, error_type)

    def end_later(self, ended: float, kind: type[BaseException] | None) -> None:
        """Record the run, for which there was no room on the stack when it ended.

        Args:
            ended: When it has ended, by `perf_counter`.
            kind: The class of the exception that has left it, or None.
        """
        error_type = self._reason
        if kind is not None:
            error_type = failure_of_kind(kind, self._expected, self._pipeline.expected)
        self._context = NO_REQUEST
        self._record(ended - self._started, error_type)
        if self.span is not None and self.span.is_recording():
            self._end_span(None, error_type)

    @begins_at_once
    def _record(self, seconds: float, error_type: str | None) -> None:
        if self._is_recorded or not self._pipeline.is_open:
            self.is_under_way = False
            return
        try:
            attributes, key = self.attributes, self.key
            if self._added is not None:
                attributes = dict(sorted({**attributes, **self._added}.items()))
                key = key_of(attributes)
            series = self._operation.series(key, attributes, error_type)
        except RecursionError:
            raise
        except BaseException:
            self.is_under_way = False
            self._operation.recorder.abandon()
            raise
        self.is_under_way = False
        series.record(seconds, self._context)
        self._is_recorded = True

    @begins_at_once
    def end_with(self, result: R, failed: Callable[[R], object] | None) -> None:
        """End the run, which has returned `result`; `failed` says whether that is a failure."""
        try:
            if failed is not None:
                self._check_result(failed, result)
        except BaseException as error:  # for the program
            self.end(error)
            raise
        self.end()

    def _check_result(self, failed: Callable[[R], object], result: R) -> None:
        try:
            reason = failed(result)
            if reason:
                self.fail(reason)
        except Exception as error:
            let_through(error)
            count("failed.failed")
            warn_once(
                ("failed", self._name),
                "%s: the callable `failed` raised %s: %s; such calls count as succeeded",
                self._name,
                type(error).__name__,
                error,
            )

    @begins_at_once
    def abandon(self) -> None:
        """End the run without a duration: the generator that it measured was collected before its end."""
        self.is_under_way = False
        try:
            if self._pipeline.is_open:
                self._operation.recorder.abandon()
            count("operation.abandoned")
            if self._tracked is not None:
                self._tracked.leave()
            if self.span is not None and self.span.is_recording():
                self.span.end()
        except Exception as error:
            _report_failure(self._name, error)

    def _end_span(self, error: BaseException | None, error_type: str | None) -> None:
        span = self.span
        assert span is not None
        try:
            if error_type is not None:
                span.set_attribute("error.type", error_type)
                description = error_type
                if error is not None:
                    description = nearest_text(text_of(error) or error_type)
                    try:
                        span.record_exception(error)
                    except Exception as internal_error:  # its traceback shows what is the user's, and may raise
                        let_through(internal_error)
                span.set_status(Status(StatusCode.ERROR, description))
        except Exception as internal_error:
            _report_span_failure(self._name, internal_error)
        finally:
            try:
                self._leave_span()
            finally:
                try:
                    span.end()
                except Exception as internal_error:  # of a span processor
                    _report_span_failure(self._name, internal_error)

    @begins_at_once
    def _leave_span(self) -> None:
        """Make the Context current that was there before the span."""
        try:
            if self._within is not None and get_current() is self._within and self._before is not None:
                make_current(self._before)
        except BaseException:  # of a signal's handler, in the middle
            if self._within is not None and get_current() is self._within and self._before is not None:
                make_current(self._before)
            raise


def begin_run(
    pipeline: Pipeline,
    name: str,
    attributes: Mapping[str, Value],
    key: Key,
    expected: Checked,
    *,
    span: bool | None,
    keeps_context: bool = False,
) -> Run | None:
    """Begin a run; None where that fails, which is counted and logged once."""
    try:
        if deferred:
            run_deferred()
        return Run(pipeline, name, attributes, key, expected, span=span, keeps_context=keeps_context)
    except Exception as error:
        _report_failure(name, error)
        return None


def begin_call(site: Site, args: Any, kwargs: Any, *, keeps_context: bool = False) -> Run | None:
    """Begin a run of a decorated function; None where nothing is measured."""
    current = pipelines.current
    if current is None:
        return None
    attributes, key = site.attributes, site.key
    if site.compute is not None:
        attributes = site.compute(args, kwargs) or {}
        key = key_of(attributes)
    return begin_run(current, site.name, attributes, key, site.expected, span=site.span, keeps_context=keeps_context)


def _report_span_failure(name: str, error: Exception) -> None:
    report_failure("span.failed", error, "The span of a run of the operation %s failed", name, about=("span", name))


def _report_failure(name: str, error: Exception) -> None:
    report_failure(
        "operation.not_recorded",
        error,
        "A run of the operation %s could not be recorded",
        name,
        about=("not recorded", name),
    )
