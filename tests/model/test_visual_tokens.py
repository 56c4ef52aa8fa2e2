"""Views become vectors, and each vector stands at its own place."""

from __future__ import annotations

import oracles
import pytest
import torch
from model.tiny_models import MEAN, STD, fill_lora, make_base, oracle_sizes, oracle_weights, random_views
from torch import nn

from lavic.model.accelerations import PLAIN, Accelerations
from lavic.model.adapters import LoraSettings, attach_vision_lora, set_lora_dropout
from lavic.model.prefix_cache import PrefixCache, shared_length
from lavic.model.sequences import SequenceBuilder
from lavic.model.views import PixelNorm
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS


@pytest.fixture(scope="module")
def five_tokens(tokenizer) -> FiveTokenModel:
    base = make_base(tokenizer)
    fill_lora(attach_vision_lora(base.model, LoraSettings()))
    return FiveTokenModel(base)


# -- views to vectors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls_only", [True, False])
def test_visual_tokens_equal_plain_maths(five_tokens, cls_only):
    five_tokens.accelerate(Accelerations(cls_only=cls_only))
    views, weights = random_views(2), oracle_weights(five_tokens.llava)
    found = five_tokens.visual_tokens(views)
    assert found.shape == (2, 5, 128)
    for picture in range(2):
        pixels = oracles.normalised(views[picture], MEAN, STD)
        wanted = oracles.visual_tokens(weights, oracle_sizes(five_tokens.llava), pixels)
        torch.testing.assert_close(found[picture], wanted, rtol=1e-10, atol=1e-12)


def test_cls_state_is_that_before_the_final_layer_norm(five_tokens):
    # The tower's pooler_output is the same state behind post_layernorm: another vector.
    five_tokens.accelerate(Accelerations())
    views = random_views(1)
    states = five_tokens.cls_states(views)[0]
    tower = five_tokens.vision_tower(five_tokens.pixel_norm(views[0], torch.float64))
    torch.testing.assert_close(states, tower.last_hidden_state[:, 0], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(states, tower.pooler_output, rtol=0.1)


def test_gradients_do_not_depend_on_computing_cls_alone(five_tokens):
    parameters = [tensor for tensor in five_tokens.parameters() if tensor.requires_grad]
    gradients = []
    for cls_only in (True, False):
        five_tokens.accelerate(Accelerations(cls_only=cls_only))
        loss = five_tokens.visual_tokens(random_views(3)).square().sum()
        gradients.append(torch.autograd.grad(loss, parameters))
    for fast, full in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, full, rtol=0, atol=1e-10 * float(full.abs().max()))


def test_pixels_are_normalised_as_the_tower_was_trained():
    # By hand: 51 / 255 is 0.2, (0.2 - 0.5) / 0.25 is -1.2.
    norm = PixelNorm((0.5, 0.2, 0.0), (0.25, 1.0, 0.1))
    pixels = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    found = norm(pixels, torch.float32)[0, :, 0, 0]
    assert found.tolist() == pytest.approx([-1.2, 0.0, 2.0], abs=1e-6)


def test_dropout_in_front_of_lora_is_off_until_it_is_switched_on(five_tokens):
    views = random_views(1)
    first, second = five_tokens.visual_tokens(views), five_tokens.visual_tokens(views)
    assert torch.equal(first, second)
    set_lora_dropout(five_tokens, True)
    try:
        assert not torch.equal(five_tokens.visual_tokens(views), five_tokens.visual_tokens(views))
        switched = [module for module in five_tokens.llava.modules() if module.training]
        assert [type(module) for module in switched if not list(module.children())] == [nn.Dropout] * 26
    finally:
        set_lora_dropout(five_tokens, False)


# -- vectors in their places ---------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_placeholder_holds_exactly_its_own_views_vector(five_tokens, builder, side):
    batch = builder.collate([builder.distill("a", "b"), builder.distill("A longer title", "b c d")], side=side)
    tokens = torch.randn(2, 5, 128, dtype=torch.float64)
    embeds = five_tokens.inputs_embeds(batch, tokens)
    for row in range(2):
        found = [
            (view, column)
            for column in range(embeds.shape[1])
            for view in range(5)
            if torch.equal(embeds[row, column], tokens[row, view])
        ]
        ids = batch.input_ids[row].tolist()
        assert found == [(view, ids.index(builder.placeholder_ids[view])) for view in range(5)]


def test_all_other_positions_hold_the_embedding_of_their_token(five_tokens, builder):
    batch = builder.collate([builder.distill("A title", "red cup")])
    embeds = five_tokens.inputs_embeds(batch, torch.zeros(1, 5, 128, dtype=torch.float64))[0]
    table = five_tokens.llava.get_input_embeddings().weight
    for column, token in enumerate(batch.input_ids[0].tolist()):
        wanted = torch.zeros(128) if token in builder.placeholder_ids else table[token]
        assert torch.equal(embeds[column], wanted.to(embeds.dtype))


def test_placeholder_ids_never_reach_the_embedding(five_tokens, builder, monkeypatch):
    looked_up = []
    table = five_tokens.llava.get_input_embeddings()
    monkeypatch.setattr(
        table, "forward", lambda ids: looked_up.append(ids) or nn.functional.embedding(ids, table.weight)
    )
    batch = builder.collate([builder.distill("A title", "red cup")])
    assert int(batch.input_ids.max()) >= table.num_embeddings, "they do lie above the vocabulary"
    five_tokens.inputs_embeds(batch, torch.zeros(1, 5, 128, dtype=torch.float64))
    assert len(looked_up) == 1
    assert int(looked_up[0].max()) < table.num_embeddings


def test_vectors_get_the_gradient_of_their_own_place(five_tokens, builder):
    batch = builder.collate([builder.distill("a", "b"), builder.distill("longer title", "b")])
    tokens = torch.zeros(2, 5, 128, dtype=torch.float64, requires_grad=True)
    embeds = five_tokens.inputs_embeds(batch, tokens)
    marks = torch.arange(embeds.shape[1], dtype=torch.float64)[None, :, None]
    (embeds * marks).sum().backward()
    assert torch.equal(tokens.grad[:, :, 0], batch.placeholder_positions.double())
    assert torch.equal(tokens.grad[:, :, 0], tokens.grad[:, :, 127])


# -- padding and the cached beginning ------------------------------------------------------------------------


def test_a_row_does_not_depend_on_its_neighbours_or_padding(five_tokens, builder):
    short, long = builder.distill("a", "red cup"), builder.distill("A much longer title " * 3, "b " * 30)
    five_tokens.accelerate(PLAIN)
    views = random_views(2)
    tokens = five_tokens.visual_tokens(views)
    alone = five_tokens.hidden_states(builder.collate([short]), tokens[:1])[0]
    length = len(short.input_ids)
    right = five_tokens.hidden_states(builder.collate([short, long]), tokens)[0, :length]
    left = five_tokens.hidden_states(builder.collate([short, long], side="left"), tokens)[0, -length:]
    torch.testing.assert_close(right, alone, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(left, alone, rtol=1e-10, atol=1e-12)


def cache_of(model: FiveTokenModel, ids) -> PrefixCache:
    return PrefixCache(model.llava.model.language_model, model.llava.get_input_embeddings(), ids)


def test_a_cached_beginning_can_be_used_again_and_again(five_tokens, builder):
    # A cache that grew with each forward would shift the second call's positions.
    sequences = [builder.distill("a", "red cup"), builder.distill("Mug", "b " * 9)]
    batch, tokens = builder.collate(sequences), five_tokens.visual_tokens(random_views(2))
    prefix = cache_of(five_tokens, sequences[0].input_ids[: shared_length(sequences)])
    five_tokens.accelerate(PLAIN)
    whole = five_tokens.hidden_states(batch, tokens)[:, prefix.length :]
    for _ in range(3):
        cached = five_tokens.hidden_states(batch, tokens, prefix)
        torch.testing.assert_close(cached, whole, rtol=1e-10, atol=1e-12)
    one = five_tokens.hidden_states(builder.collate(sequences[:1]), tokens[:1], prefix)
    length = len(sequences[0].input_ids) - prefix.length
    torch.testing.assert_close(one[0], whole[0, :length], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cached", [False, True])
def test_a_frozen_start_gives_the_same_states_from_each_rows_picture_on(five_tokens, builder, cached):
    sequences = [builder.distill("a", "red cup"), builder.distill("A much longer title " * 3, "b " * 9)]
    batch, tokens = builder.collate(sequences), five_tokens.visual_tokens(random_views(2))
    five_tokens.accelerate(PLAIN)
    whole = five_tokens.hidden_states(batch, tokens)
    five_tokens.accelerate(Accelerations())
    prefix = cache_of(five_tokens, sequences[0].input_ids[: shared_length(sequences)]) if cached else None
    found = five_tokens.hidden_states(batch, tokens, prefix)
    starts = [sequence.placeholders[0] for sequence in sequences]
    missing = whole.shape[1] - found.shape[1]
    assert missing == min(starts) < max(starts)
    for row, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
        end = len(sequence.input_ids)
        torch.testing.assert_close(
            found[row, start - missing : end - missing], whole[row, start:end], rtol=1e-10, atol=1e-12
        )
        assert not found[row, : start - missing].any()


def test_a_cached_beginning_refuses_rows_that_start_otherwise(five_tokens, builder):
    one, other = builder.distill("Apple", "red"), builder.distill("Pear", "green pear")
    tokens = torch.zeros(1, 5, 128, dtype=torch.float64)
    prefix = cache_of(five_tokens, one.input_ids[: shared_length([one])])
    with pytest.raises(ValueError, match="every row must start with the cached prefix"):
        five_tokens.hidden_states(builder.collate([other]), tokens, prefix)
    shared = cache_of(five_tokens, one.input_ids[: shared_length([one, other])])
    left = builder.collate([one, other], side="left")
    with pytest.raises(ValueError, match="padding must be on the right"):
        five_tokens.hidden_states(left, tokens.expand(2, 5, 128), shared)


def test_the_shared_beginning_ends_before_titles_differ(builder):
    sequences = [builder.distill(title, "red") for title in ("Apple", "Pear", "Plum")]
    length = shared_length(sequences)
    assert len({sequence.input_ids[:length] for sequence in sequences}) == 1
    assert len({sequence.input_ids[: length + 1] for sequence in sequences}) > 1
    assert shared_length(sequences[:1]) == sequences[0].placeholders[0]


def test_the_shared_beginning_leaves_the_token_that_predicts_the_target(tokenizer):
    # Without placeholders and with equal rows, all could be shared; the last prompt token must not be.
    plain = SequenceBuilder(tokenizer, DEFAULT_PROMPTS, 0)
    sequences = [plain.join("The same prompt:", "the same target")] * 2
    assert shared_length(sequences) == sequences[0].prompt_length - 1


# -- LLaVA-1.5 -----------------------------------------------------------------------------------------------


def test_llava_15_sees_one_view_at_one_placeholder(tokenizer):
    base = make_base(tokenizer, family="llava")
    fill_lora(attach_vision_lora(base.model, LoraSettings()))
    model, builder = FiveTokenModel(base), SequenceBuilder(tokenizer, DEFAULT_PROMPTS, 1)
    views = random_views(1, views=1)
    sequence = builder.distill("Mug", "A red mug.")
    assert len(sequence.placeholders) == 1
    weights, sizes = oracle_weights(base.model), oracle_sizes(base.model)
    seen = oracles.visual_tokens(weights, sizes, oracles.normalised(views[0], MEAN, STD))
    found = model.visual_tokens(views)
    torch.testing.assert_close(found[0], seen, rtol=1e-10, atol=1e-12)
    ids = list(sequence.input_ids)
    nats = oracles.target_nats(weights, sizes, ids, list(sequence.placeholders), sequence.prompt_length, seen)
    hidden = model.hidden_states(builder.collate([sequence]), found)
    logits = model.lm_head(hidden[0, -sequence.target_tokens - 1 : -1])
    wanted = nn.functional.cross_entropy(logits, torch.tensor(ids[sequence.prompt_length :]), reduction="none")
    torch.testing.assert_close(torch.stack(nats), wanted, rtol=1e-10, atol=0)
