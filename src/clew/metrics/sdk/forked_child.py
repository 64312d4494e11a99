"""A MeterProvider in a forked child: it counts from zero, and no lock of its parent holds it up.

What is private:

- ``MeterProvider._measurement_consumer`` with ``_reader_storages``, ``_lock`` and ``add_metric_reader``, and
  ``MeterProvider._sdk_config.resource``: to let a forked child count from zero under a resource of its own. Without:
  the child goes on from the parent's counts, which is logged once.
- ``MeterProvider._lock``, ``_meter_lock`` and ``_meters``, ``Meter._instrument_registration_lock``,
  ``_instrument_ids_lock``, ``_instrument_ids`` and ``_instrument_id_instrument``; of the storages
  ``_instrument_view_instrument_matches``, ``_attributes_aggregation``, ``_reservoir`` and each one's ``_lock``; and the
  locks that classes and modules have (`_renew_shared_locks`): locks that another thread of the parent held during the
  fork, and what it was doing. Without: they are left as they are.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider as ApiMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource

from clew.diagnostics import warn_once
from clew.imports import imported
from clew.interpreter import forks


def restart_metrics_in_child(provider: MeterProvider, identity: Resource) -> None:
    """Let every instrument of a forked child's provider count from zero, with the child's own attributes."""
    renew_locks(provider)
    try:
        consumer: Any = provider._measurement_consumer
        provider._sdk_config.resource = provider._sdk_config.resource.merge(identity)
        for reader in list(consumer._reader_storages):
            consumer.add_metric_reader(reader)  # gives the reader a storage, and all locks in it, anew
    except AttributeError as error:
        warn_once("fork", "A forked child could not begin from zero, the SDK has changed: %s", error)


def renew_locks(provider: ApiMeterProvider, *, with_storages: bool = True) -> None:
    """Renew the locks of a provider of the SDK's in a forked child: the thread that had one in the parent is not there.

    What was half done there is undone: an instrument that was registered and not made yet. The storages may be left
    out where they are about to be made anew.
    """
    consumer: Any = getattr(provider, "_measurement_consumer", None)
    meters: dict[Any, Any] = getattr(provider, "_meters", {})
    for one in (provider, consumer, *meters.values()):
        _renew(one)
    for meter in meters.values():
        made: dict[str, Any] = getattr(meter, "_instrument_id_instrument", {})
        registered: dict[str, Any] = getattr(meter, "_instrument_ids", {})
        for identity in registered.keys() - made.keys():
            del registered[identity]
    storages: dict[Any, Any] = getattr(consumer, "_reader_storages", {})
    for reader, storage in storages.items():
        _renew(reader)
        for one in _parts(storage) if with_storages else ():
            _renew(one)


def _parts(storage: Any) -> Iterator[Any]:
    yield storage
    for matches in getattr(storage, "_instrument_view_instrument_matches", {}).values():
        for match in matches:
            yield match
            for aggregation in getattr(match, "_attributes_aggregation", {}).values():
                yield aggregation
                yield getattr(aggregation, "_reservoir", None)


_LOCKS = ("_lock", "_meter_lock", "_instrument_registration_lock", "_instrument_ids_lock")


_LOCK_TYPES = (type(threading.Lock()), type(threading.RLock()))


def _renew(one: Any) -> None:
    for name in _LOCKS:
        if isinstance(getattr(one, name, None), _LOCK_TYPES):
            setattr(one, name, threading.RLock())


def _renew_shared_locks() -> None:
    """Renew in a forked child the locks that no provider has for itself."""
    MeterProvider._all_metric_readers_lock = threading.RLock()  # type: ignore[assignment]
    internal: Any = getattr(metrics, "_internal", None)
    proxy: Any = getattr(internal, "_PROXY_METER_PROVIDER", None)
    for one in (
        getattr(internal, "_METER_PROVIDER_SET_ONCE", None),
        getattr(trace, "_TRACER_PROVIDER_SET_ONCE", None),
        getattr(imported("opentelemetry._logs._internal"), "_LOGGER_PROVIDER_SET_ONCE", None),
        proxy,
        *getattr(proxy, "_meters", ()),
    ):
        _renew(one)


forks.after_in_child(_renew_shared_locks)
