"""Exercises ask for what they say they ask for."""

from __future__ import annotations

import random

import pytest
import torch

from lavic.toyshop.text_tasks import IGNORE, NO, WORD_WEIGHT, YES, choice, lookup, membership, repetition, selection
from lavic.toyshop.text_training import LABEL_LAYER, cosine_rate, pad, text_loss
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


def test_every_candidate_is_judged_at_its_line_break(tokenizer):
    rng = random.Random(2)
    no, yes = tokenizer.convert_tokens_to_ids([NO, YES])
    for _ in range(20):
        exercise = choice(tokenizer, rng, 10)
        pieces = tokenizer.convert_ids_to_tokens(exercise.input_ids)
        judged = [label for piece, label in zip(pieces, exercise.labels, strict=True) if "\n" in piece]
        judged = [label for label in judged if label != IGNORE]
        assert len(judged) == 10
        (right,) = [label for label in judged if label != no]
        assert right != yes
        assert tokenizer.convert_ids_to_tokens(right) in exercise.answer
        # Up to four attribute words in each candidate; those of the right one all fit.
        words = [
            label for label, weight in zip(exercise.labels, exercise.weights, strict=True) if weight == WORD_WEIGHT
        ]
        assert 30 <= len(words) <= 40
        assert set(words) == {no, yes}
        assert words.count(yes) >= 3


def test_labels_are_no_targets(tokenizer):
    exercise = choice(tokenizer, random.Random(3), 10)
    before = exercise.prompt_tokens - 1
    assert set(exercise.targets[:before]) == {IGNORE}
    assert set(exercise.labels[before:]) == {IGNORE}


def test_membership_labels_what_stood_before_the_line_break(tokenizer):
    exercise = membership(tokenizer, random.Random(4), 60)
    no, yes = tokenizer.convert_tokens_to_ids([NO, YES])
    end = exercise.input_ids.index(tokenizer.convert_tokens_to_ids("\n"))
    asked = set(exercise.input_ids[1:end])
    assert set(exercise.targets) == {IGNORE}
    assert set(exercise.labels[: end + 1]) == {IGNORE}
    for token, label in zip(exercise.input_ids[end + 1 :], exercise.labels[end + 1 :], strict=True):
        assert label == (yes if token in asked else no)
    assert {no, yes} <= set(exercise.labels)


def test_a_selection_has_one_right_row_and_its_own_tokens_are_the_answer(tokenizer):
    rng = random.Random(6)
    line_break, no, yes = tokenizer.convert_tokens_to_ids(["\n", NO, YES])
    for rows in (2, 5):
        exercise = selection(tokenizer, rng, rows)
        ids, start = exercise.input_ids, exercise.prompt_tokens
        asked = set(ids[1:5])
        right = []
        for row in range(rows):
            first = 6 + 7 * row
            fits = [ids[first + 3 + place] in asked for place in range(3)]
            wanted = [yes if all(fits[: place + 1]) else no for place in range(3)]
            assert exercise.labels[first : first + 3] == [IGNORE] * 3
            assert exercise.labels[first + 3 : first + 6] == wanted
            assert ids[first + 6] == line_break
            assert exercise.labels[first + 6] == (ids[first] if all(fits) else no)
            right += [ids[first : first + 2]] if all(fits) else []
        assert ids[start:] == [*right[0], tokenizer.eos_token_id]
        assert len(right) == 1
        assert exercise.targets[start - 1 : -1] == ids[start:]


def test_the_loss_is_that_of_the_answer_and_beside_it_those_of_the_labels(tokenizer):
    model, rng = build_tiny_model(tokenizer), random.Random(5)
    ids, targets, labels, weights = pad([choice(tokenizer, rng, 2), choice(tokenizer, rng, 3)], tokenizer.pad_token_id)
    nothing = torch.full_like(ids, IGNORE)
    stack = model.model.language_model
    with torch.no_grad():
        states = stack(input_ids=ids, use_cache=False, output_hidden_states=True)

        def mean(hidden, wanted):
            asked = wanted != IGNORE
            nats = torch.nn.functional.cross_entropy(model.lm_head(hidden[asked]), wanted[asked], reduction="none")
            return float((nats * weights[asked]).sum() / weights[asked].sum())

        wanted = [
            mean(states.last_hidden_state, targets),
            mean(stack.norm(states.hidden_states[LABEL_LAYER]), labels),
        ]
        found = [
            float(text_loss(model, ids, targets, nothing, weights)),
            float(text_loss(model, ids, nothing, labels, weights)),
        ]
        together = float(text_loss(model, ids, targets, labels, weights))
    assert found == pytest.approx(wanted, rel=1e-4)
    assert together == pytest.approx(sum(wanted), rel=1e-4)
    assert 0 < LABEL_LAYER < model.config.text_config.num_hidden_layers


def test_learning_rate_rises_holds_and_falls():
    assert cosine_rate(0, 1000, warmup=50) == pytest.approx(0.02)
    assert cosine_rate(49, 1000, warmup=50) == 1.0
    assert cosine_rate(599, 1000) == 1.0
    assert cosine_rate(800, 1000) == pytest.approx(0.5)
    assert cosine_rate(1000, 1000) == pytest.approx(0.0)
