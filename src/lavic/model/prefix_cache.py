"""Keys and values of a beginning that all sequences share, computed once.

In stage 1 the language model is frozen and every prompt starts with the same instruction, so its keys
and values are constants: neither forward nor backward work is spent on them again.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Protocol

import torch
from torch import nn

from lavic.model.past import Past, recorded_past
from lavic.model.sequences import TokenBatch


class Prompt(Protocol):
    """What stands in front of an answer: a ``Sequence`` to train on, or a ``ChoiceRow`` to score."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Its tokens."""

    @property
    def placeholders(self) -> tuple[int, ...]:
        """Positions of the visual tokens."""


def common_start(rows: Rows[Rows[int]], length: int) -> int:
    """How many of the first ``length`` tokens all rows have in common; no row may be shorter."""
    first = rows[0]
    for ids in rows:
        length = next((at for at in range(length) if ids[at] != first[at]), length)
    return length


def shared_length(prompts: Rows[Prompt]) -> int:
    """How many tokens at the start all prompts have in common, before any placeholder."""
    # The last prompt token predicts the first of the target: its state must be computed, not cached.
    length = min(min((*prompt.placeholders, len(prompt.prompt_ids) - 1)) for prompt in prompts)
    return common_start([prompt.prompt_ids for prompt in prompts], length)


class PrefixCache:
    """The past of one beginning, for a frozen language model.

    Args:
        language_model: without LoRA, or with weights that do not change while the cache lives.
        embeddings: its input embeddings.
        ids: [P] the shared beginning, BOS first.
    """

    def __init__(self, language_model: nn.Module, embeddings: nn.Module, ids: Rows[int]) -> None:
        self.ids = tuple(ids)
        device = next(embeddings.parameters()).device
        with torch.no_grad():
            embeds = embeddings(torch.tensor([self.ids], device=device))
        self.past = recorded_past(language_model, embeds, Past([]))

    @property
    def length(self) -> int:
        """P, positions that the cache stands for."""
        return len(self.ids)

    def check(self, batch: TokenBatch) -> None:
        """Refuse a batch whose rows do not all start with the prefix.

        Raises:
            ValueError: padded on the left, or another beginning.
        """
        start = batch.input_ids[:, : self.length].cpu()
        if batch.left_padded or not bool((start == torch.tensor(self.ids)).all()):
            raise ValueError("every row must start with the cached prefix, and padding must be on the right")
