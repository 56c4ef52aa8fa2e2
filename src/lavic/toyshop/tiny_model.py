"""The tiny LLaVA-NeXT: the classes of the 7B, some 90,000 times less arithmetic a picture.

Nothing here is a stand-in: tower, projector, language model, tokenizer and processor are the very
classes that load the published checkpoints, only their sizes differ.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaTokenizer,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    MistralConfig,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from lavic.toyshop.tokenizer import IMAGE_TOKEN

VIEW_SIZE = 40
PATCH_SIZE = 8
POSITIONS = 4096


def grid_pinpoints(view_size: int = VIEW_SIZE) -> list[list[int]]:
    """The any-resolution grids of LLaVA-v1.6, in units of one view."""
    return [[view_size * rows, view_size * columns] for rows, columns in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]


def tiny_config(tokenizer: LlamaTokenizer) -> LlavaNextConfig:
    """Sizes of the tiny model as it is trained now: tower 4 x 96, language model 6 x 128 (docs/experiments.md)."""
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=VIEW_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=64,
    )
    text = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        sliding_window=None,  # the default of 4096 would make cropping a cache impossible
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_grid_pinpoints=grid_pinpoints(),
        tie_word_embeddings=False,
    )


def tiny_processor(tokenizer: LlamaTokenizer) -> LlavaNextProcessor:
    """The processor that goes with the tiny model: 40-pixel views, the checkpoint's own grid list."""
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": VIEW_SIZE},
        crop_size={"height": VIEW_SIZE, "width": VIEW_SIZE},
        image_grid_pinpoints=grid_pinpoints(),
    )
    return LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


def build_tiny_model(tokenizer: LlamaTokenizer, seed: int = 0) -> LlavaNextForConditionalGeneration:
    """An untrained tiny model with weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaNextForConditionalGeneration(tiny_config(tokenizer)).to(torch.float32)
        layers = model.config.text_config.num_hidden_layers
        for name, weight in model.model.language_model.named_parameters():
            if weight.dim() == 2:
                # 1 / sqrt(128): the usual 0.02 belongs to widths of thousands and makes attention nearly even here.
                torch.nn.init.normal_(weight, std=0.08)
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    weight.data /= (2 * layers) ** 0.5
        # Not tied, as in the 7B, but alike at the start: copying any token is then one and the same map, and
        # forms in 500 steps; from unrelated embeddings it does so for a few dozen tokens only.
        model.lm_head.weight.data.copy_(model.model.language_model.embed_tokens.weight.data)
    return model


def save_checkpoint(folder: Path, model: LlavaNextForConditionalGeneration, processor: LlavaNextProcessor) -> None:
    """Write the folder that stock ``from_pretrained`` loads (safetensors, no local paths)."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors are written for their owner only
