"""Views and exemplar reservoirs of the SDK.

What is private:

- ``View._exemplar_reservoir_factory``, ``View._match``: to give the user's Views our reservoirs, and to keep the View
  of all other instruments off what they match. Without: the user's Views keep the SDK's reservoirs.
- The aggregation classes ``_ExplicitBucketHistogramAggregation``, ``_ExponentialBucketHistogramAggregation`` and
  ``_LastValueAggregation``, which a reservoir factory is asked about, are told apart by their names.
- The logger ``opentelemetry.sdk.metrics._internal.metric_reader_storage``: its warning about conflicting Views, which
  the View of all other instruments would cause where two scopes have an instrument of one name. Without: it warns.
- ``View._aggregation_cardinality_limit``: to tell whether the SDK limits attribute sets itself. Without: `clew` does,
  for its own instruments.
- ``MeterProvider._sdk_config`` with ``exemplar_filter`` and ``views``: to say once what a provider lacks that the
  application built (without: nothing is said), and to give request IDs to one that a configuration file describes
  (without: it has none, which is logged once).
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.metrics import MeterProvider as ApiMeterProvider
from opentelemetry.sdk.metrics import ExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.view import View

from clew.diagnostics import warn_once
from clew.metrics.exemplars import LargestReservoir, NewestReservoir, RequestExemplarFilter, SpreadReservoir


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
