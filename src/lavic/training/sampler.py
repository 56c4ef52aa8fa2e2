"""The order of samples, a pure function of (seed, epoch): a resumed run needs no stored state.

Batches group samples of similar length, so that little is spent on padding: the epoch's permutation is
cut into pools, each pool is sorted by length and cut into batches, and the batches are shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Batches per pool: large enough that lengths in a batch differ by a few tokens, small enough to stay random.
POOL_BATCHES = 32


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, epoch]))


def epoch_batches(
    lengths: Sequence[int] | NDArray[np.int32],
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    by_length: bool = True,
) -> list[list[int]]:
    """All batches of one epoch; every sample comes exactly once, only one batch may be smaller.

    Args:
        lengths: tokens of each sample.
        epoch: from 0.
        by_length: False takes the permutation as it is.
    """
    generator = _generator(seed, epoch)
    order = generator.permutation(len(lengths))
    if not by_length or batch_size == 1:
        return [order[at : at + batch_size].tolist() for at in range(0, len(order), batch_size)]
    sizes = np.asarray(lengths)
    batches: list[list[int]] = []
    pool_size = POOL_BATCHES * batch_size
    for start in range(0, len(order), pool_size):
        pool = order[start : start + pool_size]
        pool = pool[np.argsort(sizes[pool], kind="stable")]
        batches += [pool[at : at + batch_size].tolist() for at in range(0, len(pool), batch_size)]
    return [batches[place] for place in generator.permutation(len(batches))]


def steps_per_epoch(samples: int, batch_size: int, accumulation: int) -> int:
    """Optimizer steps of an epoch; the last one takes what is left."""
    batches = -(-samples // batch_size)
    return -(-batches // accumulation)


def ordered_batches(
    lengths: Sequence[int] | NDArray[np.int32], batch_size: int, *, max_tokens: int | None = None
) -> list[list[int]]:
    """Batches for validation, longest first (memory trouble shows at once), the same each time.

    Args:
        max_tokens: of a batch, padding included; fewer samples make one then, at least one.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        room = batch_size if max_tokens is None else max_tokens // max(1, int(lengths[order[start]]))
        size = max(1, min(batch_size, room))
        batches.append(order[start : start + size].tolist())
        start += size
    return batches
