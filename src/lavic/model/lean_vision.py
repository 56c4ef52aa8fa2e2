"""The vision side's layers with fewer passes over their input, and less kept for the backward pass.

Autocast lets layer norms compute on, and keep, fp32 copies of bf16 states, and each linear layer round the result
again; PyTorch's kernel sums in fp32 anyway, so they are given the states as they are. Of quick GELU only the input is
kept. LoRA layers (``lean_lora.py``) behind either make their input again from what it keeps (``made_again.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import QuickGELUActivation

from lavic.model.made_again import with_recipe

_QUICK = 1.702


def lean_vision_forward(module: nn.Module) -> Callable[..., Tensor] | None:
    """What computes a layer norm or a quick GELU this way; None for any other module."""
    if type(module) is nn.LayerNorm:
        return _norm
    return _gelu if isinstance(module, QuickGELUActivation) else None


def _norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
    if module.weight is None or module.weight.dtype != x.dtype:
        return nn.LayerNorm.forward(module, x)
    make = partial(_layer_norm, module.normalized_shape, module.eps)
    return with_recipe(make(x, module.weight, module.bias), make, x, module.weight, module.bias)


def _layer_norm(shape: tuple[int, ...], epsilon: float, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return functional.layer_norm(x, shape, weight, bias, epsilon)


def _gelu(module: nn.Module, x: Tensor) -> Tensor:
    return with_recipe(_LeanQuickGelu.apply(x), _quick_gelu, x)


def _quick_gelu(x: Tensor) -> Tensor:
    # In place, or validation, which keeps nothing, would need three of these at a time.
    return (_QUICK * x).sigmoid_().mul_(x)


class _LeanQuickGelu(torch.autograd.Function):
    """x sigmoid(1.702 x), the activation of CLIP's towers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _quick_gelu(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(_QUICK * x)
        slope: Tensor = gate + _QUICK * x * gate * (1 - gate)
        return gradients[0] * slope
