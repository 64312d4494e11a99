"""The OpenTelemetry instruments for business metrics, thin: counter, histogram, gauge, up-down counter.

They may be made before `clew.configure()`, belong to the scope of the module that makes them, and can be bound to a set
of attributes. Where measurements go is settled at the first use after `configure()`, and again after each further one.
"""

# What is private here is private to the module, not to each class.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from opentelemetry import metrics
from opentelemetry.context import Context, get_current

from clew.any_value import nearest_finite, nearest_number
from clew.attributes import clean_instrument_attributes as cleaned
from clew.diagnostics import count, warn_once
from clew.interpreter import forks
from clew.interpreter.interruptions import let_through
from clew.metrics import reentry
from clew.operations import pipeline
from clew.operations.bind import bind_instrument

if TYPE_CHECKING:
    from clew.metrics.lookup import InstrumentBinding

Attributes = Mapping[str, Any]

DEFAULT_BOUNDS = (0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000)
"""The specification's default bounds of a histogram's buckets."""

_MOST_INTEGER = 2**62
"""An integer is compared with integers, which is quicker than with floats."""

_MOST = float(2**63 - 1024)
"""The most that is recorded as it is: above it an integer is near the end of its 64 bits, and becomes a float."""

_NAME = re.compile(r"[A-Za-z][-_./A-Za-z0-9]{0,254}")
_MOST_KEPT = 2_000
_MOST_NAMES = 100_000


class _Settled:
    """Where the measurements of an instrument go under one pipeline: into shards, or into the SDK's own instrument."""

    __slots__ = ("least", "least_integer", "pipeline", "real", "sharded")

    def __init__(
        self, pipeline: pipeline.Pipeline | None, real: Any, sharded: InstrumentBinding | None, least: float = 0.0
    ) -> None:
        self.least = least
        self.least_integer = int(least)
        self.pipeline = pipeline
        self.real = real
        self.sharded = sharded


def _drop(value: float, attributes: Attributes | None, context: Context | None) -> None:
    """Record nothing."""


_NOWHERE = _Settled(None, _drop, None)


names: set[str] = set()
"""The names of all instruments that were asked for, used or not."""


class _Instrument:
    """What the four kinds share: an identity, and where the measurements of the current pipeline go."""

    _create = ""
    _verb = ""
    _least = 0.0
    """The least value that a bound instrument records as it is; the SDK's own instrument refuses what is negative."""
    _is_added_up = True
    """Whether measurements are added up, so that one that is no finite number would spoil all that follow."""

    def __init__(self, name: str, unit: str, description: str, scope: str, **advice: Any) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.scope = scope
        self._advice = advice
        self._settled = _NOWHERE
        if len(names) < _MOST_NAMES:
            names.add(name)

    def _measure(self, value: float, attributes: Attributes | None, context: Context | None) -> None:
        current = pipeline.current
        if current is None:
            return
        try:
            settled = self._settled
            if settled.pipeline is not current:
                newly = self._settle(current)
                if newly is None:
                    self._put_off(value, attributes, context)
                    return
                settled = newly
            kind = type(value)
            sharded = settled.sharded
            if sharded is not None and (
                (kind is int and settled.least_integer <= value <= _MOST_INTEGER)
                or (kind is float and settled.least <= value <= _MOST)
            ):
                shard = sharded.shard(attributes)
                shard.series.add(shard, value, context)
                return
            value = nearest_finite(value) if self._is_added_up else nearest_number(value)
            if sharded is not None and (self._least < 0 or value >= 0):
                shard = sharded.shard(attributes)
                shard.series.add(shard, value, context)
            else:
                reentry.catch_up()  # of a gauge's values the last one counts
                settled.real(value, cleaned(attributes), context)
        except Exception as error:  # a value that is no number, attributes that are no mapping
            let_through(error)
            count("measurement.ignored")
            warn_once(("measurement", self.scope, self.name), "A measurement of %s was ignored: %s", self.name, error)

    def _settle(self, current: pipeline.Pipeline) -> _Settled | None:
        """Settle where measurements go; None where that has to wait, since this thread is in the middle of the SDK.

        Two threads, or a thread and what interrupts it, may do it at one time: they find the same.
        """
        if reentry.is_inside():
            return None
        forks.notice()
        current = pipeline.current or current
        real: Any = _drop
        sharded: InstrumentBinding | None = None
        try:
            from clew.metrics.limits import limited  # only where there is something to record into

            meter = current.meter_provider.get_meter(self.scope)
            instrument = getattr(meter, self._create)(
                self.name, unit=self.unit, description=self.description, **self._advice
            )
            real = limited(getattr(instrument, self._verb), self.name)
            if self._is_added_up:
                sharded = bind_instrument(instrument, self._bounds(), current)
        except Exception as error:
            let_through(error)
            count("instrument.not_made")
            warn_once(("instrument", self.scope, self.name), "The instrument %s was not made: %s", self.name, error)
        self._settled = settled = _Settled(current, real, sharded, self._least)
        reentry.catch_up()  # what interrupted this
        return settled

    def _put_off(self, value: float, attributes: Attributes | None, context: Context | None) -> None:
        """Record a value when this thread is out of what it is in the middle of."""
        context = get_current() if context is None else context
        reentry.put_off(partial(self._measure, value, cleaned(attributes), context))

    def _bounds(self) -> Sequence[float] | None:
        """Return the bounds of a histogram's buckets; None for a kind that sums."""
        return None

    def __reduce__(self) -> Any:
        """A copy, and what is unpickled, is the instrument of that identity that the process has."""
        return _again, (type(self), self.name, self.unit, self.description, self.scope, self._advice)

    def __repr__(self) -> str:
        return f"<clew {type(self).__name__} {self.name!r} of {self.scope!r}>"


I = TypeVar("I", bound=_Instrument)  # noqa: E741


class _Bound(Generic[I]):
    """An instrument with its attributes given once; by the specification's Bind, provisional while that is.

    Bound to its shards at its first use under a pipeline, so that from then on no attributes are looked at.
    """

    __slots__ = ("__weakref__", "_attributes", "_instrument", "_least", "_least_integer", "_local")

    def __init__(self, instrument: I, attributes: Attributes) -> None:
        self._instrument = instrument
        self._attributes = cleaned(attributes)
        self._least = instrument._least
        self._least_integer = int(instrument._least)
        self._local: Any = None
        pipeline.bound.add(self)

    def __reduce__(self) -> Any:
        return type(self), (self._instrument, self._attributes)

    def unbind(self) -> None:
        """Let go of the pipeline, which has changed."""
        self._local = None

    def _record(self, amount: float, context: Context | None) -> None:
        local = self._local
        if local is None:
            local = self._linked()
        try:
            kind = type(amount)
            if local is not None and (
                (kind is int and self._least_integer <= amount <= _MOST_INTEGER)
                or (kind is float and self._least <= amount <= _MOST)
            ):
                # as `Series.add` has it, written out since a call saved is worth 50 ns of about 400
                shard = local.shard
                index = bisect_left(shard.bounds, amount)
                shard.counts[index] += 1
                shard.total += amount
                interval = shard.interval
                if amount < interval.min:
                    interval.min = amount
                if amount > interval.max:
                    interval.max = amount
                if amount >= interval.thresholds[index]:
                    shard.series.layout.offer(interval, index, amount, context)
                return
        except TypeError:  # no number; the instrument says so
            pass
        self._instrument._measure(amount, self._attributes, context)

    def _linked(self) -> Any:
        """Return each thread's shard, where the current pipeline has shards for this instrument; or else None."""
        current, instrument = pipeline.current, self._instrument
        if current is None:
            return None
        settled = instrument._settled if instrument._settled.pipeline is current else instrument._settle(current)
        if settled is None or settled.sharded is None:  # as a gauge's always is, which comes here each time
            return None
        self._local = local = settled.sharded.local(self._attributes)
        if pipeline.current is not settled.pipeline:  # it has changed meanwhile
            self._local = None
        return local


class BoundCounter(_Bound["Counter"]):
    """A counter bound to a set of attributes."""

    def add(self, amount: float, context: Context | None = None) -> None:
        """Add `amount`, which is not negative, in `context` or else the current one."""
        self._record(amount, context)


class BoundUpDownCounter(_Bound["UpDownCounter"]):
    """An up-down counter bound to a set of attributes."""

    def add(self, amount: float, context: Context | None = None) -> None:
        """Add `amount`, in `context` or else the current one."""
        self._record(amount, context)


class BoundHistogram(_Bound["Histogram"]):
    """A histogram bound to a set of attributes."""

    def record(self, amount: float, context: Context | None = None) -> None:
        """Record `amount`, which is not negative, in `context` or else the current one."""
        self._record(amount, context)


class BoundGauge(_Bound["Gauge"]):
    """A gauge bound to a set of attributes."""

    def set(self, amount: float, context: Context | None = None) -> None:
        """Set the gauge to `amount`, in `context` or else the current one."""
        self._record(amount, context)


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
    _least = -_MOST

    def add(self, amount: float, attributes: Attributes | None = None, context: Context | None = None) -> None:
        """Add `amount`, which may be negative."""
        self._measure(amount, attributes, context)

    def bind(self, attributes: Attributes) -> BoundUpDownCounter:
        """Return this up-down counter bound to `attributes`. Provisional, as the specification's Bind is."""
        return BoundUpDownCounter(self, attributes)


class Histogram(_Instrument, metrics.Histogram):
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


class Gauge(_Instrument, metrics._Gauge):
    """A gauge: the OTel API's own, with `bind`. Its last value is what counts, so it is never in shards."""

    _create, _verb = "create_gauge", "set"
    _is_added_up = False

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
    owner: str = scope or sys._getframe(2).f_globals.get("__name__") or "clew"
    identity = (kind, name.lower(), unit, description, owner, *advice.items())
    found = _made.get(identity)
    if found is None:
        found = kind(name, unit, description, owner, **advice)
        if len(_made) < _MOST_KEPT:
            found = _made.setdefault(identity, found)
    return found


def _again(kind: type[I], name: str, unit: str, description: str, scope: str, advice: dict[str, Any]) -> I:
    return _make(kind, name, unit, description, scope, **advice)


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
