"""The propagator ``request_id``: the request ID in the headers of what comes in and goes out.

It is among `OTEL_PROPAGATORS`, beside ``tracecontext`` and ``baggage``, so that every OpenTelemetry instrumentation of
a server, a client or a queue accepts the request ID and passes it on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, cast

from opentelemetry.context import Context, get_current
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace import SpanKind, get_current_span

from clew.interpreter.interruptions import Suppressed, let_through
from clew.policy import policy
from clew.propagation import baggage, redirects
from clew.propagation.cell import (
    CARRIER_KEY,
    CarrierCell,
    ExtractedCell,
    UnnamedCell,
    bound_cell,
    cell_in,
    holds_headers,
    request_id_in,
    with_cell,
)
from clew.propagation.hosts import is_allowed, target_of_attributes
from clew.propagation.ids import accept


class RequestIdPropagator(TextMapPropagator):
    """Reads the request ID from the header that is configured (``X-Request-ID``) and writes it there.

    Extracting binds a request: with the ID that the carrier brings if it is valid, else without one, for what runs
    inside to name it. A carrier that an integration of `clew` has already bound keeps that request. Injecting writes
    the current request ID; with ``CLEW_REQUEST_ID_HOSTS`` set only where the client span in the Context tells a target
    that is allowed. With ``CLEW_REQUEST_ID_BAGGAGE`` it is written as an entry of W3C Baggage too, and read from there
    where the header is absent. Neither ever raises, for any carrier.
    """

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        """Return a copy of `context` (the root Context if None) that belongs to the request that `carrier` brings."""
        cell = _bound_already(carrier, getter)
        if cell is None:
            name = _read(carrier, getter) if policy.trust else None
            kind = UnnamedCell if name is None else ExtractedCell
            if _is_server_carrier(carrier):
                cell = kind(name)
                with Suppressed():
                    cast("MutableMapping[str, object]", carrier)[CARRIER_KEY] = cell
            else:
                cell = kind(name, carrier, getter)
        return with_cell(cell, Context() if context is None else context)

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        """Write the request ID of `context` (the current one if None) into `carrier`, if its target may have it."""
        if context is None:
            context = get_current()
        request_id = request_id_in(context)
        if request_id is None:
            return
        with Suppressed():
            if policy.hosts is not None:
                if not is_allowed(_target(context), policy.hosts):
                    if isinstance(carrier, MutableMapping):
                        redirects.take_out(cast("MutableMapping[str, Any]", carrier), request_id)
                    return
                redirects.guard(carrier)
            setter.set(carrier, policy.header, request_id)
            if policy.baggage:
                _put_in_baggage(carrier, request_id, setter)

    @property
    def fields(self) -> set[str]:
        """The headers that `inject` writes."""
        return {policy.header, baggage.HEADER} if policy.baggage else {policy.header}


def first_value(text: str) -> str:
    """Return what is before the first comma: servers join repeated headers, and the first one counts."""
    return text.split(",", 1)[0].strip(" \t")


def _bound_already(carrier: Any, getter: Getter[Any]) -> CarrierCell | None:
    cell = bound_cell(carrier)
    if cell is not None:
        return cell
    current = cell_in(get_current())
    if (
        isinstance(current, CarrierCell)
        and current.is_served
        and current.headers is not None
        and not current.ended
        and holds_headers(carrier, getter, current.headers)
    ):
        return current
    return None


def _is_server_carrier(carrier: object) -> bool:
    return isinstance(carrier, MutableMapping) and (
        ("wsgi.version" in carrier and "REQUEST_METHOD" in carrier) or ("asgi" in carrier and "headers" in carrier)
    )


def _read(carrier: Any, getter: Getter[Any]) -> str | None:
    text = first_value(_header(carrier, getter, policy.header) or "")
    if not text and policy.baggage:
        text = baggage.id_in(_header(carrier, getter, baggage.HEADER, all_values=True) or "") or ""
    return accept(text) if text else None


def _header(carrier: Any, getter: Getter[Any], header: str, *, all_values: bool = False) -> str | None:
    for key in (header, header.lower()):
        text = _value(getter.get, carrier, key, all_values)
        if text is not None:
            return text
    try:
        other_spellings = [key for key in getter.keys(carrier) if key.lower() == header.lower()]
    except Exception as error:
        let_through(error)
        return None
    return _value(getter.get, carrier, other_spellings[0], all_values) if other_spellings else None


def _value(get: Callable[[Any, str], Any], carrier: Any, key: str, all_values: bool) -> str | None:
    """Return the first value of a header, or all of them with commas between; None where there is no text."""
    try:
        found = get(carrier, key)
        if found is None:
            return None
        values: list[object] = [found] if isinstance(found, (str, bytes)) else list(found)
    except Exception as error:
        let_through(error)
        return None
    texts = [value.decode("latin-1") if isinstance(value, bytes) else value for value in values]
    if not all_values:
        texts = texts[:1]
    return ",".join(text for text in texts if isinstance(text, str)) if texts and isinstance(texts[0], str) else None


def _put_in_baggage(carrier: Any, request_id: str, setter: Setter[Any]) -> None:
    # what is no mapping is a list of headers, as a rule: there may be several of this one
    headers: Mapping[str, Any] = {}
    if isinstance(carrier, Mapping):
        headers = cast("Mapping[str, Any]", carrier)
    baggage.put(headers, request_id, lambda key, text: setter.set(carrier, key, text))


def _target(context: Context) -> tuple[str, int | None] | None:
    span = get_current_span(context)
    if getattr(span, "kind", None) not in (SpanKind.CLIENT, SpanKind.PRODUCER):
        return None
    attributes = getattr(span, "attributes", None)
    return target_of_attributes(cast("Mapping[str, object]", attributes)) if isinstance(attributes, Mapping) else None
