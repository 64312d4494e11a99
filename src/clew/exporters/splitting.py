"""Exports split by their size in bytes: receivers refuse a message that is too long, with all that is in it.

What is within the limit stays as it is. What is longer becomes several requests, each with the resource, scope and
metric that its items belong to. Data points that stand beside each other in one metric and have equal attributes (a
zero and the first point after it) stay together. One that is over the limit by itself is a request of its own, for the
receiver to refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_DELTA

_FRAME = 6
"""The most bytes that a message takes within another one beyond its own: a tag, and its length in up to five."""

_LEVELS = {
    "resource_metrics": ("resource_metrics", "scope_metrics", "metrics"),
    "resource_spans": ("resource_spans", "scope_spans"),
    "resource_logs": ("resource_logs", "scope_logs"),
}
_ITEMS = {"resource_metrics": "data_points", "resource_spans": "spans", "resource_logs": "log_records"}


@dataclass(slots=True, eq=False)
class ExportRequest:
    """One request to an endpoint.

    Attributes:
        message: An ``Export…ServiceRequest``.
        items: The number of its data points, spans or log records.
        size: In bytes, or a few more.
        zeros: The number of points of zero that stand before others in it, which do not count as items.
        taken: Whether the endpoint has taken it, with or without its zeros.
    """

    message: Any
    items: int = 0
    size: int = 0
    zeros: int = 0
    taken: bool = False

    def leave_out_zeros(self) -> None:
        """Remove the points of zero from the message."""
        for resource in self.message.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points = _items_of(metric, "resource_metrics")
                    at = 0
                    for group in _groups_of(points):
                        number = _zeros_in(group)
                        del points[at : at + number]
                        at += len(group) - number


def split(message: Any, limit: int) -> list[ExportRequest]:
    """Return the requests that carry all that an ``Export…ServiceRequest`` holds, each within `limit` bytes."""
    size = message.ByteSize()
    if size <= limit:
        zeros = [(_zeros_in(group), len(group)) for _, group in _groups(message)]
        in_all = sum(number for number, _ in zeros)
        return [ExportRequest(message, sum(number for _, number in zeros) - in_all, size, in_all)]
    requests: list[_GrowingRequest] = []
    envelopes: list[_Envelope] = []
    for chain, group in _groups(message):
        envelopes = [
            envelopes[depth]
            if depth < len(envelopes) and envelopes[depth].original is original
            else _Envelope(original)
            for depth, original in enumerate(chain)
        ]
        size = sum(item.ByteSize() + _FRAME for item in group)
        if not requests or requests[-1].size_with(envelopes, size) > limit:
            requests.append(_GrowingRequest(type(message)(), _root(message)))
        requests[-1].add(envelopes, group, size)
    return [ExportRequest(each.message, each.items, each.size, each.zeros) for each in requests]


def single(message: Any) -> Iterator[Any]:
    """Return the items of an ``Export…ServiceRequest``: data points, spans, or log records."""
    for _, group in _groups(message):
        yield from group


def count_once(message: Any) -> int:
    """Count the data points that do not come again with the next export, which are those of delta streams."""
    return sum(
        len(data.data_points)
        for resource in message.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if _temporality(data := getattr(metric, metric.WhichOneof("data"))) == AGGREGATION_TEMPORALITY_DELTA
    )


def count_exemplars(message: Any) -> int:
    """Count the exemplars of the data points."""
    return sum(len(point.exemplars) for point in single(message))


def _temporality(data: Any) -> Any:
    return getattr(data, "aggregation_temporality", None)


Chain = tuple[Any, ...]
"""What an item is part of, from the outside in: resource, scope and, for a data point, the metric."""


class _Envelope:
    """A resource, scope or metric without its contents, to be put around some of them."""

    __slots__ = ("bare", "original", "size")

    def __init__(self, original: Any) -> None:
        self.original = original
        self.bare = type(original)()
        _copy_bare(original, self.bare)
        self.size: int = self.bare.ByteSize() + 2 * _FRAME  # twice, since the points of a metric are one level deeper


class _GrowingRequest:
    """A request that takes items until it has reached its limit."""

    def __init__(self, message: Any, root: str) -> None:
        self.message = message
        self.items = 0
        self.zeros = 0
        self.size = 0
        self._root = root
        self._envelopes: list[_Envelope] = []
        """The resource, scope and metric of the last item."""
        self._copies: list[Any] = []
        """The same, in this request."""

    def size_with(self, envelopes: Sequence[_Envelope], size: int) -> int:
        """Return how long it would be with further items of `size` bytes inside these envelopes."""
        opened: int = sum(envelope.size for envelope in envelopes[self._shared(envelopes) :])
        return self.size + size + opened

    def add(self, envelopes: list[_Envelope], group: Sequence[Any], size: int) -> None:
        """Add items that stay together."""
        self.size = self.size_with(envelopes, size)
        zeros = _zeros_in(group)
        self.items += len(group) - zeros
        self.zeros += zeros
        shared = self._shared(envelopes)
        del self._copies[shared:]
        for level, envelope in zip(_LEVELS[self._root][shared:], envelopes[shared:], strict=True):
            copy = getattr(self._copies[-1] if self._copies else self.message, level).add()
            copy.CopyFrom(envelope.bare)
            self._copies.append(copy)
        self._envelopes = envelopes
        _items_of(self._copies[-1], self._root).extend(group)

    def _shared(self, envelopes: Sequence[_Envelope]) -> int:
        return sum(ours is theirs for ours, theirs in zip(self._envelopes, envelopes, strict=False))


def _root(message: Any) -> str:
    name: str = message.DESCRIPTOR.fields[0].name
    return name


def _groups(message: Any) -> Iterator[tuple[Chain, Sequence[Any]]]:
    """Yield the items in the groups that have to stay together, each group with its resource, scope and metric."""
    root = _root(message)
    below = _LEVELS[root][1]
    for resource in getattr(message, root):
        for scope in getattr(resource, below):
            if root != "resource_metrics":
                for item in _items_of(scope, root):
                    yield (resource, scope), (item,)
                continue
            for metric in scope.metrics:
                for group in _groups_of(_items_of(metric, root)):
                    yield (resource, scope, metric), group


def _groups_of(points: Iterable[Any]) -> Iterator[Sequence[Any]]:
    """Yield data points in groups: those beside each other with equal attributes."""
    group: list[Any] = []
    for point in list(points):
        if group and point.attributes != group[-1].attributes:
            yield group
            group = []
        group.append(point)
    if group:
        yield group


def _zeros_in(group: Sequence[Any]) -> int:
    """Count the points of zero that stand before another one of their series."""
    return sum(not (point.exemplars or _number_in(point)) for point in group[:-1]) if len(group) > 1 else 0


def _number_in(point: Any) -> Any:
    """Return the count of a histogram, or the value of a sum."""
    return point.as_int or point.as_double if hasattr(point, "as_int") else point.count


def _items_of(holder: Any, root: str) -> Any:
    """Return the list of items of a scope, or of a metric."""
    if root == "resource_metrics":
        holder = getattr(holder, holder.WhichOneof("data"))
    return getattr(holder, _ITEMS[root])


_INSIDE = frozenset(_ITEMS.values()).union(*_LEVELS.values())


def _copy_bare(original: Any, copy: Any) -> None:
    """Copy a resource, scope or metric without its contents."""
    for field, value in original.ListFields():
        if field.name in _INSIDE:
            continue
        if field.message_type is None:
            setattr(copy, field.name, value)
        elif field.containing_oneof is not None:  # the data of a metric
            inner = getattr(copy, field.name)
            inner.SetInParent()
            _copy_bare(value, inner)
        elif hasattr(value, "extend"):  # several
            getattr(copy, field.name).extend(value)
        else:
            getattr(copy, field.name).CopyFrom(value)
