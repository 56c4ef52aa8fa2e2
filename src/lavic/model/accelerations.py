"""The model's short cuts, by name: none changes loss or gradients, each can be switched off.

===========================  ========================================  ======================================
switch                       what is saved                             where
===========================  ========================================  ======================================
``cls_only``                 the last vision layer for patches         ``cls_only.py``
``prefix_cache``             the instruction, at every step            ``prefix_cache.py``
``frozen_start``             gradients through what stands before      ``frozen_start.py``
                             the first visual token
``target_logits``            logits where nothing is predicted         ``losses.py``
``answer_states``            the last layer where nothing is predicted ``last_layer.py``
``lean_vision``              passes over LoRA's input, and memory      ``lean_lora.py``, ``lean_vision.py``
``lean_language``            memory of gates and norms                 ``lean_language.py``
``activation_checkpointing`` memory, for a second forward pass         here
``compile``                  launches of small kernels                 here
===========================  ========================================  ======================================

Batches of similar length, worker processes and the cache of cut pictures belong to the data
(``lavic.training.sampler``, ``loaders``, ``picture_cache``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lavic.errors import ConfigError
from lavic.model.lean_language import lean_language_forward
from lavic.model.lean_lora import lean_lora_forward
from lavic.model.lean_vision import lean_vision_forward
from lavic.model.past import PAST_NAMES


@dataclass(frozen=True)
class Accelerations:
    """Which short cuts are taken; the defaults are the fast combination.

    Attributes:
        cls_only: in the tower's last layer compute the [CLS] state alone.
        prefix_cache: compute keys and values of the shared instruction once.
        frozen_start: no gradient through positions before the first visual token.
        target_logits: logits at the positions that predict a target only, in chunks.
        answer_states: compute the language model's last layer at the positions that predict a target only; of stage 2,
            where these are few.
        lean_vision: LoRA layers, norms and GELUs of the vision side that keep little for the backward pass.
        lean_language: gated layers and norms of the language model that do.
        activation_checkpointing: keep only the input of each layer and compute the rest again for the backward pass.
        compile: ``torch.compile`` for each layer; pays on a GPU, after a minute of compiling.
    """

    cls_only: bool = True
    prefix_cache: bool = True
    frozen_start: bool = True
    target_logits: bool = True
    answer_states: bool = False
    lean_vision: bool = True
    lean_language: bool = True
    activation_checkpointing: bool = False
    compile: bool = False


#: Everything as the published algorithm says it, for comparison.
PLAIN = Accelerations(
    cls_only=False,
    prefix_cache=False,
    frozen_start=False,
    target_logits=False,
    lean_vision=False,
    lean_language=False,
)


def require_compiler() -> None:
    """See that ``torch.compile`` finds the C compiler that it works with.

    Raises:
        ConfigError: there is none.
    """
    compiler = os.environ.get("CXX") or os.environ.get("CC") or "g++"
    if not any(shutil.which(name) for name in (compiler, "gcc", "clang")):
        raise ConfigError(
            "torch.compile needs a C++ compiler, and there is none",
            where="--compile",
            remedy="Install g++, or leave --compile away.",
        )


def arrange_modules(roots: Iterable[nn.Module], accelerations: Accelerations) -> None:
    """Let every module inside these that has a lean way compute itself that way, or as it came."""
    lean, language = accelerations.lean_vision, accelerations.lean_language
    ways = ((lean_lora_forward, lean), (lean_vision_forward, lean), (lean_language_forward, language))
    for module in (module for root in roots for module in root.modules()):
        for way, wanted in ways:
            forward = way(module)
            if forward is not None:
                module.__dict__.pop("forward", None)
                if wanted:
                    module.forward = partial(forward, module)


def arrange_layers(layers: Iterable[nn.Module], accelerations: Accelerations) -> None:
    """Let layers recompute or compile themselves, or neither: what they were arranged for before is undone."""
    if accelerations.compile:
        # Two kinds of layer, with and without gradient, with and without a past: more than the default of 8.
        dynamo = torch._dynamo.config
        dynamo.recompile_limit = max(dynamo.recompile_limit, 32)
    for layer in layers:
        layer.__dict__.pop("forward", None)
        forward: Callable[..., Any] = layer.forward
        if accelerations.compile:
            number = getattr(layer.self_attn, "layer_idx", 0)
            forward = partial(_with_own_past, torch.compile(forward, dynamic=True), number)
        if accelerations.activation_checkpointing:
            forward = partial(_recomputed, forward)
        if forward != layer.forward:
            layer.forward = forward


def _with_own_past(forward: Callable[..., Any], number: int, *args: Any, **kwargs: Any) -> Any:
    """A layer's forward pass with the past of this layer alone: one looked up by number would be compiled for each."""
    for name in PAST_NAMES:
        if kwargs.get(name) is not None:
            kwargs[name] = kwargs[name].layer(number)
    return forward(*args, **kwargs)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A layer's forward pass that keeps no activations but its inputs; dropout draws the same again."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
