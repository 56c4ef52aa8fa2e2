"""Every candidate of every row scored, in row order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from lavic.errors import TrainingError
from lavic.metrics import TokenMean, rank
from lavic.model.choices import collate_choices, score_choices
from lavic.model.recommendation import Candidate, RecommendationPrompts
from lavic.model.visual_tokens import FiveTokenModel
from lavic.training.sampler import ordered_batches
from lavic.tune.conversations import Catalogue
from lavic.tune.samples import AskedRow

#: Fixed, so that an adapter judged again has the very scores that were recorded for it.
SCORING_BATCH = 16


@dataclass(frozen=True)
class RowScores:
    """Log-likelihood of each candidate of a row, in their order, and of how many tokens each is the sum."""

    log_probs: tuple[float, ...]
    tokens: tuple[int, ...]


def visual_tokens_of(candidates: Rows[Rows[Candidate]], catalogue: Catalogue, model: FiveTokenModel) -> Tensor:
    """[N, V, D] of all pictured candidates of all rows, row after row, on the model's device."""
    ids = [candidate.item_id for row in candidates for candidate in row if candidate.has_picture]
    tokens = catalogue.visual_tokens(ids)
    if tokens is None:
        return torch.zeros(0, model.views, model.width, device=model.llava.device)
    return tokens.to(model.llava.device)


@torch.no_grad()
def score_rows(
    model: FiveTokenModel,
    rows: Rows[AskedRow],
    catalogue: Catalogue,
    prompts: RecommendationPrompts,
    *,
    batch_size: int = SCORING_BATCH,
    known: Mapping[int, RowScores] | None = None,
    on_batch: Callable[[dict[int, RowScores]], None] = lambda _: None,
) -> list[RowScores]:
    """Scores of all rows; whoever calls switches dropout off.

    Args:
        known: scores by the row's place that are there already; a batch of which one is missing is scored again, for
            its shape decides the last bits.
        on_batch: called with the scores of each batch.

    Raises:
        TrainingError: a score is no finite number.
    """
    trees = [prompts.choices(row.context, row.candidates) for row in rows]
    prefix = model.prefix_of(trees)
    scores = dict(known or {})
    for batch in ordered_batches([tree.tokens for tree in trees], batch_size):
        if all(at in scores for at in batch):
            continue
        collated = collate_choices([trees[at] for at in batch], prompts.builder.pad_id).to(model.llava.device)
        tokens = visual_tokens_of([rows[at].candidates for at in batch], catalogue, model)
        found = score_choices(model, collated, tokens, prefix=prefix)
        numbers = zip(batch, found.log_probs, found.tokens, strict=True)
        new = {at: RowScores(tuple(log_probs), tuple(counts)) for at, log_probs, counts in numbers}
        if not all(math.isfinite(score) for each in new.values() for score in each.log_probs):
            # Before anybody keeps it: nothing could be ranked by it, now or later.
            names = ", ".join(candidate.item_id for candidate in rows[min(new)].candidates[:3])
            raise TrainingError(
                f"the scores of candidates are no finite numbers, near the row of {names}, ...",
                remedy="The weights have gone astray: lower --lr, or use another --precision.",
            )
        scores |= new
        on_batch(new)
    return [scores[at] for at in range(len(rows))]


@dataclass(frozen=True)
class ChoiceQuality:
    """How well rows are answered.

    Attributes:
        hr_at_1: share of all rows whose best candidate is a right one.
        loss: nats per token of right IDs, EOS included, over the rows whose candidates hold one; 0 if none does.
        perplexity: exp of it.
        with_right: rows whose candidates hold a right item: no more can be hit.
    """

    hr_at_1: float
    loss: float
    perplexity: float
    rows: int
    with_right: int
    tokens: int

    @property
    def order(self) -> float:
        """What the best weights are chosen by: lower is better, hits first, then the loss."""
        misses = self.rows - round(self.hr_at_1 * self.rows)
        return (misses + self.loss / (1 + self.loss)) / self.rows


def quality(rows: Rows[AskedRow], scores: Rows[RowScores]) -> ChoiceQuality:
    """Judge scores of rows."""
    nats, hits, with_right = TokenMean(), 0, 0
    for row, score in zip(rows, scores, strict=True):
        right = row.conversation.ground_truth
        hits += rank(score.log_probs, row.item_ids)[0] in right
        with_right += not right.isdisjoint(row.item_ids)
        for item_id, log_prob, count in zip(row.item_ids, score.log_probs, score.tokens, strict=True):
            if item_id in right:
                nats.add(nats=-log_prob, tokens=count)
    loss, perplexity = (nats.mean, nats.perplexity) if nats.tokens else (0.0, 1.0)
    return ChoiceQuality(hits / len(rows), loss, perplexity, len(rows), with_right, nats.tokens)
