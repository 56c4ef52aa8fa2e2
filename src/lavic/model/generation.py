"""Greedy description from visual tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lavic.model.sequences import TokenBatch
from lavic.model.visual_tokens import FiveTokenModel


@torch.no_grad()
def generate_descriptions(
    model: FiveTokenModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: TokenBatch,
    views: Tensor,
    *,
    max_new_tokens: int = 96,
) -> list[str]:
    """Greedy texts for B prompts.

    Args:
        prompts: prompts without targets, padded on the left (so that all end at the same column).
        views: [B, V, 3, s, s] uint8.
    """
    embeds = model.inputs_embeds(prompts, model.visual_tokens(views))
    return continue_greedily(model.llava, tokenizer, embeds, prompts.attention_mask, max_new_tokens=max_new_tokens)


@torch.no_grad()
def continue_greedily(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    embeds: Tensor,
    attention_mask: Tensor,
    *,
    max_new_tokens: int,
) -> list[str]:
    """Decode from [B, T, D] input embeddings, padded on the left."""
    ids = model.generate(
        inputs_embeds=embeds,
        attention_mask=attention_mask.long(),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
