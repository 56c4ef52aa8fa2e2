"""Keys and values of a beginning that all sequences share, computed once.

In stage 1 the language model is frozen and every prompt starts with the same instruction, so its keys
and values are constants: neither forward nor backward work is spent on them again.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from torch import nn

from lavic.model.past import Past, recorded_past
from lavic.model.sequences import Sequence, TokenBatch


def shared_length(sequences: Rows[Sequence]) -> int:
    """How many tokens at the start all sequences have in common, before any placeholder or target."""
    first = sequences[0].input_ids
    # The last prompt token predicts the first of the target: its state must be computed, not cached.
    length = min(min((*sequence.placeholders, sequence.prompt_length - 1)) for sequence in sequences)
    for sequence in sequences:
        ids = sequence.input_ids
        length = next((at for at in range(length) if ids[at] != first[at]), length)
    return length


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
