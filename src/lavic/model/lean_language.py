"""The language model's layers with less kept for the backward pass.

A gated layer computes W (silu(g) u), of g = G x and u = U x: autograd keeps g, silu(g), u, and where LoRA sits on W
also silu(g) u, each as wide as the layer's inside, which is most of what a layer keeps. Here g and u are kept, and the
products are made again: no matrix product is. RMS norms compute in fp32 and keep an fp32 copy of bf16 states; here
they keep the states as they are, and one number a position. LoRA layers behind either make their input again from that
(``made_again.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralMLP, MistralRMSNorm

from lavic.model.made_again import with_recipe


def lean_language_forward(module: nn.Module) -> Callable[..., Tensor] | None:
    """What computes a gated layer or a frozen RMS norm this way; None for any other module."""
    if isinstance(module, MistralMLP | LlamaMLP) and isinstance(module.act_fn, SiLUActivation | nn.SiLU):
        return _gated
    if isinstance(module, MistralRMSNorm | LlamaRMSNorm) and not module.weight.requires_grad:
        return _norm
    return None


def _gated(module: Any, x: Tensor) -> Tensor:
    gate, up = module.gate_proj(x), module.up_proj(x)
    passed: Tensor = with_recipe(_Gate.apply(gate, up), _let_through, gate, up)
    out: Tensor = module.down_proj(passed)
    return out


def _let_through(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate) * up


class _Gate(torch.autograd.Function):
    """silu(g) u."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _let_through(gate, up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        # What autograd would give, to the bit.
        to_gate: Tensor = torch.ops.aten.silu_backward(gradients[0] * up, gate)
        return to_gate, gradients[0] * functional.silu(gate)


def _norm(module: Any, x: Tensor) -> Tensor:
    out, scale = _LeanNorm.apply(x, module.weight, module.variance_epsilon)
    return with_recipe(out, _scaled, x, module.weight, scale)


def _scaled(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return weight * (x.to(scale.dtype) * scale).to(x.dtype)


class _LeanNorm(torch.autograd.Function):
    """w x / sqrt(mean(x^2) + epsilon), computed in fp32 or wider and rounded to x's type in front of w;
    and what x is multiplied by."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight, scale)
        ctx.mark_non_differentiable(scale)
        return _scaled(x, weight, scale), scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        wide = x.to(scale.dtype)
        to_scaled = (gradients[0] * weight).to(scale.dtype)
        # x / rms has no part along x itself, but for epsilon.
        along = (to_scaled * wide).mean(-1, keepdim=True) * scale**3
        return (to_scaled * scale).sub_(wide * along).to(x.dtype), None, None
