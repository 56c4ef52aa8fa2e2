"""The last layer is computed no further than it is looked at.

Behind a prompt only keys and values are read: nothing else is computed, and no bit differs. In training only the states
that predict an answer are: loss and gradients are those of the whole layer.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model.tiny_models import fill_lora, make_base
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, MistralConfig, MistralModel

from lavic.model.accelerations import PLAIN, Accelerations
from lavic.model.adapters import LoraSettings, attach_language_lora, lora_parameters
from lavic.model.choices import collate_choices, score_choices
from lavic.model.last_layer import prompt_past, states_at
from lavic.model.load import BaseModel
from lavic.model.losses import target_loss
from lavic.model.past import Past, recorded_past
from lavic.model.recommendation import Candidate, RecommendationPrompts
from lavic.model.sequences import IGNORE_INDEX, SequenceBuilder, TokenBatch
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.tokenizer import train_tokenizer

CANDIDATES = [Candidate(f"B00000000{number}", f"Title {number}", number != 2) for number in range(4)]


@pytest.fixture(scope="module")
def base() -> BaseModel:
    """A random model in fp32 whose language model has LoRA that matters."""
    base = make_base(train_tokenizer(), dtype=torch.float32)
    attach_language_lora(base.model, LoraSettings(dropout=0.0))
    fill_lora(base.model)
    return base


def assert_same_bits(found: Past, expected: Past) -> None:
    assert len(found.layers) == len(expected.layers)
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def some_embeds(rows: int, length: int, width: int) -> Tensor:
    return torch.randn(rows, length, width, generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("lean", [True, False])
def test_keys_and_values_are_those_of_the_whole_pass(base: BaseModel, lean: bool) -> None:
    width = FiveTokenModel(base, Accelerations(frozen_start=False, lean_vision=lean)).width
    language_model = base.model.model.language_model
    first = prompt_past(language_model, some_embeds(1, 7, width), Past([]))
    assert_same_bits(first, recorded_past(language_model, some_embeds(1, 7, width), Past([])))
    embeds = some_embeds(3, 11, width)
    behind = prompt_past(language_model, embeds, first)
    assert behind.length == 18
    assert_same_bits(behind, recorded_past(language_model, embeds, first))


def test_the_same_under_autocast(base: BaseModel) -> None:
    width = FiveTokenModel(base, Accelerations(frozen_start=False)).width
    language_model, embeds = base.model.model.language_model, some_embeds(2, 9, width)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = prompt_past(language_model, embeds, Past([])), recorded_past(language_model, embeds, Past([]))
    assert_same_bits(found, expected)


SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama() -> LlamaModel:
    """The language model of the Vicuna members, tiny; its attention has biases here, which some have."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaModel(LlamaConfig(**SIZES, num_hidden_layers=3, attention_bias=True))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter)
    return model.requires_grad_(False).eval()


def test_llama_too() -> None:
    model, embeds = llama(), some_embeds(2, 9, 32)
    first = prompt_past(model, embeds, Past([]))
    assert_same_bits(first, recorded_past(model, embeds, Past([])))
    assert_same_bits(prompt_past(model, embeds, first), recorded_past(model, embeds, first))


def test_layers_of_another_kind_run_as_they_are() -> None:
    class OwnLayer(nn.Module):
        """Not one whose keys and values could be computed from outside."""

        def __init__(self, inside: nn.Module) -> None:
            super().__init__()
            self.inside = inside

        def forward(self, hidden: Tensor, cache: Past | None = None, **kwargs: object) -> Tensor:
            return 2 * self.inside(hidden, cache=cache, **kwargs)

    model, embeds = llama(), some_embeds(2, 9, 32)
    model.layers = nn.ModuleList(OwnLayer(layer) for layer in model.layers)
    assert_same_bits(prompt_past(model, embeds, Past([])), recorded_past(model, embeds, Past([])))


def test_scores_keep_their_bits_and_the_last_mlp_reads_the_tree_alone(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FiveTokenModel(base, Accelerations(frozen_start=False))
    builder = SequenceBuilder(base.tokenizer, DEFAULT_PROMPTS, base.family.views)
    prompts = RecommendationPrompts(builder, 2048)
    rows = [prompts.choices("A red mug, please. " * count, CANDIDATES) for count in (1, 3)]
    batch = collate_choices(rows, builder.pad_id)
    tokens = torch.randn(6, model.views, model.width, generator=torch.Generator().manual_seed(0))
    seen: list[tuple[int, ...]] = []
    layers = model.llava.model.language_model.layers
    hook = layers[-1].mlp.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape[:2])))
    found = score_choices(model, batch, tokens)
    assert seen == [tuple(batch.tree_ids.shape)]
    monkeypatch.setattr("lavic.model.choices.prompt_past", recorded_past)
    assert score_choices(model, batch, tokens) == found
    assert seen[1:] == [tuple(batch.prompts.input_ids.shape), tuple(batch.tree_ids.shape)]
    hook.remove()


# -- training: states where an answer is predicted ------------------------------------------------------------


def answered(builder: SequenceBuilder, rows: int) -> TokenBatch:
    """Prompts and answers of different lengths, padded on the right."""
    prompts = RecommendationPrompts(builder, 2048)
    answers = ("B000000000", "B0000000031", "X")
    return builder.collate(
        [
            prompts.sequence("A red mug, please. " * (1 + row % 3), CANDIDATES, answers[row % 3], eos=row % 2 == 0)
            for row in range(rows)
        ]
    )


def loss_and_gradients(base: BaseModel, batch: TokenBatch, how: Accelerations) -> list[Tensor]:
    model = FiveTokenModel(base, how)
    pictures = int((batch.placeholder_positions >= 0).sum()) // model.views
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(pictures, model.views, model.width, generator=generator, dtype=base.model.dtype)
    loss = target_loss(model.hidden_states(batch, tokens), model.lm_head, batch).total
    return [loss, *torch.autograd.grad(loss, list(lora_parameters(base.model).values()))]


@pytest.fixture(scope="module")
def exact() -> BaseModel:
    """The same model in float64."""
    base = make_base(train_tokenizer(), dtype=torch.float64)
    attach_language_lora(base.model, LoraSettings(dropout=0.0)).to(torch.float64)
    fill_lora(base.model)
    return base


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize(
    "others", [PLAIN, Accelerations(frozen_start=False), replace(PLAIN, activation_checkpointing=True)]
)
def test_loss_and_gradients_are_those_of_the_whole_last_layer(
    exact: BaseModel, rows: int, others: Accelerations
) -> None:
    batch = answered(SequenceBuilder(exact.tokenizer, DEFAULT_PROMPTS, exact.family.views), rows)
    plain = loss_and_gradients(exact, batch, PLAIN)
    for found, wanted in zip(loss_and_gradients(exact, batch, replace(others, answer_states=True)), plain, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10 * float(wanted.detach().abs().max()))


def test_the_last_mlp_reads_what_predicts_an_answer_alone(exact: BaseModel) -> None:
    batch = answered(SequenceBuilder(exact.tokenizer, DEFAULT_PROMPTS, exact.family.views), 3)
    seen: list[tuple[int, ...]] = []
    layers = exact.model.model.language_model.layers
    hooks = [layer.mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1])) for layer in layers]
    loss_and_gradients(exact, batch, Accelerations(frozen_start=False, answer_states=True))
    for hook in hooks:
        hook.remove()
    longest = int((batch.labels != IGNORE_INDEX).sum(dim=1).max())
    assert seen == [*[batch.input_ids.shape[1]] * (len(layers) - 1), longest]


@pytest.mark.parametrize("window", [None, 4])
def test_states_are_the_librarys_where_they_are_wanted(window: int | None) -> None:
    model, embeds = mistral(window), some_embeds(2, 9, 32)
    wanted = torch.zeros(2, 9, dtype=torch.bool)
    wanted[0, 4] = wanted[1, 2] = wanted[1, 7] = True
    found, whole = states_at(model, embeds, wanted), model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    torch.testing.assert_close(found[wanted], whole[wanted], rtol=1e-5, atol=1e-6)
    if window is None:
        assert not found[~wanted].any()


def mistral(window: int | None) -> MistralModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MistralModel(MistralConfig(**SIZES, num_hidden_layers=2, sliding_window=window))
    return model.requires_grad_(False).eval()
