"""The collection of a reader: its streams planned as the SDK would, and joined with what the SDK collects.

What is private:

- ``MetricReader._set_collect_callback`` and ``collect`` of ``MeterProvider._measurement_consumer``: to join the points
  of sharded instruments with the SDK's own collection, for any reader. Without: operations are recorded the portable
  way.
- To plan a reader's streams as the SDK would: ``MeterProvider._sdk_config`` with ``views`` and ``resource``;
  ``MetricReader._instrument_class_temporality``, ``_instrument_class_aggregation``,
  ``_instrument_class_cardinality_limit``; ``View._match``, ``_name``, ``_description``, ``_attribute_keys``,
  ``_aggregation``, ``_aggregation_cardinality_limit``, ``_exemplar_reservoir_factory``;
  ``ExplicitBucketHistogramAggregation._boundaries``, ``_record_min_max``. Without: the same.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Metric, MetricReader, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.metrics.view import (
    DefaultAggregation,
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    SumAggregation,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope as Scope

from clew.attributes import CARDINALITY_LIMIT
from clew.metrics import reentry
from clew.metrics.sdk.views import reservoir_for
from clew.metrics.streams import Plan


def plan_streams(
    provider: MeterProvider, reader: MetricReader, instrument: Any, bounds: Sequence[float] | None
) -> list[Plan] | None:
    """Plan the streams of an instrument for a reader, as the SDK would have them.

    Args:
        instrument: A histogram, whose own bucket bounds are `bounds`, or a sum, for which they are None.

    Returns:
        A plan for each View that matches; None where a View or the reader wants what only the SDK itself can do.
    """
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


def join_collection(
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
