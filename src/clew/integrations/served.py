"""A request that a server was asked for, from its entry until it is left: what all server integrations share."""

from __future__ import annotations

from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import SpanKind, get_current_span

from clew.failures import error_type_of
from clew.propagator import CARRIER_KEY, CarrierCell, RawHeaders, bound_cell
from clew.request import (
    _remember,  # pyright: ignore[reportPrivateUsage]
    cell_in,
    leave,
    policy,
    with_cell,
)

Carrier = MutableMapping[str, Any]


class Served:
    """A request in the Context of the code that serves it. Entered when it is made, left by whoever entered it."""

    __slots__ = ("_before", "_carrier", "_cell", "_within")

    def __init__(self, request_id: str, carrier: Carrier | None, headers: RawHeaders | None = None) -> None:
        before = get_current()
        outer = cell_in(before)
        while isinstance(outer, CarrierCell) and outer.around is not None:
            before = outer.around
            outer = cell_in(before)
        if outer is None or outer.request_id is None or _is_same(outer, carrier, headers):
            if outer is not None:
                outer.request_id = request_id
            _tell_server_span(request_id)
        self._carrier = carrier
        self._before = before
        self._cell = CarrierCell(request_id, outer, headers=headers, is_served=True)
        if carrier is not None:
            carrier[CARRIER_KEY] = self._cell
        self._within = with_cell(self._cell, before)
        attach(self._within)

    @property
    def route(self) -> str | None:
        """The template of the route, where an integration inside has told it."""
        return self._cell.route

    @property
    def is_measured(self) -> bool:
        """Whether an integration inside has told that somebody else records the HTTP duration."""
        return self._cell.is_measured

    @property
    def context(self) -> Context:
        """The Context that the request began with."""
        return self._within

    def wait(self, is_waiting: bool) -> None:
        """Tell whether only the server's own code runs now: what else begins in this thread then is not inside of us.

        A server that never closes a response (a client in tests, mostly) would nest each request in the one before.
        """
        self._cell.around = self._before if is_waiting else None

    def is_named_in(self, context: Context) -> bool:
        """Tell whether `context` belongs to a request of this name, this one or the one around it."""
        cell = cell_in(context)
        return cell is not None and cell.request_id == self._cell.request_id

    def leave(self, error: BaseException | None = None, failure: str | None = None) -> None:
        """Leave the request, with the exception that left it or None, and what else it failed of."""
        cell = self._cell
        if error is not None:
            _remember(error, cell.request_id)
            failure = error_type_of(type(error))
        if failure is not None:
            cell.failure = failure
        cell.ended = True
        cell.around = None
        leave(cell, self._before, self._within)


def is_served(carrier: Carrier) -> bool:
    """Tell whether one of our integrations further out has already bound the request of `carrier`."""
    cell = bound_cell(carrier)
    return cell is not None and cell.is_served


def _is_same(outer: object, carrier: Carrier | None, headers: RawHeaders | None) -> bool:
    """Tell whether a propagator further out bound `outer` from this very carrier; then ours decides about the ID."""
    if not isinstance(outer, CarrierCell) or outer.is_served:
        return False
    return (carrier is not None and bound_cell(carrier) is outer) or outer.is_from_headers(headers)


def _tell_server_span(request_id: str) -> None:
    """Put the ID on the span of an instrumentation outside of us: it began before the request had a name."""
    span = get_current_span()
    if span.is_recording() and getattr(span, "kind", None) is SpanKind.SERVER:
        with suppress(Exception):
            span.set_attribute(policy.attribute, request_id)
