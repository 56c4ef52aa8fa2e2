"""Greedy descriptions: the most probable token each time, whatever stands beside a row."""

from __future__ import annotations

import copy

import oracles
import pytest
import torch
from model.tiny_models import MEAN, STD, make_base, oracle_sizes, oracle_weights, random_views

from lavic.model.generation import generate_descriptions
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS

TITLES = ["Mug", "A much longer title that makes its prompt the longest", ""]
STEPS = 6


@pytest.fixture(scope="module")
def model(tokenizer) -> FiveTokenModel:
    return FiveTokenModel(make_base(tokenizer))


@pytest.fixture(scope="module")
def plain(model, builder) -> list[list[int]]:
    """By title: the ids that slow maths chooses, each from all that stands before it."""
    weights, sizes, chosen = oracle_weights(model.llava), oracle_sizes(model.llava), []
    table = weights["model.language_model.embed_tokens.weight"]
    for title, views in zip(TITLES, random_views(3), strict=True):
        sequence, new = builder.distill(title), []
        seen = oracles.visual_tokens(weights, sizes, oracles.normalised(views, MEAN, STD))
        rows = [table[0 if at in sequence.placeholders else token] for at, token in enumerate(sequence.input_ids)]
        for view, position in enumerate(sequence.placeholders):
            rows[position] = seen[view]
        for _ in range(STEPS):
            new.append(int(oracles.mistral(weights, sizes, torch.stack(rows))[-1].argmax()))
            rows.append(table[new[-1]])
        chosen.append(new)
    return chosen


def test_descriptions_equal_plain_greedy_decoding(model, tokenizer, builder, plain):
    assert len({tuple(ids) for ids in plain}) == 3, "the three are told apart"
    wanted = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in plain]
    prompts = builder.collate([builder.distill(title) for title in TITLES], side="left")
    assert generate_descriptions(model, tokenizer, prompts, random_views(3), max_new_tokens=STEPS) == wanted
    for row, title in enumerate(TITLES):
        alone = builder.collate([builder.distill(title)], side="left")
        views = random_views(3)[row : row + 1]
        assert generate_descriptions(model, tokenizer, alone, views, max_new_tokens=STEPS) == [wanted[row]]


def test_a_description_ends_at_eos(model, tokenizer, plain):
    # A token that plain decoding puts into the first row is made the end; an ordinary one, so it is printed.
    ids = plain[0]
    end = next(at for at in range(1, STEPS) if ids[at] not in ids[:at])
    ending = copy.deepcopy(tokenizer)
    ending.eos_token = tokenizer.convert_ids_to_tokens(ids[end])
    builder = SequenceBuilder(ending, DEFAULT_PROMPTS, 5)
    prompts = builder.collate([builder.distill(title) for title in TITLES], side="left")
    found = generate_descriptions(model, ending, prompts, random_views(3), max_new_tokens=STEPS)
    assert found[0] == tokenizer.decode(ids[: end + 1]).strip()
    assert found[1] == tokenizer.decode(plain[1]).strip(), "its neighbour goes on"
