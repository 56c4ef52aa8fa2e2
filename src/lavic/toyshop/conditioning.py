"""A residual stream of the usual length, and a projector that begins well: nothing is learnt here.

Muon lets the matrices that write into the language model's residual stream grow until it is some hundreds long, a
hundred times a word's embedding. The norms in front of every layer forget that, so the model is none the worse for it;
but a step of AdamW, or an adapter's, on such a matrix then changes next to nothing, and what comes later is learnt
slowly or not at all (docs/experiments.md). Here the stream is shortened and every output stays the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlavaNextForConditionalGeneration

#: Standard deviations of the projector's weights, for features of unit spread and some hundred hidden numbers.
_FIRST, _SECOND = 0.1, 0.03


@torch.no_grad()
def shorten_language_stream(model: LlavaNextForConditionalGeneration, factor: float) -> None:
    """Divide the language model's residual stream by ``factor``: all that is written into it, images' tokens too.

    The last norm in front of ``lm_head`` undoes it; logits stay as they are, but for the norms' epsilon.
    """
    inner = model.model
    writers = [
        inner.language_model.embed_tokens.weight,
        inner.image_newline,
        *inner.multi_modal_projector.linear_2.parameters(),
    ]
    for layer in inner.language_model.layers:
        writers += [layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight]
    for weight in writers:
        weight /= factor


@torch.no_grad()
def begin_projector(model: LlavaNextForConditionalGeneration, features: Tensor, seed: int = 0) -> None:
    """Draw the projector's weights anew.

    The first map takes the features' mean away and divides by their spread: where one channel is much longer than
    another, or all have a large part in common, what tells pictures apart is learnt late.

    Args:
        features: [N, 5, P, W], of some thousand patches and more.
    """
    projector = model.model.multi_modal_projector
    flat = features.flatten(0, -2)
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(projector.linear_1.weight.shape, generator=generator) * _FIRST / flat.std(0)
    projector.linear_1.weight.copy_(first)
    projector.linear_1.bias.copy_(-first @ flat.mean(0))
    projector.linear_2.weight.copy_(torch.randn(projector.linear_2.weight.shape, generator=generator) * _SECOND)
    projector.linear_2.bias.zero_()
