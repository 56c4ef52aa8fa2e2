"""Bootstrap intervals against exact binomial quantiles, their coverage, pairing, seeds and memory."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from lavic.evaluate.bootstrap import FloatArray, Interval, ratio_intervals


def column(values: object) -> FloatArray:
    return np.asarray(values, dtype=np.float64).reshape(-1, 1)


def hits(rows: int, right: int) -> FloatArray:
    return column([1.0] * right + [0.0] * (rows - right))


def share_interval(rows: int, right: int, *, seed: int = 0, resamples: int = 10_000) -> Interval:
    return ratio_intervals(hits(rows, right), np.ones((rows, 1)), seed=seed, resamples=resamples)[0]


def binomial_quantile(rows: int, share: float, quantile: float) -> int:
    total = 0.0
    for k in range(rows + 1):
        total += math.comb(rows, k) * share**k * (1 - share) ** (rows - k)
        if total >= quantile:
            return k
    raise AssertionError("unreachable")


def test_twenty_rows_give_the_binomial_quantiles() -> None:
    # The number of hits in a draw of 20 rows, 6 of them hits, is binomial(20, 0.3): P(X <= 1) = 0.008, P(X <= 2) =
    # 0.035, P(X <= 9) = 0.952, P(X <= 10) = 0.983, so the quantiles of 2.5 % and 97.5 % are 2 and 10 of 20.
    assert share_interval(20, 6) == Interval(0.3, 0.1, 0.5)


def test_a_thousand_rows_give_the_binomial_quantiles() -> None:
    # Few groups of many rows are drawn another way (multinomially) than twenty rows.
    found = share_interval(1000, 300)
    assert found.value == 0.3
    assert found.low * 1000 == pytest.approx(binomial_quantile(1000, 0.3, 0.025), abs=1)
    assert found.high * 1000 == pytest.approx(binomial_quantile(1000, 0.3, 0.975), abs=1)


def test_the_interval_covers_the_truth_in_95_of_100_samples() -> None:
    generator = np.random.default_rng(7)
    samples = generator.binomial(200, 0.3, size=400)
    intervals = [share_interval(200, int(right), seed=i, resamples=400) for i, right in enumerate(samples)]
    covered = sum(interval.low <= 0.3 <= interval.high for interval in intervals)
    # 380 of 400 are expected, with a standard deviation of 4.4; an interval of 90 % would cover 360, one of 99 % 396.
    assert 367 <= covered <= 391


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    # Values without a pattern: equal quantiles of two seeds would be a wonder.
    values = column(np.random.default_rng(1).random(50))
    first, again, other = (ratio_intervals(values, np.ones((50, 1)), seed=seed)[0] for seed in (3, 3, 4))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert first.value == other.value


def test_the_order_of_the_rows_changes_no_bit() -> None:
    generator = np.random.default_rng(2)
    values, weights = column(generator.random(300)), column(generator.integers(1, 9, 300))
    order = generator.permutation(300)
    assert ratio_intervals(values, weights) == ratio_intervals(values[order], weights[order])


def test_numerator_and_denominator_are_drawn_together() -> None:
    # Each row's ratio is a half, so each draw's is, whatever its denominators are; drawn apart they would spread.
    weights = column(np.random.default_rng(3).integers(1, 30, 100))
    found = ratio_intervals(weights / 2, weights)[0]
    assert (found.low, found.value, found.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-12)


def test_a_ratio_weighs_rows_by_their_denominator() -> None:
    # By hand: (1 + 0) / (1 + 9) = 0.1; the mean of the rows' ratios would be 0.5. Both rows drawn alike give 1 and 0.
    assert ratio_intervals(column([1, 0]), column([1, 9]))[0] == Interval(0.1, 0.0, 1.0)


def test_columns_see_the_same_draws() -> None:
    generator = np.random.default_rng(4)
    a = generator.random((40, 1))
    both = ratio_intervals(np.hstack([a, 1 - a]), np.ones((40, 2)))
    assert both[0].low == pytest.approx(1 - both[1].high, abs=1e-12)
    assert both[0].high == pytest.approx(1 - both[1].low, abs=1e-12)


def test_one_row_is_its_own_interval() -> None:
    assert share_interval(1, 1) == Interval(1.0, 1.0, 1.0)
    assert share_interval(1, 0) == Interval(0.0, 0.0, 0.0)


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="denominator is not positive"):
        ratio_intervals(column([0, 1]), column([0, 1]))
    with pytest.raises(ValueError, match="shape"):
        ratio_intervals(column([0, 1]), column([1]))
    with pytest.raises(ValueError, match="0 resamples"):
        ratio_intervals(column([1]), column([1]), resamples=0)


@pytest.mark.parametrize(("different", "resamples"), [(2, 10_000), (100_000, 200)], ids=["few values", "all different"])
def test_a_hundred_thousand_rows_take_little_memory(different: int, resamples: int) -> None:
    values = column(np.arange(100_000) % different)
    tracemalloc.start()
    found = ratio_intervals(values, np.ones_like(values), resamples=resamples)[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.low < found.value < found.high
    # All draws at once would be 8 GB, or 160 MB for the counts of 200 draws, and as much again for the drawn rows.
    assert peak < 120e6
