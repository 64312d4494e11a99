"""A request that a server was asked for, from its beginning until it is left: what all server integrations share.

It is its own cell in the Context: what finds the request there finds what has been told of it so far.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, MutableMapping
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import Context, get_current
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.trace import SpanKind, get_current_span

from clew.failures import error_type_of
from clew.integrations._shared.http_metrics import HttpMeasurement, known_method, not_measured
from clew.interpreter.current_context import make_current
from clew.interpreter.interruptions import Suppressed
from clew.logs import tracking
from clew.policy import policy
from clew.propagation.cell import (
    CARRIER_KEY,
    CarrierCell,
    ExtractedCell,
    RawHeaders,
    RequestCell,
    bound_cell,
    cell_in,
    enter,
    leave,
    with_cell,
)
from clew.propagation.ids import remember

Carrier = MutableMapping[str, Any]


class ServerRequest(CarrierCell):
    """A request in the Context of the code that serves it: entered when it is made, and left by `leave`.

    Attributes:
        client: Which client it came from, where its connection can have several requests at a time.
        status: Of the response, where that is one of HTTP and known; 500 and more are failures.
        around: The Context outside of it while only the server's own code runs in this thread, else None.
    """

    is_served = True
    client: object = None
    status: int | None = None
    around: Context | None = None

    def __init__(
        self,
        request_id: str,
        carrier: Carrier | None,
        headers: RawHeaders | None = None,
        *,
        is_held: bool = True,
    ) -> None:
        before = get_current()
        outer = cell_in(before) if before else None
        while isinstance(outer, ServerRequest) and outer.around is not None:
            before = outer.around
            outer = cell_in(before)
        if outer is None or outer.request_id is None or _is_same(outer, carrier, headers):
            if outer is not None:
                outer.request_id = request_id
            _tell_server_span(request_id, before)
        super().__init__(request_id, outer)
        self.headers = headers
        if tracking.current is not None:
            self.track(is_held=is_held)
        if carrier is not None:
            carrier[CARRIER_KEY] = self
        within = with_cell(self, before)
        self._before: Context | None = before
        self._within: Context | None = within
        try:
            enter(self, within)
        except BaseException:  # of a signal's handler, in the middle
            leave(self, before, within)
            raise

    @property
    def is_tracked(self) -> bool:
        """Whether its log records are held or its canonical line is written, so that its end has to be told."""
        return self.tracked is not None

    @property
    def context(self) -> Context:
        """The Context that the request began with, until it is left and over."""
        return Context() if self._within is None else self._within

    def wait(self, is_waiting: bool) -> None:
        """Tell whether only the server's own code runs now: what else begins in this thread then is not inside of us.

        A server that never closes a response (a client in tests, mostly) would nest each request in the one before.
        """
        self.around = self._before if is_waiting else None

    def leave(self, error: BaseException | None = None, failure: str | None = None, *, is_over: bool = True) -> None:
        """Leave the request, with the exception that left it or None, and what else it failed of.

        Without `is_over` its response is still being made: then it is left a second time when that is done.
        """
        if error is not None:
            remember(error, self.request_id)
            failure = error_type_of(type(error))
        elif failure is None and self.status is not None and self.status >= 500:
            failure = str(self.status)
        if failure is not None:
            self.failure = failure
        if is_over and self.tracked is not None:
            self.end(failure)
        self.ended = True
        self.around = None
        if self._before is not None and self._within is not None:
            leave(self, self._before, self._within)
        self._before = None  # work that outlives the request keeps its cell, and no more than that
        if is_over:
            self._within = None


class HttpRequest(ServerRequest):
    """A request that came in by HTTP: measured where that is asked for, and failed where the status says so.

    Attributes:
        measurement: What measures it, until its response has been sent.
        route: The template of the route, where an integration inside has told it.
        is_measured: Whether an integration inside has told that somebody else records the HTTP duration.
    """

    measurement: HttpMeasurement | None = None
    route: str | None = None
    is_measured = False

    @property
    def is_observed(self) -> bool:
        """Whether anything waits for its response to have been sent."""
        return self.measurement is not None or self.tracked is not None

    def response_starts(self) -> None:
        """Look who else measures the request; called in the midst of the start of its response."""
        if self.measurement is not None:
            try:
                self.measurement.response_starts()
            except Exception as error:
                not_measured(error)

    def answered(
        self,
        method: str | None,
        route: Callable[[], str | None],
        error: BaseException | None = None,
        *,
        is_failure: bool = True,
    ) -> None:
        """Tell that the response has been sent, or that there will be none: its duration and its line end here.

        The first call counts; what leaves a request without it has ended then.

        Args:
            method: Of the request; None for a websocket.
            route: Finds the template of the route; asked where no integration inside has told one.
            error: The exception that has ended it.
            is_failure: Whether that exception is a failure.
        """
        if not self.is_observed:
            return
        measurement, self.measurement = self.measurement, None
        template: str | None = None
        try:
            template = self.route or route()
            if measurement is not None:
                current = get_current()
                measurement.end(
                    status=self.status,
                    route=template,
                    error=error,
                    is_failure=is_failure,
                    is_measured=self.is_measured,
                    context=current if self._is_named_in(current) else self.context,
                )
        except Exception as failed:
            not_measured(failed)
        if self.tracked is not None:
            self._end_line(method, template, error if is_failure else None)

    def _end_line(self, method: str | None, route: str | None, error: BaseException | None) -> None:
        fields: dict[str, Any] = {}
        name = "websocket"
        failure: str | None = None
        if method is not None:
            name = fields[HTTP_REQUEST_METHOD] = known_method(method)
        if route is not None:
            name = f"{name} {route}"
            fields[HTTP_ROUTE] = route
        if self.status is not None:
            fields[HTTP_RESPONSE_STATUS_CODE] = self.status
            if self.status >= 500:
                failure = str(self.status)
        self.end(failure if error is None else error_type_of(type(error)), name, fields)

    def _is_named_in(self, context: Context) -> bool:
        """Tell whether `context` belongs to a request of this name, this one or the one around it."""
        cell = cell_in(context)
        return cell is not None and cell.request_id == self.request_id


def is_served(carrier: Carrier) -> bool:
    """Tell whether one of our integrations further out has already bound the request of `carrier`."""
    return isinstance(bound_cell(carrier), ServerRequest)


@contextmanager
def in_no_request() -> Generator[None]:
    """Run what is not to be a request outside of any: one that is still current has been left behind."""
    before = get_current()
    cell = cell_in(before)
    if cell is None:
        yield
        return
    within = with_cell(None, before)
    make_current(within)
    try:
        yield
    finally:
        if get_current() is within:
            make_current(before)


def leave_other_of_connection(carrier: Carrier) -> None:
    """Leave a request of the same connection whose response is still being sent, in the task of the next one for good.

    Pipelined requests: a server begins with the next one in the middle of the one before, and in its Context.
    """
    current = get_current()
    cell = cell_in(current) if current else None
    if (
        isinstance(cell, ServerRequest)
        and cell.client is not None
        and cell.client == carrier.get("client")
        and not cell.is_owned()
    ):
        make_current(with_cell(None, current))


def _is_same(outer: RequestCell, carrier: Carrier | None, headers: RawHeaders | None) -> bool:
    """Tell whether a propagator further out bound `outer` from this very carrier; then ours decides about the ID."""
    return isinstance(outer, ExtractedCell) and (
        (carrier is not None and bound_cell(carrier) is outer) or outer.is_from_headers(headers)
    )


def _tell_server_span(request_id: str, context: Context) -> None:
    """Put the ID on the span of an instrumentation outside of us: it began before the request had a name."""
    if not context:  # as in most servers; looking for a span takes time
        return
    span = get_current_span(context)
    if span.is_recording() and getattr(span, "kind", None) is SpanKind.SERVER:
        with Suppressed():
            span.set_attribute(policy.attribute, request_id)
