"""LoRA layers in one go, with less kept for the backward pass.

PEFT computes W x + s B A drop(x) as separate steps: on a bf16 model with fp32 LoRA weights it makes an fp32 copy of x,
a dropped copy and a scaled result, and autograd keeps most of them. Here the layer is one function: it keeps x, which
the layers of a block share, or what x can be made from again (``made_again.py``), one bit per element of x for the
dropout's mask, and the rank-sized A drop(x).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

from lavic.model.made_again import recipe_of

_ADAPTER = "default"
_STEPS = 2**16
#: Eight bytes of 0 or 1 times this have their bits side by side in the highest byte.
_GATHER = 0x0102040810204080
#: A byte times the first stands in each of eight bytes; the second, as a signed number, leaves bit n in byte n.
_SPREAD, _ONE_EACH = 0x0101010101010101, 0x8040201008040201 - 2**64


def lean_lora_forward(module: nn.Module) -> Callable[..., Tensor] | None:
    """What computes an ordinary LoRA layer this way; None for any other module, which stays PEFT's."""
    return _lora if isinstance(module, LoraLinear) and _is_plain(module) else None


def _is_plain(module: LoraLinear) -> bool:
    """Whether this is ordinary LoRA on an ordinary linear layer."""
    return (
        type(module.base_layer) is nn.Linear
        and list(module.lora_A) == [_ADAPTER]
        and not module.lora_variant
        and not module.lora_bias[_ADAPTER]
    )


def _lora(module: LoraLinear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if module.disable_adapters or module.merged:
        result: Tensor = type(module).forward(module, x, *args, **kwargs)
        return result
    base, dropout = module.base_layer, module.lora_dropout[_ADAPTER]
    keep, scale = None, float(module.scaling[_ADAPTER])
    if isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0:
        keep, share = dropout_mask(x, dropout.p)
        scale /= share
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    weights = (base.weight, base.bias, module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight)
    with torch.autocast(kind, enabled=False):
        out: Tensor = _LeanLora.apply(
            x.to(dtype), *(None if one is None else one.to(dtype) for one in weights), keep, scale
        )
    return out


def dropout_mask(x: Tensor, probability: float) -> tuple[Tensor, float]:
    """Which elements of x are kept: a bool tensor of its shape, and the share that is kept on average.

    Sixteen random bits each, four to a draw: the probability is rounded to 1/65,536, and drawing takes a quarter of
    the time. The draws are those of torch's generator for x's device.
    """
    dropped = round(probability * _STEPS)
    count = x.numel()
    # random_() alone would leave the highest bit 0.
    draws = torch.empty((count + 3) // 4, dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = draws.view(torch.int16)[:count] >= dropped - _STEPS // 2
    return kept.view(x.shape), 1 - dropped / _STEPS


def pack_bits(mask: Tensor) -> Tensor:
    """A bool tensor of any shape as uint8, an eighth as many; the last bits are padding."""
    missing = -mask.numel() % 8
    flat = functional.pad(mask.flatten(), (0, missing)) if missing else mask.flatten()
    # The product leaves the eight bits in the highest byte: shifted down it is a number from -128 to 127.
    return ((flat.view(torch.int64) * _GATHER) >> 56).to(torch.int8).view(torch.uint8)


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """The [count] bool that were packed."""
    words = (packed.to(torch.int64) * _SPREAD) & _ONE_EACH
    return words.view(torch.uint8)[:count] != 0


class _LeanLora(torch.autograd.Function):
    """W x + b + s B A (m x): W [out, in], b [out] or None, A [r, in], B [out, r], m bool like x or None, s a number."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        keep: Tensor | None,
        scale: float,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        seen = rows if keep is None else rows * keep.view_as(rows)
        inner = (seen @ a.T).mul_(scale)
        out = functional.linear(x, weight, bias)
        out.view(len(rows), -1).addmm_(inner, b.T)
        recipe = recipe_of(x)
        ctx.save_for_backward(weight, a, b, None if keep is None else pack_bits(keep), inner, *recipe.tensors)
        ctx.make, ctx.shape, ctx.scale = recipe.make, x.shape, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, a, b, packed, inner, *tensors = ctx.saved_tensors
        width = ctx.shape[-1]
        mask = None if packed is None else unpack_bits(packed, ctx.shape.numel()).view(-1, width)
        gradient = gradients[0].reshape(len(inner), -1)
        to_inner = (gradient @ b).mul_(ctx.scale)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = to_inner @ a
            if mask is not None:
                to_x *= mask
            to_x = to_x.addmm_(gradient, weight).view(ctx.shape)
        rows = ctx.make(*tensors).reshape(-1, width)
        to_a = to_inner.T @ (rows if mask is None else rows * mask)
        return to_x, None, None, to_a, gradient.T @ inner, None, None
