"""Quantiles, trends and lift: against slower ways to compute the same, and against simulated days."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clew.answers.histogram import Bucket, Explicit, Exponential, merged
from clew.answers.statistics import Side, block_count, compare, lift, quantile, student

edges = (
    st.lists(st.floats(0.001, 1000, allow_subnormal=False), min_size=2, max_size=8, unique=True)
    .map(sorted)
    .filter(lambda bounds: all(high > low * (1 + 1e-6) for low, high in pairwise(bounds)))  # room for what is between
)


@given(edges, st.data())
def test_a_quantile_inverts_the_distribution_that_is_even_inside_each_bucket(bounds, data):
    counts = data.draw(st.lists(st.integers(0, 50), min_size=len(bounds) - 1, max_size=len(bounds) - 1))
    q = data.draw(st.floats(0.01, 0.99))
    assume(sum(counts))
    buckets = [Bucket(low, high, count) for (low, high), count in zip(pairwise(bounds), counts, strict=True)]
    found = quantile(q, buckets)
    assert found is not None

    def below(value):
        return sum(count * min(max((value - low) / (high - low), 0), 1) for low, high, count, _ in buckets)

    assert below(found.value) == pytest.approx(q * sum(counts), rel=1e-6, abs=1e-6)
    assert found.low <= found.value <= found.high


def test_quantiles_are_those_of_prometheus():
    # histogram_quantile over le="0.1": 10, le="0.5": 30, le="1": 38, le="+Inf": 40
    buckets = Explicit((0.1, 0.5, 1.0), 40, 12.0, [10, 20, 8, 2]).buckets()
    assert quantile(0.25, buckets).value == pytest.approx(0.1)
    assert quantile(0.5, buckets).value == pytest.approx(0.3)
    assert quantile(0.9, buckets).value == pytest.approx(0.875)
    last = quantile(0.99, buckets)
    assert (last.value, last.low, last.high) == (1.0, 1.0, None)
    assert quantile(0.5, []) is None


@given(st.lists(st.floats(0.0001, 50), min_size=1, max_size=200), st.floats(0.01, 0.999))
def test_no_quantile_exceeds_the_slowest_call_where_each_bucket_keeps_its_largest(durations, q):
    bounds = (0.001, 0.01, 0.1, 1.0, 10.0)
    counts = [0] * 6
    largest: dict[int, float] = {}
    for duration in durations:
        index = sum(duration > bound for bound in bounds)
        counts[index] += 1
        largest[index] = max(largest.get(index, 0), duration)
    found = quantile(q, Explicit(bounds, len(durations), 0, counts).buckets(), list(largest.values()))
    assert found.value <= max(durations)


@given(
    st.lists(st.integers(-200, 200), min_size=1, max_size=50),
    st.lists(st.integers(-200, 200), max_size=50),
    st.integers(0, 5),
)
def test_exponential_histograms_add_and_subtract_at_the_coarser_scale(first, second, down):
    def made(indices, scale):
        positive: dict[int, int] = {}
        for index in indices:
            positive[index >> (5 - scale)] = positive.get(index >> (5 - scale), 0) + 1
        return Exponential(scale, len(indices), float(len(indices)), positive=positive)

    both = made(first, 5).plus(made(second, 5 - down))
    assert both == made([*first, *second], 5 - down)
    assert both.minus(made(second, 5 - down)) == made(first, 5 - down)


def test_histograms_with_other_bounds_are_distributed_and_lose_nothing():
    coarse = Explicit((1.0, 3.0), 12, 0, [4, 6, 2])
    fine = Explicit((1.0, 2.0, 3.0), 9, 0, [0, 9, 0, 0])
    buckets = merged([coarse, fine])
    assert [(low, high, held) for low, high, held, _ in buckets] == [(0, 1, 4), (1, 2, 12), (2, 3, 3), (3, math.inf, 2)]
    exponential = Exponential(0, 8, 0.0, zero=1, positive={0: 7})
    assert sum(bucket.held for bucket in merged([coarse, fine, exponential])) == 29


@pytest.mark.parametrize(
    ("t", "degrees", "p"),
    [(2.228, 10, 0.05), (12.706, 1, 0.05), (2.306, 8, 0.05), (4.604, 4, 0.01), (0, 7, 1), (1.96, 1e6, 0.05)],
)
def test_students_table(t, degrees, p):
    assert student(t, degrees) == pytest.approx(p, rel=2e-3)


def day(chance, *, load=1.0, slower=1.0, failing=0.02, interval=15, burst=60, calm=120):
    """An hour of a service whose callers come in bursts: calls, failed calls and seconds per export interval."""
    calls, failed, seconds = [], [], []
    bursting = chance.random() < burst / (burst + calm)
    for second in range(3600):
        if second % interval == 0:
            calls.append(0)
            failed.append(0)
            seconds.append(0.0)
        if chance.random() < 1 / (burst if bursting else calm):
            bursting = not bursting
        rate = load * (4.0 if bursting else 1.0)
        waited = chance.expovariate(rate)
        while waited < 1:
            calls[-1] += 1
            failed[-1] += chance.random() < failing * (2 if bursting else 1)
            seconds[-1] += chance.lognormvariate(-3, 0.8) * slower * (1.5 if bursting else 1)
            waited += chance.expovariate(rate)
    blocks = block_count(3600, interval)
    ends = [len(calls) * block // blocks for block in range(blocks + 1)]
    in_blocks = [[sum(values[a:b]) for a, b in pairwise(ends)] for values in (calls, failed, seconds)]
    lasting = [(b - a) * interval for a, b in pairwise(ends)]
    return Side(in_blocks[0], lasting), Side(in_blocks[1], in_blocks[0]), Side(in_blocks[2], in_blocks[0])


@pytest.mark.parametrize(("interval", "burst", "calm"), [(5, 20, 60), (15, 60, 120), (60, 60, 120), (15, 240, 240)])
def test_equal_days_are_level_though_their_calls_come_in_bursts(interval, burst, calm):
    chance = random.Random(interval * burst)
    pairs = 40
    wrong = [0, 0, 0]
    for _ in range(pairs):
        days = [day(chance, interval=interval, burst=burst, calm=calm) for _ in range(2)]
        for number in range(3):
            wrong[number] += compare(days[0][number], days[1][number]).direction != "level"
    assert max(wrong) / pairs <= 0.10


def test_twice_the_load_and_half_again_as_slow_and_failing_more_are_found():
    chance = random.Random(11)
    pairs, found = 30, [0, 0, 0]
    for _ in range(pairs):
        before = day(chance, burst=20, calm=60)
        now = day(chance, burst=20, calm=60, load=2, slower=1.5, failing=0.06)
        for number in range(3):
            found[number] += compare(now[number], before[number]).direction == "up"
            assert compare(before[number], now[number]).direction != "up"
    assert min(found) / pairs >= 0.9


def test_a_change_of_a_few_percent_is_level_however_certain():
    trend = compare(Side([105] * 10, [10] * 10), Side([100] * 10, [10] * 10))
    assert trend.direction == "level"
    assert trend.p_value == 0.0
    assert trend.ratio == pytest.approx(1.05)


def test_fewer_than_five_blocks_a_side_are_unknown_and_still_give_the_numbers():
    trend = compare(Side([200] * 4, [10] * 4), Side([100] * 12, [10] * 12))
    assert (trend.now, trend.before, trend.ratio) == (20, 10, 2)
    assert trend.direction == "unknown"
    assert trend.p_value is None
    assert block_count(3600, 60) == 6
    assert block_count(600, 60) == 1
    assert block_count(3600, None) == 0


def test_what_was_never_before_has_no_ratio_and_a_direction():
    trend = compare(Side([5, 6, 5, 4, 5, 6], [100] * 6), Side([0] * 6, [100] * 6))
    assert trend.before == 0
    assert trend.ratio is None
    assert trend.direction == "up"
    one = compare(Side([1, 0, 0, 0, 0, 0], [100] * 6), Side([0] * 6, [100] * 6))
    assert one.direction == "level"


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 500), st.integers(0, 500))
def test_lift_is_finite_and_its_bound_below_it(bad, more_bad, rest, more_rest):
    found = lift(bad, bad + more_bad, rest, rest + more_rest)
    assert 0 < found.lower <= found.lift < math.inf
    assert 0 < found.share_of_bad <= 1
    assert 0 < found.share_of_rest <= 1
