"""Exercises ask for what they say they ask for."""

from __future__ import annotations

import random

import pytest

from lavic.toyshop.text_tasks import IGNORE, choice, lookup, repetition
from lavic.toyshop.text_training import cosine_rate
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
    no = tokenizer.convert_tokens_to_ids("▁not")
    for _ in range(20):
        exercise = choice(tokenizer, rng, 10)
        judged = [
            target
            for target, weight in zip(
                exercise.targets[: exercise.prompt_tokens - 1],
                exercise.weights[: exercise.prompt_tokens - 1],
                strict=True,
            )
            if target != IGNORE and weight == 1.0
        ]
        assert len(judged) == 10
        (right,) = [target for target in judged if target != no]
        assert tokenizer.convert_ids_to_tokens(right) in exercise.answer


def test_learning_rate_rises_holds_and_falls():
    assert cosine_rate(0, 1000, warmup=50) == pytest.approx(0.02)
    assert cosine_rate(49, 1000, warmup=50) == 1.0
    assert cosine_rate(599, 1000) == 1.0
    assert cosine_rate(800, 1000) == pytest.approx(0.5)
    assert cosine_rate(1000, 1000) == pytest.approx(0.0)
