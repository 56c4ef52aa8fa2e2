"""LoRA layers in one go, with less kept for the backward pass.

PEFT computes W x + s B A drop(x) as separate steps: on a bf16 model with fp32 LoRA weights it makes an fp32 copy of x,
a dropped copy and a scaled result, and autograd keeps most of them. Here the layer is one function: it keeps x, which
the layers of a block share, one byte per element of x for the dropout's mask, and the rank-sized A drop(x). Where x is
what a gate lets through, not even x is kept (``lean_language.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

_ADAPTER = "default"
_STEPS = 2**16


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


def is_active(module: LoraLinear) -> bool:
    """Whether its LoRA weights are used, and are not in the base's weights already."""
    return not (module.disable_adapters or module.merged)


def _lora(module: LoraLinear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if not is_active(module):
        result: Tensor = type(module).forward(module, x, *args, **kwargs)
        return result
    call = LoraCall.of(module, x)
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = _LeanLora.apply(x.to(call.dtype), *call.tensors, call.scale)
    return out


@dataclass(frozen=True)
class LoraCall:
    """W x + b + s B A (m x) of one call: W [out, in], b [out] or None, A [r, in], B [out, r], m like x or None.

    Attributes:
        tensors: W, b, A, B and m, in ``dtype`` (m: bool).
        scale: s, with what the dropout multiplies by.
        dtype: that of autocast, else x's.
    """

    tensors: tuple[Tensor | None, ...]
    scale: float
    dtype: torch.dtype

    @classmethod
    def of(cls, module: LoraLinear, x: Tensor) -> LoraCall:
        """The weights in the type to compute in, and a mask drawn for an input of x's shape."""
        base, dropout = module.base_layer, module.lora_dropout[_ADAPTER]
        keep, scale = None, float(module.scaling[_ADAPTER])
        if isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0:
            keep, share = dropout_mask(x, dropout.p)
            scale /= share
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        weights = (base.weight, base.bias, module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight)
        return cls((*(None if one is None else one.to(dtype) for one in weights), keep), scale, dtype)


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


def lora_output(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, keep: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """[..., out] the layer's output, and [rows, r] s A (m x), which its backward pass needs."""
    rows = x.reshape(-1, x.shape[-1])
    seen = rows if keep is None else rows * keep.view_as(rows)
    inner = (seen @ a.T).mul_(scale)
    out = functional.linear(x, weight, bias)
    out.view(len(rows), -1).addmm_(inner, b.T)
    return out, inner


def lora_gradients(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    a: Tensor,
    b: Tensor,
    keep: Tensor | None,
    inner: Tensor,
    scale: float,
    *,
    of_input: bool = True,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of x (None unless ``of_input``), A and B, from that of the output."""
    rows = x.reshape(-1, x.shape[-1])
    mask = None if keep is None else keep.view_as(rows)
    gradient = gradient.reshape(len(rows), -1)
    to_inner = (gradient @ b).mul_(scale)
    to_x = None
    if of_input:
        to_x = to_inner @ a
        if mask is not None:
            to_x *= mask
        to_x = to_x.addmm_(gradient, weight).view_as(x)
    to_a = to_inner.T @ (rows if mask is None else rows * mask)
    return to_x, to_a, gradient.T @ inner


class _LeanLora(torch.autograd.Function):
    """``LoraCall``'s sum as one function of x [..., in] and its tensors."""

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
        out, inner = lora_output(x, weight, bias, a, b, keep, scale)
        ctx.save_for_backward(x, weight, a, b, keep, inner)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, keep, inner = ctx.saved_tensors
        to_x, to_a, to_b = lora_gradients(
            gradients[0], x, weight, a, b, keep, inner, ctx.scale, of_input=ctx.needs_input_grad[0]
        )
        return to_x, None, None, to_a, to_b, None, None
