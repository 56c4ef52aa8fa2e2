"""A row of the demo's table: loss and described attributes of one way of seeing, on held-out pictures."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path

import torch

from lavic.distill.evaluation import LossSums, validate
from lavic.images import read_image
from lavic.model.full_tokens import FullTokenModel
from lavic.model.generation import continue_greedily, generate_descriptions
from lavic.model.load import BaseModel
from lavic.model.losses import target_loss
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.toyshop.catalogue import ToyItem
from lavic.toyshop.grammar import attributes_named
from lavic.training.loaders import MicroBatches, Sample, micro_batches

ATTRIBUTES = ("colour", "pattern", "kind", "detail")
#: Rows of the table, in its order, with what they are called; also the keys of summary.json.
ROWS = {
    "teacher": "teacher, all image tokens",
    "blind": "5 tokens, trained blind",
    "before": "5 tokens, before distillation",
    "after": "5 tokens, after distillation",
}
HEADER = ("what is seen", "val loss", *ATTRIBUTES, "all four")
_BATCH = 64
_MAX_NEW_TOKENS = 48


@dataclass(frozen=True)
class Measured:
    """One row.

    Attributes:
        val_loss: nats per target token, EOS included.
        descriptions: greedy texts in the order of the items.
        accuracy: share of the texts that name each attribute right, and ``all`` four.
    """

    val_loss: float
    descriptions: tuple[str, ...]
    accuracy: dict[str, float]


def table_cells(name: str, row: Measured) -> list[str]:
    """A row as the table shows it, in the order of ``HEADER``."""
    return [ROWS[name], f"{row.val_loss:.3f}", *(f"{row.accuracy[key]:.1%}" for key in (*ATTRIBUTES, "all"))]


def right_attributes(item: ToyItem, text: str) -> dict[str, bool]:
    """Which attributes of the item's picture a description names right."""
    named = attributes_named(text)
    return {name: named[name] == getattr(item.look, name) for name in ATTRIBUTES}


def accuracy_of(items: Rows[ToyItem], texts: Rows[str]) -> dict[str, float]:
    """Share of right attributes, each and all of them at once."""
    rows = [right_attributes(item, text) for item, text in zip(items, texts, strict=True)]
    shares = {name: sum(row[name] for row in rows) / len(rows) for name in ATTRIBUTES}
    return {**shares, "all": sum(all(row.values()) for row in rows) / len(rows)}


class HeldOut:
    """The held-out pictures with their true descriptions, measured the same way for every row."""

    def __init__(self, base: BaseModel, builder: SequenceBuilder, items: Rows[ToyItem], folder: Path) -> None:
        self.items = items
        self.base, self.builder = base, builder
        self.samples = [
            Sample(item.image_name, folder / item.image_name, builder.distill(item.title, item.description))
            for item in items
        ]
        self.prompts = [builder.distill(item.title) for item in items]

    def five_tokens(self, model: FiveTokenModel, *, workers: int) -> Measured:
        """What the model says from V visual tokens, with whatever adapter it carries."""
        dataset = self._batches(self.samples, "right")
        loss = validate(model, dataset, prefix=None, workers=workers, where="held-out pictures").loss
        prompts = [
            Sample(sample.name, sample.path, prompt) for sample, prompt in zip(self.samples, self.prompts, strict=True)
        ]
        asked = self._batches(prompts, "left")
        texts: list[str] = []
        for batch in micro_batches(asked, self._in_order(), workers=workers):
            assert batch.tokens is not None, "the demo's own pictures can be read"
            texts += generate_descriptions(
                model, self.base.tokenizer, batch.tokens, batch.views, max_new_tokens=_MAX_NEW_TOKENS
            )
        return self._measured(loss, texts)

    @torch.no_grad()
    def full_tokens(self, teacher: FullTokenModel, lm_head: torch.nn.Module) -> Measured:
        """What the teacher says from all image tokens, after the same prompt."""
        sums = LossSums()
        texts: list[str] = []
        for indices in self._in_order():
            image_tokens = teacher.image_tokens([read_image(self.samples[index].path) for index in indices])
            sequences = [self.samples[index].sequence for index in indices]
            full = teacher.embed(sequences, image_tokens, self.builder.pad_id)
            sums.add(target_loss(teacher.hidden_states(full), lm_head, full.batch), len(indices))
            asked = teacher.embed(
                [self.prompts[index] for index in indices], image_tokens, self.builder.pad_id, side="left"
            )
            texts += continue_greedily(
                self.base.model,
                self.base.tokenizer,
                asked.embeds,
                asked.batch.attention_mask,
                max_new_tokens=_MAX_NEW_TOKENS,
            )
        return self._measured(sums.result("held-out pictures").loss, texts)

    def _batches(self, samples: list[Sample], side: str) -> MicroBatches:
        return MicroBatches(
            samples, self.builder, view_size=self.base.view_size, views=self.base.family.views, side=side
        )

    def _in_order(self) -> list[list[int]]:
        indices = list(range(len(self.items)))
        return [indices[at : at + _BATCH] for at in range(0, len(indices), _BATCH)]

    def _measured(self, loss: float, texts: list[str]) -> Measured:
        return Measured(loss, tuple(texts), accuracy_of(self.items, texts))
