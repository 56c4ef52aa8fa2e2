"""The estimates of memory against what true steps keep and take, and the check of a sample's tokens."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from lavic.check.dataset import sequence_problem
from lavic.check.memory import Lengths, estimate, estimate_tuning
from lavic.check.model import ModelFacts, look_at_model
from lavic.distill.config import DistillSettings
from lavic.distill.evaluation import VALIDATION_BATCH, VALIDATION_TOKENS, batch_loss
from lavic.distill.setup import make_accelerations
from lavic.model.adapters import (
    LoraSettings,
    attach_language_lora,
    attach_vision_lora,
    lora_parameters,
    set_lora_dropout,
)
from lavic.model.choices import collate_choices, score_choices
from lavic.model.load import BaseModel, load_base
from lavic.model.losses import CHUNK, target_loss
from lavic.model.recommendation import Candidate, RecommendationPrompts
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS
from lavic.training.loaders import MicroBatch
from lavic.training.sampler import ordered_batches
from lavic.tune.config import TuneSettings
from lavic.tune.setup import make_accelerations as make_tuning_accelerations

CANDIDATES = [Candidate(f"B{number:04d}", "A red mug", has_picture=True) for number in range(4)]


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    _, found = look_at_model("tiny")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def builder(facts: ModelFacts) -> SequenceBuilder:
    return SequenceBuilder(facts.base.tokenizer, DEFAULT_PROMPTS, facts.base.family.views)


def kept_bytes(settings: DistillSettings, builder: SequenceBuilder, words: int) -> tuple[int, int]:
    """Bytes that autograd keeps of a micro-batch, and how many tokens of a sequence carry gradient."""
    base = load_tiny(settings.precision)
    wrapped = attach_vision_lora(base.model, LoraSettings())
    set_lora_dropout(wrapped, True)
    model = FiveTokenModel(base, make_accelerations(settings))
    sequence = builder.distill("A mug", "a red mug " * words)
    tokens = builder.collate([sequence] * settings.batch_size)
    views = torch.zeros((settings.batch_size, 5, 3, 40, 40), dtype=torch.uint8)
    with counted(base, settings.precision) as kept:
        batch_loss(model, MicroBatch(tuple(range(settings.batch_size)), tokens, views, ()), None)
    return sum(kept.values()), len(sequence.input_ids) - min(sequence.placeholders)


needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (lavic[four-bit])"
)


def load_tiny(precision: str | None) -> BaseModel:
    """The tiny model in a number format."""
    return load_base("tiny", dtype=torch.bfloat16 if precision == "bf16" else torch.float32)


@contextmanager
def counted(base: BaseModel, precision: str | None) -> Iterator[dict[int, int]]:
    """Address -> bytes of what autograd keeps inside the block, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in base.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # or another tensor would get its address
        return tensor

    alive: list[torch.Tensor] = []
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        yield kept


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("batch_size", "words"), [(1, 20), (3, 60)])
def test_the_estimate_of_activations_is_near_what_autograd_keeps(
    facts: ModelFacts, builder: SequenceBuilder, precision: str, batch_size: int, words: int, lean: bool
) -> None:
    settings = DistillSettings.load(
        None, {"precision": precision, "batch_size": batch_size, "device": "cpu", "lean_vision": lean}
    )
    kept, length = kept_bytes(settings, builder, words)
    need = estimate(settings, facts, longest=length, precision=precision, on_gpu=False)
    logits = batch_size * length * 2048 * 4  # kept too, but a part of its own in the estimate
    assert need.activations == pytest.approx(kept - logits, rel=0.25)


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("batch_size", "words"), [(1, 20), (3, 60)])
def test_the_estimate_of_tunings_activations_is_near_what_autograd_keeps(
    facts: ModelFacts, builder: SequenceBuilder, precision: str, batch_size: int, words: int, lean: bool
) -> None:
    settings = TuneSettings.load(None, {"precision": precision, "batch_size": batch_size, "lean_lora": lean})
    check_tuning(facts, builder, settings, load_tiny(precision), "a red mug " * words)


@needs_bitsandbytes
def test_the_estimate_of_tuning_on_4_bits_is_near_what_autograd_keeps(
    facts: ModelFacts, builder: SequenceBuilder
) -> None:
    settings = TuneSettings.load(None, {"precision": "bf16", "quantize": "nf4"})
    base = load_base("tiny", dtype=torch.bfloat16, four_bit=True)
    check_tuning(facts, builder, settings, base, "a red mug " * 60, rel=0.25)


def check_tuning(
    facts: ModelFacts, builder: SequenceBuilder, settings: TuneSettings, base: BaseModel, context: str, rel: float = 0.1
) -> None:
    precision, batch_size = settings.precision, settings.batch_size
    assert precision is not None
    wrapped = attach_language_lora(base.model, LoraSettings())
    set_lora_dropout(wrapped, True)
    model = FiveTokenModel(base, make_tuning_accelerations(settings))
    sequence = RecommendationPrompts(builder, 4000).sequence(context, CANDIDATES, "B0001")
    batch = builder.collate([sequence] * batch_size)
    with counted(base, precision) as kept:
        hidden = model.hidden_states(batch, torch.zeros(batch_size * len(CANDIDATES), 5, model.width))
        assert target_loss(hidden, model.lm_head, batch).total.requires_grad
    lengths = Lengths(len(sequence.input_ids), sequence.target_tokens, row=1, choices=1, rows=1)
    need = estimate_tuning(settings, facts, lengths=lengths, precision=precision, on_gpu=False)
    logits = batch_size * sequence.target_tokens * 3344 * 4  # kept too, but a part of its own in the estimate
    assert need.activations == pytest.approx(sum(kept.values()) - logits, rel=rel)
    assert need.lora == 16 * sum(parameter.numel() for parameter in lora_parameters(wrapped).values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("rows", "words"), [(2, 60), (16, 150)])
def test_the_estimate_of_validation_is_near_what_scoring_takes(
    facts: ModelFacts, builder: SequenceBuilder, precision: str, rows: int, words: int
) -> None:
    settings, base = TuneSettings.load(None, {"precision": precision}), load_tiny(precision)
    attach_language_lora(base.model, LoraSettings())
    model, prompts = FiveTokenModel(base, make_tuning_accelerations(settings)), RecommendationPrompts(builder, 4000)
    # The conversations differ from their first word on, or they would be computed once.
    firsts = [random.Random(row).choice(("blue", "mug", "a", "shirt")) for row in range(rows)]
    trees = [prompts.choices(f"{first} {'a red mug ' * words}", CANDIDATES) for first in firsts]
    batch, tokens = collate_choices(trees, builder.pad_id), torch.zeros(rows * len(CANDIDATES), 5, model.width)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with autocast, profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        score_choices(model, batch, tokens, prefix=model.prefix_of(trees))
    lengths = Lengths(1, 1, row=len(trees[0].prompt_ids), choices=sum(map(len, trees[0].paths)), rows=rows)
    need = estimate_tuning(settings, facts, lengths=lengths, precision=precision, on_gpu=False)
    assert need.scoring == pytest.approx(highest_memory(profiled), rel=0.25)


def highest_memory(profiled: profile) -> int:
    """Most bytes taken at any time of a profiled block."""
    taken = highest = 0
    for event in profiled.profiler.kineto_results.events():  # type: ignore[union-attr]
        taken += event.nbytes() if event.name() == "[memory]" else 0
        highest = max(highest, taken)
    return highest


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("words", [60, 400])
def test_the_estimate_of_stage_1s_validation_is_near_what_a_batch_takes(
    facts: ModelFacts, builder: SequenceBuilder, precision: str, words: int
) -> None:
    """A whole batch of short descriptions, and one that long ones make smaller."""
    settings, base = DistillSettings.load(None, {"precision": precision}), load_tiny(precision)
    attach_vision_lora(base.model, LoraSettings())
    model = FiveTokenModel(base, make_accelerations(settings))
    sequence = builder.distill("A mug", "a red mug " * words)
    length = len(sequence.input_ids)
    indices = ordered_batches([length] * 16, VALIDATION_BATCH, max_tokens=VALIDATION_TOKENS)[0]
    tokens = builder.collate([sequence] * len(indices))
    views = torch.zeros((len(indices), 5, 3, 40, 40), dtype=torch.uint8)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.no_grad(), autocast, profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        batch_loss(model, MicroBatch(tuple(indices), tokens, views, ()), None)
    need = estimate(settings, facts, longest=length, precision=precision, on_gpu=False)
    assert need.scoring == pytest.approx(highest_memory(profiled), rel=0.25)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_logits_everywhere_are_counted(facts: ModelFacts, batch_size: int) -> None:
    every, few = (
        estimate(
            DistillSettings.load(None, {"target_logits": switch, "batch_size": batch_size}),
            facts,
            longest=300,
            precision="bf16",
            on_gpu=True,
        ).logits
        for switch in (False, True)
    )
    vocabulary = facts.base.model.config.text_config.vocab_size
    assert few == 3 * 4 * min(CHUNK, batch_size * 300) * vocabulary
    assert every == batch_size * 300 * vocabulary * (3 * 4 + 2 * 2)


def test_weights_and_optimizer_are_counted_exactly(facts: ModelFacts) -> None:
    base = load_base("tiny")
    parameters = sum(parameter.numel() for parameter in base.model.parameters())
    trained = sum(p.numel() for p in lora_parameters(attach_vision_lora(base.model, LoraSettings(4))).values())
    settings = DistillSettings.load(None, {"lora_r": 4})
    need = estimate(settings, facts, longest=50, precision="fp32", on_gpu=False)
    assert (need.weights, need.lora) == (4 * parameters, 16 * trained)


def test_recomputed_activations_need_less(facts: ModelFacts) -> None:
    plain, again = (
        estimate(
            DistillSettings.load(None, {"activation_checkpointing": switch}),
            facts,
            longest=100,
            precision="bf16",
            on_gpu=True,
        )
        for switch in (False, True)
    )
    assert again.activations < plain.activations / 2


def test_a_sample_that_is_not_as_it_should_be_is_named(builder: SequenceBuilder) -> None:
    good = builder.distill("A mug", "It is red.")
    assert sequence_problem(good, builder) == ""
    ids = list(good.input_ids)
    wrong = {
        "EOS is not the last token": replace(good, input_ids=tuple(ids[:-1])),
        "4 placeholders instead of 5": replace(good, placeholders=good.placeholders[:4]),
        "placeholders stand in the text": replace(good, input_ids=(*ids[:-1], builder.placeholder_ids[0], ids[-1])),
        "no token of the description carries loss": replace(good, prompt_length=len(ids) - 1),
    }
    for problem, sequence in wrong.items():
        assert sequence_problem(sequence, builder) == problem


def test_a_prompt_with_several_pictures_is_looked_at_whole(builder: SequenceBuilder) -> None:
    good = RecommendationPrompts(builder, 4000).sequence("a mug", CANDIDATES, "B0001", eos=False)
    assert sequence_problem(good, builder, counts=[5] * 4, eos=False, target="answer") == ""
    assert sequence_problem(good, builder, counts=[5] * 5, eos=False) == "20 placeholders instead of 25"
    assert sequence_problem(good, builder, counts=[5] * 4) == "EOS is not the last token"
    empty = replace(good, prompt_length=len(good.input_ids))
    wrong = "no token of the answer carries loss"
    assert sequence_problem(empty, builder, counts=[5] * 4, eos=False, target="answer") == wrong
