"""Exports cut by their size in bytes: receivers refuse a message that is too long, and all that is in it.

What is within the bound stays as it is. What is longer becomes several parts, each a request of its own with the
resource, scope and metric that its items belong to. Data points that stand beside each other in one metric and have
equal attributes (a zero and the first point after it) stay together. One that is over the bound alone is a part of its
own: it is the receiver's to refuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
class Part:
    """One request: an ``Export…ServiceRequest``, and how many data points, spans or log records are in it."""

    message: Any
    items: int = 0
    size: int = 0
    """In bytes, or a few more."""


def cut(message: Any, limit: int) -> list[Part]:
    """Return the requests that carry all that an ``Export…ServiceRequest`` holds, each within `limit` bytes."""
    size = message.ByteSize()
    if size <= limit:
        return [Part(message, sum(len(group) for _, group in _groups(message)), size)]
    parts: list[_Growing] = []
    heads: list[_Head] = []
    for chain, group in _groups(message):
        heads = [
            heads[depth] if depth < len(heads) and heads[depth].original is original else _Head(original)
            for depth, original in enumerate(chain)
        ]
        size = sum(item.ByteSize() + _FRAME for item in group)
        if not parts or parts[-1].size_with(heads, size) > limit:
            parts.append(_Growing(type(message)(), _root(message)))
        parts[-1].add(heads, group, size)
    return [Part(part.message, part.items, part.size) for part in parts]


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
"""What an item stands in, from the outside in: resource, scope and, for a data point, the metric."""


class _Head:
    """A resource, scope or metric without what is inside, to stand around some of it."""

    __slots__ = ("bare", "original", "size")

    def __init__(self, original: Any) -> None:
        self.original = original
        self.bare = type(original)()
        _copy_bare(original, self.bare)
        self.size: int = self.bare.ByteSize() + 2 * _FRAME  # twice, since the points of a metric are one level deeper


class _Growing:
    """A request that takes items until it is long enough."""

    def __init__(self, message: Any, root: str) -> None:
        self.message = message
        self.items = 0
        self.size = 0
        self._root = root
        self._heads: list[_Head] = []
        """What the last item stands in."""
        self._copies: list[Any] = []
        """The same, in this request."""

    def size_with(self, heads: Sequence[_Head], size: int) -> int:
        """Return how long it would be with items of `size` bytes that stand in these."""
        opened: int = sum(head.size for head in heads[self._shared(heads) :])
        return self.size + size + opened

    def add(self, heads: list[_Head], group: Sequence[Any], size: int) -> None:
        """Add items that stay together."""
        self.size = self.size_with(heads, size)
        self.items += len(group)
        shared = self._shared(heads)
        del self._copies[shared:]
        for level, head in zip(_LEVELS[self._root][shared:], heads[shared:], strict=True):
            copy = getattr(self._copies[-1] if self._copies else self.message, level).add()
            copy.CopyFrom(head.bare)
            self._copies.append(copy)
        self._heads = heads
        _items_of(self._copies[-1], self._root).extend(group)

    def _shared(self, heads: Sequence[_Head]) -> int:
        return sum(ours is theirs for ours, theirs in zip(self._heads, heads, strict=False))


def _root(message: Any) -> str:
    name: str = message.DESCRIPTOR.fields[0].name
    return name


def _groups(message: Any) -> Iterator[tuple[Chain, Sequence[Any]]]:
    """Go through the items, those together that have to stay together."""
    root = _root(message)
    below = _LEVELS[root][1]
    for resource in getattr(message, root):
        for scope in getattr(resource, below):
            if root != "resource_metrics":
                for item in _items_of(scope, root):
                    yield (resource, scope), (item,)
                continue
            for metric in scope.metrics:
                chain = (resource, scope, metric)
                group: list[Any] = []
                for point in _items_of(metric, root):
                    if group and point.attributes != group[-1].attributes:
                        yield chain, group
                        group = []
                    group.append(point)
                if group:
                    yield chain, group


def _items_of(holder: Any, root: str) -> Any:
    """Return the list of items of a scope, or of a metric."""
    if root == "resource_metrics":
        holder = getattr(holder, holder.WhichOneof("data"))
    return getattr(holder, _ITEMS[root])


_INSIDE = frozenset(_ITEMS.values()).union(*_LEVELS.values())


def _copy_bare(original: Any, copy: Any) -> None:
    """Copy a resource, scope or metric without what is inside."""
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
