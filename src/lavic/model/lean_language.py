"""The language model's layers with less kept for the backward pass.

A gated layer computes W (silu(g) u), of g = G x and u = U x: autograd keeps g, silu(g), u, and where LoRA sits on W
also silu(g) u, each as wide as the layer's inside, which is most of what a layer keeps. Here g and u are kept, and the
products are made again: no matrix product is. RMS norms compute in fp32 and keep an fp32 copy of bf16 states; here
they keep the states as they are, and one number a position.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralMLP, MistralRMSNorm

from lavic.model.lean_lora import LoraCall, is_active, lean_lora_forward, lora_gradients, lora_output


def lean_language_forward(module: nn.Module) -> Callable[..., Tensor] | None:
    """What computes a gated layer or a frozen RMS norm this way; None for any other module."""
    if isinstance(module, MistralMLP | LlamaMLP) and isinstance(module.act_fn, SiLUActivation | nn.SiLU):
        return _gated
    if isinstance(module, MistralRMSNorm | LlamaRMSNorm) and not module.weight.requires_grad:
        return _norm
    return None


def _gated(module: Any, x: Tensor) -> Tensor:
    gate, up, down = module.gate_proj(x), module.up_proj(x), module.down_proj
    out: Tensor
    if not _is_lean_lora(down):
        out = down(_Gate.apply(gate, up))
        return out
    call = LoraCall.of(down, up)
    with torch.autocast(up.device.type, enabled=False):
        out = _GatedLora.apply(gate.to(call.dtype), up.to(call.dtype), *call.tensors, call.scale)
    return out


def _is_lean_lora(module: nn.Module) -> bool:
    """Whether it was given ``lean_lora.py``'s forward pass, and would take it."""
    own = module.__dict__.get("forward")
    return isinstance(own, partial) and own.func is lean_lora_forward(module) and is_active(module)


def _gate_gradients(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Of gate and up, from that of silu(gate) up: what autograd would give, to the bit."""
    to_gate: Tensor = torch.ops.aten.silu_backward(gradient * up, gate)
    return to_gate, gradient * functional.silu(gate)


class _Gate(torch.autograd.Function):
    """silu(g) u."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return _gate_gradients(gradients[0], *ctx.saved_tensors)


class _GatedLora(torch.autograd.Function):
    """A LoRA layer behind a gate: ``LoraCall``'s sum of x = silu(g) u, which is not kept."""

    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        up: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        keep: Tensor | None,
        scale: float,
    ) -> Tensor:
        out, inner = lora_output(functional.silu(gate) * up, weight, bias, a, b, keep, scale)
        ctx.save_for_backward(gate, up, weight, a, b, keep, inner)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight, a, b, keep, inner = ctx.saved_tensors
        x = functional.silu(gate) * up
        to_x, to_a, to_b = lora_gradients(gradients[0], x, weight, a, b, keep, inner, ctx.scale)
        assert to_x is not None, "it was asked for"
        return *_gate_gradients(to_x, gate, up), None, None, to_a, to_b, None, None


def _norm(module: Any, x: Tensor) -> Tensor:
    out: Tensor = _LeanNorm.apply(x, module.weight, module.variance_epsilon)
    return out


class _LeanNorm(torch.autograd.Function):
    """w x / sqrt(mean(x^2) + epsilon), computed in fp32 or wider and rounded to x's type in front of w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        wide = x.to(scale.dtype)
        to_scaled = (gradients[0] * weight).to(scale.dtype)
        # x / rms has no part along x itself, but for epsilon.
        along = (to_scaled * wide).mean(-1, keepdim=True) * scale**3
        return (to_scaled * scale).sub_(wide * along).to(x.dtype), None, None
