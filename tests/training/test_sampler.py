"""The order of samples: a pure function, each sample once, little padding, and still random."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lavic.training.sampler import epoch_batches, ordered_batches, steps_per_epoch


def lengths(count: int, seed: int = 0) -> np.ndarray:
    """Token counts as descriptions have them: most near 100, some three times as long."""
    return np.random.default_rng(seed).lognormal(4.6, 0.35, count).astype(np.int32)


def padding_share(batches: list[list[int]], sizes: np.ndarray) -> float:
    """Share of all positions that is padding."""
    positions = sum(len(batch) * int(sizes[batch].max()) for batch in batches)
    return 1 - int(sizes.sum()) / positions


@pytest.mark.parametrize("by_length", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 2000])
@pytest.mark.parametrize("count", [0, 1, 5, 64, 1001])
def test_every_sample_comes_once_and_only_one_batch_is_smaller(count, batch_size, by_length):
    batches = epoch_batches(lengths(count), batch_size, seed=3, epoch=2, by_length=by_length)
    assert sorted(index for batch in batches for index in batch) == list(range(count))
    whole, rest = divmod(count, batch_size)
    assert sorted(map(len, batches), reverse=True) == [batch_size] * whole + [rest] * (rest > 0)


def test_the_order_depends_on_seed_and_epoch_alone():
    sizes = lengths(500)
    first = epoch_batches(sizes, 4, seed=7, epoch=1)
    np.random.seed(0)
    torch.manual_seed(99)
    assert epoch_batches(sizes.tolist(), 4, seed=7, epoch=1) == first
    assert epoch_batches(sizes, 4, seed=8, epoch=1) != first
    assert epoch_batches(sizes, 4, seed=7, epoch=2) != first
    # (seed, epoch) is a pair: 7 and 1 must not be 8 and 0.
    assert epoch_batches(sizes, 4, seed=8, epoch=0) != first


def test_drawing_an_order_takes_nothing_from_the_global_states():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    epoch_batches(lengths(100), 4, seed=1, epoch=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.parametrize("batch_size", [4, 16])
def test_batches_of_similar_length_waste_little(batch_size):
    sizes = lengths(20_000)
    grouped = padding_share(epoch_batches(sizes, batch_size, seed=0, epoch=0), sizes)
    mixed = padding_share(epoch_batches(sizes, batch_size, seed=0, epoch=0, by_length=False), sizes)
    assert mixed > 0.25
    assert grouped < 0.05


def test_grouping_by_length_does_not_sort_the_epoch():
    sizes = lengths(8_000)
    batches = epoch_batches(sizes, 8, seed=0, epoch=0)
    means = np.array([sizes[batch].mean() for batch in batches])
    order = np.corrcoef(means, np.arange(len(means)))[0, 1]
    neighbours = np.corrcoef(means[:-1], means[1:])[0, 1]
    # 1,000 batches: chance correlations have a standard deviation of 0.03.
    assert abs(order) < 0.12
    assert abs(neighbours) < 0.12


def test_companions_change_from_epoch_to_epoch():
    sizes = lengths(2_000)
    pairs = []
    for epoch in (0, 1):
        batches = epoch_batches(sizes, 4, seed=0, epoch=epoch)
        pairs.append({frozenset((a, b)) for batch in batches for a in batch for b in batch if a != b})
    assert len(pairs[0] & pairs[1]) < 0.1 * len(pairs[0])


@pytest.mark.parametrize(
    ("samples", "batch_size", "accumulation", "steps"),
    [(10, 1, 1, 10), (10, 4, 1, 3), (10, 4, 2, 2), (10, 3, 4, 1), (13, 3, 4, 2), (1, 8, 8, 1), (0, 4, 2, 0)],
)
def test_the_last_step_takes_what_is_left(samples, batch_size, accumulation, steps):
    assert steps_per_epoch(samples, batch_size, accumulation) == steps
    batches = epoch_batches(lengths(samples), batch_size, seed=0, epoch=0)
    assert len(range(0, len(batches), accumulation)) == steps


def test_validation_goes_from_the_longest_to_the_shortest():
    assert ordered_batches([5, 9, 7, 9, 1], 2) == [[1, 3], [2, 0], [4]]
    assert ordered_batches([], 2) == []
    assert ordered_batches([5, 9, 7, 9, 1, 20], 3, max_tokens=18) == [[5], [1, 3], [2, 0], [4]]
    assert ordered_batches([6, 6, 6, 6], 3, max_tokens=100) == [[0, 1, 2], [3]]
    sizes = lengths(1000)
    assert padding_share(ordered_batches(sizes, 16), sizes) < 0.03
