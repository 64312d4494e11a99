"""The OpenTelemetry instruments for business metrics, thin: counter, histogram, gauge, up-down counter.

They may be made before `clew.configure()`, belong to the scope of the module that makes them, and can be bound to a set
of attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from opentelemetry import metrics
from opentelemetry.context import Context

from clew.operations.instrument import GREATEST, BoundInstrument, Instrument, make

Attributes = Mapping[str, Any]

DEFAULT_BOUNDS = (0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000)
"""The specification's default bounds of a histogram's buckets."""


class BoundCounter(BoundInstrument["Counter"]):
    """A counter bound to a set of attributes."""

    def add(self, amount: float, context: Context | None = None) -> None:
        """Add `amount`, which is not negative; `context` is by default the current one."""
        self._record(amount, context)


class BoundUpDownCounter(BoundInstrument["UpDownCounter"]):
    """An up-down counter bound to a set of attributes."""

    def add(self, amount: float, context: Context | None = None) -> None:
        """Add `amount`; `context` is by default the current one."""
        self._record(amount, context)


class BoundHistogram(BoundInstrument["Histogram"]):
    """A histogram bound to a set of attributes."""

    def record(self, amount: float, context: Context | None = None) -> None:
        """Record `amount`, which is not negative; `context` is by default the current one."""
        self._record(amount, context)


class BoundGauge(BoundInstrument["Gauge"]):
    """A gauge bound to a set of attributes."""

    def set(self, amount: float, context: Context | None = None) -> None:
        """Set the gauge to `amount`; `context` is by default the current one."""
        self._record(amount, context)


class Counter(Instrument, metrics.Counter):
    """A counter: the OTel API's own, with `bind`."""

    _create, _verb = "create_counter", "add"

    def add(self, amount: float, attributes: Attributes | None = None, context: Context | None = None) -> None:
        """Add `amount`, which is not negative."""
        self._measure(amount, attributes, context)

    def bind(self, attributes: Attributes) -> BoundCounter:
        """Return this counter bound to `attributes`. Provisional, as the specification's Bind is."""
        return BoundCounter(self, attributes)


class UpDownCounter(Instrument, metrics.UpDownCounter):
    """An up-down counter: the OTel API's own, with `bind`."""

    _create, _verb = "create_up_down_counter", "add"
    _least = -GREATEST

    def add(self, amount: float, attributes: Attributes | None = None, context: Context | None = None) -> None:
        """Add `amount`, which may be negative."""
        self._measure(amount, attributes, context)

    def bind(self, attributes: Attributes) -> BoundUpDownCounter:
        """Return this up-down counter bound to `attributes`. Provisional, as the specification's Bind is."""
        return BoundUpDownCounter(self, attributes)


class Histogram(Instrument, metrics.Histogram):
    """A histogram: the OTel API's own, with `bind`."""

    _create, _verb = "create_histogram", "record"

    def _bounds(self) -> Sequence[float]:
        bounds: Sequence[float] = self._advice.get("explicit_bucket_boundaries_advisory", DEFAULT_BOUNDS)
        return bounds

    def record(self, amount: float, attributes: Attributes | None = None, context: Context | None = None) -> None:
        """Record `amount`, which is not negative."""
        self._measure(amount, attributes, context)

    def bind(self, attributes: Attributes) -> BoundHistogram:
        """Return this histogram bound to `attributes`. Provisional, as the specification's Bind is."""
        return BoundHistogram(self, attributes)


class Gauge(Instrument, metrics._Gauge):
    """A gauge: the OTel API's own, with `bind`. Its last value is what counts, so it is never in shards."""

    _create, _verb = "create_gauge", "set"
    _is_added_up = False

    def set(self, amount: float, attributes: Attributes | None = None, context: Context | None = None) -> None:
        """Set the gauge to `amount`."""
        self._measure(amount, attributes, context)

    def bind(self, attributes: Attributes) -> BoundGauge:
        """Return this gauge bound to `attributes`. Provisional, as the specification's Bind is."""
        return BoundGauge(self, attributes)


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
    return make(Counter, name, unit, description, scope)


def up_down_counter(name: str, *, unit: str = "", description: str = "", scope: str | None = None) -> UpDownCounter:
    """Return an up-down counter; arguments and errors are those of `counter`."""
    return make(UpDownCounter, name, unit, description, scope)


def gauge(name: str, *, unit: str = "", description: str = "", scope: str | None = None) -> Gauge:
    """Return a gauge; arguments and errors are those of `counter`."""
    return make(Gauge, name, unit, description, scope)


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
        return make(Histogram, name, unit, description, scope)
    rising = tuple(bounds)
    if any(isinstance(b, bool) or not isinstance(b, (int, float)) for b in rising) or any(
        not low < high for low, high in pairwise(rising)
    ):
        raise ValueError(f"clew.histogram({name!r}): bounds are rising numbers, not {bounds!r}")
    return make(Histogram, name, unit, description, scope, explicit_bucket_boundaries_advisory=rising)
