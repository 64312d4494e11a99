"""The OpenTelemetry instruments for business metrics, thin: counter, histogram, gauge, up-down counter.

They may be made before `clew.configure()`, belong to the scope of the module that makes them, and can be bound to a set
of attributes. Where measurements go is settled at the first use after `configure()`, and again after each further one.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Generic, TypeVar

from opentelemetry import metrics
from opentelemetry.context import Context

from clew import pipeline
from clew.attributes import is_reserved
from clew.diagnostics import count, say_once

Attributes = Mapping[str, Any]
Record = Callable[[float, "Attributes | None", "Context | None"], None]

_NAME = re.compile(r"[A-Za-z][-_./A-Za-z0-9]{0,254}")
_MOST_KEPT = 2_000


class _Instrument:
    """What the four kinds share: an identity, and where the measurements of the current pipeline go."""

    _create = ""
    _verb = ""

    def __init__(self, name: str, unit: str, description: str, scope: str, **advice: Any) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.scope = scope
        self._advice = advice
        self._pipeline: pipeline.Pipeline | None = None
        self._real: Record = _drop
        self._lock = threading.Lock()

    def _measure(self, value: float, attributes: Attributes | None, context: Context | None) -> None:
        current = pipeline.current
        if current is None:
            return
        try:
            if self._pipeline is not current:
                self._settle(current)
            if attributes and any(map(is_reserved_here, attributes)):
                attributes = without_reserved(attributes)
            self._real(value, attributes, context)
        except Exception as error:  # a value that is no number, attributes that are no mapping
            count("measurement.ignored")
            say_once(("measurement", self.scope, self.name), "A measurement of %s was ignored: %s", self.name, error)

    def _settle(self, current: pipeline.Pipeline) -> None:
        with self._lock:
            if self._pipeline is current:
                return
            try:
                meter = current.meter_provider.get_meter(self.scope)
                instrument = getattr(meter, self._create)(
                    self.name, unit=self.unit, description=self.description, **self._advice
                )
                self._real = getattr(instrument, self._verb)
            except Exception as error:
                count("instrument.not_made")
                say_once(("instrument", self.scope, self.name), "The instrument %s was not made: %s", self.name, error)
                self._real = _drop
            self._pipeline = current

    def __repr__(self) -> str:
        return f"<clew {type(self).__name__} {self.name!r} of {self.scope!r}>"


def _drop(value: float, attributes: Attributes | None, context: Context | None) -> None:
    """Record nothing."""


def is_reserved_here(name: str) -> bool:
    """Tell whether an attribute of the user's own instruments is ignored; ``error.type`` is theirs to use."""
    return name != "error.type" and name != "operation.name" and is_reserved(name)


def without_reserved(attributes: Attributes) -> dict[str, Any]:
    """Return the attributes without the reserved names, each of which is counted and said once."""
    kept: dict[str, Any] = {}
    for name, value in attributes.items():
        if is_reserved_here(name):
            count("attribute.ignored")
            say_once(("reserved", name), "The attribute name %s is reserved; the value given for it is ignored", name)
        else:
            kept[name] = value
    return kept


I = TypeVar("I", bound=_Instrument)  # noqa: E741


class _Bound(Generic[I]):
    """An instrument with its attributes given once; by the specification's Bind, provisional while that is."""

    __slots__ = ("_attributes", "_instrument")

    def __init__(self, instrument: I, attributes: Attributes) -> None:
        self._instrument = instrument
        self._attributes = dict(attributes)


class BoundCounter(_Bound["Counter"]):
    """A counter bound to a set of attributes."""

    def add(self, amount: float, context: Context | None = None) -> None:
        """Add `amount`, which is not negative, in `context` or else the current one."""
        self._instrument._measure(amount, self._attributes, context)


class BoundUpDownCounter(_Bound["UpDownCounter"]):
    """An up-down counter bound to a set of attributes."""

    def add(self, amount: float, context: Context | None = None) -> None:
        """Add `amount`, in `context` or else the current one."""
        self._instrument._measure(amount, self._attributes, context)


class BoundHistogram(_Bound["Histogram"]):
    """A histogram bound to a set of attributes."""

    def record(self, amount: float, context: Context | None = None) -> None:
        """Record `amount`, which is not negative, in `context` or else the current one."""
        self._instrument._measure(amount, self._attributes, context)


class BoundGauge(_Bound["Gauge"]):
    """A gauge bound to a set of attributes."""

    def set(self, amount: float, context: Context | None = None) -> None:
        """Set the gauge to `amount`, in `context` or else the current one."""
        self._instrument._measure(amount, self._attributes, context)


class Counter(_Instrument, metrics.Counter):
    """A counter: the OTel API's own, with `bind`."""

    _create, _verb = "create_counter", "add"

    def add(self, amount: float, attributes: Attributes | None = None, context: Context | None = None) -> None:
        """Add `amount`, which is not negative."""
        self._measure(amount, attributes, context)

    def bind(self, attributes: Attributes) -> BoundCounter:
        """Return this counter bound to `attributes`. Provisional, as the specification's Bind is."""
        return BoundCounter(self, attributes)


class UpDownCounter(_Instrument, metrics.UpDownCounter):
    """An up-down counter: the OTel API's own, with `bind`."""

    _create, _verb = "create_up_down_counter", "add"

    def add(self, amount: float, attributes: Attributes | None = None, context: Context | None = None) -> None:
        """Add `amount`, which may be negative."""
        self._measure(amount, attributes, context)

    def bind(self, attributes: Attributes) -> BoundUpDownCounter:
        """Return this up-down counter bound to `attributes`. Provisional, as the specification's Bind is."""
        return BoundUpDownCounter(self, attributes)


class Histogram(_Instrument, metrics.Histogram):
    """A histogram: the OTel API's own, with `bind`."""

    _create, _verb = "create_histogram", "record"

    def record(self, amount: float, attributes: Attributes | None = None, context: Context | None = None) -> None:
        """Record `amount`, which is not negative."""
        self._measure(amount, attributes, context)

    def bind(self, attributes: Attributes) -> BoundHistogram:
        """Return this histogram bound to `attributes`. Provisional, as the specification's Bind is."""
        return BoundHistogram(self, attributes)


class Gauge(_Instrument, metrics._Gauge):
    """A gauge: the OTel API's own, with `bind`."""

    _create, _verb = "create_gauge", "set"

    def set(self, amount: float, attributes: Attributes | None = None, context: Context | None = None) -> None:
        """Set the gauge to `amount`."""
        self._measure(amount, attributes, context)

    def bind(self, attributes: Attributes) -> BoundGauge:
        """Return this gauge bound to `attributes`. Provisional, as the specification's Bind is."""
        return BoundGauge(self, attributes)


_made: dict[tuple[Any, ...], Any] = {}


def _make(kind: type[I], name: str, unit: str, description: str, scope: str | None, **advice: Any) -> I:
    what = kind.__name__.lower()
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"clew.{what}: an instrument's name is a letter and up to 254 letters, digits, '_', '.', '-' or '/', "
            f"not {name!r}"
        )
    if not isinstance(unit, str) or not unit.isascii() or len(unit) > 63:
        raise ValueError(f"clew.{what}({name!r}): a unit has at most 63 ASCII characters, not {unit!r}")
    scope = scope or sys._getframe(2).f_globals.get("__name__") or "clew"
    identity = (kind, name.lower(), unit, description, scope, *advice.items())
    found = _made.get(identity)
    if found is None:
        found = kind(name, unit, description, scope, **advice)
        if len(_made) < _MOST_KEPT:
            found = _made.setdefault(identity, found)
    return found


def counter(name: str, *, unit: str = "", description: str = "", scope: str | None = None) -> Counter:
    """Return a counter, such as ``clew.counter("orders", unit="{order}")``; each call with one identity returns it.

    Args:
        name: A letter and up to 254 letters, digits, ``_``, ``.``, ``-`` or ``/``.
        unit: By UCUM, such as ``s``, ``By`` or ``{order}``; at most 63 ASCII characters.
        description: What it counts.
        scope: The name of the instrumentation scope; the calling module's by default.

    Raises:
        ValueError: The name or the unit breaks OpenTelemetry's rules.
    """
    return _make(Counter, name, unit, description, scope)


def up_down_counter(name: str, *, unit: str = "", description: str = "", scope: str | None = None) -> UpDownCounter:
    """Return an up-down counter; arguments and errors are those of `counter`."""
    return _make(UpDownCounter, name, unit, description, scope)


def gauge(name: str, *, unit: str = "", description: str = "", scope: str | None = None) -> Gauge:
    """Return a gauge; arguments and errors are those of `counter`."""
    return _make(Gauge, name, unit, description, scope)


def histogram(
    name: str,
    *,
    unit: str = "",
    description: str = "",
    scope: str | None = None,
    bounds: Sequence[float] | None = None,
) -> Histogram:
    """Return a histogram; arguments and errors are those of `counter`, and further:

    Args:
        bounds: Upper bounds of the buckets, in `unit`, rising; the SDK's default ones where None.

    Raises:
        ValueError: The bounds are not rising numbers.
    """
    if bounds is None:
        return _make(Histogram, name, unit, description, scope)
    rising = tuple(bounds)
    if any(isinstance(b, bool) or not isinstance(b, (int, float)) for b in rising) or any(
        not low < high for low, high in pairwise(rising)
    ):
        raise ValueError(f"clew.histogram({name!r}): bounds are rising numbers, not {bounds!r}")
    return _make(Histogram, name, unit, description, scope, explicit_bucket_boundaries_advisory=rising)
