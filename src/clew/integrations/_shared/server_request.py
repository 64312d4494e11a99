"""A request that a server was asked for, from its entry until it is left: what all server integrations share."""

from __future__ import annotations

from collections.abc import Generator, Mapping, MutableMapping
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
from clew.integrations._shared.http_metrics import known_method
from clew.interpreter.current_context import make_current
from clew.interpreter.interruptions import Suppressed
from clew.logs import tracking
from clew.policy import policy
from clew.propagation.cell import cell_in, enter, leave, with_cell
from clew.propagation.ids import remember
from clew.propagation.propagator import CARRIER_KEY, CarrierCell, RawHeaders, bound_cell

Carrier = MutableMapping[str, Any]


class ServerRequest:
    """A request in the Context of the code that serves it. Entered when it is made, left by whoever entered it."""

    __slots__ = ("_before", "_cell", "_within")

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
        while isinstance(outer, CarrierCell) and outer.around is not None:
            before = outer.around
            outer = cell_in(before)
        if outer is None or outer.request_id is None or _is_same(outer, carrier, headers):
            if outer is not None:
                outer.request_id = request_id
            _tell_server_span(request_id, before)
        self._before = before
        self._cell = cell = CarrierCell(request_id, outer, headers, True)
        if tracking.current is not None:
            cell.follow(is_held=is_held)
        if carrier is not None:
            carrier[CARRIER_KEY] = cell
        self._within = within = with_cell(cell, before)
        try:
            enter(cell, within)
        except BaseException:  # of a signal's handler, in the middle
            leave(cell, before, within)
            raise

    @property
    def route(self) -> str | None:
        """The template of the route, where an integration inside has told it."""
        return self._cell.route

    @property
    def is_measured(self) -> bool:
        """Whether an integration inside has told that somebody else records the HTTP duration."""
        return self._cell.is_measured

    @property
    def is_followed(self) -> bool:
        """Whether somebody wants to know when it ends, and how."""
        return self._cell.entry is not None

    @property
    def context(self) -> Context:
        """The Context that the request began with."""
        return self._within

    def serve(self, client: object) -> None:
        """Tell which client it is that the request came from."""
        self._cell.client = client

    def wait(self, is_waiting: bool) -> None:
        """Tell whether only the server's own code runs now: what else begins in this thread then is not inside of us.

        A server that never closes a response (a client in tests, mostly) would nest each request in the one before.
        """
        self._cell.around = self._before if is_waiting else None

    def is_named_in(self, context: Context) -> bool:
        """Tell whether `context` belongs to a request of this name, this one or the one around it."""
        cell = cell_in(context)
        return cell is not None and cell.request_id == self._cell.request_id

    def end(
        self,
        *,
        error: BaseException | None = None,
        status: int | None = None,
        failure: str | None = None,
        name: str | None = None,
        method: str | None = None,
        route: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell that the request has been answered: what becomes of its log records is decided, and its line written.

        The first call counts; what leaves a request without it has ended then.

        Args:
            error: The exception that it has failed of.
            status: Of the HTTP response; 500 and more are failures.
            failure: What it has failed of, by a name.
            name: What kind of a request it was, where it is none of HTTP.
            method: Of the HTTP request.
            route: The template of the route, where an integration inside has told no other.
            attributes: Further ones for the line.
        """
        cell = self._cell
        if cell.entry is None:
            return
        if error is not None:
            failure = error_type_of(type(error))
        elif failure is None and status is not None and status >= 500:
            failure = str(status)
        fields = dict(attributes or {})
        if method is not None:
            name = fields[HTTP_REQUEST_METHOD] = known_method(method)
        route = cell.route or route
        if route is not None:
            name = f"{name} {route}"
            fields[HTTP_ROUTE] = route
        if status is not None:
            fields[HTTP_RESPONSE_STATUS_CODE] = status
        cell.end(failure, name, fields)

    def leave(self, error: BaseException | None = None, failure: str | None = None, *, is_over: bool = True) -> None:
        """Leave the request, with the exception that left it or None, and what else it failed of.

        Without `is_over` its response is still being made, and `end` is told then.
        """
        cell = self._cell
        if error is not None:
            remember(error, cell.request_id)
            failure = error_type_of(type(error))
        if failure is not None:
            cell.failure = failure
        if is_over and cell.entry is not None:
            cell.end(failure)
        cell.ended = True
        cell.around = None
        leave(cell, self._before, self._within)


def is_served(carrier: Carrier) -> bool:
    """Tell whether one of our integrations further out has already bound the request of `carrier`."""
    cell = bound_cell(carrier)
    return cell is not None and cell.is_served


@contextmanager
def in_no_request() -> Generator[None]:
    """Run what is not to be a request outside of any: one that is still there belongs to somebody else."""
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
        isinstance(cell, CarrierCell)
        and cell.is_served
        and cell.client is not None
        and cell.client == carrier.get("client")
        and not cell.is_owned()
    ):
        make_current(with_cell(None, current))


def _is_same(outer: object, carrier: Carrier | None, headers: RawHeaders | None) -> bool:
    """Tell whether a propagator further out bound `outer` from this very carrier; then ours decides about the ID."""
    if not isinstance(outer, CarrierCell) or outer.is_served:
        return False
    return (carrier is not None and bound_cell(carrier) is outer) or outer.is_from_headers(headers)


def _tell_server_span(request_id: str, context: Context) -> None:
    """Put the ID on the span of an instrumentation outside of us: it began before the request had a name."""
    if not context:  # as in most servers, and a span is dear to look up
        return
    span = get_current_span(context)
    if span.is_recording() and getattr(span, "kind", None) is SpanKind.SERVER:
        with Suppressed():
            span.set_attribute(policy.attribute, request_id)
