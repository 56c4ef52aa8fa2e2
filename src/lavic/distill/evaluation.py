"""Validation of stage 1: token-weighted loss over a whole set, with and without EOS."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Rows
from contextlib import closing
from dataclasses import dataclass

import torch

from lavic.errors import NothingLeftError, TrainingError
from lavic.metrics import TokenMean
from lavic.model.losses import TEXT_ALONE, Objective, TargetLoss, TeacherTokens, target_loss
from lavic.model.prefix_cache import PrefixCache
from lavic.model.visual_tokens import FiveTokenModel
from lavic.training.loaders import MicroBatch, MicroBatches, micro_batches
from lavic.training.loop import first_of
from lavic.training.sampler import ordered_batches

#: Fixed, so that an adapter validated again has the very loss that was recorded for it: the shape of a
#: batch decides the last bits.
VALIDATION_BATCH = 16
#: Of a batch, padding included: 16 samples of the usual 240 tokens, fewer of long ones, whose gates would need more
#: memory than training does.
VALIDATION_TOKENS = 4096


@dataclass(frozen=True)
class ValidationLoss:
    """Losses of a whole set, in nats per token.

    ``loss`` counts EOS, which lavic teaches and chooses the best adapter by; ``loss_without_eos`` is
    comparable with the published figures and is what the success criteria mean.
    """

    loss: float
    perplexity: float
    loss_without_eos: float
    perplexity_without_eos: float
    tokens: int
    samples: int


class LossSums:
    """Adds up target losses over batches, in double precision."""

    def __init__(self) -> None:
        self.all, self.without_eos = TokenMean(), TokenMean()
        self.samples = 0

    def add(self, loss: TargetLoss, samples: int) -> None:
        """Count one batch."""
        nats = loss.nats.double()
        words = nats[~loss.is_eos]
        self.all.add(nats=float(nats.sum()), tokens=len(nats))
        self.without_eos.add(nats=float(words.sum()), tokens=len(words))
        self.samples += samples

    def result(self, where: str) -> ValidationLoss:
        """The means.

        Raises:
            NothingLeftError: nothing was counted.
        """
        if not self.without_eos.tokens:
            raise NothingLeftError("no validation sample could be read", where=where)
        return ValidationLoss(
            loss=self.all.mean,
            perplexity=self.all.perplexity,
            loss_without_eos=self.without_eos.mean,
            perplexity_without_eos=self.without_eos.perplexity,
            tokens=self.all.tokens,
            samples=self.samples,
        )


def batch_loss(
    model: FiveTokenModel,
    batch: MicroBatch,
    prefix: PrefixCache | None,
    teacher: TeacherTokens | None = None,
    objective: Objective = TEXT_ALONE,
) -> TargetLoss:
    """Loss of one micro-batch's target tokens, with gradient where it is enabled.

    Args:
        teacher: at the same tokens; None makes no divergences from it.
        objective: what training minimises; validation takes the nats, whatever they were trained with.
    """
    assert batch.tokens is not None, "a micro-batch without samples has no loss"
    device = model.llava.device
    tokens = batch.tokens.to(device)
    visual_tokens = model.visual_tokens(batch.views.to(device, non_blocking=True))
    hidden = model.hidden_states(tokens, visual_tokens, prefix)
    return target_loss(
        hidden,
        model.lm_head,
        tokens,
        everywhere=not model.accelerations.target_logits,
        teacher=None if teacher is None else teacher.to(device),
        objective=objective,
    )


@torch.no_grad()
def validate(
    model: FiveTokenModel,
    dataset: MicroBatches,
    *,
    prefix: PrefixCache | None,
    workers: int,
    where: str,
    on_failed: Callable[[tuple[tuple[int, str], ...]], None] = lambda _: None,
    on_batch: Callable[[int], None] = lambda _: None,
) -> ValidationLoss:
    """Loss of every sample of a set; whoever calls switches dropout off."""
    sums = LossSums()
    lengths = [len(sample.sequence.input_ids) for sample in dataset.samples]
    batches = ordered_batches(lengths, VALIDATION_BATCH, max_tokens=VALIDATION_TOKENS)
    with closing(micro_batches(dataset, batches, workers=workers)) as batches_read:
        for batch in batches_read:
            on_failed(batch.failed)
            if batch.tokens is not None:
                _count(sums, batch_loss(model, batch, prefix), names_of(dataset, batch.indices))
            on_batch(len(batch.indices) + len(batch.failed))
    return sums.result(where)


def _count(sums: LossSums, loss: TargetLoss, names: tuple[str, ...]) -> None:
    """Add one batch.

    Raises:
        TrainingError: a loss is not finite; the pictures are named.
    """
    try:
        sums.add(loss, len(names))
    except TrainingError:
        astray = first_of([names[row] for row in loss.rows_astray] or names)
        raise TrainingError(
            f"the validation loss of {astray} is not finite",
            remedy="Look at these samples; or lower --lr, or use another --precision.",
        ) from None


def names_of(dataset: MicroBatches, indices: Rows[int]) -> tuple[str, ...]:
    """Picture names of some samples."""
    return tuple(dataset.samples[index].name for index in indices)
