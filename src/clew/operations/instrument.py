"""What the four kinds of instruments share: an identity, and where the measurements of the current pipeline go.

Where they go is looked up at the first use under a pipeline, and again after each change of it.
"""

# What is private here is private to the module, not to each class.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

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

GREATEST_INTEGER = 2**62
"""An integer is compared with integers, which is quicker than with floats."""

GREATEST = float(2**63 - 1024)
"""The most that is recorded as it is: above it an integer is near the end of its 64 bits, and becomes a float."""

_NAME = re.compile(r"[A-Za-z][-_./A-Za-z0-9]{0,254}")
_MOST_KEPT = 2_000
_MOST_NAMES = 100_000


class _Destination:
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


def _record_nothing(value: float, attributes: Attributes | None, context: Context | None) -> None:
    """Record nothing."""


_NOWHERE = _Destination(None, _record_nothing, None)


names: set[str] = set()
"""The names of all instruments that were asked for, used or not."""


class Instrument:
    """An instrument of one of the four kinds."""

    _create = ""
    _verb = ""
    _least = 0.0
    """The least value that a bound instrument records as it is; the SDK's own instrument refuses what is negative."""
    _is_added_up = True
    """Whether measurements are added up, so that one that is not finite would spoil all that follow."""

    def __init__(self, name: str, unit: str, description: str, scope: str, **advice: Any) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.scope = scope
        self._advice = advice
        self._destination = _NOWHERE
        if len(names) < _MOST_NAMES:
            names.add(name)

    def _measure(self, value: float, attributes: Attributes | None, context: Context | None) -> None:
        current = pipeline.current
        if current is None:
            return
        try:
            destination = self._destination
            if destination.pipeline is not current:
                newly = self._find_destination(current)
                if newly is None:
                    self._defer(value, attributes, context)
                    return
                destination = newly
            kind = type(value)
            sharded = destination.sharded
            if sharded is not None and (
                (kind is int and destination.least_integer <= value <= GREATEST_INTEGER)
                or (kind is float and destination.least <= value <= GREATEST)
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
                destination.real(value, cleaned(attributes), context)
        except Exception as error:  # a value that is no number, attributes that are no mapping
            let_through(error)
            count("measurement.ignored")
            warn_once(("measurement", self.scope, self.name), "A measurement of %s was ignored: %s", self.name, error)

    def _find_destination(self, current: pipeline.Pipeline) -> _Destination | None:
        """Find where measurements go; None where that has to wait, since this thread is in the middle of the SDK.

        Two threads, or a thread and what interrupts it, may do it at one time: they find the same.
        """
        if reentry.is_inside():
            return None
        forks.notice()
        current = pipeline.current or current
        real: Any = _record_nothing
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
        self._destination = destination = _Destination(current, real, sharded, self._least)
        reentry.catch_up()  # what interrupted this
        return destination

    def _defer(self, value: float, attributes: Attributes | None, context: Context | None) -> None:
        """Record a value when this thread is out of what it is in the middle of."""
        context = get_current() if context is None else context
        reentry.put_off(partial(self._measure, value, cleaned(attributes), context))

    def _bounds(self) -> Sequence[float] | None:
        """Return the bounds of a histogram's buckets; None for a kind that sums."""
        return None

    def __reduce__(self) -> Any:
        """Have copies, and what is unpickled, be the instrument of this identity that the process has."""
        return _again, (type(self), self.name, self.unit, self.description, self.scope, self._advice)

    def __repr__(self) -> str:
        return f"<clew {type(self).__name__} {self.name!r} of {self.scope!r}>"


I = TypeVar("I", bound=Instrument)  # noqa: E741


class BoundInstrument(Generic[I]):
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
            local = self._bind()
        try:
            kind = type(amount)
            if local is not None and (
                (kind is int and self._least_integer <= amount <= GREATEST_INTEGER)
                or (kind is float and self._least <= amount <= GREATEST)
            ):
                # a copy of `Series.add`, since a call saved is worth 50 ns of about 400
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

    def _bind(self) -> Any:
        """Return each thread's shard; None where the current pipeline has no shards for this instrument."""
        current, instrument = pipeline.current, self._instrument
        if current is None:
            return None
        known = instrument._destination
        destination = known if known.pipeline is current else instrument._find_destination(current)
        if destination is None or destination.sharded is None:  # as a gauge's always is, which comes here each time
            return None
        self._local = local = destination.sharded.local(self._attributes)
        if pipeline.current is not destination.pipeline:  # it has changed meanwhile
            self._local = None
        return local


_made: dict[tuple[Any, ...], Any] = {}


def make(kind: type[I], name: str, unit: str, description: str, scope: str | None, **advice: Any) -> I:
    """Return the instrument of this identity, the same one each time; without a scope, that of the caller's caller."""
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
    return make(kind, name, unit, description, scope, **advice)
