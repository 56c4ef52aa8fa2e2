"""What training the 7B needs: counted weights, and activations measured at the 7B's widths on a processor.

Weights, LoRA, gradients and AdamW's moments are counted on the model of the 7B's shape, which is built without memory.
Activations are the bytes that autograd keeps in a forward pass of lavic's own code in bf16 (weights in bf16 under
autocast, LoRA in fp32, batch of one picture), at the 7B's widths with a few layers of each kind; differences between
depths and lengths give a layer's and a token's share, and those are extended to 24 and 32 layers. Not measured: what
the driver and the libraries of a GPU take, for which 1 GB is assumed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from shapes import SHAPES, Shape, make_base, make_config, toy_tokenizer
from torch import Tensor, nn
from transformers import LlavaNextForConditionalGeneration

from lavic.check.memory import validation_bytes
from lavic.console import Console
from lavic.model.accelerations import Accelerations
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters, set_lora_dropout
from lavic.model.losses import CHUNK, target_loss
from lavic.model.sequences import Sequence, SequenceBuilder, TokenBatch
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS

LENGTHS = (240, 512, 1024, 2048)
#: Instruction, title, visual tokens and ``Assistant:``; everything behind carries loss. In front of the picture
#: nothing is kept for a gradient; the title is as long as the real ones are on average.
PROMPT_TOKENS = 90
#: bitsandbytes' NF4: half a byte a weight and an fp32 scale for every 64.
NF4_BYTES = 0.5 + 4 / 64
#: Context, cuBLAS workspaces, the allocator's gaps: assumed.
GPU_OVERHEAD = 1.0e9
#: Of each fp32 logit: its gradient, and the gradient of the bf16 one that it was made from.
LOGIT_GRADIENT_BYTES = 6


@dataclass(frozen=True)
class Weights:
    """Bytes that do not depend on the sample."""

    bf16: int
    nf4: int
    training: int


def count_weights(shape: Shape) -> Weights:
    """Frozen weights in both formats; LoRA (fp32) with its gradient and two moments."""
    with torch.device("meta"):
        model = LlavaNextForConditionalGeneration(make_config(shape))
    model.requires_grad_(False)
    frozen = sum(parameter.numel() for parameter in model.parameters())
    quantised = sum(
        module.weight.numel() for module in model.model.language_model.modules() if isinstance(module, nn.Linear)
    )
    attach_vision_lora(model, LoraSettings())
    trained = sum(parameter.numel() for parameter in lora_parameters(model).values())
    return Weights(
        bf16=2 * frozen, nf4=round(2 * (frozen - quantised) + NF4_BYTES * quantised), training=4 * 4 * trained
    )


# -- activations ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """Bytes that autograd keeps, as a function of depth and length.

    Attributes:
        vision_layer: of one layer of the tower, five views.
        layer, layer_token: of one layer of the language model, and what it grows by with each token.
        rest, rest_token: of everything else, with one layer of the language model and two of the tower.
        length: tokens for which ``layer`` and ``rest`` hold.
    """

    vision_layer: float
    layer: float
    layer_token: float
    rest: float
    rest_token: float
    length: int

    def layer_at(self, length: int) -> float:
        """Bytes of one layer of the language model."""
        return self.layer + self.layer_token * (length - self.length)

    def total(self, shape: Shape, length: int) -> float:
        """Bytes at a shape's depth."""
        rest = self.rest + self.rest_token * (length - self.length)
        layers = self.layer_at(length) * (shape.layers - 1)
        return self.vision_layer * (shape.vision_layers - 2) + layers + rest


class KeptBytes:
    """Counts storages that autograd saves, each once, weights left out."""

    def __init__(self, model: nn.Module) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        # The tensors are held: a storage that was freed could come back under the same address.
        self._held: dict[int, Tensor] = {}

    def hooks(self) -> AbstractContextManager[None]:
        """While active every saved tensor is noted."""
        return torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    def _note(self, tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in self._weights:
            self._held[address] = tensor
        return tensor

    @property
    def bytes(self) -> int:
        """So far."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._held.values())


class GpuDropout(nn.Dropout):
    """Dropout in the form that GPUs have: it keeps one byte a number, the processor's keeps a float."""

    def forward(self, input: Tensor) -> Tensor:
        """As of ``nn.Dropout``."""
        return torch.native_dropout(input, self.p, self.training)[0]


def use_gpu_dropout(model: nn.Module) -> None:
    """Replace the dropout in front of each LoRA layer."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name, dropout in module.lora_dropout.items():
                module.lora_dropout[name] = GpuDropout(dropout.p)


class Probe:
    """A model of the 7B's widths with three layers in the tower and two in the language model."""

    def __init__(self, shape: Shape, dtype: torch.dtype = torch.bfloat16) -> None:
        base = make_base(shape.with_layers(3, 2), dtype=dtype, device=torch.device("cpu"), seed=0)
        wrapped = attach_vision_lora(base.model, LoraSettings())
        use_gpu_dropout(wrapped)
        set_lora_dropout(wrapped, True)
        self.shape = shape
        self.model = FiveTokenModel(base)
        self.builder = SequenceBuilder(toy_tokenizer(), DEFAULT_PROMPTS, 5)
        self.vision_layers = base.model.model.vision_tower.encoder.layers
        self.layers = base.model.model.language_model.layers

    def kept(self, checkpointing: bool) -> Kept:
        """Differences between depths and lengths."""
        short, long = LENGTHS[0], 2 * LENGTHS[0]

        def measured(vision_layers: int, layers: int, length: int) -> int:
            return self.kept_bytes(vision_layers, layers, length, checkpointing)

        base = measured(2, 1, short)
        base_long = measured(2, 1, long)
        layer, layer_long = measured(2, 2, short) - base, measured(2, 2, long) - base_long
        return Kept(
            vision_layer=measured(3, 1, short) - base,
            layer=layer,
            layer_token=(layer_long - layer) / (long - short),
            rest=base,
            rest_token=(base_long - base) / (long - short),
            length=short,
        )

    def kept_bytes(self, vision_layers: int, layers: int, length: int, checkpointing: bool) -> int:
        """Bytes kept by a forward pass through the first layers of each kind."""
        llava = self.model.llava.model
        llava.vision_tower.encoder.layers = self.vision_layers[:vision_layers]
        llava.language_model.layers = self.layers[:layers]
        llava.language_model.config.num_hidden_layers = layers
        self.model.accelerate(Accelerations(activation_checkpointing=checkpointing))
        side = self.shape.view_size
        views = torch.randint(0, 256, (1, 5, 3, side, side), dtype=torch.uint8)
        tokens = self.tokens(length)
        counter = KeptBytes(self.model)
        with counter.hooks(), torch.autocast("cpu", torch.bfloat16):
            hidden = self.model.hidden_states(tokens, self.model.visual_tokens(views))
            target_loss(hidden, self.model.lm_head, tokens)
        return counter.bytes

    def tokens(self, length: int) -> TokenBatch:
        """One sequence of that many tokens."""
        places = range(PROMPT_TOKENS - 10, PROMPT_TOKENS - 5)
        ids = [300] * length
        for place, token in zip(places, self.builder.placeholder_ids, strict=True):
            ids[place] = token
        return self.builder.collate([Sequence(tuple(ids), PROMPT_TOKENS, tuple(places))])


# -- the estimate --------------------------------------------------------------------------------------------


def estimate(console: Console, shape: Shape = SHAPES["7b"]) -> dict[str, Any]:
    """Weights, activations and totals for both formats, four lengths, with and without recomputing."""
    weights, config = count_weights(shape), make_config(shape)
    console.info("Measuring what a layer of each kind keeps (about a minute) ...")
    probe = Probe(shape)
    plain, recomputed = probe.kept(False), probe.kept(True)
    rows = []
    for length in LENGTHS:
        logits = LOGIT_GRADIENT_BYTES * min(CHUNK, length - PROMPT_TOKENS) * shape.vocabulary
        validating = validation_bytes(config.vision_config, config.text_config, 2, 5 * shape.view_tokens, length)
        # While a layer is recomputed all of its activations are there once.
        one_layer = max(plain.vision_layer, plain.layer_at(length))
        for checkpointing in (False, True):
            kept = recomputed.total(shape, length) + one_layer if checkpointing else plain.total(shape, length)
            # Validation keeps nothing of training but LoRA and the optimizer.
            working = weights.training + max(kept + logits, validating) + GPU_OVERHEAD
            rows.append(
                {
                    "tokens": length,
                    "activation_checkpointing": checkpointing,
                    "activations_bytes": round(kept + logits),
                    "validation_bytes": round(validating),
                    "bf16_bytes": round(weights.bf16 + working),
                    "nf4_bytes": round(weights.nf4 + working),
                }
            )
    return {
        "batch_size": 1,
        "weights": asdict(weights),
        "gpu_overhead_bytes": round(GPU_OVERHEAD),
        "kept": {"plain": asdict(plain), "recomputed": asdict(recomputed)},
        "rows": rows,
        "fits": {
            "bf16_in_20_gb": [row["tokens"] for row in rows if row["bf16_bytes"] <= 20e9],
            "nf4_in_8_gb": [row["tokens"] for row in rows if row["nf4_bytes"] <= 8e9],
        },
    }


def show_estimate(result: dict[str, Any], console: Console) -> None:
    """The table."""
    weights = result["weights"]
    console.print(
        f"7B, batch of 1: weights {weights['bf16'] / 1e9:.2f} GB in bf16, {weights['nf4'] / 1e9:.2f} GB with the "
        f"language model in NF4; LoRA, gradient and moments {weights['training'] / 1e9:.2f} GB; "
        f"{result['gpu_overhead_bytes'] / 1e9:.1f} GB assumed for the GPU's own."
    )
    rows = []
    for row in result["rows"]:
        bf16, nf4 = row["bf16_bytes"] / 1e9, row["nf4_bytes"] / 1e9
        rows.append(
            [
                str(row["tokens"]),
                "yes" if row["activation_checkpointing"] else "no",
                f"{row['activations_bytes'] / 1e9:.2f}",
                f"{row['validation_bytes'] / 1e9:.2f}",
                f"{bf16:.2f}",
                "yes" if bf16 <= 20 else "NO",
                f"{nf4:.2f}",
                "yes" if nf4 <= 8 else "NO",
            ]
        )
    header = [
        "tokens",
        "recomputed",
        "activations",
        "or validating",
        "bf16 in all",
        "in 20 GB",
        "NF4 in all",
        "in 8 GB",
    ]
    console.table(rows, header=header, title="GB (10^9 bytes), estimated, not measured on a GPU")
