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
from clew.interpreter.current_context import Variable, make_current
from clew.interpreter.interruptions import begins_at_once, let_through
from clew.interpreter.untrusted import text_of
from clew.metrics.deferred import deferred, run_deferred
from clew.metrics.recorder import NO_REQUEST
from clew.operations import pipeline as where
from clew.propagation.cell import RequestCell, cell_in

if TYPE_CHECKING:
    from clew.logs.tracking import TrackedRequest
    from clew.operations.pipeline import Pipeline
    from clew.operations.site import Site

R = TypeVar("R")


class Run:
    """One run of an operation: begun, told what happens, ended once. Nothing here raises into the measured code."""

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

        Whoever takes one over tells that it `is_under_way`.
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
                self._tracked = _track(name, is_generator=keeps_context)
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
        """End a run that was begun, but not to be run."""
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
        except Exception as trouble:  # of a sampler or a span processor
            _without_span(self._name, trouble)
            return
        before = get_current()
        within = set_span_in_context(self.span, before)
        if keeps_context:  # the steps of a generator run in the Context of whoever asks for them
            self._context = within
            return
        self._before, self._within = before, within  # first, since a signal's handler may raise when it is bound
        if not make_current(within):
            self._context = within

    # what a call has returned that is awaited later

    def pause(self) -> None:
        """Be under way no more until what the call has returned is awaited."""
        self.leave()
        self._started -= clock()  # how long the call took, below zero
        self.is_under_way = False
        if self._pipeline.is_open:
            self._operation.recorder.abandon()

    def go_on(self) -> None:
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
            self._tracked = _track(self._name, is_generator=False)
        self._started += clock()

    def leave(self) -> None:
        """Be current no more for what comes after the call."""
        if self._tracked is not None:
            self._tracked.leave()
        if self._within is not None and get_current() is self._within and self._before is not None:
            make_current(self._before)

    # what the code inside tells

    def set(self, name: str, value: Any) -> None:
        """Add an attribute to the metric, the span and the log line of this run."""
        cleaned = clean({name: value})
        if self._added is None:
            self._added = {}
        self._added.update(cleaned)
        self._tell_span(cleaned)
        self._tell_line(cleaned)

    def note(self, name: str, value: Any) -> None:
        """Add an attribute to the span and the log line of this run."""
        cleaned = clean({name: value})
        self._tell_span(cleaned)
        self._tell_line(cleaned)

    def _tell_span(self, attributes: Mapping[str, Value]) -> None:
        span = self.span if self.span is not None else get_current_span(self._context)
        if span.is_recording():
            span.set_attributes(attributes)

    def _tell_line(self, attributes: Mapping[str, Value]) -> None:
        request = None if self._tracked is None else self._tracked.request
        if request is not None and request.line is not None and request.is_current:
            request.line.tell(attributes)

    def fail(self, reason: object) -> None:
        """Tell that this run has failed, for a reason that becomes its ``error.type``."""
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
            except Exception as trouble:
                _not_recorded(self._name, trouble)
            finally:
                try:
                    if self._tracked is not None:
                        self._tracked.end(seconds, error_type)
                finally:
                    if self.span is not None:
                        self._end_span(error, error_type)

    def end_later(self, ended: float, kind: type[BaseException] | None) -> None:
        """Record the run, where that was not done when it ended for want of room on the stack.

        Args:
            ended: When it has ended, by `perf_counter`.
            kind: The class of the exception that has left it.
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
                self._ask(failed, result)
        except BaseException as error:  # for the program
            self.end(error)
            raise
        self.end()

    def _ask(self, failed: Callable[[R], object], result: R) -> None:
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
        except Exception as trouble:
            _not_recorded(self._name, trouble)

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
                    except Exception as trouble:  # its traceback shows what is the user's, and may raise
                        let_through(trouble)
                span.set_status(Status(StatusCode.ERROR, description))
        except Exception as trouble:
            _without_span(self._name, trouble)
        finally:
            try:
                self._leave_span()
            finally:
                try:
                    span.end()
                except Exception as trouble:  # of a span processor
                    _without_span(self._name, trouble)

    @begins_at_once
    def _leave_span(self) -> None:
        """Bring the Context back that was there before the span."""
        try:
            if self._within is not None and get_current() is self._within and self._before is not None:
                make_current(self._before)
        except BaseException:  # of a signal's handler, in the middle
            if self._within is not None and get_current() is self._within and self._before is not None:
                make_current(self._before)
            raise


class TrackedOperation:
    """The part of a run in its request: whether it is inside of another operation there, and how it ends.

    An operation that is inside of no other one of its request has a say in whether that has failed.
    """

    __slots__ = ("_around", "_cell", "_is_generator", "_is_outermost", "_is_over", "_name", "request")

    _around: TrackedOperation | None
    _is_over: bool

    def __init__(self, name: str, cell: RequestCell, request: TrackedRequest, *, is_generator: bool) -> None:
        around: TrackedOperation | None = _innermost.get()
        while around is not None and around._is_over:
            around = around._around
        self._name = name
        self._cell = cell
        self.request = request
        self._around = around
        self._is_over = False
        self._is_outermost = request.generators == 0 and (around is None or around.request is not request)
        self._is_generator = is_generator
        if not is_generator:
            _innermost.set(self)
        elif self._is_outermost:  # its steps run in the Context of whoever asks for them
            request.generators += 1
        if self._is_outermost and request.line is not None:
            request.line.begins(name)

    def end(self, seconds: float, error_type: str | None) -> None:
        """Tell the request how the operation has ended."""
        self.leave()
        if self._is_outermost and error_type is not None and self._cell.failure is None:
            self._cell.failure = error_type
        if self.request.line is not None and self.request.is_current:  # not that of a parent, whose thread may hold it
            self.request.line.add(self._name, seconds, is_failure=error_type is not None)

    def leave(self) -> None:
        """Be the innermost operation no more."""
        self._is_over = True
        if self._is_generator:
            self.request.generators -= self._is_outermost
        elif _innermost.get() is self:
            _innermost.set(self._around)


_innermost: Variable[TrackedOperation] = Variable("clew-operation")


def _track(name: str, *, is_generator: bool) -> TrackedOperation | None:
    cell = cell_in(get_current())
    request = None if cell is None else cell.tracked
    if cell is None or request is None or not request.is_current:
        return None
    return TrackedOperation(name, cell, request, is_generator=is_generator)


def begin(
    pipeline: Pipeline,
    name: str,
    attributes: Mapping[str, Value],
    key: Key,
    expected: Checked,
    *,
    span: bool | None,
    keeps_context: bool = False,
) -> Run | None:
    """Begin a run, or return None, counted and said once, where that fails."""
    try:
        if deferred:
            run_deferred()
        return Run(pipeline, name, attributes, key, expected, span=span, keeps_context=keeps_context)
    except Exception as trouble:
        _not_recorded(name, trouble)
        return None


def begin_run(site: Site, args: Any, kwargs: Any, *, keeps_context: bool = False) -> Run | None:
    """Begin a run of a decorated function; None where nothing is measured."""
    current = where.current
    if current is None:
        return None
    attributes, key = site.attributes, site.key
    if site.compute is not None:
        attributes = site.compute(args, kwargs) or {}
        key = key_of(attributes)
    return begin(current, site.name, attributes, key, site.expected, span=site.span, keeps_context=keeps_context)


def _without_span(name: str, trouble: Exception) -> None:
    report_failure("span.failed", trouble, "The span of a run of the operation %s failed", name, about=("span", name))


def _not_recorded(name: str, trouble: Exception) -> None:
    report_failure(
        "operation.not_recorded",
        trouble,
        "A run of the operation %s could not be recorded",
        name,
        about=("not recorded", name),
    )
