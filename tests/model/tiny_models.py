"""Tiny models of the real classes, with weights that matter, and what an oracle needs of them."""

from __future__ import annotations

from functools import partial

import oracles
import torch
from torch import Tensor, nn
from transformers import LlamaTokenizer, LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel
from transformers.models.mistral.modeling_mistral import MistralRMSNorm, MistralRotaryEmbedding

from lavic.model.families import FAMILIES
from lavic.model.load import BaseModel
from lavic.toyshop.tiny_model import VIEW_SIZE, build_tiny_model, tiny_config

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def make_base(
    tokenizer: LlamaTokenizer,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    family: str = "llava_next",
    sharp: bool = True,
) -> BaseModel:
    """A fresh random model; LoRA may be attached to it."""
    model = build_tiny_model(tokenizer, seed) if family == "llava_next" else tiny_llava(tokenizer, seed)
    if sharp:
        sharpen(model)
    model = model.to(dtype).requires_grad_(False).eval()
    if dtype == torch.float64:
        lift_to_float64(model)
    return BaseModel("random", "random", model, tokenizer, FAMILIES[family], VIEW_SIZE, MEAN, STD)


def tiny_llava(tokenizer: LlamaTokenizer, seed: int) -> LlavaForConditionalGeneration:
    """LLaVA-1.5 of the same sizes."""
    like = tiny_config(tokenizer)
    config = LlavaConfig(
        vision_config=like.vision_config,
        text_config=like.text_config,
        image_token_index=like.image_token_index,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config)


def sharpen(model: nn.Module) -> None:
    """Fresh weights are so small that every prediction is near the uniform one; make each part count."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "vision_tower" in name and parameter.dim() == 2:
                parameter.mul_(6)
            elif parameter.dim() == 2:
                parameter.mul_(4)
            elif "norm" in name:
                parameter.add_(torch.linspace(-0.3, 0.3, len(parameter)))
            elif name.endswith("bias"):
                parameter.add_(torch.linspace(-0.2, 0.2, len(parameter)))


def lift_to_float64(model: nn.Module) -> None:
    """transformers rounds to float32 inside RMSNorm and RoPE, whatever the model's type; here nothing rounds."""

    def norm(module: MistralRMSNorm, states: Tensor) -> Tensor:
        variance = (states * states).mean(-1, keepdim=True)
        return module.weight * states / torch.sqrt(variance + module.variance_epsilon)

    def rotary(module: MistralRotaryEmbedding, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        theta, width = module.config.rope_parameters["rope_theta"], module.config.head_dim
        speeds = 1 / theta ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = (position_ids[..., None].double() * speeds).repeat(1, 1, 2)
        return angles.cos(), angles.sin()

    for module in model.modules():
        if isinstance(module, MistralRMSNorm):
            # Of the class: short cuts replace the module's own, and take it away again.
            module.__class__ = type("ExactNorm", (MistralRMSNorm,), {"forward": norm})
        elif isinstance(module, MistralRotaryEmbedding):
            module.forward = partial(rotary, module)


def oracle_sizes(model: PreTrainedModel) -> oracles.Sizes:
    """What the oracle must be told."""
    vision, text = model.config.vision_config, model.config.text_config
    return oracles.Sizes(
        patch=vision.patch_size,
        vision_heads=vision.num_attention_heads,
        vision_eps=vision.layer_norm_eps,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        rms_eps=text.rms_norm_eps,
        rope_theta=text.rope_parameters["rope_theta"],
    )


def oracle_weights(model: nn.Module) -> oracles.Weights:
    """Copies of all weights; those of LoRA are leaves that collect a gradient."""
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name, tensor in weights.items():
        tensor.requires_grad_("lora_" in name)
    return weights


def fill_lora(model: nn.Module, seed: int = 1, size: float = 0.1) -> None:
    """B starts at zero, where A has no gradient and the adapter no effect; draw both."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(drawn * size)


def random_views(count: int, views: int = 5, seed: int = 2) -> Tensor:
    """[count, views, 3, s, s] uint8."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, views, 3, VIEW_SIZE, VIEW_SIZE)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
