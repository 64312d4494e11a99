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
- ``MetricReader._set_collect_callback``: to join the sharded instruments' points with the SDK's own collection, for any
  reader. And to plan a reader's streams as the SDK would: ``MetricReader._instrument_class_temporality``,
  ``_instrument_class_aggregation``, ``_instrument_class_cardinality_limit``; ``View._name``, ``_description``,
  ``_attribute_keys``, ``_aggregation``, ``_aggregation_cardinality_limit``;
  ``ExplicitBucketHistogramAggregation._boundaries``, ``_record_min_max``. Without: operations are recorded the portable
  way. The first of these also tells whether a provider of the application's goes on from its parent's total of
  ``clew.events`` in a forked child; without, it is taken to begin from zero.
- ``MeterProvider._sdk_config`` with ``exemplar_filter`` and ``views``: to say once what a provider lacks that the
  application built (without: nothing is said), and to give request IDs to one that a configuration file describes
  (without: it has none, which is said once).
- ``MeterProvider._lock``, ``_meter_lock`` and ``_meters``, ``Meter._instrument_registration_lock``,
  ``_instrument_ids_lock``, ``_instrument_ids`` and ``_instrument_id_instrument``; of the storages
  ``_instrument_view_instrument_matches``, ``_attributes_aggregation``, ``_reservoir`` and each one's ``_lock``; and the
  locks that classes and modules have (`_renew_shared_locks`): locks that another thread of the parent held during the
  fork, and what it was doing. Without: they are left as they are.
- ``consume_measurement`` and ``collect`` of ``MeterProvider._measurement_consumer``, and the names of the modules in
  `_ENTERED_ONCE`: so that a signal handler or a finalizer that measures in the middle of the SDK's work waits for its
  end. Without: it may wait for itself.
- ``View._aggregation_cardinality_limit``: to tell whether the SDK limits attribute sets itself. Without: `clew` does,
  for its own instruments.
- ``register_asynchronous_instrument`` of ``MeterProvider._measurement_consumer``, and the ``callback`` of what is
  registered: to take what it observes, of any kind of number, as `int` and `float`, since one that cannot be added to
  the others ends each collection from then on. Without: it does.
- ``LoggerProvider._logger_cache_lock`` and ``_active_loggers_lock``: so that a finalizer or a signal handler may log in
  the middle of a log call. Without: it may wait for itself at the first record of a logger.
- ``LoggerProvider._multi_log_record_processor`` with ``_log_record_processors``: to put the request ID on log records
  before a processor that is there already takes them. Without: it is put on after them.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import _logs, metrics, trace
from opentelemetry.metrics import MeterProvider as ApiMeterProvider
from opentelemetry.sdk.metrics import ExemplarFilter, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Metric,
    MetricReader,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.view import (
    DefaultAggregation,
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    SumAggregation,
    View,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope as Scope

from clew.any_value import nearest_finite
from clew.attributes import CARDINALITY_LIMIT
from clew.diagnostics import count, warn_once
from clew.interpreter import forks
from clew.interpreter.interruptions import let_through
from clew.metrics import reentry
from clew.metrics.exemplars import LargestReservoir, NewestReservoir, RequestExemplarFilter, SpreadReservoir

if TYPE_CHECKING:
    from clew.metrics.streams import Plan

if TYPE_CHECKING:  # not imported here, since `import clew` is to be quick
    from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor


_ENTERED_ONCE = (
    "opentelemetry.sdk.metrics._internal",
    "opentelemetry.sdk.metrics._internal.measurement_consumer",
)
reentry.MODULES.update(_ENTERED_ONCE)


def reservoir_for(aggregation: type) -> Callable[..., Any]:
    """Choose the exemplar reservoir for a kind of aggregation: the reservoir factory of a View."""
    name = aggregation.__name__
    if "Exponential" in name:
        return SpreadReservoir
    return NewestReservoir if "LastValue" in name else LargestReservoir


HAS_CARDINALITY_LIMIT = hasattr(View(instrument_name="-"), "_aggregation_cardinality_limit")
"""Whether the SDK limits the attribute sets of an instrument itself."""

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


def replace_views(
    provider: MeterProvider, change: Callable[[Sequence[View]], Sequence[View]], exemplar_filter: ExemplarFilter | None
) -> None:
    """Change the Views, and the exemplar filter unless None, of a provider that has no instruments yet."""
    try:
        config: Any = provider._sdk_config
        config.views = change(config.views)
        if exemplar_filter is not None:
            config.exemplar_filter = exemplar_filter
    except AttributeError as error:
        warn_once("config file", "Exemplars have no request IDs with OTEL_CONFIG_FILE, the SDK has changed: %s", error)


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
            proxy._meters.append(_Listener(callback))
    except (AttributeError, TypeError):
        return


class _Listener:
    """Stands among the proxy's meters, all of which are told of the real provider."""

    def __init__(self, callback: Callable[[ApiMeterProvider], None]) -> None:
        self._callback = callback

    def on_set_meter_provider(self, provider: ApiMeterProvider) -> None:
        self._callback(provider)


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
    """Renew the locks of a provider of the SDK's in a forked child: whoever had one in the parent is not there.

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
        getattr(getattr(_logs, "_internal", None), "_LOGGER_PROVIDER_SET_ONCE", None),
        proxy,
        *getattr(proxy, "_meters", ()),
    ):
        _renew(one)


forks.after_in_child(_renew_shared_locks)


def guard(provider: ApiMeterProvider) -> None:
    """Have what is recorded into the SDK's instruments wait where its thread is in the middle of that already.

    For all instruments of the provider, since they share what is half changed then. And have them measure plain
    numbers, since they share a collection too.
    """
    consumer: Any = getattr(provider, "_measurement_consumer", None)
    consume: Any = getattr(consumer, "consume_measurement", None)
    if consume is None or "consume_measurement" in vars(consumer):  # ours already
        return

    def consume_guarded(measurement: Any) -> None:
        kind = type(measurement.value)
        if kind is not float and kind is not int:
            measurement = _plain(measurement)
            if measurement is None:
                return
        if reentry.may_enter():
            reentry.by_itself(consume, measurement)
            reentry.catch_up()
        else:
            kept = copy.copy(measurement)
            if measurement.attributes:
                object.__setattr__(kept, "attributes", dict(measurement.attributes))  # which is the caller's
            reentry.put_off(partial(consume_guarded, kept))

    consumer.consume_measurement = consume_guarded
    register: Any = getattr(consumer, "register_asynchronous_instrument", None)
    if register is None:
        return

    def register_plain(instrument: Any) -> None:
        callback: Any = getattr(instrument, "callback", None)
        if callback is not None:

            def callback_plain(options: Any) -> Any:
                return filter(None, map(_plain, callback(options)))

            instrument.callback = callback_plain
        register(instrument)

    consumer.register_asynchronous_instrument = register_plain


def update_resource(provider: Any, identity: Resource) -> None:
    """Give a TracerProvider or LoggerProvider the attributes of a forked child."""
    update = getattr(provider, "_update_resource", None)
    if update is not None:
        update(identity)


def let_enter_again(provider: Any) -> None:
    """Let a thread that stands in the middle of a LoggerProvider's `get_logger` call it once more."""
    for name in ("_logger_cache_lock", "_active_loggers_lock"):
        lock: Any = getattr(provider, name, None)
        if type(lock) is _LOCK_TYPES[0] and not lock.locked():  # which nobody has, so that nobody is let in beside him
            setattr(provider, name, threading.RLock())


def put_first(provider: LoggerProvider, processor: LogRecordProcessor) -> None:
    """Add a processor that changes log records before the other processors of the provider take them."""
    provider.add_log_record_processor(processor)
    processors: Any = getattr(provider, "_multi_log_record_processor", None)
    listed = getattr(processors, "_log_record_processors", ())
    if processor in listed:
        processors._log_record_processors = (processor, *(each for each in listed if each is not processor))


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


def plans(
    provider: MeterProvider, reader: MetricReader, instrument: Any, bounds: Sequence[float] | None
) -> list[Plan] | None:
    """Plan the streams of an instrument for a reader, as the SDK would have them.

    Args:
        instrument: A histogram, whose own bucket bounds are `bounds`, or a sum, for which they are None.

    Returns:
        A plan for each View that matches; None where a View or the reader wants what only the SDK itself can do.
    """
    from clew.metrics.streams import Plan  # needed only where there is a provider of ours

    try:
        kind = type(instrument)
        found: list[Plan] = []
        for view in provider._sdk_config.views:
            if not view._match(instrument):
                continue
            aggregation: Any = view._aggregation
            if type(aggregation) is DefaultAggregation:
                aggregation = reader._instrument_class_aggregation[kind]
            if type(aggregation) is DropAggregation:
                continue
            records_min_max = True
            stream_bounds = bounds
            if bounds is not None and type(aggregation) is ExplicitBucketHistogramAggregation:
                records_min_max = aggregation._record_min_max
                if aggregation._boundaries is not None:
                    stream_bounds = aggregation._boundaries
            elif type(aggregation) is not (DefaultAggregation if bounds is not None else SumAggregation) and not (
                bounds is None and type(aggregation) is DefaultAggregation
            ):
                return None
            if view._exemplar_reservoir_factory is not reservoir_for:
                return None
            keys = view._attribute_keys
            found.append(
                Plan(
                    view._name or instrument.name,
                    view._description or instrument.description,
                    instrument.unit,
                    reader._instrument_class_temporality[kind],
                    _limit(view, reader, kind),
                    None if keys is None else frozenset(keys),
                    None if stream_bounds is None else tuple(stream_bounds),
                    records_min_max,
                )
            )
        return found
    except (AttributeError, KeyError):
        return None


def _limit(view: Any, reader: Any, kind: type) -> int:
    """Return how many attribute sets a stream has; the SDK knows a limit from 1.45.2 on."""
    own: int | None = getattr(view, "_aggregation_cardinality_limit", None)
    if own is not None:
        return own
    limits: dict[type, int] = getattr(reader, "_instrument_class_cardinality_limit", {})
    return limits.get(kind, CARDINALITY_LIMIT)


def _plain(measurement: Any) -> Any:
    """Return a measurement whose value is a plain number; None, counted and said once, where it is none."""
    try:
        value = nearest_finite(measurement.value)
        return measurement if value is measurement.value else replace(measurement, value=value)
    except Exception as error:
        let_through(error)
        name = getattr(measurement.instrument, "name", "")
        count("measurement.ignored")
        warn_once(("measurement", "", name), "A measurement of %s was ignored: %s", name, error)
        return None


def join(
    reader: MetricReader, provider: MeterProvider, collect: Callable[[MetricReader], list[tuple[Scope, Metric]]]
) -> bool:
    """Join the metrics that `collect` returns with what the SDK collects for a reader; False where that cannot be."""
    consumer: Any = getattr(provider, "_measurement_consumer", None)
    set_callback: Any = getattr(reader, "_set_collect_callback", None)
    if consumer is None or set_callback is None or not hasattr(consumer, "collect"):
        return False

    def collect_both(reader: MetricReader, timeout_millis: float) -> MetricsData | None:
        data: MetricsData | None = consumer.collect(reader, timeout_millis=timeout_millis)
        metrics = collect(reader)
        return _with_metrics(data, metrics, provider._sdk_config.resource) if metrics else data

    def collect_by_itself(reader: MetricReader, timeout_millis: float = 10_000) -> MetricsData | None:
        if reentry.is_inside():  # what interrupts a collection, or the SDK elsewhere, can have none of its own
            return None
        reentry.catch_up()
        try:
            return reentry.by_itself(collect_both, reader, timeout_millis)  # type: ignore[no-any-return]
        finally:
            reentry.catch_up()

    set_callback(collect_by_itself)
    return True


def _with_metrics(data: MetricsData | None, metrics: list[tuple[Scope, Metric]], resource: Resource) -> MetricsData:
    scopes: dict[Scope, ScopeMetrics] = {}
    if data is not None and data.resource_metrics:
        resource = data.resource_metrics[0].resource
        scopes = {scope.scope: scope for scope in data.resource_metrics[0].scope_metrics}
    for scope, metric in metrics:
        found = scopes.get(scope)
        earlier = [] if found is None else found.metrics
        scopes[scope] = ScopeMetrics(scope, [*earlier, metric], scope.schema_url or "")
    return MetricsData([ResourceMetrics(resource, list(scopes.values()), resource.schema_url)])


def scope_of(instrument: Any) -> Scope:
    """Return the scope of one of the SDK's instruments."""
    return instrument.instrumentation_scope  # type: ignore[no-any-return]
