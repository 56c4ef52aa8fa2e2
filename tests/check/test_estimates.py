"""The estimate of memory against what autograd keeps of a true step, and the check of a sample's tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lavic.check.dataset import sequence_problem
from lavic.check.memory import estimate
from lavic.check.model import ModelFacts, look_at_model
from lavic.distill.config import DistillSettings
from lavic.distill.evaluation import batch_loss
from lavic.distill.setup import make_accelerations
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters, set_lora_dropout
from lavic.model.load import load_base
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS
from lavic.training.loaders import MicroBatch


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
    base = load_base("tiny", dtype=torch.bfloat16 if settings.precision == "bf16" else torch.float32)
    wrapped = attach_vision_lora(base.model, LoraSettings())
    set_lora_dropout(wrapped, True)
    model = FiveTokenModel(base, make_accelerations(settings))
    sequence = builder.distill("A mug", "a red mug " * words)
    tokens = builder.collate([sequence] * settings.batch_size)
    views = torch.zeros((settings.batch_size, 5, 3, 40, 40), dtype=torch.uint8)
    weights = {parameter.untyped_storage().data_ptr() for parameter in base.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # or another tensor would get its address
        return tensor

    alive: list[torch.Tensor] = []
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        batch_loss(model, MicroBatch(tuple(range(settings.batch_size)), tokens, views, ()), None)
    return sum(kept.values()), len(sequence.input_ids) - min(sequence.placeholders)


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
