"""Marks of weights: stores and runs that were made before must still be known by them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from lavic.embed.identity import vision_mark
from lavic.model.adapters import VISION_PARTS, LoraSettings, attach_vision_lora
from lavic.model.load import TINY, load_base
from lavic.training.identity import weights_mark


class Parts(nn.Module):
    """The names of a LLaVA model's parts, with tensors on both sides of 64 values; any two are different."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.vision_tower = nn.Linear(100, 7)
        self.model.multi_modal_projector = nn.Sequential(nn.Linear(7, 3), nn.Linear(3, 1))
        self.lm_head = nn.Linear(3, 5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_((torch.arange(parameter.numel()) / 7).reshape(parameter.shape))


def some(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every n-th of them in memory order, n being a 64th of how many there are."""
    flat = values.reshape(-1)
    return flat[np.arange(0, len(flat), max(1, len(flat) // 64))]


def as_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to bf16, the upper 16 bits, to the nearest and half to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    found: NDArray[np.float32] = rounded.astype(np.uint32).view(np.float32)
    return found


def vision_mark_by_hand(model: nn.Module) -> str:
    written = b""
    for part in VISION_PARTS:
        start = f"model.{part}."
        tensors = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(start)}
        for name in sorted(tensors):
            values = tensors[name].float().numpy()
            written += f"{part}.{name.removeprefix(start)} {values.shape}\n".encode()
            written += as_bf16(some(values)).astype(np.float64).tobytes()
    return hashlib.sha256(written).hexdigest()


def weights_mark_by_hand(model: nn.Module) -> str:
    written = b""
    tensors = model.state_dict()
    for name in sorted(tensors):
        values = tensors[name].numpy()
        written += f"{name} {values.shape} torch.float32\n".encode() + some(values).astype(np.float64).tobytes()
    return hashlib.sha256(written).hexdigest()


# What lavic 0.1.0 wrote into stores and checkpoints.
MARKS = [
    (vision_mark, torch.float32, "d235ab7c1fcf7562ee3fe173cc6356f225a0ca4238295050203ccc5c70d60a2a"),
    (vision_mark, torch.bfloat16, "d235ab7c1fcf7562ee3fe173cc6356f225a0ca4238295050203ccc5c70d60a2a"),
    (weights_mark, torch.float32, "572b27e5c19e3ae80142debb37e026d864cba6b936dfcca30f23ad55b6f488f8"),
    (weights_mark, torch.bfloat16, "bce1eac1611c029a4d6af7f704888e09ba89c104dbd2a5e670ba4fc97148faeb"),
]


@pytest.mark.parametrize(("mark", "dtype", "before"), MARKS)
def test_marks_are_what_they_were(mark, dtype, before):
    assert mark(Parts().to(dtype)) == before


@pytest.mark.parametrize(
    ("mark", "by_hand"), [(vision_mark, vision_mark_by_hand), (weights_mark, weights_mark_by_hand)]
)
def test_marks_are_what_numpy_makes_of_the_same_values(mark, by_hand):
    base = load_base(TINY)
    assert mark(base.model) == by_hand(base.model)
    assert mark(Parts()) == by_hand(Parts())
    changed = Parts()
    with torch.no_grad():
        changed.model.vision_tower.weight[0, 0] += 1
    assert mark(changed) == by_hand(changed) != mark(Parts())


def test_lora_on_the_vision_side_does_not_count_while_it_is_not_merged():
    base = load_base(TINY)
    before = vision_mark(base.model)
    attach_vision_lora(base.model, LoraSettings())
    assert vision_mark(base.model) == before
