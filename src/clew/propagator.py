"""The propagator ``request_id``: the request ID in the headers of whatever comes in and goes out.

It stands in `OTEL_PROPAGATORS` beside ``tracecontext`` and ``baggage``, so every OpenTelemetry instrumentation of a
server, a client or a queue takes the request ID over and sends it on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
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

from clew import redirects
from clew.hosts import is_allowed, target_of_attributes
from clew.request import RequestCell, accept, cell_in, policy, request_id_in, with_cell

CARRIER_KEY = "clew.request"
"""Under this key of an ASGI scope or a WSGI environ stands the cell of the request that was bound from it."""

_MOST_WAITING_SPANS = 32

RawHeaders = Sequence[tuple[bytes, bytes]]


class CarrierCell(RequestCell):
    """The cell of a request that came in by a carrier: an ASGI scope, a WSGI environ, the headers of a message.

    It may be bound before anybody has named the request; spans started until then get the ID when it comes.
    """

    __slots__ = (
        "_carrier",
        "_getter",
        "_name",
        "_waiting",
        "around",
        "ended",
        "failure",
        "headers",
        "is_measured",
        "is_served",
        "route",
    )

    def __init__(
        self,
        request_id: str | None,
        outer: RequestCell | None = None,
        *,
        carrier: Any = None,
        getter: Getter[Any] | None = None,
        headers: RawHeaders | None = None,
        is_served: bool = False,
    ) -> None:
        self._name: str | None = None
        self._waiting: list[Span] | None = None
        self._carrier = carrier
        self._getter = getter
        self.headers = headers
        self.is_served = is_served
        self.ended = False
        self.around: Context | None = None
        self.failure: str | None = None
        self.route: str | None = None
        self.is_measured = False
        super().__init__(request_id, outer)

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

    def is_from_headers(self, headers: RawHeaders | None) -> bool:
        """Tell whether the propagator bound this cell from a carrier that holds just these headers."""
        return headers is not None and self._getter is not None and _holds_headers(self._carrier, self._getter, headers)


class RequestIdPropagator(TextMapPropagator):
    """Reads the request ID from the header that is configured (``X-Request-ID``) and writes it there.

    Extracting binds a request: with the ID that the carrier brings if it is valid, else without one, for what runs
    inside to name it. A carrier that an integration of `clew` has already bound keeps that request. Injecting writes
    the current request ID; with ``CLEW_REQUEST_ID_HOSTS`` set only where the client span in the Context tells a target
    that is allowed. Neither ever raises, whatever the carrier is.
    """

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        """Return a copy of `context` (the root Context if None) that belongs to the request that `carrier` brings."""
        cell = _bound_already(carrier, getter)
        if cell is None:
            name = _read(carrier, getter) if policy.trust else None
            if _is_server_carrier(carrier):
                cell = CarrierCell(name)
                with suppress(Exception):
                    cast("MutableMapping[str, object]", carrier)[CARRIER_KEY] = cell
            else:
                cell = CarrierCell(name, carrier=carrier, getter=getter)
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
        with suppress(Exception):
            if policy.hosts is None:
                setter.set(carrier, policy.header, request_id)
            elif is_allowed(_target(context), policy.hosts):
                redirects.attend(carrier)
                setter.set(carrier, policy.header, request_id)
            else:
                _remove(carrier, request_id)

    @property
    def fields(self) -> set[str]:
        """The one header that `inject` writes."""
        return {policy.header}


def bound_cell(carrier: object) -> CarrierCell | None:
    """Return the cell that stands in `carrier`, an ASGI scope or a WSGI environ, of a request that has not ended."""
    if not isinstance(carrier, Mapping):
        return None
    try:
        found = cast("Mapping[str, object]", carrier).get(CARRIER_KEY)
    except Exception:
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
    except Exception:
        return False


def _joined(values: Iterable[str] | None) -> str | None:
    return None if values is None else ",".join(values)


def _read(carrier: Any, getter: Getter[Any]) -> str | None:
    text = first_value(_header(carrier, getter) or "")
    return accept(text) if text else None


def _header(carrier: Any, getter: Getter[Any]) -> str | None:
    header = policy.header
    for key in (header, header.lower()):
        text = _value(getter.get, carrier, key)
        if text is not None:
            return text
    try:
        other_spellings = [key for key in getter.keys(carrier) if key.lower() == header.lower()]
    except Exception:
        return None
    return _value(getter.get, carrier, other_spellings[0]) if other_spellings else None


def _value(get: Callable[[Any, str], Any], carrier: Any, key: str) -> str | None:
    try:
        values = get(carrier, key)
        if values is None:
            return None
        value: object = values if isinstance(values, (str, bytes)) else next(iter(values), None)
    except Exception:
        return None
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else None


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
    for key in [key for key in headers if str(key).lower() == policy.header.lower()]:
        if headers[key] == request_id:
            del headers[key]
