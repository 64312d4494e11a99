"""Exemplars: the real measurements kept beside an aggregate, each with the request ID it was made in.

Of each bucket the largest measurement of the interval is kept, since the slow is what people look for. The request ID
goes on an exemplar as a filtered attribute, by the SDK's public exemplar interfaces, so on every instrument of a
provider and never on a data point.

Reference: https://opentelemetry.io/docs/specs/otel/metrics/sdk/#exemplar
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from random import randrange
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.metrics import Exemplar, ExemplarFilter, ExemplarReservoir
from opentelemetry.trace import INVALID_SPAN, get_current_span, set_span_in_context

from clew.diagnostics import count, warn_once
from clew.policy import policy
from clew.propagation.cell import request_id_in

LABEL_BUDGET = 128
"""Characters that the names and values of an exemplar's labels may have together, by OpenMetrics."""

_SPAN_LABELS = len("trace_id") + 32 + len("span_id") + 16

_MOST_LARGEST = 4
_MOST_SAMPLED = 4


(SPAN_KEY,) = set_span_in_context(INVALID_SPAN, Context())
"""Under which the Context has the current span."""

HAS_REQUEST = 2
HAS_SPAN = 1


def identifiers_in(context: Context) -> int:
    """Tell what a measurement made in `context` leads to: a request (2), a sampled span (1), both (3), nothing (0).

    A span that is not sampled is stored nowhere, so it leads nowhere.
    """
    links = 0 if request_id_in(context) is None else HAS_REQUEST
    span = context.get(SPAN_KEY)
    if span is not None and get_current_span(context).get_span_context().trace_flags.sampled:
        links |= HAS_SPAN
    return links


class RequestExemplarFilter(ExemplarFilter):
    """Lets a measurement become an exemplar where there is a request ID or a sampled span: where it leads somewhere."""

    def should_sample(
        self, value: float, time_unix_nano: int, attributes: Mapping[str, Any] | None, context: Context
    ) -> bool:
        """Tell whether `context` has a request ID or a sampled span."""
        return identifiers_in(context) != 0


class ExemplarCandidate:
    """A measurement that may become an exemplar; `bucket` is where it stands in a shard."""

    __slots__ = ("attributes", "bucket", "links", "request_id", "span_id", "time_unix_nano", "trace_id", "value")

    def __init__(
        self,
        value: float,
        time_unix_nano: int,
        attributes: Mapping[str, Any] | None,
        context: Context,
        bucket: int = 0,
    ) -> None:
        self.value = value
        self.bucket = bucket
        self.time_unix_nano = time_unix_nano
        self.attributes = attributes
        self.links = identifiers_in(context)
        self.request_id = request_id_in(context)
        self.trace_id: int | None = None
        self.span_id: int | None = None
        if self.links & HAS_SPAN:
            span = get_current_span(context).get_span_context()
            self.trace_id, self.span_id = span.trace_id, span.span_id

    def outranks(self, other: ExemplarCandidate | None) -> bool:
        """Tell whether this one is kept rather than `other`: larger; or else better linked; or else earlier."""
        if other is None or self.value != other.value:
            return other is None or self.value > other.value
        return (self.links, -self.time_unix_nano) > (other.links, -other.time_unix_nano)

    def exemplar(self, point_attributes: Mapping[str, Any] | None) -> Exemplar:
        """Make the exemplar, its labels within the budget: request ID, trace and span ID, then what else fits."""
        left = LABEL_BUDGET
        filtered: dict[str, Any] = {}
        if self.request_id is not None:
            needed = len(policy.attribute) + len(self.request_id)
            if needed <= left:
                filtered[policy.attribute] = self.request_id
                left -= needed
            else:  # only where CLEW_REQUEST_ID_ATTRIBUTE has made the name longer
                count("exemplar.request_id.dropped")
                warn_once(
                    "exemplar.request_id.dropped",
                    "A request ID of %d characters does not fit on exemplars beside the name %s: together they may "
                    "have %d",
                    len(self.request_id),
                    policy.attribute,
                    LABEL_BUDGET,
                )
        trace_id, span_id = self.trace_id, self.span_id
        if span_id is not None:
            if left >= _SPAN_LABELS:
                left -= _SPAN_LABELS
            else:
                trace_id = span_id = None
        if self.attributes:
            for name, value in self.attributes.items():
                if name in filtered or (point_attributes is not None and name in point_attributes):
                    continue
                needed = len(name) + len(value if isinstance(value, str) else str(value))
                if needed <= left:
                    filtered[name] = value
                    left -= needed
        return Exemplar(filtered, self.value, self.time_unix_nano, span_id, trace_id)


class LargestReservoir(ExemplarReservoir):
    """Keeps the largest measurement of each bucket; without boundaries there is one bucket."""

    def __init__(self, boundaries: Sequence[float] = (), **_: Any) -> None:
        self._boundaries = boundaries
        self._held: dict[int, ExemplarCandidate] = {}
        self._lock = threading.Lock()

    def offer(self, value: float, time_unix_nano: int, attributes: Mapping[str, Any] | None, context: Context) -> None:
        """Keep the measurement if it is the largest of its bucket; only then is the Context read."""
        index = bisect_left(self._boundaries, value)
        with self._lock:
            held = self._held.get(index)
            if held is None or value > held.value or (value == held.value and identifiers_in(context) > held.links):
                self._held[index] = ExemplarCandidate(value, time_unix_nano, attributes, context)

    def collect(self, point_attributes: Mapping[str, Any] | None) -> list[Exemplar]:
        """Return the exemplars in order of their buckets, and begin anew."""
        with self._lock:
            held, self._held = self._held, {}
        return [held[index].exemplar(point_attributes) for index in sorted(held)]


class NewestReservoir(ExemplarReservoir):
    """Keeps the newest measurement, which is the one that a gauge shows."""

    def __init__(self, **_: Any) -> None:
        self._held: ExemplarCandidate | None = None
        self._lock = threading.Lock()

    def offer(self, value: float, time_unix_nano: int, attributes: Mapping[str, Any] | None, context: Context) -> None:
        """Keep the measurement."""
        with self._lock:
            self._held = ExemplarCandidate(value, time_unix_nano, attributes, context)

    def collect(self, point_attributes: Mapping[str, Any] | None) -> list[Exemplar]:
        """Return the exemplar, if there is one, and begin anew."""
        with self._lock:
            held, self._held = self._held, None
        return [] if held is None else [held.exemplar(point_attributes)]


class SpreadReservoir(ExemplarReservoir):
    """Keeps the few largest measurements, the newest and a uniform sample: for histograms without fixed buckets."""

    def __init__(self, **_: Any) -> None:
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._largest: list[ExemplarCandidate] = []  # smallest first
        self._newest: ExemplarCandidate | None = None
        self._sampled: list[ExemplarCandidate] = []
        self._seen = 0

    def offer(self, value: float, time_unix_nano: int, attributes: Mapping[str, Any] | None, context: Context) -> None:
        """Keep the measurement as the newest, and perhaps longer."""
        kept = ExemplarCandidate(value, time_unix_nano, attributes, context)
        with self._lock:
            self._newest = kept
            self._seen += 1
            if len(self._sampled) < _MOST_SAMPLED:
                self._sampled.append(kept)
            else:
                place = randrange(self._seen)
                if place < _MOST_SAMPLED:
                    self._sampled[place] = kept
            largest = self._largest
            if len(largest) < _MOST_LARGEST or kept.outranks(largest[0]):
                place = next((i for i, other in enumerate(largest) if not kept.outranks(other)), len(largest))
                largest.insert(place, kept)
                del largest[:-_MOST_LARGEST]

    def collect(self, point_attributes: Mapping[str, Any] | None) -> list[Exemplar]:
        """Return the exemplars in order of time, and begin anew."""
        with self._lock:
            newest = [] if self._newest is None else [self._newest]
            held = {id(kept): kept for kept in (*self._largest, *newest, *self._sampled)}
            self._begin()
        return [kept.exemplar(point_attributes) for kept in sorted(held.values(), key=lambda kept: kept.time_unix_nano)]
