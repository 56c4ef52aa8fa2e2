"""Exercises ask for what they say they ask for."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from lavic.toyshop.kinds import Look
from lavic.toyshop.optimizers import Optimizers
from lavic.toyshop.text_tasks import (
    FITS,
    IGNORE,
    LOOKUP_WEIGHT,
    NO,
    OWN,
    RIGHT,
    YES,
    carrying,
    choice,
    lookup,
    membership,
    repetition,
    wish_context,
)
from lavic.toyshop.text_training import LABEL_LAYERS, choosing, cosine_rate, pad, text_loss
from lavic.toyshop.tiny_model import build_tiny_model
from lavic.toyshop.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


def test_only_repeats_carry_loss(tokenizer):
    exercise = repetition(tokenizer, random.Random(0), 64, period=20)
    ids, targets = exercise.input_ids, exercise.targets
    assert len(ids) == 65
    assert targets[:20] == [IGNORE] * 20
    # From the second time on, the next token is the one that stood a period earlier.
    for position in range(20, 64):
        assert targets[position] == ids[position + 1] == ids[position + 1 - 20]
    assert targets[64] == IGNORE


@pytest.mark.parametrize("make", [choice, lookup])
def test_the_answer_is_the_right_id_and_eos(tokenizer, make):
    rng = random.Random(1)
    for candidates in (2, 3, 10):
        exercise = make(tokenizer, rng, candidates)
        start = exercise.prompt_tokens
        answer = exercise.input_ids[start:]
        assert tokenizer.decode(answer[:-1]) == exercise.answer
        assert answer[-1] == tokenizer.eos_token_id
        assert exercise.targets[start - 1 : -1] == answer
        assert f"\n{exercise.answer}: " in tokenizer.decode(exercise.input_ids[:start])


def lines_of(tokenizer, exercise):
    """Each candidate's line as (first position, position behind the last), and its ID."""
    pieces = tokenizer.convert_ids_to_tokens(exercise.input_ids)
    starts = [
        place for place in range(1, exercise.prompt_tokens) if pieces[place] == "B0" and "\n" in pieces[place - 1]
    ]
    ends = [next(place for place in range(start, len(pieces)) if "\n" in pieces[place]) for start in starts]
    colons = [next(place for place in range(start, len(pieces)) if pieces[place] == ":") for start in starts]
    return [
        (start, colon, end, "".join(pieces[start:colon]))
        for start, colon, end in zip(starts, colons, ends, strict=True)
    ]


@pytest.mark.parametrize(("wording", "judged"), [("plain", 3), ("phrase", 3), ("short", 4), ("long", 4)])
def test_candidates_are_judged_at_their_colons_words_and_line_breaks(tokenizer, wording, judged):
    rng = random.Random(2)
    no, yes = tokenizer.convert_tokens_to_ids([NO, YES])
    for _ in range(10):
        exercise = choice(tokenizer, rng, 10, wording)
        lines = lines_of(tokenizer, exercise)
        assert len(lines) == 10
        assert len({exercise.input_ids[start + 1] for start, *_ in lines}) > 1  # else IDs differ later
        for start, colon, end, identity in lines:
            own = exercise.input_ids[start + 1]
            is_right = identity == exercise.answer
            assert exercise.labels[OWN][colon] == own
            assert exercise.labels[RIGHT][end] == (own if is_right else no)
            words = [label for label in exercise.labels[FITS][start : end + 1] if label != IGNORE]
            assert len(words) == judged
            assert words == [yes] * words.count(yes) + [no] * words.count(no)  # once it does not fit, it never does
            assert (no not in words) == is_right
        for name, expected in ((OWN, 10), (RIGHT, 10), (FITS, 10 * judged)):
            assert sum(label != IGNORE for label in exercise.labels[name]) == expected


def test_a_third_of_the_choices_has_near_misses_in_every_respect(tokenizer):
    rng = random.Random(11)
    yes = tokenizer.convert_tokens_to_ids(YES)
    fitting = []
    for _ in range(30):
        exercise = choice(tokenizer, rng, 10, "plain")
        for start, _, end, identity in lines_of(tokenizer, exercise):
            words = [label for label in exercise.labels[FITS][start : end + 1] if label != IGNORE]
            fitting += [words.count(yes)] if identity != exercise.answer else []
    # Fits up to the first and second word: rare among any products, where one in ten has the colour.
    assert fitting.count(2) > 15
    assert fitting.count(1) > 30
    assert fitting.count(3) == 0


def test_of_near_misses_in_descriptions_some_differ_in_nothing_but_the_detail(tokenizer):
    rng = random.Random(12)
    yes = tokenizer.convert_tokens_to_ids(YES)
    twins = 0
    for _ in range(40):
        exercise = choice(tokenizer, rng, 10, "short")
        fitting = [
            [label for label in exercise.labels[FITS][start : end + 1] if label != IGNORE].count(yes)
            for start, _, end, _ in lines_of(tokenizer, exercise)
        ]
        assert fitting.count(4) == 1
        twins += fitting.count(3)
    assert twins > 10  # else one in 500 or so


def test_a_wish_is_told_in_turns_now_and_then_and_after_another_of_its_kind():
    mug, cup = Look("mug", "red", "striped", "a lid", "a wall"), Look("mug", "red", "dotted", "a handle", "a wall")
    rng = random.Random(13)
    told = [wish_context([mug, cup, replace(mug, kind="cap")], 0, rng, with_detail=False).lower() for _ in range(400)]
    changed = [context for context in told if "my mind" in context or "not that one" in context]
    assert 0.38 < len(changed) / len(told) < 0.52
    assert all(("dot" in context) == (context in changed) for context in told)
    assert all(context.index("dot") < context.rindex("strip") for context in changed)
    assert 0.33 < sum("?</comment>" in context for context in told) / len(told) < 0.47  # somebody asks for the rest
    assert not any("cap" in context for context in told)
    second = [context for context in told if "with stripes" in context]  # the wording that is learnt more slowly
    assert 0.45 < len(second) / len(told) < 0.75
    alone = [wish_context([mug, replace(mug, kind="cap")], 0, rng, with_detail=True) for _ in range(50)]
    assert all("a lid" in context and "mind" not in context for context in alone)


def test_a_place_where_ids_of_one_beginning_part_weighs_more(tokenizer):
    rng = random.Random(7)
    shared = 0
    for _ in range(5):
        exercise = lookup(tokenizer, rng, 80)
        own = exercise.input_ids[exercise.prompt_tokens : -1]
        others = [exercise.input_ids[start:colon] for start, colon, _, identity in lines_of(tokenizer, exercise)]
        others.remove(own)
        for place in range(len(own)):
            weight = exercise.weights[exercise.prompt_tokens + place - 1]
            open_still = place > 0 and any(other[:place] == own[:place] for other in others)
            assert weight == (LOOKUP_WEIGHT if open_still else 1.0)
            shared += place > 1 and open_still
    assert shared > 0  # IDs that share more than B0 do occur


def test_labels_are_no_targets(tokenizer):
    exercise = choice(tokenizer, random.Random(3), 10)
    before = exercise.prompt_tokens - 1
    assert set(exercise.targets[:before]) == {IGNORE}
    assert all(set(labels[before:]) == {IGNORE} for labels in exercise.labels.values())


@pytest.mark.parametrize("at_end", [True, False])
def test_rows_carry_their_own_id_from_the_colon_to_the_line_break(tokenizer, at_end):
    exercise = carrying(tokenizer, random.Random(8), 6, at_end=at_end)
    pieces = tokenizer.convert_ids_to_tokens(exercise.input_ids)
    asked = exercise.targets if at_end else exercise.labels[OWN]
    assert set(exercise.targets) == {IGNORE} or at_end
    rows, own, behind = 0, 0, False
    for place, piece in enumerate(pieces):
        if piece == "B0" and pieces[place - 1] != "B0" and not behind:
            own, rows = exercise.input_ids[place + 1], rows + 1
        behind = (behind or piece == ":") and piece != "\n" and rows > 0
        assert asked[place] == (own if behind else IGNORE)
    assert rows == 6


def test_membership_labels_what_stood_before_the_line_break(tokenizer):
    exercise = membership(tokenizer, random.Random(4), 60)
    no, yes = tokenizer.convert_tokens_to_ids([NO, YES])
    end = exercise.input_ids.index(tokenizer.convert_tokens_to_ids("\n"))
    asked = set(exercise.input_ids[1:end])
    assert set(exercise.targets) == {IGNORE}
    labels = exercise.labels[FITS]
    assert set(labels[: end + 1]) == {IGNORE}
    for token, label in zip(exercise.input_ids[end + 1 :], labels[end + 1 :], strict=True):
        assert label == (yes if token in asked else no)
    assert {no, yes} <= set(labels)


def test_the_loss_is_that_of_the_answer_and_beside_it_those_of_the_labels(tokenizer):
    model, rng = build_tiny_model(tokenizer), random.Random(5)
    ids, targets, weights, labels = pad([choice(tokenizer, rng, 2), choice(tokenizer, rng, 3)], tokenizer.pad_token_id)
    nothing = torch.full_like(ids, IGNORE)
    stack = model.model.language_model
    with torch.no_grad():
        states = stack(input_ids=ids, use_cache=False, output_hidden_states=True)

        def mean(hidden, wanted, weights):
            asked = wanted != IGNORE
            nats = torch.nn.functional.cross_entropy(model.lm_head(hidden[asked]), wanted[asked], reduction="none")
            return float((nats * weights[asked]).sum() / weights[asked].sum())

        even = torch.ones_like(weights)
        answer = mean(states.last_hidden_state, targets, weights)
        middle = {
            name: mean(stack.norm(states.hidden_states[LABEL_LAYERS[name]]), wanted, even)
            for name, wanted in labels.items()
        }
        assert float(text_loss(model, ids, targets, weights, {})) == pytest.approx(answer, rel=1e-4)
        for name, wanted in labels.items():
            found = float(text_loss(model, ids, nothing, weights, {name: wanted}))
            assert found == pytest.approx(middle[name], rel=1e-4)
        together = float(text_loss(model, ids, targets, weights, labels))
    assert set(middle) == {FITS, OWN, RIGHT}
    assert together == pytest.approx(answer + sum(middle.values()), rel=1e-4)
    assert all(0 < layer < model.config.text_config.num_hidden_layers for layer in LABEL_LAYERS.values())


def test_every_lesson_of_choosing_can_be_learnt_from(tokenizer):
    model, rng = build_tiny_model(tokenizer), random.Random(9)
    for progress in (0.0, 0.3, 1.0):
        for _ in range(8):
            batch = pad(choosing(tokenizer, rng, progress)[:2], tokenizer.pad_token_id)
            assert batch[0].shape[1] <= model.config.text_config.max_position_embeddings
            assert torch.isfinite(text_loss(model, *batch))


@pytest.mark.parametrize("matrix_rate", [None, 1e-2])
def test_one_step_moves_every_weight_that_has_a_gradient(matrix_rate):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    before = [weight.detach().clone() for weight in model.parameters()]
    optimizers = Optimizers(model.named_parameters(), matrix_rate=matrix_rate, other_rate=1e-2)
    optimizers.step(model(torch.ones(1, 3)).square().sum(), 1.0)
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_learning_rate_rises_holds_and_falls():
    assert cosine_rate(0, 1000, warmup=50) == pytest.approx(0.02)
    assert cosine_rate(49, 1000, warmup=50) == 1.0
    assert cosine_rate(599, 1000) == 1.0
    assert cosine_rate(800, 1000) == pytest.approx(0.5)
    assert cosine_rate(1000, 1000) == pytest.approx(0.0)
