"""The first measurement under a provider of ours: what starts its readers where nobody called `clew.configure()`.

A process that was started without code may be a short helper that measures nothing. It has no thread then, and nothing
to send at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.metrics import Meter

from clew.attributes import Value
from clew.metrics import sdk
from clew.metrics.sharded import OwnRecorder, ShardedInstrument, ShardedMeterProvider

_OWN_SCOPE = "clew"
"""Instruments of this scope are there before anything is measured; their recorder tells when something is."""


class WatchedMeterProvider(ShardedMeterProvider):
    """A MeterProvider that calls back, once, when something is about to be measured: an operation or an instrument."""

    _on_first: Callable[[], None] | None = None

    def on_first_measurement(self, callback: Callable[[], None]) -> None:
        """Call `callback` before the first measurement; only the last one given counts."""
        self._on_first = callback

    def is_about_to_measure(self) -> None:
        """Call what waits for it."""
        callback, self._on_first = self._on_first, None
        if callback is not None:
            callback()

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,
    ) -> Meter:
        """Return a meter, as any MeterProvider does."""
        if name != _OWN_SCOPE:
            self.is_about_to_measure()
        return super().get_meter(name, version, schema_url, attributes)


class WatchedRecorder(OwnRecorder):
    """The recorder under such a provider."""

    def __init__(self, provider: WatchedMeterProvider) -> None:
        super().__init__(provider)
        self._watched = provider

    def operation(self, attributes: Mapping[str, Value]) -> Any:
        """Return the recorder of one operation."""
        self._watched.is_about_to_measure()
        return super().operation(attributes)

    def instrument(self, instrument: Any, bounds: Sequence[float] | None) -> ShardedInstrument | None:
        """Return one of the user's instruments in shards; None where it has to be recorded into as it is."""
        self._watched.is_about_to_measure()
        return super().instrument(instrument, bounds)

    def renewed(self) -> WatchedRecorder:
        """Return a recorder for a forked child, which the readers are joined to instead of this one."""
        sdk.renew_locks(self._watched, with_storages=False)
        return WatchedRecorder(self._watched)
