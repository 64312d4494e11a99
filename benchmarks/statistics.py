"""The few statistics that are needed: medians, and how far the middle half is spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Spread:
    """A median, and the quartiles below and above it."""

    median: float
    low: float
    high: float

    def scaled(self, factor: float) -> Spread:
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def spread(numbers: Sequence[float]) -> Spread:
    """Return the median and the quartiles of at least one number."""
    if len(numbers) == 1:
        return Spread(numbers[0], numbers[0], numbers[0])
    low, median, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return Spread(median, low, high)


def paired_ratio(numbers: Sequence[float], others: Sequence[float]) -> Spread:
    """Return the spread of the ratios of what was measured in the same round."""
    return spread([one / other for one, other in zip(numbers, others, strict=True) if other > 0] or [float("nan")])


def quantile(rising: Sequence[float], share: float) -> float:
    """Return the value that `share` of the sorted values do not exceed."""
    return rising[min(len(rising) - 1, int(share * len(rising)))]
