"""Each private name of OpenTelemetry's that `clew.metrics.sdk` touches is where it was, and does what it did.

A failure here names what has moved in the version that is installed; the module's docstring says what is lost then.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk import version
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    Counter,
    Histogram,
    MeterProvider,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, MetricReader
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    LastValueAggregation,
    SumAggregation,
    View,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

import clew
from clew.metrics import reentry
from clew.metrics.exemplars import LargestReservoir, NewestReservoir, RequestExemplarFilter, SpreadReservoir
from clew.metrics.sdk.collection import join_collection, plan_streams
from clew.metrics.sdk.forked_child import renew_locks, restart_metrics_in_child
from clew.metrics.sdk.providers import _Listener, exemplar_filter_of, put_first, readers_of, update_resource
from clew.metrics.sdk.recording import guard_recording
from clew.metrics.sdk.views import (
    HAS_CARDINALITY_LIMIT,
    EveryOtherInstrument,
    lacks_request_ids,
    replace_views,
    reservoir_for,
    with_reservoirs,
)

SDK = tuple(int(part) for part in version.__version__.split(".")[:3])


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader: InMemoryMetricReader) -> Iterator[MeterProvider]:
    made = MeterProvider([reader], views=clew.views(), shutdown_on_exit=False)
    yield made
    made.shutdown()


def values(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    data = reader.get_metrics_data()
    return {
        metric.name: [getattr(point, "value", None) for point in metric.data.data_points]
        for resource in (data.resource_metrics if data is not None else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


# View


def test_a_view_has_its_reservoir_factory_where_it_was() -> None:
    plain, other = View(instrument_name="x"), View(instrument_name="y")
    assert plain._exemplar_reservoir_factory is other._exemplar_reservoir_factory
    assert with_reservoirs(plain)._exemplar_reservoir_factory is reservoir_for
    assert plain._exemplar_reservoir_factory is not reservoir_for  # the user's own is left as it is

    def mine(kind: type) -> Any:
        return LargestReservoir

    own = View(instrument_name="x", exemplar_reservoir_factory=mine)
    assert with_reservoirs(own) is own


def test_a_view_matches_by_the_method_that_was_asked(provider: MeterProvider) -> None:
    assert list(inspect.signature(View._match).parameters) == ["self", "instrument"]
    counter = provider.get_meter("library").create_counter("orders")
    assert View(instrument_name="orders")._match(counter)
    assert not EveryOtherInstrument([View(instrument_name="orders")])._match(counter)
    assert EveryOtherInstrument([View(instrument_name="others")])._match(counter)


@pytest.mark.parametrize(
    ("aggregation", "reservoir"),
    [
        (ExplicitBucketHistogramAggregation(), LargestReservoir),
        (ExponentialBucketHistogramAggregation(), SpreadReservoir),
        (LastValueAggregation(), NewestReservoir),
        (SumAggregation(), LargestReservoir),
    ],
)
def test_a_reservoir_factory_is_asked_about_aggregations_by_the_names_that_are_known(
    aggregation: Any, reservoir: type, reader: InMemoryMetricReader
) -> None:
    asked: list[type] = []

    def factory(kind: type) -> Any:
        asked.append(kind)
        return reservoir_for(kind)

    view = View(instrument_name="*", aggregation=aggregation, exemplar_reservoir_factory=factory)
    provider = MeterProvider([reader], views=[view], shutdown_on_exit=False)
    provider.get_meter("library").create_histogram("price").record(1)
    assert asked
    assert {reservoir_for(kind) for kind in asked} == {reservoir}, [kind.__name__ for kind in asked]


def test_conflicting_views_are_reported_by_the_logger_that_is_quieted(caplog: pytest.LogCaptureFixture) -> None:
    def conflict(views: list[View]) -> list[str]:
        caplog.clear()
        provider = MeterProvider([InMemoryMetricReader()], views=views, shutdown_on_exit=False)
        for scope in ("one", "two"):
            provider.get_meter(scope).create_counter("same").add(1)
        return [record.name for record in caplog.records if "conflicting metrics identities" in record.getMessage()]

    with caplog.at_level(logging.WARNING):
        assert conflict([View(instrument_name="*")]) == ["opentelemetry.sdk.metrics._internal.metric_reader_storage"]
        assert conflict(clew.views()) == []


# MeterProvider, for children


def test_the_storages_of_a_provider_can_be_made_anew_for_a_child(
    provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    consumer: Any = provider._measurement_consumer
    assert list(consumer._reader_storages) == [reader]
    assert isinstance(consumer._lock, type(threading.Lock()))
    counter = provider.get_meter("library").create_counter("orders")
    counter.add(3)
    before = consumer._reader_storages[reader]
    restart_metrics_in_child(provider, Resource({"service.instance.id": "child"}))
    assert consumer._reader_storages[reader] is not before
    counter.add(5)
    data = reader.get_metrics_data()
    assert data is not None
    assert data.resource_metrics[0].resource.attributes["service.instance.id"] == "child"
    assert data.resource_metrics[0].resource.attributes["telemetry.sdk.name"] == "opentelemetry"
    reader.force_flush()
    assert values(reader)["orders"] == [5]


def test_the_locks_that_another_thread_may_have_held_are_made_anew_for_a_child(provider: MeterProvider) -> None:
    meter: Any = provider.get_meter("library")
    consumer: Any = provider._measurement_consumer
    assert list(provider._meters.values()) == [meter]
    held = [meter._instrument_registration_lock, consumer._lock]
    for lock in held:
        lock.acquire()
    restart_metrics_in_child(provider, Resource({}))
    done = threading.Event()

    def use() -> None:
        meter.create_observable_counter("seen", callbacks=[lambda options: []])
        done.set()

    threading.Thread(target=use, daemon=True).start()
    assert done.wait(60)


def test_tracer_and_logger_providers_take_the_attributes_of_a_child() -> None:
    child = Resource({"service.instance.id": "child"})
    tracers = TracerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    loggers = LoggerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    tracer: Any = tracers.get_tracer("library")
    for provider in (tracers, loggers):
        assert callable(provider._update_resource)
        update_resource(provider, child)
        assert provider.resource.attributes["service.instance.id"] == "child"
        assert provider.resource.attributes["service.name"] == "shop"
    assert tracer.start_span("work").resource.attributes["service.instance.id"] == "child"


# the provider that the application sets


def test_the_api_stands_in_for_a_provider_that_is_not_set_yet_with_a_list_of_meters() -> None:
    proxy = metrics._internal._PROXY_METER_PROVIDER
    assert isinstance(proxy._meters, list)
    assert isinstance(proxy._lock, type(threading.Lock()))
    other: Any = type(proxy)()
    told: list[Any] = []
    other._meters.append(_Listener(told.append))
    real = MeterProvider(shutdown_on_exit=False)
    other.on_set_meter_provider(real)
    assert told == [real]


def test_what_a_provider_lacks_is_read_from_its_configuration() -> None:
    def lacks(**arguments: Any) -> list[str]:
        return lacks_request_ids(MeterProvider(shutdown_on_exit=False, **arguments))

    ours = {"views": clew.views(), "exemplar_filter": clew.exemplar_filter()}
    assert lacks() == ["views=clew.views(…)", "exemplar_filter=clew.exemplar_filter()"]
    assert lacks(views=ours["views"]) == ["exemplar_filter=clew.exemplar_filter()"]
    assert lacks(exemplar_filter=ours["exemplar_filter"]) == ["views=clew.views(…)"]
    assert lacks(**ours) == []


def test_views_and_exemplar_filter_of_a_provider_without_instruments_can_be_replaced(
    reader: InMemoryMetricReader,
) -> None:
    mine = View(instrument_name="orders", name="sold")
    provider = MeterProvider([reader], views=[mine], shutdown_on_exit=False)
    replace_views(provider, lambda theirs: clew.views(*theirs), clew.exemplar_filter())
    assert isinstance(exemplar_filter_of(provider), RequestExemplarFilter)
    with clew.request("r-1"):
        provider.get_meter("library").create_counter("orders").add(1)
    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    (point,) = metric.data.data_points
    assert metric.name == "sold"
    assert [dict(exemplar.filtered_attributes) for exemplar in point.exemplars] == [{"request_id": "r-1"}]


def test_a_processor_of_log_records_can_be_put_first() -> None:
    class Processor(LogRecordProcessor):
        def on_emit(self, log_record: Any) -> None: ...

        def shutdown(self) -> None: ...

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return True

    provider = LoggerProvider(shutdown_on_exit=False)
    theirs, ours = Processor(), Processor()
    provider.add_log_record_processor(theirs)
    put_first(provider, ours)
    assert provider._multi_log_record_processor._log_record_processors == (ours, theirs)


# what the sharded recorder reads


def test_the_readers_and_the_exemplar_filter_of_a_provider_are_found(
    provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    another = InMemoryMetricReader()
    provider.add_metric_reader(another)
    assert readers_of(provider) == [reader, another]
    off = MeterProvider(exemplar_filter=AlwaysOffExemplarFilter(), shutdown_on_exit=False)
    assert isinstance(exemplar_filter_of(off), AlwaysOffExemplarFilter)


BOUNDS = (1.0, 2.0)


def plan(views: list[View], bounds: Any = BOUNDS, **preferences: Any) -> Any:
    reader = InMemoryMetricReader(**preferences)
    provider = MeterProvider([reader], views=clew.views(*views), shutdown_on_exit=False)
    meter = provider.get_meter("library")
    instrument: Any = (
        meter.create_up_down_counter("running", "{run}", "Runs.")
        if bounds is None
        else meter.create_histogram("spent", "s", "Time.", explicit_bucket_boundaries_advisory=list(bounds))
    )
    return plan_streams(provider, reader, instrument, bounds)


def test_without_a_view_of_the_user_there_is_one_stream_as_the_instrument_has_it() -> None:
    (found,) = plan([])
    assert (found.name, found.unit, found.description) == ("spent", "s", "Time.")
    assert (found.bounds, found.records_min_max, found.attribute_keys) == (BOUNDS, True, None)
    assert (found.temporality, found.limit) == (AggregationTemporality.CUMULATIVE, 2_000)
    (found,) = plan([], None)
    assert (found.name, found.bounds) == ("running", None)


def test_a_view_of_the_user_shapes_its_stream() -> None:
    view = View(
        instrument_name="spent",
        name="seconds",
        description="Mine.",
        attribute_keys={"kept"},
        aggregation=ExplicitBucketHistogramAggregation([5, 10], record_min_max=False),
    )
    (found,) = plan([view])
    assert (found.name, found.description, found.attribute_keys) == ("seconds", "Mine.", {"kept"})
    assert (found.bounds, found.records_min_max) == ((5, 10), False)
    both = plan([View(instrument_name="spent", name="one"), View(instrument_name="spent", name="two")])
    assert [each.name for each in both] == ["one", "two"]
    assert plan([View(instrument_name="spent", aggregation=DropAggregation())]) == []


def test_the_preferences_of_a_reader_shape_its_streams() -> None:
    (found,) = plan([], preferred_temporality={Histogram: AggregationTemporality.DELTA})
    assert found.temporality is AggregationTemporality.DELTA
    (found,) = plan([], None, preferred_temporality={UpDownCounter: AggregationTemporality.DELTA})
    assert found.temporality is AggregationTemporality.DELTA
    (found,) = plan([], preferred_aggregation={Histogram: ExplicitBucketHistogramAggregation([7])})
    assert found.bounds == (7,)
    (found,) = plan([], preferred_temporality={Counter: AggregationTemporality.DELTA})
    assert found.temporality is AggregationTemporality.CUMULATIVE


@pytest.mark.skipif(SDK < (1, 45, 2), reason="this SDK has no cardinality limits")
def test_cardinality_limits_of_views_and_readers_are_used() -> None:
    (found,) = plan([View(instrument_name="spent", aggregation_cardinality_limit=5)])
    assert found.limit == 5
    (found,) = plan([], cardinality_limits={Histogram: 7})
    assert found.limit == 7


def test_whether_the_sdk_has_cardinality_limits_is_known_from_its_views() -> None:
    has = SDK >= (1, 45, 2)
    assert HAS_CARDINALITY_LIMIT is has
    reader = InMemoryMetricReader()
    counter = MeterProvider([reader], shutdown_on_exit=False).get_meter("library").create_counter("orders")
    for number in range(2_100):
        counter.add(1, {"number": number})
    assert len(values(reader)["orders"]) == (2_001 if has else 2_100)


@pytest.mark.parametrize(
    "view",
    [
        View(instrument_name="spent", aggregation=ExponentialBucketHistogramAggregation()),
        View(instrument_name="spent", aggregation=SumAggregation()),
        View(instrument_name="spent", exemplar_reservoir_factory=lambda kind: LargestReservoir),
    ],
)
def test_what_only_the_sdk_can_do_has_no_plan(view: View) -> None:
    assert plan([view]) is None
    assert plan([], preferred_aggregation={Histogram: ExponentialBucketHistogramAggregation()}) is None


def test_metrics_are_joined_with_what_any_reader_collects(
    provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    assert list(inspect.signature(MetricReader._set_collect_callback).parameters) == ["self", "func"]
    other = InMemoryMetricReader()
    source = MeterProvider([other], shutdown_on_exit=False)
    source.get_meter("clew").create_counter("joined").add(1)
    data = other.get_metrics_data()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics
    (joined,) = scope.metrics
    own = InstrumentationScope("clew", clew.__version__)
    asked: list[Any] = []

    def collect(of: MetricReader) -> Any:
        asked.append(of)
        return [(own, joined)]

    assert join_collection(reader, provider, collect)
    assert values(reader) == {"joined": [1]}  # where the SDK itself has nothing
    provider.get_meter("library").create_counter("plain").add(2)
    provider.get_meter("clew", clew.__version__).create_counter("own").add(3)
    assert values(reader) == {"joined": [1], "plain": [2], "own": [3]}
    assert asked == [reader, reader]
    found = reader.get_metrics_data()
    assert found is not None
    assert len([each for each in found.resource_metrics[0].scope_metrics if each.scope.name == "clew"]) == 1


# what interrupts, and what forks


def test_all_locks_of_a_provider_are_found_and_renewed(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    meter: Any = provider.get_meter("library")
    meter.create_counter("orders").add(1, {"tier": "gold"})
    consumer: Any = provider._measurement_consumer
    (match,) = next(iter(consumer._reader_storages[reader]._instrument_view_instrument_matches.values()))
    (aggregation,) = match._attributes_aggregation.values()
    holders: list[Any] = [provider, consumer, consumer._reader_storages[reader], match, aggregation]
    locks = [(one, "_lock") for one in (*holders, aggregation._reservoir, reader)]
    locks += [(provider, "_meter_lock"), (meter, "_instrument_registration_lock"), (meter, "_instrument_ids_lock")]
    before = [getattr(one, name) for one, name in locks]
    meter._instrument_ids["half made"] = None
    renew_locks(provider)
    for (one, name), lock in zip(locks, before, strict=True):
        assert getattr(one, name) is not lock, (one, name)
    assert list(meter._instrument_ids) == list(meter._instrument_id_instrument)
    assert values(reader)["orders"] == [1]


def test_the_frames_of_the_sdk_are_recognised_by_the_names_of_its_modules(provider: MeterProvider) -> None:
    found: list[bool] = []

    def observe(options: Any) -> list[Any]:
        found.append(reentry.is_inside())
        return []

    class Scope(str):
        def __hash__(self) -> int:
            found.append(reentry.is_inside())
            return super().__hash__()

    meter = provider.get_meter(Scope("library"))
    assert found
    meter.create_observable_gauge("level", callbacks=[observe])
    provider.force_flush()
    assert all(found)
    assert not reentry.is_inside()


def test_all_that_is_measured_goes_by_the_method_that_is_guarded(
    provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    guard_recording(provider)
    guard_recording(provider)
    meter = provider.get_meter("library")
    gauge = meter.create_gauge("level")
    gauge.set(1)
    reentry.by_itself(gauge.set, 2)
    assert values(reader)["level"] == [1]
    gauge.set(3)
    reentry.by_itself(gauge.set, 4)
    reentry.catch_up()
    assert values(reader)["level"] == [4]


def test_any_number_of_measurements_may_wait(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    guard_recording(provider)
    counter = provider.get_meter("library").create_counter("orders")

    def add() -> None:
        for _ in range(3_000):
            counter.add(1)

    reentry.by_itself(add)
    counter.add(1)
    assert values(reader)["orders"] == [3_001]
