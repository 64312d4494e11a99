"""Exemplars: the real measurements kept beside an aggregate, each with the request ID it was made in.

Of each bucket the largest measurement of the interval is kept, since slow calls are what people look for. The request
ID goes on an exemplar as a filtered attribute, by the SDK's public exemplar interfaces, so on every instrument of a
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
from opentelemetry.trace import INVALID_SPAN, SpanContext, get_current_span, set_span_in_context

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


Identifiers = tuple[int, str | None, SpanContext | None]
"""What a measurement leads to: its rank, the request ID and the context of the sampled span, if it has them.

The rank is 3 for both, `REQUEST_RANK` for a request, 1 for a span, 0 for nothing. A span that is not sampled is stored
nowhere, so it leads nowhere.
"""

REQUEST_RANK = 2
_SPAN_RANK = 1
_NO_IDENTIFIERS: Identifiers = (0, None, None)


def identifiers_in(context: Context) -> Identifiers:
    """Return what a measurement that is made in `context` leads to."""
    request_id = request_id_in(context)
    if SPAN_KEY not in context:
        return _NO_IDENTIFIERS if request_id is None else (REQUEST_RANK, request_id, None)
    span_context = _sampled_span_in(context)
    rank = (0 if request_id is None else REQUEST_RANK) + (0 if span_context is None else _SPAN_RANK)
    return rank, request_id, span_context


def _sampled_span_in(context: Context) -> SpanContext | None:
    if context.get(SPAN_KEY) is None:
        return None
    span_context = get_current_span(context).get_span_context()
    return span_context if span_context.trace_flags.sampled else None


class RequestExemplarFilter(ExemplarFilter):
    """Lets a measurement become an exemplar where there is a request ID or a sampled span: where it leads somewhere."""

    def should_sample(
        self, value: float, time_unix_nano: int, attributes: Mapping[str, Any] | None, context: Context
    ) -> bool:
        """Tell whether `context` has a request ID or a sampled span."""
        return request_id_in(context) is not None or _sampled_span_in(context) is not None


class ExemplarCandidate:
    """A measurement that may become an exemplar.

    Attributes:
        bucket: Where it stands in a shard.
        rank: How much it leads to (`Identifiers`).
    """

    __slots__ = ("attributes", "bucket", "rank", "request_id", "span_context", "time_unix_nano", "value")

    def __init__(
        self,
        value: float,
        time_unix_nano: int,
        attributes: Mapping[str, Any] | None,
        identifiers: Identifiers,
        bucket: int = 0,
    ) -> None:
        self.value = value
        self.time_unix_nano = time_unix_nano
        self.attributes = attributes
        self.rank, self.request_id, self.span_context = identifiers
        self.bucket = bucket

    def outranks(self, other: ExemplarCandidate | None) -> bool:
        """Tell whether this one is preferred to `other`: the larger one, of equal ones the one that leads to more.

        Where they are equal in that too, the earlier one.
        """
        if other is None or self.value != other.value:
            return other is None or self.value > other.value
        return (self.rank, -self.time_unix_nano) > (other.rank, -other.time_unix_nano)

    def exemplar(self, point_attributes: Mapping[str, Any] | None) -> Exemplar:
        """Make the exemplar, its labels within the budget: request ID, trace and span ID, then other attributes."""
        request_id, span_context = self.request_id, self.span_context
        left = LABEL_BUDGET
        filtered: dict[str, Any] = {}
        if request_id is not None:
            needed = len(policy.attribute) + len(request_id)
            if needed <= left:
                filtered[policy.attribute] = request_id
                left -= needed
            else:  # only where CLEW_REQUEST_ID_ATTRIBUTE has made the name longer
                count("exemplar.request_id.dropped")
                warn_once(
                    "exemplar.request_id.dropped",
                    "A request ID of %d characters does not fit on exemplars beside the name %s: together they may "
                    "have %d",
                    len(request_id),
                    policy.attribute,
                    LABEL_BUDGET,
                )
        trace_id = span_id = None
        if span_context is not None and left >= _SPAN_LABELS:
            trace_id, span_id = span_context.trace_id, span_context.span_id
            left -= _SPAN_LABELS
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
        self._candidates: dict[int, ExemplarCandidate] = {}
        self._lock = threading.Lock()

    def offer(self, value: float, time_unix_nano: int, attributes: Mapping[str, Any] | None, context: Context) -> None:
        """Keep the measurement if it is the largest of its bucket; only then is the Context read."""
        index = bisect_left(self._boundaries, value)
        with self._lock:
            best = self._candidates.get(index)
            if best is not None and (
                value < best.value
                or (value == best.value and best.rank == REQUEST_RANK and SPAN_KEY not in context)  # leads to no more
            ):
                return
            identifiers = identifiers_in(context)
            if best is None or value > best.value or identifiers[0] > best.rank:
                self._candidates[index] = ExemplarCandidate(value, time_unix_nano, attributes, identifiers)

    def collect(self, point_attributes: Mapping[str, Any] | None) -> list[Exemplar]:
        """Return the exemplars in order of their buckets, and begin anew."""
        with self._lock:
            candidates, self._candidates = self._candidates, {}
        return [candidates[index].exemplar(point_attributes) for index in sorted(candidates)]


class NewestReservoir(ExemplarReservoir):
    """Keeps the newest measurement, which is the one that a gauge shows."""

    def __init__(self, **_: Any) -> None:
        self._newest: ExemplarCandidate | None = None
        self._lock = threading.Lock()

    def offer(self, value: float, time_unix_nano: int, attributes: Mapping[str, Any] | None, context: Context) -> None:
        """Keep the measurement."""
        with self._lock:
            self._newest = ExemplarCandidate(value, time_unix_nano, attributes, identifiers_in(context))

    def collect(self, point_attributes: Mapping[str, Any] | None) -> list[Exemplar]:
        """Return the exemplar, if there is one, and begin anew."""
        with self._lock:
            newest, self._newest = self._newest, None
        return [] if newest is None else [newest.exemplar(point_attributes)]


class SpreadReservoir(ExemplarReservoir):
    """Keeps the few largest measurements, the newest and a uniform sample: for histograms without fixed buckets."""

    def __init__(self, **_: Any) -> None:
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._largest: list[ExemplarCandidate] = []  # smallest first
        self._newest: ExemplarCandidate | None = None
        self._sampled: list[ExemplarCandidate] = []
        self._number_offered = 0

    def offer(self, value: float, time_unix_nano: int, attributes: Mapping[str, Any] | None, context: Context) -> None:
        """Keep the measurement as the newest, and perhaps longer."""
        candidate = ExemplarCandidate(value, time_unix_nano, attributes, identifiers_in(context))
        with self._lock:
            self._newest = candidate
            self._number_offered += 1
            if len(self._sampled) < _MOST_SAMPLED:
                self._sampled.append(candidate)
            else:
                place = randrange(self._number_offered)
                if place < _MOST_SAMPLED:
                    self._sampled[place] = candidate
            largest = self._largest
            if len(largest) < _MOST_LARGEST or candidate.outranks(largest[0]):
                place = next((i for i, other in enumerate(largest) if not candidate.outranks(other)), len(largest))
                largest.insert(place, candidate)
                del largest[:-_MOST_LARGEST]

    def collect(self, point_attributes: Mapping[str, Any] | None) -> list[Exemplar]:
        """Return the exemplars in order of time, and begin anew."""
        with self._lock:
            newest = [] if self._newest is None else [self._newest]
            candidates = {id(each): each for each in (*self._largest, *newest, *self._sampled)}
            self._begin()
        in_order = sorted(candidates.values(), key=lambda candidate: candidate.time_unix_nano)
        return [candidate.exemplar(point_attributes) for candidate in in_order]
