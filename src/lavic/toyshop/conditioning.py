"""A residual stream of the usual length: nothing is learnt here.

Muon lets the matrices that write into the language model's residual stream grow until it is some hundreds long, a
hundred times a word's embedding. The norms in front of every layer forget that, so the model is none the worse for it;
but a step of AdamW, or an adapter's, on such a matrix then changes next to nothing, and what comes later is learnt
slowly or not at all (docs/experiments.md). Here the stream is shortened and every output stays the same.
"""

from __future__ import annotations

import torch
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
        *inner.multi_modal_projector.linear_2.parameters(),
    ]
    for layer in inner.language_model.layers:
        writers += [layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight]
    for weight in writers:
        weight /= factor
