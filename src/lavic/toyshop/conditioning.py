"""Residual streams of the usual length: nothing is learnt here.

Muon lets the matrices that write into a residual stream grow until the stream is some hundreds long, a hundred times a
word's embedding. The norms in front of every layer forget that, so the model is none the worse for it; but a step of
AdamW, or an adapter's, on such a matrix then changes next to nothing, and what comes later is learnt slowly or not at
all (docs/experiments.md). Here the streams are shortened and every output stays the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlavaNextForConditionalGeneration


@torch.no_grad()
def shorten_language_stream(model: LlavaNextForConditionalGeneration, factor: float) -> None:
    """Divide the language model's residual stream by ``factor``: all that is written into it, images' tokens too.

    The last norm in front of ``lm_head`` undoes it; logits stay as they are, but for the norms' epsilon.
    """
    inner = model.model
    writers = [
        inner.language_model.embed_tokens.weight,
        inner.image_newline,
        *_both(inner.multi_modal_projector.linear_2),
    ]
    for layer in inner.language_model.layers:
        writers += [layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight]
    for weight in writers:
        weight /= factor


@torch.no_grad()
def shorten_tower_stream(model: LlavaNextForConditionalGeneration, factor: float) -> None:
    """Divide the vision tower's residual stream by ``factor``, and let the projector undo it."""
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    writers = _both(tower.pre_layrnorm)
    for layer in tower.encoder.layers:
        writers += [*_both(layer.self_attn.out_proj), *_both(layer.mlp.fc2)]
    for weight in writers:
        weight /= factor
    projector.linear_1.weight *= factor


def _both(module: torch.nn.Module) -> list[Tensor]:
    return list(module.parameters())
