"""Providers of the three signals: what they are asked, and what is added to them.

What is private:

- ``opentelemetry.metrics._internal._PROXY_METER_PROVIDER`` with ``_lock`` and ``_meters``: to learn when the
  application sets its MeterProvider. Without: only one that is set before `clew` is imported is noticed by itself.
- ``MeterProvider._measurement_consumer`` with ``_reader_storages``: the readers of a provider. Without: it has none,
  and operations are recorded the portable way.
- ``MetricReader._instrument_class_temporality``: to tell whether a provider of the application's goes on from its
  parent's total of ``clew.events`` in a forked child. Without: it is taken to begin from zero.
- ``MeterProvider._sdk_config`` with ``exemplar_filter``. Without: it is taken to be that of `clew`.
- ``TracerProvider._update_resource``, ``LoggerProvider._update_resource``: the resource of a forked child. Without: it
  has its parent's.
- ``LoggerProvider._logger_cache_lock`` and ``_active_loggers_lock``: so that a finalizer or a signal handler may log in
  the middle of a log call. Without: it may wait for itself at the first record of a logger.
- ``LoggerProvider._multi_log_record_processor`` with ``_log_record_processors``: to put the request ID on log records
  before a processor that is there already takes them. Without: it is put on after them.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry.metrics import MeterProvider as ApiMeterProvider
from opentelemetry.sdk.metrics import ExemplarFilter, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricReader
from opentelemetry.sdk.resources import Resource

from clew.metrics.exemplars import RequestExemplarFilter

if TYPE_CHECKING:  # not imported here, since `import clew` is to be quick
    from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor


def on_meter_provider(callback: Callable[[ApiMeterProvider], None]) -> None:
    """Call `callback` with the global MeterProvider: now, or when it is set."""
    provider: Any = metrics.get_meter_provider()
    internal: Any = getattr(metrics, "_internal", None)
    proxy: Any = getattr(internal, "_PROXY_METER_PROVIDER", None)
    if provider is not proxy:
        callback(provider)
        return
    try:
        with proxy._lock:
            proxy._meters.append(_Listener(callback))
    except (AttributeError, TypeError):
        return


class _Listener:
    """Stands among the proxy's meters, all of which are told of the real provider."""

    def __init__(self, callback: Callable[[ApiMeterProvider], None]) -> None:
        self._callback = callback

    def on_set_meter_provider(self, provider: ApiMeterProvider) -> None:
        self._callback(provider)


def readers_of(provider: MeterProvider) -> list[MetricReader]:
    """Return the readers of a provider of ours, those added later too."""
    try:
        return list(provider._measurement_consumer._reader_storages)
    except AttributeError:
        return []


def tells_deltas(provider: Any) -> bool:
    """Tell whether all readers of a provider want observable counters as deltas."""
    wanted = [
        temporality
        for reader in readers_of(provider)
        for kind, temporality in getattr(reader, "_instrument_class_temporality", {}).items()
        if issubclass(kind, ObservableCounter)
    ]
    return bool(wanted) and all(one is AggregationTemporality.DELTA for one in wanted)


def exemplar_filter_of(provider: MeterProvider) -> ExemplarFilter:
    """Return the exemplar filter of a provider of ours."""
    found: Any = getattr(getattr(provider, "_sdk_config", None), "exemplar_filter", None)
    return found if isinstance(found, ExemplarFilter) else RequestExemplarFilter()


def update_resource(provider: Any, identity: Resource) -> None:
    """Give a TracerProvider or LoggerProvider the attributes of a forked child."""
    update = getattr(provider, "_update_resource", None)
    if update is not None:
        update(identity)


_PLAIN_LOCK = type(threading.Lock())


def let_enter_again(provider: Any) -> None:
    """Let a thread that stands in the middle of a LoggerProvider's `get_logger` call it once more."""
    for name in ("_logger_cache_lock", "_active_loggers_lock"):
        lock: Any = getattr(provider, name, None)
        if type(lock) is _PLAIN_LOCK and not lock.locked():  # no thread has it, so that none is let in beside another
            setattr(provider, name, threading.RLock())


def put_first(provider: LoggerProvider, processor: LogRecordProcessor) -> None:
    """Add a processor that changes log records before the other processors of the provider take them."""
    provider.add_log_record_processor(processor)
    processors: Any = getattr(provider, "_multi_log_record_processor", None)
    listed = getattr(processors, "_log_record_processors", ())
    if processor in listed:
        processors._log_record_processors = (processor, *(each for each in listed if each is not processor))
