"""How much memory a run needs: an estimate, by part, from the model's shapes and the longest sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lavic.check.model import ModelFacts
from lavic.distill.config import DistillSettings
from lavic.model.losses import CHUNK

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
#: Python with torch and transformers (RSS after import, measured 0.4 to 0.5 GB), and one worker process.
PROCESS_BYTES, WORKER_BYTES = 0.5e9, 0.15e9
#: CUDA's own context, and what its allocator keeps in pieces that do not fit.
CONTEXT_BYTES, FRAGMENTED = 0.6e9, 1.05

#: Four bits, and the scale of each 64 weights in a little more than eight (arXiv 2305.14314, section 3).
NF4_BYTES = 0.516
#: Of a file of weights, at most.
SHARD_BYTES = 5e9


@dataclass(frozen=True)
class Need:
    """Bytes on the computing device, by part, and in main memory."""

    weights: float
    lora: float
    activations: float
    logits: float
    main: float
    on_gpu: bool

    @property
    def device(self) -> float:
        """Of the GPU, or of main memory on a CPU."""
        parts = self.weights + self.lora + self.activations + self.logits
        return CONTEXT_BYTES + FRAGMENTED * parts if self.on_gpu else parts + self.main


def estimate(settings: DistillSettings, facts: ModelFacts, *, longest: int, precision: str, on_gpu: bool) -> Need:
    """What training the longest sample needs.

    The activations are those that autograd keeps, counted on the tiny model with hooks on saved tensors (per token and
    layer, in fp32 and under bf16 autocast) and put in terms of the widths: see ``_vision`` and ``_language``.

    Args:
        longest: tokens of the longest sample that carry gradient; with ``frozen_start`` those from the first visual
            token on.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """
    size = _BYTES[precision]
    config = facts.base.model.config
    trainable = facts.trainable(settings.lora_r)
    vision, text = config.vision_config, config.text_config
    rows = settings.batch_size
    tower_layers = vision.num_hidden_layers - 1 if settings.cls_only else vision.num_hidden_layers
    patches = facts.base.family.views * ((vision.image_size // vision.patch_size) ** 2 + 1)
    inside = _vision(vision, size, settings, on_gpu=on_gpu)
    activations = rows * (
        _kept(patches, tower_layers, inside, size * vision.hidden_size, settings)
        + _kept(longest, text.num_hidden_layers, _language(text, size), size * text.hidden_size, settings)
    )
    # fp32 logits of a chunk, their gradient and their softmax; with a teacher also those of the other tokens alone,
    # their gradient, and the sum of both gradients.
    logits = (6 if settings.has_teacher else 3) * 4 * min(CHUNK, rows * longest) * text.vocab_size
    workers = settings.num_workers * WORKER_BYTES
    weights = float(facts.parameters * size)
    loading = weights if on_gpu else 0.0  # the weights pass through main memory
    if settings.quantize == "nf4":
        kept = facts.vision_parameters + 2 * text.vocab_size * text.hidden_size
        weights = kept * size + (facts.parameters - kept) * NF4_BYTES
        loading = min(loading, SHARD_BYTES)  # each layer goes to the device as soon as it is read
    return Need(
        weights=weights,
        lora=trainable * 4 * 4,  # fp32: weight, gradient, AdamW's two moments
        activations=activations,
        logits=logits,
        main=PROCESS_BYTES + workers + loading,
        on_gpu=on_gpu,
    )


def _kept(positions: int, layers: int, inside: float, between: float, settings: DistillSettings) -> float:
    """Bytes kept of a stack of layers: all that is inside of each, or of one at a time and what enters the others."""
    if settings.activation_checkpointing:
        return positions * (inside + layers * between)
    return positions * layers * inside


def _vision(config: Any, size: int, settings: DistillSettings, *, on_gpu: bool) -> float:
    """Bytes a position and layer: LoRA sits on every linear layer, so each keeps its input."""
    width, inner = config.hidden_size, config.intermediate_size
    masks = 5 * width + inner  # of dropout, a byte each
    if settings.lean_vision:
        # Both norms' inputs, what q, k and v share, attention's four, fc1's input; GELU's and fc2's.
        return float(size * (8 * width + 2 * inner) + masks)
    # Also what comes out of the dropout, and fp32 copies under autocast.
    per_position = size * (18 * width + 4 * inner) + (4 - size) * masks
    # The fused dropout of a GPU keeps one byte a value.
    return float(per_position - (size - 1) * masks if on_gpu else per_position)


def _language(config: Any, size: int) -> float:
    """Bytes a position and layer: frozen weights need no inputs, but norms, attention and gates do."""
    width, inner = config.hidden_size, config.intermediate_size
    return float(size * (3 * inner + 6 * width) + 4 * 2.25 * width)
