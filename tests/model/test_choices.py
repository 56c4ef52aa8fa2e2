"""Candidates scored through one shared prompt, against each of them scored in full."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
import torch

from lavic.model.accelerations import Accelerations
from lavic.model.choices import choice_row, collate_choices, score_choices
from lavic.model.load import TINY, load_base
from lavic.model.losses import target_loss
from lavic.model.prefix_cache import PrefixCache, shared_length
from lavic.model.recommendation import Candidate, RecommendationPrompts
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS

CONTEXT = "<submission>I am looking for a red striped mug.</submission>\n<comment>Price does not matter.</comment>"


@pytest.fixture(scope="module")
def base():
    return load_base(TINY, dtype=torch.float64)


@pytest.fixture(scope="module")
def prompts(base):
    builder = SequenceBuilder(base.tokenizer, DEFAULT_PROMPTS, base.family.views)
    return RecommendationPrompts(builder, 2048)


@pytest.fixture(scope="module")
def model(base):
    return FiveTokenModel(base, Accelerations(frozen_start=False))


def some_candidates(rng: random.Random, count: int, pictured: float) -> list[Candidate]:
    ids = [f"B0{rng.randrange(36**4):06X}"[:8] + f"{number:02d}" for number in range(count)]
    return [Candidate(item_id, f"Velori Studio {rng.randint(1, 99)}", rng.random() < pictured) for item_id in ids]


def tokens_for(model, rows, seed: int = 0) -> torch.Tensor:
    """Visual tokens of all pictured candidates, drawn by lot."""
    count = sum(candidate.has_picture for row in rows for candidate in row)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, model.views, model.width, generator=generator, dtype=torch.float64)


def in_full(model, prompts, context, candidates, tokens) -> list[float]:
    """Each candidate's own joined sequence, alone in its batch: what the short cut must equal."""
    found = []
    for candidate in candidates:
        batch = prompts.builder.collate([prompts.sequence(context, candidates, candidate.item_id)])
        loss = target_loss(model.hidden_states(batch, tokens), model.lm_head, batch)
        found.append(-float(loss.total))
    return found


@pytest.mark.parametrize("pictured", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("count", [2, 10, 25])
def test_the_shared_prompt_gives_each_candidates_own_score(model, prompts, count, pictured):
    candidates = some_candidates(random.Random(count), count, pictured)
    tokens = tokens_for(model, [candidates])
    batch = collate_choices([prompts.choices(CONTEXT, candidates)], prompts.builder.pad_id)
    scores = score_choices(model, batch, tokens)
    with torch.no_grad():
        assert scores.log_probs[0] == pytest.approx(in_full(model, prompts, CONTEXT, candidates, tokens), abs=1e-6)
    lengths = [prompts.sequence(CONTEXT, candidates, each.item_id).target_tokens for each in candidates]
    assert scores.tokens[0] == lengths


@pytest.mark.parametrize("counts", [(20, 3, 41), (10, 10, 5), (1, 1, 1)])
def test_pictures_of_many_tokens_are_scored_as_in_full(model, prompts, counts):
    """All image tokens of a picture, or those of several, stand where V would."""
    plain = [Candidate(f"B00000000{number}", f"Velori {number}", number != 1) for number in range(4)]
    shown = iter(counts)
    candidates = [replace(each, tokens=next(shown)) if each.has_picture else each for each in plain]
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(sum(counts), 1, model.width, generator=generator, dtype=torch.float64)
    row = prompts.choices(CONTEXT, candidates)
    assert len(row.placeholders) == sum(counts)
    scores = score_choices(model, collate_choices([row], prompts.builder.pad_id), tokens)
    with torch.no_grad():
        assert scores.log_probs[0] == pytest.approx(in_full(model, prompts, CONTEXT, candidates, tokens), abs=1e-6)


@pytest.mark.parametrize("identity", ["0123456789", "mug-1", "mug-1-red", "mug", "B000000001", "_x", "ü", "한국"])
def test_ids_of_any_spelling_are_tokenised_as_in_their_own_sequence(prompts, identity):
    candidates = [*some_candidates(random.Random(1), 4, 0.5), Candidate(identity, "A title", False)]
    row = prompts.choices(CONTEXT, candidates)
    for number, candidate in enumerate(candidates):
        own = prompts.sequence(CONTEXT, candidates, candidate.item_id)
        scored = tuple(row.edges[edge][1] for edge in row.paths[number])
        assert scored == own.input_ids[own.prompt_length :]
        assert row.prompt_ids == own.input_ids[: len(row.prompt_ids)]


def test_what_ids_begin_with_is_computed_once():
    row = choice_row([([1, 2, 3, 4, 9], 2), ([1, 2, 3, 5, 9], 2), ([1, 2, 6, 9], 2)], ())
    assert row.prompt_ids == (1, 2)
    assert row.nodes == (3, 4, 5, 6)
    assert row.parents == (-1, 0, 0, -1)
    assert [len(path) for path in row.paths] == [3, 3, 2]
    assert len(row.edges) == 7  # four tokens and three times EOS


def test_an_id_that_is_the_beginning_of_another_has_its_own_end():
    row = choice_row([([1, 2, 3, 9], 2), ([1, 2, 3, 4, 9], 2)], ())
    assert row.nodes == (3, 4)
    assert row.edges == ((-1, 3), (0, 9), (0, 4), (1, 9))


def test_a_token_across_the_seam_is_read_and_not_scored():
    # The prompt ends in another token in front of the second ID.
    row = choice_row([([1, 2, 7, 3, 9], 3), ([1, 2, 8, 4, 9], 3)], ())
    assert row.prompt_ids == (1, 2)
    assert row.nodes == (7, 3, 8, 4)
    assert [tuple(row.edges[edge][1] for edge in path) for path in row.paths] == [(3, 9), (4, 9)]


def test_one_row_at_a_time_equals_seven_at_once(model, prompts):
    rng = random.Random(7)
    rows = [some_candidates(rng, rng.randint(2, 12), 0.7) for _ in range(7)]
    contexts = [CONTEXT * rng.randint(1, 3) for _ in rows]
    trees = [prompts.choices(context, row) for context, row in zip(contexts, rows, strict=True)]
    tokens = tokens_for(model, rows)
    together = score_choices(model, collate_choices(trees, prompts.builder.pad_id), tokens)
    start = 0
    for number, (tree, row) in enumerate(zip(trees, rows, strict=True)):
        count = sum(candidate.has_picture for candidate in row)
        alone = score_choices(model, collate_choices([tree], prompts.builder.pad_id), tokens[start : start + count])
        start += count
        assert together.log_probs[number] == pytest.approx(alone.log_probs[0], abs=1e-6)


def test_the_cached_instruction_changes_nothing(model, prompts):
    rng = random.Random(3)
    rows = [some_candidates(rng, 4, 1.0) for _ in range(3)]
    trees = [prompts.choices(CONTEXT * (number + 1), row) for number, row in enumerate(rows)]
    tokens = tokens_for(model, rows)
    batch = collate_choices(trees, prompts.builder.pad_id)
    language_model = model.llava.model.language_model
    prefix = PrefixCache(language_model, model.llava.get_input_embeddings(), trees[0].prompt_ids[:12])
    plain, cached = score_choices(model, batch, tokens), score_choices(model, batch, tokens, prefix=prefix)
    for one, other in zip(plain.log_probs, cached.log_probs, strict=True):
        assert other == pytest.approx(one, abs=1e-6)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_prompt_that_is_shared_as_a_whole_changes_nothing(model, prompts, rows):
    candidates = some_candidates(random.Random(5), 4, 0.0)
    trees = [prompts.choices(CONTEXT, candidates) for _ in range(rows)]
    batch, nothing = collate_choices(trees, prompts.builder.pad_id), tokens_for(model, [])
    prefix = PrefixCache(
        model.llava.model.language_model,
        model.llava.get_input_embeddings(),
        trees[0].prompt_ids[: shared_length(trees)],
    )
    plain, cached = score_choices(model, batch, nothing), score_choices(model, batch, nothing, prefix=prefix)
    for one, other in zip(plain.log_probs, cached.log_probs, strict=True):
        assert other == pytest.approx(one, abs=1e-6)


def test_rows_to_score_share_the_beginning_that_their_sequences_share(model, prompts):
    rng = random.Random(3)
    contexts = [word + CONTEXT for word in ("", "Hello. ", "Well, ")]
    rows = [(context, some_candidates(rng, 4, 1.0)) for context in contexts]
    trees = [prompts.choices(*row) for row in rows]
    sequences = [prompts.sequence(*row, row[1][0].item_id) for row in rows]
    columns = zip(*(tree.prompt_ids for tree in trees), strict=False)
    expected = tuple(ids[0] for ids in itertools.takewhile(lambda ids: len(set(ids)) == 1, columns))
    assert len(expected) > 5
    assert model.prefix_of(trees).ids == model.prefix_of(sequences).ids == expected
    assert model.prefix_of([trees[0]]).ids == trees[0].prompt_ids[: trees[0].placeholders[0]]
    assert model.prefix_of([choice_row([([1, 5, 7, 9], 3)], ()), choice_row([([1, 6, 7, 9], 3)], ())]) is None
    model.accelerate(Accelerations(frozen_start=False, prefix_cache=False))
    try:
        assert model.prefix_of(trees) is None
    finally:
        model.accelerate(Accelerations(frozen_start=False))


def test_scores_are_logarithms_of_probabilities(model, prompts):
    candidates = some_candidates(random.Random(5), 6, 1.0)
    batch = collate_choices([prompts.choices(CONTEXT, candidates)], prompts.builder.pad_id)
    scores = score_choices(model, batch, tokens_for(model, [candidates]))
    # Different answers exclude each other: IDs and EOS leave no answer that is part of another.
    assert 0 < sum(torch.tensor(scores.log_probs[0]).exp()) <= 1


def test_visual_tokens_stand_where_each_row_has_its_pictures(model, prompts):
    rows = [
        [Candidate("A1", "one", True), Candidate("A2", "two", False), Candidate("A3", "three", True)],
        [Candidate("C1", "one", False), Candidate("C2", "two", True)],
        [Candidate("D1", "one", False)],
    ]
    batch = prompts.builder.collate([prompts.sequence("Hello.", row, None) for row in rows])
    tokens = tokens_for(model, rows)
    assert batch.ragged
    embeds = model.inputs_embeds(batch, tokens)
    assert torch.equal(embeds[0, batch.placeholder_positions[0]].reshape(2, model.views, -1), tokens[:2])
    second = batch.placeholder_positions[1][: model.views]
    assert torch.equal(embeds[1, second].reshape(1, model.views, -1), tokens[2:])
    assert (batch.placeholder_positions[2] == -1).all()
