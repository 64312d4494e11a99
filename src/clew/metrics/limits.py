"""The limit of attribute sets for instruments of an SDK that has none of its own (before 1.45.2).

Past it a measurement goes to the one point with ``otel.metric.overflow``, so that totals stay exact and memory bounded.
The attributes are counted as they are given, before a View leaves some of them out.

Reference: https://opentelemetry.io/docs/specs/otel/metrics/sdk/#cardinality-limits
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.context import Context

from clew.attributes import CARDINALITY_LIMIT, OVERFLOW, Key, clean, key_of
from clew.diagnostics import count, warn_once
from clew.metrics.sdk import views

Attributes = Mapping[str, Any]
Record = Callable[[float, "Attributes | None", "Context | None"], None]

_OVERFLOW: Attributes = {OVERFLOW: True}


def limited(record: Record, name: str, limit: int = CARDINALITY_LIMIT) -> Record:
    """Return what records as `record` does for `limit` attribute sets, and further ones into the overflow point.

    Args:
        record: ``add``, ``record`` or ``set`` of one of the SDK's instruments. It is returned itself where the SDK has
            a limit.
        name: The instrument's, for the log.
    """
    if views.HAS_CARDINALITY_LIMIT:
        return record
    known: set[Key] = set()
    lock = threading.RLock()  # the handler of a signal may measure in the middle

    def fits(attributes: Attributes | None) -> bool:
        key = key_of(clean(attributes or {}))
        if key in known:
            return True
        with lock:
            if key not in known and len(known) >= limit:
                return False
            known.add(key)
            return True

    def record_limited(value: float, attributes: Attributes | None = None, context: Context | None = None) -> None:
        if not fits(attributes):
            count("attributes.overflow")
            warn_once(
                ("attributes.overflow", name),
                "The instrument %s has more than %d attribute sets; further ones are measured as one, marked %s",
                name,
                limit,
                OVERFLOW,
            )
            attributes = _OVERFLOW
        record(value, attributes, context)

    return record_limited
