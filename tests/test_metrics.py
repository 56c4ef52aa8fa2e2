"""Token-weighted loss: values by hand, and sums that plain floats get wrong."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest

from lavic.errors import TrainingError
from lavic.metrics import TokenMean


def test_validation_loss_counts_tokens_not_rows() -> None:
    # By hand: one token of probability 1/2, three of 1/8: ln 2 + 3 ln 8 = 10 ln 2 nats over 4 tokens.
    # The mean of the rows' means would be (ln 2 + ln 8) / 2 = 2 ln 2, so the two can be told apart.
    total = TokenMean()
    total.add(nats=math.log(2), tokens=1)
    total.add(nats=3 * math.log(8), tokens=3)
    assert total.tokens == 4
    assert total.mean == pytest.approx(2.5 * math.log(2), rel=1e-15)
    assert total.perplexity == pytest.approx(2**2.5, rel=1e-15)


def test_sum_is_exact_in_any_order() -> None:
    # Plain addition loses the ones beside 1e16; exact fractions say what the sum is.
    rng = random.Random(5)
    values = [1e16, 1.0, 3e-9, 1e8] * 50 + [rng.expovariate(1.0) for _ in range(200)]
    exact = float(sum(Fraction(value) for value in values))
    assert sum(values) != exact
    for _ in range(3):
        rng.shuffle(values)
        total = TokenMean()
        for value in values:
            total.add(nats=value, tokens=1)
        assert total.nats == exact
        assert total.mean == exact / 400


def test_a_batch_without_tokens_changes_nothing() -> None:
    total = TokenMean()
    total.add(nats=0.0, tokens=0)
    total.add(nats=6.0, tokens=2)
    assert total.mean == 3.0


def test_mean_of_nothing_is_an_error_and_not_nan() -> None:
    with pytest.raises(ValueError, match=r"^no tokens were counted$"):
        _ = TokenMean().mean


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(value: float) -> None:
    with pytest.raises(TrainingError) as caught:
        TokenMean().add(nats=value, tokens=3)
    assert caught.value.sentence == f"a loss is not finite ({value})."


@pytest.mark.parametrize(("nats", "tokens"), [(1.0, 0), (1.0, -1)])
def test_a_loss_over_no_tokens_is_a_defect(nats: float, tokens: int) -> None:
    with pytest.raises(ValueError, match=r"^1\.0 nats over"):
        TokenMean().add(nats=nats, tokens=tokens)


def test_perplexity_beyond_a_double_is_infinite() -> None:
    total = TokenMean()
    total.add(nats=1000.0, tokens=1)
    assert total.perplexity == math.inf
