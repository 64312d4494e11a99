"""What `clew` needs of the OpenTelemetry SDK and API beyond their public names. Nothing private is touched elsewhere.

Each name, and what is done where a version has it no more (`tests/metrics/test_sdk.py` fails when one moves):

- ``View._exemplar_reservoir_factory``, ``View._match``: to give the user's Views our reservoirs and to keep the View
  for all other instruments off what they match. Without: the user's Views keep the SDK's reservoirs.
- the aggregation classes ``_ExplicitBucketHistogramAggregation``, ``_ExponentialBucketHistogramAggregation`` and
  ``_LastValueAggregation``, which a reservoir factory is asked about, are told by their names.
- the logger ``opentelemetry.sdk.metrics._internal.metric_reader_storage``: its warning about conflicting Views, which
  the View for all other instruments would cause where two scopes have an instrument of one name. Without: it warns.
- ``MeterProvider._measurement_consumer`` with ``_reader_storages``, ``_lock`` and ``add_metric_reader``, and
  ``MeterProvider._sdk_config.resource``: to let a forked child count from zero under a resource of its own. Without:
  the child goes on from the parent's counts, which is said once.
- ``TracerProvider._update_resource``, ``LoggerProvider._update_resource``: the child's resource. Without: the
  parent's.
- ``opentelemetry.metrics._internal._PROXY_METER_PROVIDER`` with ``_lock`` and ``_meters``: to learn when the
  application sets its MeterProvider. Without: only one that is set before `clew` is imported is noticed by itself.
- ``MeterProvider._sdk_config`` with ``exemplar_filter`` and ``views`` of a provider that the application built: to say
  once what it lacks. Without: nothing is said.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import MeterProvider as ApiMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource

from clew.diagnostics import say_once
from clew.metrics.exemplars import LargestReservoir, NewestReservoir, RequestExemplarFilter, SpreadReservoir


def reservoir_for(aggregation: type) -> Callable[..., Any]:
    """Choose the exemplar reservoir for a kind of aggregation: the reservoir factory of a View."""
    name = aggregation.__name__
    if "Exponential" in name:
        return SpreadReservoir
    return NewestReservoir if "LastValue" in name else LargestReservoir


_PLAIN_RESERVOIRS = getattr(View(instrument_name="-"), "_exemplar_reservoir_factory", None)


def with_reservoirs(view: View) -> View:
    """Return a copy of the user's View that keeps exemplars as `clew` does, unless it names a reservoir of its own."""
    if _PLAIN_RESERVOIRS is None or getattr(view, "_exemplar_reservoir_factory", None) is not _PLAIN_RESERVOIRS:
        return view
    ours: Any = copy.copy(view)
    ours._exemplar_reservoir_factory = reservoir_for
    return ours  # type: ignore[no-any-return]


class EveryOtherInstrument(View):
    """The View of all instruments that no other View matches, so that no instrument has two streams."""

    def __init__(self, others: Sequence[View]) -> None:
        super().__init__(instrument_name="*", exemplar_reservoir_factory=reservoir_for)
        self._others = tuple(others)
        _quiet_conflicts()

    def _match(self, instrument: Any) -> bool:
        return not any(other._match(instrument) for other in self._others)


class _NoConflictWithEveryOther(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else ()
        return not any(isinstance(argument, EveryOtherInstrument) for argument in args)


_quiet = _NoConflictWithEveryOther()


def _quiet_conflicts() -> None:
    logging.getLogger("opentelemetry.sdk.metrics._internal.metric_reader_storage").addFilter(_quiet)


def lacks_request_ids(provider: ApiMeterProvider) -> list[str]:
    """Say what a MeterProvider that the application built lacks for request IDs on its exemplars."""
    config = getattr(provider, "_sdk_config", None)
    if config is None:
        return []
    lacks = []
    if not any(isinstance(view, EveryOtherInstrument) for view in getattr(config, "views", ())):
        lacks.append("views=clew.views(…)")
    if not isinstance(getattr(config, "exemplar_filter", None), RequestExemplarFilter):
        lacks.append("exemplar_filter=clew.exemplar_filter()")
    return lacks


def on_meter_provider(callback: Callable[[ApiMeterProvider], None]) -> None:
    """Call `callback` with the global MeterProvider, now if there is one or else when it is set."""
    provider: Any = metrics.get_meter_provider()
    internal: Any = getattr(metrics, "_internal", None)
    proxy: Any = getattr(internal, "_PROXY_METER_PROVIDER", None)
    if provider is not proxy:
        callback(provider)
        return
    try:
        with proxy._lock:
            proxy._meters.add(_Listener(callback))
    except (AttributeError, TypeError):
        return


class _Listener:
    """Stands among the proxy's meters, all of which are told of the real provider."""

    def __init__(self, callback: Callable[[ApiMeterProvider], None]) -> None:
        self._callback = callback

    def on_set_meter_provider(self, provider: ApiMeterProvider) -> None:
        self._callback(provider)


def restart_metrics_in_child(provider: MeterProvider, resource: Resource) -> None:
    """Let every instrument of a forked child's provider count from zero, under the child's own resource."""
    try:
        consumer: Any = provider._measurement_consumer
        provider._sdk_config.resource = resource
        consumer._lock = threading.Lock()
        for reader in list(consumer._reader_storages):
            consumer.add_metric_reader(reader)  # gives the reader a storage, and all locks in it, anew
    except AttributeError as error:
        say_once("fork", "A forked child could not begin from zero, the SDK has changed: %s", error)


def set_resource(provider: Any, resource: Resource) -> None:
    """Give a TracerProvider or LoggerProvider the resource of a forked child."""
    update = getattr(provider, "_update_resource", None)
    if update is not None:
        update(resource)
