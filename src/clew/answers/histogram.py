"""Histograms as OTLP sends them, explicit and exponential: added, subtracted, and read as buckets."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple


class Bucket(NamedTuple):
    """`held` values in (low, high]; `exponential`: they lie closer together at its low end."""

    low: float
    high: float
    held: float
    exponential: bool = False


@dataclass(slots=True)
class Explicit:
    """Counts between bounds, one more than bounds; `sum` is None where it was not sent."""

    bounds: tuple[float, ...]
    count: int = 0
    sum: float | None = 0.0
    counts: list[int] = field(default_factory=list[int])

    def was_reset_since(self, earlier: Explicit) -> bool:
        """Return whether this cumulative value has been reset since `earlier`."""
        return self.count < earlier.count or any(a < b for a, b in zip(self.counts, earlier.counts, strict=False))

    def minus(self, earlier: Explicit) -> Explicit:
        """Return what was counted since `earlier`."""
        counts = self.counts
        if earlier.counts:
            counts = [max(a - b, 0) for a, b in zip(counts, earlier.counts, strict=False)]
        return Explicit(self.bounds, self.count - earlier.count, _minus(self.sum, earlier.sum), counts)

    def plus(self, other: Explicit) -> Explicit:
        """Return the sum of both; the bounds have to be the same."""
        if not self.counts or not other.counts:
            counts = self.counts or other.counts
        else:
            counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        return Explicit(self.bounds, self.count + other.count, _plus(self.sum, other.sum), counts)

    def buckets(self) -> list[Bucket]:
        """Return the buckets that hold something. Values under a first bound over zero are taken to be positive."""
        edges = [0.0 if self.bounds and self.bounds[0] > 0 else -math.inf, *self.bounds, math.inf]
        return [
            Bucket(low, high, count) for low, high, count in zip(edges, edges[1:], self.counts, strict=False) if count
        ]


@dataclass(slots=True)
class Exponential:
    """Counts by index at base 2 ** (2 ** -scale), and those around zero."""

    scale: int
    count: int = 0
    sum: float | None = 0.0
    zero: int = 0
    threshold: float = 0.0
    positive: dict[int, int] = field(default_factory=dict[int, int])
    negative: dict[int, int] = field(default_factory=dict[int, int])

    def was_reset_since(self, earlier: Exponential) -> bool:
        """Return whether this has been reset since `earlier`; buckets may shrink as scale and threshold move."""
        return self.count < earlier.count

    def minus(self, earlier: Exponential) -> Exponential:
        """Return what was counted since `earlier`, at the coarser of the two scales."""
        return self._combined(earlier, -1)

    def plus(self, other: Exponential) -> Exponential:
        """Return the sum of both, at the coarser of the two scales."""
        return self._combined(other, 1)

    def buckets(self) -> list[Bucket]:
        """Return the buckets that hold something, negative ones first."""
        found = [
            Bucket(-self._edge(index + 1), -self._edge(index), count, True)
            for index, count in sorted(self.negative.items(), reverse=True)
        ]
        if self.zero:
            found.append(Bucket(-self.threshold if self.negative else 0.0, self.threshold, self.zero))
        found += [
            Bucket(self._edge(index), self._edge(index + 1), count, True)
            for index, count in sorted(self.positive.items())
        ]
        return found

    def _edge(self, index: int) -> float:
        exponent = index * 2.0**-self.scale
        return math.inf if exponent >= 1024 else 2.0 ** max(exponent, -1074.0)

    def _combined(self, other: Exponential, sign: int) -> Exponential:
        scale = min(self.scale, other.scale)
        return Exponential(
            scale=scale,
            count=self.count + sign * other.count,
            sum=(_plus if sign > 0 else _minus)(self.sum, other.sum),
            zero=max(self.zero + sign * other.zero, 0),
            threshold=max(self.threshold, other.threshold),
            positive=_combined(self.positive, self.scale - scale, other.positive, other.scale - scale, sign),
            negative=_combined(self.negative, self.scale - scale, other.negative, other.scale - scale, sign),
        )


Histogram = Explicit | Exponential


def merged(histograms: Iterable[Histogram]) -> list[Bucket]:
    """Return the buckets of all histograms together, rising and without overlap.

    Where bounds differ, a bucket that is cut by another's bound is distributed in proportion.
    """
    explicit: dict[tuple[float, ...], Explicit] = {}
    exponential: Exponential | None = None
    for histogram in histograms:
        if isinstance(histogram, Explicit):
            known = explicit.get(histogram.bounds)
            explicit[histogram.bounds] = histogram if known is None else known.plus(histogram)
        else:
            exponential = histogram if exponential is None else exponential.plus(histogram)
    layouts = [layout.buckets() for layout in explicit.values()]
    if exponential is not None:
        layouts.append(exponential.buckets())
    return merged_buckets(layouts)


def merged_buckets(layouts: Iterable[list[Bucket]]) -> list[Bucket]:
    """Return the buckets of several layouts as one, cut at every bound of each."""
    layouts = [layout for layout in layouts if layout]
    if len(layouts) <= 1:
        return layouts[0] if layouts else []
    edges = sorted({edge for layout in layouts for bucket in layout for edge in (bucket.low, bucket.high)})
    counts: dict[tuple[float, float], float] = defaultdict(float)
    for layout in layouts:
        for bucket in layout:
            inside = [edge for edge in edges if bucket.low <= edge <= bucket.high]
            if len(inside) == 1:  # nothing between its edges: the zero bucket of an exponential histogram
                counts[bucket.low, bucket.high] += bucket.held
            for low, high in pairwise(inside):
                width = bucket.high - bucket.low
                if math.isfinite(width):
                    counts[low, high] += bucket.held * (high - low) / width
                elif low == (bucket.low if math.isfinite(bucket.low) else inside[0]):
                    counts[low, high] += bucket.held  # an open bucket keeps all beside its finite edge
    return [Bucket(low, high, count) for (low, high), count in sorted(counts.items())]


def _combined(first: dict[int, int], down: int, second: dict[int, int], other_down: int, sign: int) -> dict[int, int]:
    counts: dict[int, int] = defaultdict(int)
    for index, count in first.items():
        counts[index >> down] += count
    for index, count in second.items():
        counts[index >> other_down] += sign * count
    return {index: count for index, count in counts.items() if count > 0}


def _plus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
