"""How much memory a run needs: an estimate, by part, from the model's shapes and the longest sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lavic.check.model import ModelFacts
from lavic.distill.config import DistillSettings
from lavic.distill.evaluation import VALIDATION_BATCH, VALIDATION_TOKENS
from lavic.model.losses import CHUNK
from lavic.training.settings import TrainingSettings
from lavic.tune.config import TuneSettings
from lavic.tune.scoring import SCORING_BATCH

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
#: Python with torch and transformers (RSS after import, measured 0.4 to 0.5 GB), and one worker process.
PROCESS_BYTES, WORKER_BYTES = 0.5e9, 0.15e9
#: CUDA's own context, and what its allocator keeps in pieces that do not fit.
CONTEXT_BYTES, FRAGMENTED = 0.6e9, 1.05

#: Four bits, and the scale of each 64 weights in a little more than eight (arXiv 2305.14314, section 3).
NF4_BYTES = 0.516
#: A trained parameter, fp32: weight, gradient, AdamW's two moments.
LORA_BYTES = 4 * 4
#: Of a file of weights, at most.
SHARD_BYTES = 5e9


@dataclass(frozen=True)
class Need:
    """Bytes on the computing device, by part, and in main memory.

    Attributes:
        scoring: what validation needs beside weights and LoRA; 0 where it needs less than training in any case.
        longest: tokens with gradient of the sample that the activations are those of.
    """

    weights: float
    lora: float
    activations: float
    logits: float
    main: float
    on_gpu: bool
    longest: int
    scoring: float = 0.0

    @property
    def device(self) -> float:
        """Of the GPU, or of main memory on a CPU."""
        parts = self.weights + self.lora + max(self.activations + self.logits, self.scoring)
        return CONTEXT_BYTES + FRAGMENTED * parts if self.on_gpu else parts + self.main


def estimate(settings: DistillSettings, facts: ModelFacts, *, longest: int, precision: str, on_gpu: bool) -> Need:
    """What training the longest sample of stage 1 needs.

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
        + _kept(longest, text.num_hidden_layers, _language(text, size, settings), size * text.hidden_size, settings)
    ) + _copies(trainable, size)
    # fp32 logits of a chunk, their gradient and their softmax; with a teacher also those of the other tokens alone,
    # their gradient, and the sum of both gradients.
    positions = rows * longest
    targets = min(CHUNK, positions) if settings.target_logits else positions
    logits = (6 if settings.has_teacher else 3) * 4 * targets * text.vocab_size
    if not settings.target_logits:
        logits += 2 * size * positions * text.vocab_size  # of every position, and their gradient
    weights, loading = _weights(settings, facts, size, on_gpu=on_gpu)
    return Need(
        weights=weights,
        lora=trainable * LORA_BYTES,
        activations=activations,
        logits=logits,
        main=PROCESS_BYTES + settings.num_workers * WORKER_BYTES + loading,
        on_gpu=on_gpu,
        longest=longest,
        scoring=validation_bytes(vision, text, size, patches, longest),
    )


def validation_bytes(vision: Any, text: Any, size: int, patches: int, longest: int) -> float:
    """Bytes that a batch of validation takes at once, no gradient being kept: in the tower, or behind it."""
    # What goes in, the residual and its norm; what comes out of fc1 and GELU.
    tower = VALIDATION_BATCH * patches * size * (3 * vision.hidden_size + 2 * vision.intermediate_size)
    positions = max(longest, min(VALIDATION_TOKENS, VALIDATION_BATCH * longest))
    logits = 2 * 4 * min(CHUNK, positions) * text.vocab_size
    return float(max(tower, positions * _passing(text, size), logits))


def _passing(text: Any, size: int) -> int:
    """Bytes a position of a layer that keeps nothing: what goes in, the residual, its norm; gate, up, their product."""
    return int(size * (3 * text.hidden_size + 3 * text.intermediate_size))


@dataclass(frozen=True)
class Lengths:
    """What the data say about the need of stage 2.

    Attributes:
        sample: tokens of the longest sample.
        answer: those of the longest answer, which carry loss.
        row: tokens of the longest validation row.
        choices: tokens of all its answers, of the row that has most.
        rows: how many validation rows there are.
    """

    sample: int
    answer: int
    row: int
    choices: int
    rows: int


def estimate_tuning(
    settings: TuneSettings, facts: ModelFacts, *, lengths: Lengths, precision: str, on_gpu: bool
) -> Need:
    """What training the longest sample of stage 2 needs, and scoring the longest validation rows.

    The vision side is loaded with the model, but the item store has computed what it would compute.

    Args:
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """
    size = _BYTES[precision]
    text = facts.base.model.config.text_config
    positions = settings.batch_size * lengths.sample
    targets = settings.batch_size * lengths.answer
    inside = _trained_language(text, size, settings, on_gpu=on_gpu)
    # Of all positions the last layer keeps the norm's input, and keys and values, which a mask spreads to all heads.
    layers = text.num_hidden_layers - settings.answer_states
    last = settings.answer_states * size * (3 * text.hidden_size + _keys_and_values(text))
    trained = facts.trainable_language(settings.lora_r, lm_head=settings.lm_head)
    logits = 3 * 4 * (min(CHUNK, targets) if settings.target_logits else targets) * text.vocab_size
    if not settings.target_logits:
        logits += 2 * size * positions * text.vocab_size  # of every position, and their gradient
    weights, loading = _weights(settings, facts, size, on_gpu=on_gpu)
    return Need(
        weights=weights,
        lora=trained * LORA_BYTES,
        activations=_kept(positions, layers, inside, size * text.hidden_size, settings)
        + positions * last
        + _copies(trained, size),
        logits=logits,
        main=PROCESS_BYTES + loading,
        on_gpu=on_gpu,
        longest=lengths.sample,
        scoring=_scoring(text, size, lengths, min(SCORING_BATCH, lengths.rows)),
    )


def _weights(settings: TrainingSettings, facts: ModelFacts, size: int, *, on_gpu: bool) -> tuple[float, float]:
    """Bytes of the base model's weights on the device, and in main memory on their way there."""
    text = facts.base.model.config.text_config
    weights = float(facts.parameters * size)
    loading = weights if on_gpu else 0.0  # the weights pass through main memory
    if settings.quantize == "nf4":
        kept = facts.vision_parameters + 2 * text.vocab_size * text.hidden_size
        weights = kept * size + (facts.parameters - kept) * NF4_BYTES
        loading = min(loading, SHARD_BYTES)  # each layer goes to the device as soon as it is read
    return weights, loading


def _kept(positions: int, layers: int, inside: float, between: float, settings: TrainingSettings) -> float:
    """Bytes kept of a stack of layers: all that is inside of each, or of one at a time and what enters the others."""
    if settings.activation_checkpointing:
        return positions * (inside + layers * between)
    return positions * layers * inside


def _copies(trained: int, size: int) -> float:
    """Bytes of the LoRA weights in the number format that is computed in: they are fp32 themselves."""
    return 0.0 if size == _BYTES["fp32"] else float(trained * size)


def _vision(config: Any, size: int, settings: DistillSettings, *, on_gpu: bool) -> float:
    """Bytes a position and layer: LoRA sits on every linear layer, so each keeps its input."""
    width, inner = config.hidden_size, config.intermediate_size
    masks = 5 * width + inner  # of dropout
    if settings.lean_vision:
        # Both norms' inputs, attention's four, GELU's input; what A gives in six layers; of masks a bit each.
        return float(size * (6 * width + inner + 6 * settings.lora_r) + masks / 8)
    # Also what comes out of the dropout, and fp32 copies under autocast.
    per_position = size * (18 * width + 4 * inner) + (4 - size) * masks
    # The fused dropout of a GPU keeps one byte a value.
    return float(per_position - (size - 1) * masks if on_gpu else per_position)


def _language(config: Any, size: int, settings: DistillSettings) -> float:
    """Bytes a position and layer: frozen weights need no inputs, but norms, attention and gates do."""
    width, inner = config.hidden_size, config.intermediate_size
    return float(size * (_gates(settings) * inner + 6 * width) + 2.25 * _norm_size(size, settings) * width)


def _gates(settings: TrainingSettings) -> int:
    """What a gated layer keeps as wide as its inside: gate, up, and without the short cut the gate's activation."""
    return 2 if settings.lean_language else 3


def _norm_size(size: int, settings: TrainingSettings) -> int:
    """Bytes of each number that a norm of the language model keeps."""
    return size if settings.lean_language else 4


def _trained_language(config: Any, size: int, settings: TuneSettings, *, on_gpu: bool) -> float:
    """Bytes a position and layer where LoRA sits on every linear layer of the language model.

    Counted as ``estimate`` says, exact on the tiny model.
    """
    width, inner, states = config.hidden_size, config.intermediate_size, _keys_and_values(config)
    # Both norms' inputs; queries, keys, values and what attention gives.
    always = 2 * _norm_size(size, settings) * width + size * (2 * width + states)
    masks = 6 * width + inner  # of dropout: in front of q, k, v, o, gate and up, and of down
    if settings.lean_lora and settings.quantize == "none":  # on 4-bit layers LoRA is PEFT's own
        # What A gives in seven layers; without lean_language both norms' outputs, which q, k, v and gate, up share,
        # and the gates' product.
        inputs = 0 if settings.lean_language else 2 * width + inner
        return float(always + size * (_gates(settings) * inner + inputs + 7 * settings.lora_r) + masks / 8)
    # What comes out of each dropout too. A CPU's mask is fp32, a GPU's has one byte.
    return float(always + size * _gates(settings) * inner + masks * (size + (1 if on_gpu else 4)))


def _scoring(config: Any, size: int, lengths: Lengths, rows: int) -> float:
    """Bytes that scoring so many rows takes at once, no gradient being kept."""
    positions = rows * lengths.row
    kept = config.num_hidden_layers * size * _keys_and_values(config)
    # Behind the last layer, fp32 logits and their softmax.
    logits = 2 * 4 * min(CHUNK, rows * lengths.choices) * config.vocab_size
    return float(positions * kept + max(positions * _passing(config, size), logits))


def _keys_and_values(config: Any) -> int:
    """Numbers of a position's key and value in a layer: some heads may share them."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * head * config.num_key_value_heads)
