"""Quantiles, trends and lift, without a statistics library.

A trend is tested on blocks of the window: each side is a ratio of sums (calls over seconds, failures over calls,
seconds over calls), and its spread comes from how the blocks differ from that ratio, so that bursts widen it. Counting
calls as independent (Poisson) would call every burst a change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from clew.answers.histogram import Bucket

BLOCKS = 5
"""Fewer blocks a side than this are no evidence."""

_MOST_BLOCKS = 12
_INTERVALS = 10  # a block is at least so many export intervals long
_SIGNIFICANT = 0.02  # a trend is told from noise where the p-value is smaller
_UP, _DOWN = 1.1, 0.9  # and where the ratio is beyond these
_NORMAL = 1.96  # standard deviations of a two-sided 95 % bound


class Quantile(NamedTuple):
    """An interpolated quantile and the bucket [low, high] that holds it; `high` is None for the open last bucket."""

    value: float
    low: float
    high: float | None


class Side(NamedTuple):
    """One window cut into blocks: per block, what is counted and what it is counted over."""

    counted: Sequence[float]
    over: Sequence[float]


class Trend(NamedTuple):
    """What a ratio is now and was before; `ratio` is now over before, None where before is zero."""

    now: float | None
    before: float | None
    ratio: float | None
    direction: str
    p_value: float | None


def quantile(q: float, buckets: Sequence[Bucket], largest: Sequence[float] = ()) -> Quantile | None:
    """Interpolate a quantile inside its bucket as Prometheus does; None if nothing was counted.

    Args:
        q: 0 to 1.
        buckets: rising and without overlap.
        largest: measured values; where the largest of those in the quantile's bucket is smaller, it is the answer.
    """
    rank = q * sum(bucket.held for bucket in buckets)
    found: Bucket | None = None
    for bucket in buckets:
        if bucket.held <= 0:
            continue
        found = bucket
        if bucket.held >= rank:
            break
        rank -= bucket.held
    if found is None:
        return None
    low, high = found.low, found.high
    share = min(max(rank / found.held, 0.0), 1.0)
    if math.isinf(high):
        value = low if math.isfinite(low) else 0.0
    elif math.isinf(low):
        value = high
    elif found.exponential and low > 0:
        value = low * (high / low) ** share
    else:
        value = low + (high - low) * share
    value = high if value > high else value if value >= low else low  # not a number is none of these
    inside = [measured for measured in largest if low < measured <= high]
    if inside:
        value = min(value, max(inside))
    return Quantile(value, low if math.isfinite(low) else value, high if math.isfinite(high) else None)


def block_count(seconds: float, interval: float | None) -> int:
    """Return how many blocks a window of so many seconds is cut into, where exports come every `interval` seconds."""
    if not interval or interval <= 0:
        return 0
    return min(_MOST_BLOCKS, int(seconds / interval / _INTERVALS + 1e-3))


def compare(now: Side, before: Side) -> Trend:
    """Compare two windows.

    The direction is ``unknown`` where a side has fewer than `BLOCKS` blocks or nothing to count over, and where numbers
    are beyond what can be added up: senders may send any.
    """
    try:
        found = _compare(now, before)
    except (OverflowError, ValueError):
        return Trend(None, None, None, "unknown", None)
    return found if all(map(math.isfinite, filter(None, found[:2]))) else Trend(None, None, None, "unknown", None)


def _compare(now: Side, before: Side) -> Trend:
    rate, earlier = _ratio(now), _ratio(before)
    if rate is None or earlier is None:
        return Trend(rate, earlier, None, "unknown", None)
    ratio = rate / earlier if earlier else None
    if ratio is not None and not math.isfinite(ratio):
        ratio = None
    if min(len(now.over), len(before.over)) < BLOCKS:
        return Trend(rate, earlier, ratio, "unknown", None)
    spread, freedom = _spread(now, rate)
    earlier_spread, earlier_freedom = _spread(before, earlier)
    variance = spread + earlier_spread
    if rate == earlier:
        p_value = 1.0
    elif variance == 0:
        p_value = 0.0
    else:
        degrees = variance**2 / (spread**2 / freedom + earlier_spread**2 / earlier_freedom)
        p_value = student(abs(rate - earlier) / math.sqrt(variance), degrees)
    direction = "level"
    if p_value < _SIGNIFICANT:
        if rate > earlier * _UP:
            direction = "up"
        elif rate < earlier * _DOWN:
            direction = "down"
    return Trend(rate, earlier, ratio, direction, p_value)


def student(t: float, degrees: float) -> float:
    """Return the two-sided p-value of Student's t with so many degrees of freedom."""
    if not math.isfinite(t):
        return 0.0
    return _incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)


class Lift(NamedTuple):
    """How much more often a value is found among the bad than among the rest, with its lower 95 % bound."""

    share_of_bad: float
    share_of_rest: float
    lift: float
    lower: float


def lift(bad: float, all_bad: float, rest: float, all_rest: float) -> Lift:
    """Compare two shares, each smoothed by half an observation, so that the lift is finite.

    Args:
        bad: bad requests with the value, out of `all_bad`.
        rest: other requests with the value, out of `all_rest`.
    """
    share_of_bad = (bad + 0.5) / (all_bad + 1)
    share_of_rest = (rest + 0.5) / (all_rest + 1)
    ratio = share_of_bad / share_of_rest
    error = math.sqrt(max(1 / (bad + 0.5) - 1 / (all_bad + 1) + 1 / (rest + 0.5) - 1 / (all_rest + 1), 0.0))
    return Lift(share_of_bad, share_of_rest, ratio, ratio * math.exp(-_NORMAL * error))


def _ratio(side: Side) -> float | None:
    over = math.fsum(side.over)
    return math.fsum(side.counted) / over if over > 0 else None


def _spread(side: Side, ratio: float) -> tuple[float, float]:
    """Return the variance of a ratio of sums, from how its blocks differ from it, and the degrees of freedom.

    Neighbouring blocks that are alike (a burst over two of them) tell less than independent ones: the variance is
    widened by their correlation.
    """
    blocks = len(side.over)
    total = math.fsum(side.over)
    rest = [counted - ratio * over for counted, over in zip(side.counted, side.over, strict=True)]
    squares = math.fsum(difference * difference for difference in rest)
    if squares == 0:
        return 0.0, blocks - 1
    neighbours = math.fsum(a * b for a, b in pairwise(rest)) / squares
    alike = min(max(neighbours, 0.0), 0.8)
    widened = (1 + alike) / (1 - alike)
    return squares * blocks / (blocks - 1) / total**2 * widened, blocks - 1


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function by its continued fraction (Lentz's method)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    fraction = d
    for m in range(1, 300):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + numerator * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + numerator / (c if abs(c) > tiny else tiny)
            fraction *= c * d
        if abs(c * d - 1) < 1e-12:
            break
    return front * fraction
