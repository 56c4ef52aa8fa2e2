"""Slow, plain maths to measure the fast paths by: written from the formulas, one sequence at a time.

No batch, no padding, no cache, no fused kernel, no module of torch or transformers; everything in the type
of the weights given (float64 in the tests). Gradients come from autograd through these few operations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Weights = dict[str, Tensor]


# -- pictures ------------------------------------------------------------------------------------------------


def views(image: Image.Image, s: int) -> NDArray[np.uint8]:
    """[5, 3, s, s]: the whole picture squashed, then the tiles of the picture fitted into a black 2s x 2s."""
    side = 2 * s
    width, height = image.size
    if width >= height:
        fitted = (side, min(side, -(-height * side // width)))
    else:
        fitted = (min(side, -(-width * side // height)), side)
    small = np.asarray(image.resize(fitted, Image.Resampling.BICUBIC))
    canvas = np.zeros((side, side, 3), np.uint8)
    top, left = (side - fitted[1]) // 2, (side - fitted[0]) // 2
    for y in range(fitted[1]):
        for x in range(fitted[0]):
            canvas[top + y, left + x] = small[y, x]
    whole = np.asarray(image.resize((s, s), Image.Resampling.BICUBIC))
    crops = [whole, canvas[:s, :s], canvas[:s, s:], canvas[s:, :s], canvas[s:, s:]]
    return np.stack([np.moveaxis(crop, 2, 0) for crop in crops])


def normalised(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 [..., 3, s, s] to float64 numbers, by float32 arithmetic as all processors do it."""
    values = pixels.numpy().astype(np.float32) / np.float32(255)
    shape = (3, 1, 1)
    values = (values - np.array(mean, np.float32).reshape(shape)) / np.array(std, np.float32).reshape(shape)
    return torch.from_numpy(values.astype(np.float64))


# -- parts of a transformer ----------------------------------------------------------------------------------


def linear(weights: Weights, name: str, x: Tensor, lora_scale: float) -> Tensor:
    """x W^T + b, where W takes in scale * B A if the layer carries LoRA."""
    if f"{name}.weight" in weights:
        weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    else:
        weight, bias = weights[f"{name}.base_layer.weight"], weights.get(f"{name}.base_layer.bias")
        a, b = weights[f"{name}.lora_A.default.weight"], weights[f"{name}.lora_B.default.weight"]
        weight = weight + lora_scale * (b @ a)
    return x @ weight.T if bias is None else x @ weight.T + bias


def layer_norm(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def rms_norm(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * weights[f"{name}.weight"]


def softmax(x: Tensor) -> Tensor:
    powers = torch.exp(x - x.max(-1, keepdim=True).values)
    return powers / powers.sum(-1, keepdim=True)


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """One head: [T, d] each."""
    scores = q @ k.T / math.sqrt(q.shape[-1])
    if causal:
        later = torch.arange(len(k))[None, :] > torch.arange(len(q))[:, None]
        scores = scores.masked_fill(later, -math.inf)
    return softmax(scores) @ v


# -- the three parts of LLaVA --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """What the weights' shapes do not tell."""

    patch: int
    vision_heads: int
    vision_eps: float
    heads: int
    kv_heads: int
    rms_eps: float
    rope_theta: float
    lora_scale: float = 4.0


def clip_layers(weights: Weights, sizes: Sizes, pixels: Tensor) -> list[Tensor]:
    """States [1 + patches, W] before the first layer and after each, of one view [3, s, s]."""
    root, p = "model.vision_tower", sizes.patch
    kernel = weights[f"{root}.embeddings.patch_embedding.weight"]
    across = pixels.shape[-1] // p
    rows = [weights[f"{root}.embeddings.class_embedding"]]
    for y in range(across):
        for x in range(across):
            patch = pixels[:, y * p : (y + 1) * p, x * p : (x + 1) * p]
            rows.append((kernel * patch).sum((1, 2, 3)))
    states = torch.stack(rows) + weights[f"{root}.embeddings.position_embedding.weight"]
    states = layer_norm(weights, f"{root}.pre_layrnorm", states, sizes.vision_eps)
    found = [states]
    layer = 0
    while f"{root}.encoder.layers.{layer}.layer_norm1.weight" in weights:
        name = f"{root}.encoder.layers.{layer}"
        normed = layer_norm(weights, f"{name}.layer_norm1", states, sizes.vision_eps)
        q, k, v = (
            linear(weights, f"{name}.self_attn.{which}_proj", normed, sizes.lora_scale).chunk(sizes.vision_heads, -1)
            for which in "qkv"
        )
        mixed = [attention(*head, causal=False) for head in zip(q, k, v, strict=True)]
        joined = torch.cat(mixed, -1)
        states = states + linear(weights, f"{name}.self_attn.out_proj", joined, sizes.lora_scale)
        normed = layer_norm(weights, f"{name}.layer_norm2", states, sizes.vision_eps)
        inner = linear(weights, f"{name}.mlp.fc1", normed, sizes.lora_scale)
        inner = inner / (1 + torch.exp(-1.702 * inner))
        states = states + linear(weights, f"{name}.mlp.fc2", inner, sizes.lora_scale)
        found.append(states)
        layer += 1
    return found


def project(weights: Weights, sizes: Sizes, states: Tensor) -> Tensor:
    """[..., W] to [..., D]."""
    inner = linear(weights, "model.multi_modal_projector.linear_1", states, sizes.lora_scale)
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    return linear(weights, "model.multi_modal_projector.linear_2", inner, sizes.lora_scale)


def visual_tokens(weights: Weights, sizes: Sizes, pixels: Tensor) -> Tensor:
    """[V, 3, s, s] normalised views of one picture to [V, D]."""
    cls_states = [clip_layers(weights, sizes, view)[-1][0] for view in pixels]
    return project(weights, sizes, torch.stack(cls_states))


def rotate(x: Tensor, theta: float) -> Tensor:
    """RoPE for one head [T, d]: pairs (i, i + d/2) turned by position * theta^(-2i/d)."""
    half = x.shape[-1] // 2
    speeds = theta ** (-torch.arange(half, dtype=x.dtype) / half)
    angles = torch.arange(len(x), dtype=x.dtype)[:, None] * speeds
    cos, sin = torch.cos(angles), torch.sin(angles)
    first, second = x[:, :half], x[:, half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def mistral(weights: Weights, sizes: Sizes, embeds: Tensor) -> Tensor:
    """[T, D] input embeddings of one sequence to logits [T, vocabulary]."""
    root, states, layer = "model.language_model", embeds, 0
    while f"{root}.layers.{layer}.input_layernorm.weight" in weights:
        name = f"{root}.layers.{layer}"
        normed = rms_norm(weights, f"{name}.input_layernorm", states, sizes.rms_eps)
        q = linear(weights, f"{name}.self_attn.q_proj", normed, 0).chunk(sizes.heads, -1)
        k = linear(weights, f"{name}.self_attn.k_proj", normed, 0).chunk(sizes.kv_heads, -1)
        v = linear(weights, f"{name}.self_attn.v_proj", normed, 0).chunk(sizes.kv_heads, -1)
        mixed = []
        for head in range(sizes.heads):
            shared = head * sizes.kv_heads // sizes.heads
            queries, keys = rotate(q[head], sizes.rope_theta), rotate(k[shared], sizes.rope_theta)
            mixed.append(attention(queries, keys, v[shared], causal=True))
        states = states + linear(weights, f"{name}.self_attn.o_proj", torch.cat(mixed, -1), 0)
        normed = rms_norm(weights, f"{name}.post_attention_layernorm", states, sizes.rms_eps)
        gate = linear(weights, f"{name}.mlp.gate_proj", normed, 0)
        gated = gate / (1 + torch.exp(-gate)) * linear(weights, f"{name}.mlp.up_proj", normed, 0)
        states = states + linear(weights, f"{name}.mlp.down_proj", gated, 0)
        layer += 1
    return linear(weights, "lm_head", rms_norm(weights, f"{root}.norm", states, sizes.rms_eps), 0)


# -- the loss ------------------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, target: int) -> Tensor:
    """-ln of the probability of one token, logits [vocabulary]."""
    top = logits.max()
    return top + torch.log(torch.exp(logits - top).sum()) - logits[target]


def target_nats(
    weights: Weights, sizes: Sizes, ids: list[int], placeholders: list[int], prompt_length: int, seen: Tensor
) -> list[Tensor]:
    """Losses of the target tokens of one sequence that sees ``seen`` [n, D] at its placeholders."""
    table = weights["model.language_model.embed_tokens.weight"]
    rows = []
    for position, token in enumerate(ids):
        rows.append(seen[placeholders.index(position)] if position in placeholders else table[token])
    logits = mistral(weights, sizes, torch.stack(rows))
    return [cross_entropy(logits[at - 1], ids[at]) for at in range(prompt_length, len(ids))]


def common_start(first: list[int], second: list[int]) -> int:
    """How many ids two lists share at their start."""
    length = 0
    while length < min(len(first), len(second)) and first[length] == second[length]:
        length += 1
    return length


# -- learning from a teacher's probabilities -----------------------------------------------------------------


def heated(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities of one place, [vocabulary], flattened: p to the power 1 / temperature, summing to 1."""
    powers = softmax(logits) ** (1 / temperature)
    return powers / powers.sum()


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Sum of p ln(p / q) over the outcomes of two distributions; 0 ln 0 is 0."""
    return torch.stack([p * torch.log(p / q) for p, q in zip(teacher, student, strict=True) if p > 0]).sum()


def whole_divergence(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Over the whole vocabulary, of one place."""
    return temperature**2 * kl(heated(teacher_logits, temperature), heated(student_logits, temperature))


def coarse_divergence(
    teacher_logits: Tensor, student_logits: Tensor, top: list[int], temperature: float = 1.0
) -> Tensor:
    """Over the tokens of ``top`` and one bucket for all others, of one place; the heat comes behind the bucket."""
    sides = []
    for logits in (teacher_logits, student_logits):
        p = softmax(logits)
        others = [p[token] for token in range(len(p)) if token not in top]
        outcomes = torch.stack([*(p[token] for token in top), torch.stack(others).sum()]) ** (1 / temperature)
        sides.append(outcomes / outcomes.sum())
    return temperature**2 * kl(*sides)
