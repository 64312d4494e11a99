"""The propagator ``request_id``: the request ID in the headers of whatever comes in and goes out.

It stands in `OTEL_PROPAGATORS` beside ``tracecontext`` and ``baggage``, so every OpenTelemetry instrumentation of a
server, a client or a queue takes the request ID over and sends it on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
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
from opentelemetry.trace import Span, SpanKind, get_current_span

from clew.interpreter.interruptions import Suppressed, let_through
from clew.policy import policy
from clew.propagation import baggage, redirects
from clew.propagation.cell import RequestCell, cell_in, request_id_in, with_cell
from clew.propagation.hosts import is_allowed, target_of_attributes
from clew.propagation.ids import accept

CARRIER_KEY = "clew.request"
"""Under this key of an ASGI scope or a WSGI environ stands the cell of the request that was bound from it."""

_MOST_WAITING_SPANS = 32

RawHeaders = Sequence[tuple[bytes, bytes]]


class CarrierCell(RequestCell):
    """The cell of a request that came in by a carrier: an ASGI scope, a WSGI environ, the headers of a message."""

    # What most requests never set stands here, once for all of them.
    _carrier: Any = None
    _getter: Getter[Any] | None = None
    around: Context | None = None
    client: object = None
    ended = False
    route: str | None = None
    is_measured = False

    def __init__(
        self,
        request_id: str | None,
        outer: RequestCell | None = None,
        headers: RawHeaders | None = None,
        is_served: bool = False,
    ) -> None:
        self.headers = headers
        self.is_served = is_served
        super().__init__(request_id, outer)

    @classmethod
    def extracted(cls, request_id: str | None, carrier: Any = None, getter: Getter[Any] | None = None) -> CarrierCell:
        """Return the cell of a request that a propagator has found, with an ID or without one."""
        cell = cls(request_id) if request_id is not None else UnnamedCell(None)
        cell._carrier = carrier
        cell._getter = getter
        return cell

    def is_from_headers(self, headers: RawHeaders | None) -> bool:
        """Tell whether the propagator bound this cell from a carrier that holds just these headers."""
        return headers is not None and self._getter is not None and _holds_headers(self._carrier, self._getter, headers)


class UnnamedCell(CarrierCell):
    """The cell of a request that came in without an ID: whoever names it inside names it for all."""

    _name: str | None = None
    _waiting: list[Span] | None = None

    @property
    def request_id(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The request ID, or None until somebody inside has named the request."""
        return self._name

    @request_id.setter
    def request_id(self, name: str | None) -> None:
        self._name = name
        if name is not None and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            for span in waiting:
                if span.is_recording():
                    span.set_attribute(policy.attribute, name)

    def name_when_known(self, span: Span) -> None:
        """Let `span`, started before the request had a name, get it as an attribute when it comes."""
        if self._waiting is None:
            self._waiting = []
        if len(self._waiting) < _MOST_WAITING_SPANS:
            self._waiting.append(span)


class RequestIdPropagator(TextMapPropagator):
    """Reads the request ID from the header that is configured (``X-Request-ID``) and writes it there.

    Extracting binds a request: with the ID that the carrier brings if it is valid, else without one, for what runs
    inside to name it. A carrier that an integration of `clew` has already bound keeps that request. Injecting writes
    the current request ID; with ``CLEW_REQUEST_ID_HOSTS`` set only where the client span in the Context tells a target
    that is allowed. With ``CLEW_REQUEST_ID_BAGGAGE`` it is written as an entry of W3C Baggage too, and read from there
    where the header is absent. Neither ever raises, whatever the carrier is.
    """

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        """Return a copy of `context` (the root Context if None) that belongs to the request that `carrier` brings."""
        cell = _bound_already(carrier, getter)
        if cell is None:
            name = _read(carrier, getter) if policy.trust else None
            if _is_server_carrier(carrier):
                cell = CarrierCell.extracted(name)
                with Suppressed():
                    cast("MutableMapping[str, object]", carrier)[CARRIER_KEY] = cell
            else:
                cell = CarrierCell.extracted(name, carrier, getter)
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
                    _remove(carrier, request_id)
                    return
                redirects.attend(carrier)
            setter.set(carrier, policy.header, request_id)
            if policy.baggage:
                _put_in_baggage(carrier, request_id, setter)

    @property
    def fields(self) -> set[str]:
        """The headers that `inject` writes."""
        return {policy.header, baggage.HEADER} if policy.baggage else {policy.header}


def bound_cell(carrier: object) -> CarrierCell | None:
    """Return the cell that stands in `carrier`, an ASGI scope or a WSGI environ, of a request that has not ended."""
    if type(carrier) is dict:  # as scopes and environs are
        found: object = carrier.get(CARRIER_KEY)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    elif isinstance(carrier, Mapping):
        try:
            found = cast("Mapping[str, object]", carrier).get(CARRIER_KEY)
        except Exception as trouble:
            let_through(trouble)
            return None
    else:
        return None
    return found if isinstance(found, CarrierCell) and not found.ended else None


def first_value(text: str) -> str:
    """Return what stands before the first comma: servers join repeated headers, and the first one counts."""
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
        and _holds_headers(carrier, getter, current.headers)
    ):
        return current
    return None


def _is_server_carrier(carrier: object) -> bool:
    return isinstance(carrier, MutableMapping) and (
        ("wsgi.version" in carrier and "REQUEST_METHOD" in carrier) or ("asgi" in carrier and "headers" in carrier)
    )


def _holds_headers(carrier: Any, getter: Getter[Any], headers: RawHeaders) -> bool:
    """Tell whether `carrier` is made of exactly these headers: some frameworks extract from a copy of them."""
    expected: dict[str, list[str]] = {}
    try:
        for name, value in headers:
            expected.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        if not expected or {key.lower() for key in getter.keys(carrier)} != expected.keys():
            return False
        return all(_joined(getter.get(carrier, name)) == ",".join(values) for name, values in expected.items())
    except Exception as trouble:
        let_through(trouble)
        return False


def _joined(values: Iterable[str] | None) -> str | None:
    return None if values is None else ",".join(values)


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
    except Exception as trouble:
        let_through(trouble)
        return None
    return _value(getter.get, carrier, other_spellings[0], all_values) if other_spellings else None


def _value(get: Callable[[Any, str], Any], carrier: Any, key: str, all_values: bool) -> str | None:
    """Return the first value of a header, or all of them with commas between; None where there is no text."""
    try:
        found = get(carrier, key)
        if found is None:
            return None
        values: list[object] = [found] if isinstance(found, (str, bytes)) else list(found)
    except Exception as trouble:
        let_through(trouble)
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


def _remove(carrier: Any, request_id: str) -> None:
    """Take our ID out of a carrier that already has it: clients copy the headers of a request for its redirect."""
    if not isinstance(carrier, MutableMapping):
        return
    headers = cast("MutableMapping[str, object]", carrier)
    if policy.baggage:
        baggage.take_out(headers)
    for key in [key for key in headers if str(key).lower() == policy.header.lower()]:
        if headers[key] == request_id:
            del headers[key]
