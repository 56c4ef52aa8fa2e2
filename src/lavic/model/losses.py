"""Losses at target positions: negative log-likelihood, and divergence from a teacher whose likeliest tokens are known.

Logits are made nowhere else, and in chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lavic.model.sequences import IGNORE_INDEX, TokenBatch

#: Positions per chunk: 1,024 x 32,064 fp32 logits are 131 MB.
CHUNK = 1024


@dataclass(frozen=True)
class TeacherTokens:
    """What the teacher thought at each of n target tokens.

    Attributes:
        ids: [n, K] int64, its likeliest tokens.
        log_probs: [n, K] fp32, nats.
        rest: [n] fp32, log of the probability of all other tokens together.
    """

    ids: Tensor
    log_probs: Tensor
    rest: Tensor

    def to(self, device: torch.device) -> TeacherTokens:
        """The same on another device."""
        return TeacherTokens(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))


@dataclass(frozen=True)
class Objective:
    """What training minimises, per target token: ``nll`` x nats + ``kl`` x divergence at ``temperature``."""

    nll: float = 1.0
    kl: float = 0.0
    temperature: float = 1.0


#: The published one: the text alone.
TEXT_ALONE = Objective()


@dataclass(frozen=True)
class TargetLoss:
    """Losses of one micro-batch's target tokens.

    Attributes:
        nats: [n] fp32 (fp64 for an fp64 model), one per target token, in row order.
        rows: [n] int64, which sequence each belongs to.
        is_eos: [n] bool, which of them is a closing EOS.
        divergences: [n] like ``nats``, from the teacher; None where there is none.
    """

    nats: Tensor
    rows: Tensor
    is_eos: Tensor
    divergences: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """Sum of the nats of all target tokens, EOS included."""
        return self.nats.sum()

    @property
    def rows_astray(self) -> list[int]:
        """The sequences with a token whose loss, or divergence from the teacher, is not finite; ascending."""
        fine = self.nats.isfinite()
        if self.divergences is not None:
            fine = fine & self.divergences.isfinite()
        return sorted(set(self.rows[~fine].tolist()))

    def detached(self) -> TargetLoss:
        """The same numbers, which can be kept without what made them."""
        divergences = None if self.divergences is None else self.divergences.detach()
        return replace(self, nats=self.nats.detach(), divergences=divergences)

    def weighed(self, objective: Objective) -> Tensor:
        """Sum of what training minimises over the same tokens; what is differentiated."""
        if not objective.kl:
            return objective.nll * self.total
        assert self.divergences is not None, "an objective with a divergence needs a teacher"
        divergences = objective.kl * self.divergences.sum()
        return objective.nll * self.total + divergences if objective.nll else divergences


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

    return _in_chunks(of_chunk, hidden, targets, chunk=chunk)


def _in_chunks(of_chunk: Callable[..., Tensor], *aligned: Tensor, chunk: int) -> Tensor:
    """``of_chunk`` of all rows, or of some at a time, made again for the backward pass; joined along the last axis."""
    rows = len(aligned[0])
    if rows <= chunk:
        return of_chunk(*aligned)
    pieces = []
    for start in range(0, rows, chunk):
        part = [each[start : start + chunk] for each in aligned]
        pieces.append(checkpoint(of_chunk, *part, use_reentrant=False))
    return torch.cat(pieces, -1)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """[n, vocabulary] and [n] to [n] nats; bf16 logits would lose the third digit."""
    return functional.cross_entropy(_precise(logits), targets, reduction="none")


def divergence(logits: Tensor, teacher: TeacherTokens, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) where of the teacher only the K likeliest tokens are known, times temperature squared.

    Both sides are looked at through K + 1 outcomes: each of the teacher's K tokens, and any other one. That divergence
    is at most the one over the whole vocabulary, and equal to it for K = vocabulary - 1. The temperature acts on
    these K + 1 probabilities (p to the power 1 / temperature, made to sum to 1 again), of both sides alike: what it
    would do inside the rest cannot be known. The square keeps gradients of one size (arXiv 1503.02531, section 2.1).

    Args:
        logits: [n, vocabulary] of the student, any float type.

    Returns:
        [n], at least fp32, nats.
    """
    logits = _precise(logits)
    inside = logits.gather(-1, teacher.ids)
    # From the others themselves: 1 minus what is inside would lose all digits where that is nearly 1.
    outside = logits.scatter(-1, teacher.ids, -torch.inf).logsumexp(-1, keepdim=True)
    student = (torch.cat([inside, outside], -1) / temperature).log_softmax(-1)
    known = torch.cat([teacher.log_probs, teacher.rest[:, None]], -1).to(logits.dtype)
    # Also at temperature 1: stored as float16, the probabilities sum to 1 in three digits only.
    wanted = (known / temperature).log_softmax(-1)
    terms = wanted.exp() * (wanted - student)
    impossible = wanted == -torch.inf  # 0 ln 0 is 0
    return temperature**2 * terms.masked_fill(impossible, 0.0).sum(-1)


def _precise(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def target_loss(
    hidden: Tensor,
    lm_head: nn.Module,
    batch: TokenBatch,
    *,
    chunk: int = CHUNK,
    everywhere: bool = False,
    teacher: TeacherTokens | None = None,
    objective: Objective = TEXT_ALONE,
) -> TargetLoss:
    """Loss of a batch from its hidden states.

    Args:
        hidden: [B, T', D]; T' <= T, aligned with the batch at its last position (a prefix cache cuts the
            start).
        lm_head: D -> vocabulary.
        batch: labels by position.
        everywhere: make logits at every position, as the published code does; for comparison.
        teacher: at the batch's target tokens, in row order; None makes no divergences.
        objective: decides their temperature, and whether the nats shall have a gradient.

    Raises:
        ValueError: the teacher is not one of as many tokens.
    """
    width = hidden.shape[1]
    labels = batch.labels[:, -width:]
    is_eos = batch.is_eos[:, -width:]
    predicted = labels[:, 1:]
    carries = predicted != IGNORE_INDEX
    rows, ends, targets = carries.nonzero()[:, 0], is_eos[:, 1:][carries], predicted[carries]
    states, head = hidden[:, :-1][carries], lm_head
    if everywhere:
        states, head, chunk = lm_head(hidden[:, :-1])[carries], nn.Identity(), len(targets)
    if teacher is None:
        return TargetLoss(token_nats(states, head, targets, chunk=chunk), rows, ends)
    if len(teacher.rest) != len(targets):
        raise ValueError(f"the teacher's numbers are those of {len(teacher.rest)} tokens, not of {len(targets)}")
    nats, divergences = _nats_and_divergences(states, head, targets, teacher, objective, chunk)
    return TargetLoss(nats, rows, ends, divergences)


def _nats_and_divergences(
    hidden: Tensor, lm_head: nn.Module, targets: Tensor, teacher: TeacherTokens, objective: Objective, chunk: int
) -> tuple[Tensor, Tensor]:
    """Both of each position, [n] and [n], from the same logits."""

    def of_chunk(states: Tensor, wanted: Tensor, *numbers: Tensor) -> Tensor:
        logits = lm_head(states)
        nats = cross_entropy(logits if objective.nll else logits.detach(), wanted)
        return torch.stack([nats, divergence(logits, TeacherTokens(*numbers), objective.temperature)])

    numbers = (teacher.ids, teacher.log_probs, teacher.rest)
    both = _in_chunks(of_chunk, hidden, targets, *numbers, chunk=chunk)
    return both[0], both[1]
