"""No gradient through what stands before the first visual token: the instruction and the title.

Nothing there depends on a weight that is trained. So keys and values of that part are computed without
gradient, and the rest, from each row's own first visual token on, is computed behind them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lavic.model.past import Past, recorded_past, run_behind


def hidden_from_image_on(
    language_model: nn.Module, embeds: Tensor, first: Tensor, lengths: Tensor, before: Past
) -> Tensor:
    """Hidden states from the earliest visual token of the batch on.

    Args:
        language_model: frozen.
        embeds: [B, T, D] input embeddings behind ``before``, padded on the right; those left of a row's first
            visual token are constants.
        first: [B] int64, column of each row's first visual token.
        lengths: [B] int64, columns of each row that are not padding.
        before: the past of what all rows start with.

    Returns:
        [B, T - min(first), D], aligned with ``embeds`` at the last column; left of a row's first visual token
        and at padding it holds zeros.
    """
    rows, width, depth = embeds.shape
    earliest, latest, longest = (int(number) for number in (first.min(), first.max(), (lengths - first).max()))
    past = recorded_past(language_model, embeds[:, :latest], before) if latest else before
    # Each row shifted so that its first visual token stands in front: column j is column first + j of embeds.
    places = torch.arange(longest, device=embeds.device)
    columns = first[:, None] + places
    inside = columns < lengths[:, None]
    columns = columns.clamp_max(width - 1)
    hidden = run_behind(
        language_model,
        embeds.gather(1, columns[..., None].expand(-1, -1, depth)),
        past,
        mask=_mask(first + before.length, past.length, places),
        position_ids=columns + before.length,
    )
    row_of = torch.arange(rows, device=embeds.device)[:, None].expand_as(columns)
    aligned = hidden.new_zeros(rows, width - earliest, depth)
    return aligned.index_put((row_of[inside], columns[inside] - earliest), hidden[inside])


def _mask(start: Tensor, past_length: int, places: Tensor) -> Tensor:
    """[B, 1, n, P + n]: of the past what lies before the row's start, of its own what is not behind the query."""
    before = torch.arange(past_length, device=start.device) < start[:, None]
    causal = places <= places[:, None]
    return torch.cat(
        [before[:, None].expand(-1, len(places), -1), causal.expand(len(start), -1, -1)],
        dim=2,
    )[:, None]
