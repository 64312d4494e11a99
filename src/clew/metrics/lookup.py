"""How a measurement finds its thread's shard: by its attributes as they are given, before they are cleaned."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from clew.attributes import CARDINALITY_LIMIT, OVERFLOW, Key, Value, clean_instrument_attributes, key_of
from clew.diagnostics import count
from clew.interpreter.interruptions import let_through
from clew.metrics.shards import OperationLocal, Series, SeriesLocal, Shard

PLAIN = frozenset({str, bool, int, float})
"""The types of values that attributes are looked up by as they are."""

_MOST_LOOKED_UP = 4_096

_NO_ATTRIBUTES: Mapping[str, Any] = {}


def lookup_of(items: tuple[tuple[str, Any], ...], types: tuple[type, ...]) -> Any:
    """Return what attributes are looked up by in a thread's table, or None where they cannot be.

    As keys True, 1 and 1.0 are equal, so only texts are looked up without their types.
    """
    if types.count(str) == len(types):
        return items
    return (items, types) if PLAIN.issuperset(types) else None


def enter_shard(table: OperationLocal, series: Series, lookup: Any, given: Mapping[str, Any]) -> Shard:
    """Return the calling thread's shard of a series, and let it be found by `lookup` the next time.

    But not by what would fill the table with entries for one series: names that are ignored, and NaN, which equals
    nothing.
    """
    if lookup is None or len(table.shards) >= _MOST_LOOKED_UP or not _is_all_of(series, given):
        return table.shard_of(series)
    shard = table.shards[lookup] = table.lease(series)
    return shard


def _is_all_of(series: Series, given: Mapping[str, Any]) -> bool:
    try:
        return all(name in series.attributes and value == value for name, value in given.items())
    except Exception as error:  # of a mapping or a name of the user's
        let_through(error)
        return False


class InstrumentBinding:
    """One of the user's instruments in shards: its series by their attributes, and each thread's shards.

    Args:
        new_series: Makes the series of an attribute set, given with its key.
    """

    __slots__ = ("_local", "_lock", "_new_series", "_overflow", "_series")

    def __init__(self, new_series: Callable[[Mapping[str, Value], Key], Series]) -> None:
        self._new_series = new_series
        self._local = OperationLocal()
        self._lock = threading.RLock()  # a signal handler may measure in the middle
        self._series: dict[Key, Series] = {}
        self._overflow: Series | None = None

    def shard(self, attributes: Mapping[str, Any] | None) -> Shard:
        """Return the calling thread's shard of the series of these attributes."""
        if attributes is None:
            attributes = _NO_ATTRIBUTES
        try:
            items = tuple(attributes.items())
            shard = self._local.shards.get(items)
            if shard is not None:
                return shard  # type: ignore[no-any-return]
            lookup = lookup_of(items, tuple(map(type, attributes.values())))
            shard = self._local.shards.get(lookup)
        except Exception as error:  # a list among the values, or another value that cannot be looked up
            let_through(error)
            lookup = shard = None
        return self._find(attributes, lookup) if shard is None else shard

    def _find(self, attributes: Mapping[str, Any], lookup: Any) -> Shard:
        series = self._series_of(attributes)
        if series is self._overflow:
            lookup = None
        return enter_shard(self._local, series, lookup, attributes)

    def _series_of(self, attributes: Mapping[str, Any]) -> Series:
        cleaned = clean_instrument_attributes(attributes)
        key = key_of(cleaned)
        series = self._series.get(key)
        if series is not None:
            return series
        with self._lock:
            series = self._series.get(key)
            if series is None:
                if len(self._series) >= CARDINALITY_LIMIT:
                    return self._beyond()
                series = self._series.setdefault(key, self._new_series(cleaned, key))
            return series

    def _beyond(self) -> Series:
        """Return the series of all attribute sets past the limit."""
        count("attributes.overflow")
        if self._overflow is None:
            self._overflow = self._new_series({OVERFLOW: True}, ())
        return self._overflow

    def local(self, attributes: Mapping[str, Any]) -> SeriesLocal:
        """Return each thread's shard of the series of these attributes."""
        return SeriesLocal(self._series_of(attributes))
