"""The request ID on spans: a span processor that puts it on every span that starts in a request."""

from __future__ import annotations

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from clew.policy import policy
from clew.propagation.cell import UnnamedCell, cell_in


class RequestIdSpanProcessor(SpanProcessor):
    """Sets the attribute ``request_id`` (or as configured) on each span of a request when it starts.

    A span that starts before its request has a name (the server span of an instrumentation outside our middleware) gets
    it as soon as the request is named, if the span still runs then.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Put the ID of the request that the parent Context belongs to on the span."""
        cell = cell_in(get_current() if parent_context is None else parent_context)
        if cell is None:
            return
        if cell.request_id is not None:
            span.set_attribute(policy.attribute, cell.request_id)
        elif isinstance(cell, UnnamedCell):
            cell.name_when_known(span)

    def on_end(self, span: ReadableSpan) -> None:
        """Do nothing: what has ended is as it is."""

    def shutdown(self) -> None:
        """Do nothing: there is nothing to be sent."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return True: there is nothing to be sent."""
        return True
