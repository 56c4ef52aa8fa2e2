"""The 7B's memory: counted weights, and a count of kept bytes that can be checked by hand."""

from __future__ import annotations

import torch
from memory import KeptBytes, count_weights
from shapes import SHAPES
from torch import nn


def test_weights_of_the_7b() -> None:
    found = count_weights(SHAPES["7b"])
    # Mistral-7B has 7,241,732,096 with 32,000 words; 64 more, twice, of width 4096.
    language = 7_241_732_096 + 2 * 64 * 4096
    assert 2 * (language + 300e6) < found.bf16 < 2 * (language + 330e6)
    # 146 LoRA modules; weight, gradient and two moments in fp32.
    assert found.training == 16 * 3_645_440
    quantised = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert found.bf16 - found.nf4 == round((2 - 0.5625) * quantised)


def test_kept_bytes_counts_each_storage_once_and_no_weight() -> None:
    frozen = nn.Linear(8, 8, bias=False).requires_grad_(False)
    x = torch.randn(4, 8, requires_grad=True)
    counter = KeptBytes(frozen)
    with counter.hooks():
        y = frozen(x)  # keeps its weight only: it is frozen
        (y * y).sum()  # keeps y, twice
    assert counter.bytes == 4 * 8 * 4
