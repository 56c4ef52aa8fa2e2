"""The counted arithmetic equals formulas by hand, attention under autocast and masks included."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from shapes import SHAPES, Shape, long_description, long_title, make_samples, toy_tokenizer
from sides import PUBLISHED, Bench, counted_flops, lavic_side, switched
from torch.nn import functional

from lavic.model.sequences import SequenceBuilder
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.kinds import looks

TINY = SHAPES["tiny"]
RANK, VIEWS = 8, 5


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two batches of two."""
    builder = SequenceBuilder(toy_tokenizer(), DEFAULT_PROMPTS, VIEWS)
    samples = make_samples(tmp_path_factory.mktemp("pictures"), builder, 4, seed=1)
    cpu = torch.device("cpu")
    return Bench(TINY, samples, builder, batch_size=2, precision="fp32", device=cpu, seed=0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_attention_is_counted_forward_and_backward(masked: bool, autocast: bool) -> None:
    heads, length, width = 4, 32, 16
    query, key, value = (torch.randn(1, count, length, width, requires_grad=True) for count in (heads, 2, 2))
    mask = torch.ones(length, length, dtype=torch.bool).tril() if masked else None
    with counted_flops() as counter, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True).sum().backward()
    # Two products of T x T x d forward, four backward, 2 operations for each element.
    counts = counter.get_flop_counts()["Global"]
    assert any("for_cpu" in str(operation) for operation in counts)  # the fused kernel, not its parts
    assert counter.get_total_flops() == 6 * 2 * heads * length * length * width


def vision_by_hand(shape: Shape) -> int:
    """The published side's tower and projector for one picture, forward and backward; LoRA everywhere."""
    w, inner, n = shape.vision_width, 4 * shape.vision_width, shape.view_tokens
    squares, wide = 4 * w * w, 2 * w * inner
    lora = RANK * (4 * 2 * w + 2 * (w + inner))
    attention = 2 * n * w  # for one token: QK and PV over n keys
    forward = squares + wide + lora + attention
    # Frozen weights: only the gradient of their input. LoRA: that and its weights'. Attention: four products for two.
    backward = squares + wide + 2 * lora + 2 * attention
    layers = shape.vision_layers * (forward + backward)
    # What enters the first layer has no gradient: neither behind q, k and v nor behind their LoRA's first matrix.
    layers -= 3 * w * w + 3 * RANK * w
    tower = VIEWS * n * layers
    patches = VIEWS * (n - 1) * w * 3 * shape.patch**2
    d = shape.width
    projector = VIEWS * (2 * (w * d + d * d) + 3 * RANK * (w + d + 2 * d))
    return 2 * (tower + patches + projector)


def language_by_hand(shape: Shape, length: int) -> int:
    """The published side's language model for one sequence of the batch's length, forward and backward."""
    d, kv = shape.width, shape.width * shape.kv_heads // shape.heads
    linear = 2 * d * d + 2 * d * kv + 3 * d * shape.inner
    attention = 2 * length * d
    layers = shape.layers * (2 * linear + 3 * attention)
    return 2 * length * (layers + 2 * d * shape.vocabulary)


def test_published_arithmetic_equals_the_formula(bench: Bench) -> None:
    lengths = [
        max(len(bench.samples[index].sequence.input_ids) for index in batch) for batch in bench.batches(PUBLISHED)
    ]
    by_batch = [2 * (vision_by_hand(TINY) + language_by_hand(TINY, length)) for length in lengths]
    assert bench.count_flops(PUBLISHED) == pytest.approx(sum(by_batch) / 4, rel=1e-12)


def test_lavic_saves_what_its_switches_say(bench: Bench) -> None:
    lavic = lavic_side(0)
    assert lavic.accelerations is not None
    none = replace(
        lavic,
        accelerations=replace(
            lavic.accelerations, cls_only=False, prefix_cache=False, frozen_start=False, target_logits=False
        ),
        by_length=False,
    )
    published = bench.count_flops(PUBLISHED)
    # Without its switches lavic does the published work, but for the logits behind the last position.
    last = 2 * 2 * TINY.width * TINY.vocabulary
    assert bench.count_flops(none) == pytest.approx(published - last, rel=1e-4)
    assert bench.count_flops(lavic) < 0.9 * published


def test_cls_only_saves_the_last_layers_patches(bench: Bench) -> None:
    lavic = lavic_side(0)
    off = next(side for side, _ in switched(lavic, torch.device("cpu")) if side.name == "cls_only")
    saved = bench.count_flops(off) - bench.count_flops(lavic)
    w, inner, n = TINY.vision_width, 4 * TINY.vision_width, TINY.view_tokens
    # The query, output and MLP of 25 of 26 tokens, and their attention.
    frozen = 2 * (2 * w * w + 2 * w * inner)
    lora = 3 * RANK * (2 * 2 * w + 2 * (w + inner))
    attention = 6 * n * w
    assert saved == pytest.approx(2 * VIEWS * (n - 1) * (frozen + lora + attention), rel=1e-12)


def test_the_small_shape_has_the_7bs_proportions() -> None:
    shares = {}
    for name in ("7b", "small"):
        vision, language = vision_by_hand(SHAPES[name]), language_by_hand(SHAPES[name], 240)
        shares[name] = vision / (vision + language)
        assert SHAPES[name].view_tokens == 577
        head = SHAPES[name].vocabulary * SHAPES[name].width * 4 * 240
        assert 0.015 < head / language < 0.035
    assert shares["small"] == pytest.approx(shares["7b"], abs=0.03)


def test_samples_have_the_real_datas_lengths() -> None:

    rng = random.Random(0)
    items = [(long_title(rng), long_description(look, rng)) for look in looks(rng, 400, held_out=False)]
    words = [(len(title.split()), len(text.split())) for title, text in items]
    assert sum(title for title, _ in words) / 400 == pytest.approx(17, abs=1)
    assert sum(text for _, text in words) / 400 == pytest.approx(88, abs=1)
    builder = SequenceBuilder(toy_tokenizer(), DEFAULT_PROMPTS, VIEWS)
    tokens = [len(builder.distill(title, text).input_ids) for title, text in items]
    assert sum(tokens) / 400 == pytest.approx(240, abs=8)
