"""The vision side's layers with fewer passes over their input, and less kept for the backward pass.

PEFT computes W x + s B A drop(x) as separate steps: on a bf16 model with fp32 LoRA weights it makes an fp32 copy of x,
a dropped copy and a scaled result, and autograd keeps most of them. Here the layer is one function: it keeps x, which
the layers of a block share, one byte per element of x for the dropout's mask, and the rank-sized A drop(x).

Autocast lets layer norms compute on, and keep, fp32 copies of bf16 states, and each linear layer round the result
again; PyTorch's kernel sums in fp32 anyway, so they are given the states as they are. Of quick GELU only the input is
kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import QuickGELUActivation

_ADAPTER = "default"
_STEPS = 2**16
_QUICK = 1.702


def arrange_vision(modules: Iterable[nn.Module], lean: bool) -> None:
    """Let every LoRA layer, layer norm and quick GELU inside the modules compute itself this way, or as it came."""
    for root in modules:
        for module in root.modules():
            forward = _lean_forward(module)
            if forward is not None:
                module.__dict__.pop("forward", None)
                if lean:
                    module.forward = partial(forward, module)


def _lean_forward(module: nn.Module) -> Callable[..., Tensor] | None:
    if isinstance(module, LoraLinear) and _is_plain(module):
        return _lora
    if type(module) is nn.LayerNorm:
        return _norm
    return _gelu if isinstance(module, QuickGELUActivation) else None


def _is_plain(module: LoraLinear) -> bool:
    """Whether this is ordinary LoRA on an ordinary linear layer; anything else stays PEFT's."""
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
    lora_a, lora_b = module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight
    with torch.autocast(kind, enabled=False):
        out: Tensor = _LeanLora.apply(
            x.to(dtype),
            base.weight.to(dtype),
            None if base.bias is None else base.bias.to(dtype),
            lora_a.to(dtype),
            lora_b.to(dtype),
            keep,
            scale,
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


class _LeanLora(torch.autograd.Function):
    """W x + b + s B A (m x): x [..., in], W [out, in], b [out] or None, A [r, in], B [out, r], m like x or None."""

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
        ctx.save_for_backward(x, weight, a, b, keep, inner)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, keep, inner = ctx.saved_tensors
        rows = x.reshape(-1, x.shape[-1])
        mask = None if keep is None else keep.view_as(rows)
        gradient = gradients[0].reshape(len(rows), -1)
        to_inner = (gradient @ b).mul_(ctx.scale)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = to_inner @ a
            if mask is not None:
                to_x *= mask
            to_x = to_x.addmm_(gradient, weight).view_as(x)
        to_a = to_inner.T @ (rows if mask is None else rows * mask)
        return to_x, None, None, to_a, gradient.T @ inner, None, None


def _norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
    if module.weight is None or module.weight.dtype != x.dtype:
        return nn.LayerNorm.forward(module, x)
    with torch.autocast(x.device.type, enabled=False):
        return functional.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)


def _gelu(module: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = _LeanQuickGelu.apply(x)
    return out


class _LeanQuickGelu(torch.autograd.Function):
    """x sigmoid(1.702 x), the activation of CLIP's towers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(_QUICK * x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(_QUICK * x)
        slope: Tensor = gate + _QUICK * x * gate * (1 - gate)
        return gradients[0] * slope
