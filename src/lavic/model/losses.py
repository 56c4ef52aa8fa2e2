"""Negative log-likelihood at target positions; logits are made nowhere else, and in chunks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lavic.model.sequences import IGNORE_INDEX, TokenBatch

#: Positions per chunk: 1,024 x 32,064 fp32 logits are 131 MB.
CHUNK = 1024


@dataclass(frozen=True)
class TargetLoss:
    """Losses of one micro-batch's target tokens.

    Attributes:
        nats: [n] fp32 (fp64 for an fp64 model), one per target token, in row order.
        rows: [n] int64, which sequence each belongs to.
        is_eos: [n] bool, which of them is a closing EOS.
    """

    nats: Tensor
    rows: Tensor
    is_eos: Tensor

    @property
    def total(self) -> Tensor:
        """Sum over all target tokens, EOS included; what is differentiated."""
        return self.nats.sum()


def token_nats(hidden: Tensor, lm_head: nn.Module, targets: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """Cross entropy of each position, without keeping logits for the backward pass.

    Args:
        hidden: [n, D] states that predict ``targets``.
        lm_head: D -> vocabulary.
        targets: [n] int64.

    Returns:
        [n], at least fp32.
    """

    def of_chunk(states: Tensor, wanted: Tensor) -> Tensor:
        return cross_entropy(lm_head(states), wanted)

    if len(targets) <= chunk:
        return of_chunk(hidden, targets)
    pieces = []
    for start in range(0, len(targets), chunk):
        part = slice(start, start + chunk)
        pieces.append(checkpoint(of_chunk, hidden[part], targets[part], use_reentrant=False))
    return torch.cat(pieces)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """[n, vocabulary] and [n] to [n] nats; bf16 logits would lose the third digit."""
    return functional.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="none"
    )


def target_loss(
    hidden: Tensor, lm_head: nn.Module, batch: TokenBatch, *, chunk: int = CHUNK, everywhere: bool = False
) -> TargetLoss:
    """Loss of a batch from its hidden states.

    Args:
        hidden: [B, T', D]; T' <= T, aligned with the batch at its last position (a prefix cache cuts the
            start).
        lm_head: D -> vocabulary.
        batch: labels by position.
        everywhere: make logits at every position, as the published code does; for comparison.
    """
    width = hidden.shape[1]
    labels = batch.labels[:, -width:]
    is_eos = batch.is_eos[:, -width:]
    predicted = labels[:, 1:]
    carries = predicted != IGNORE_INDEX
    if everywhere:
        nats = cross_entropy(lm_head(hidden[:, :-1])[carries], predicted[carries])
    else:
        nats = token_nats(hidden[:, :-1][carries], lm_head, predicted[carries], chunk=chunk)
    return TargetLoss(nats, carries.nonzero()[:, 0], is_eos[:, 1:][carries])
