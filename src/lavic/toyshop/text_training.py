"""First schooling of the tiny language model, on text alone: copy, look up, choose among ten."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaTokenizer, LlavaNextForConditionalGeneration

from lavic.toyshop.optimizers import Optimizers
from lavic.toyshop.text_tasks import IGNORE, Exercise, choice, lookup, repetition

#: Learning rates of Muon (matrices) and AdamW (embeddings, head, norms).
MATRIX_RATE = 1e-2
OTHER_RATE = 3e-3
BATCH_SIZE = 24
#: Share of the choosing steps over which the candidates grow from two to ten.
RAMP = 0.25


def cosine_rate(step: int, steps: int, *, warmup: int = 50, hold: float = 0.6) -> float:
    """Factor on the learning rate: warm-up, constant until ``hold`` of the steps, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step / steps - hold) / (1 - hold)
    return 1.0 if progress <= 0 else 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def pad(exercises: list[Exercise], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, T] input_ids, targets and weights, padded on the right (causal attention never sees it)."""
    width = max(len(exercise.input_ids) for exercise in exercises)
    ids = torch.full((len(exercises), width), pad_id)
    targets = torch.full((len(exercises), width), IGNORE)
    weights = torch.zeros((len(exercises), width))
    for row, exercise in enumerate(exercises):
        length = len(exercise.input_ids)
        ids[row, :length] = torch.tensor(exercise.input_ids)
        targets[row, :length] = torch.tensor(exercise.targets)
        weights[row, :length] = torch.tensor(exercise.weights)
    return ids, targets, weights


def copying(tokenizer: LlamaTokenizer, rng: random.Random) -> list[Exercise]:
    """A batch of the first lesson: 20 to 32 different tokens, then the same again."""
    return [repetition(tokenizer, rng, 64, period=rng.randint(20, 32)) for _ in range(48)]


def choosing(tokenizer: LlamaTokenizer, rng: random.Random, progress: float) -> list[Exercise]:
    """A batch of the second lesson: choices among more and more candidates, with look-ups and loops between."""
    draw = rng.random()
    if draw < 0.02:
        return [repetition(tokenizer, rng, 1500, period=rng.randint(300, 740)) for _ in range(4)]
    if draw < 0.12:
        return [repetition(tokenizer, rng, 200, period=rng.randint(10, 100)) for _ in range(BATCH_SIZE)]
    most = 2 + round(8 * min(1.0, progress / RAMP))
    candidates = most if rng.random() < 0.7 else rng.randint(2, most)
    if draw < 0.2:
        return [lookup(tokenizer, rng, candidates) for _ in range(BATCH_SIZE)]
    # Whole batches of one form: a single long row would pad all the others.
    if draw < 0.28:
        return [choice(tokenizer, rng, candidates, long=True) for _ in range(BATCH_SIZE // 2)]
    return [choice(tokenizer, rng, candidates, long=False) for _ in range(BATCH_SIZE)]


def text_loss(model: LlavaNextForConditionalGeneration, ids: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross entropy over the positions that have a target."""
    hidden = model.model.language_model(input_ids=ids, use_cache=False).last_hidden_state
    wanted = targets != IGNORE
    nats = cross_entropy(model.lm_head(hidden[wanted]).float(), targets[wanted], reduction="none")
    return (nats * weights[wanted]).sum() / weights[wanted].sum()


@torch.no_grad()
def choice_accuracy(
    model: LlavaNextForConditionalGeneration,
    tokenizer: LlamaTokenizer,
    cases: int,
    seed: int,
    *,
    candidates: int = 10,
) -> float:
    """Share of fresh cases in which the greedy answer is the right ID, exactly.

    Teacher forcing tells it in one pass: the greedy answer is the right one if and only if every token
    of it, EOS too, is the most likely after those before it.
    """
    rng = random.Random(seed)
    right = 0
    for first in range(0, cases, 20):
        exercises = [choice(tokenizer, rng, candidates) for _ in range(min(20, cases - first))]
        ids, targets, _ = pad(exercises, tokenizer.pad_token_id)
        hidden = model.model.language_model(input_ids=ids, use_cache=False).last_hidden_state
        for row, exercise in enumerate(exercises):
            span = slice(exercise.prompt_tokens - 1, len(exercise.input_ids) - 1)
            best = model.lm_head(hidden[row, span]).argmax(-1)
            right += bool((best == targets[row, span]).all())
    return right / cases


class Schooling:
    """Trains the language model and its head."""

    def __init__(self, model: LlavaNextForConditionalGeneration, tokenizer: LlamaTokenizer, seed: int) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.rng = random.Random(seed)
        self.optimizers = Optimizers(
            [*model.model.language_model.named_parameters(), ("lm_head", model.lm_head.weight)],
            matrix_rate=MATRIX_RATE,
            other_rate=OTHER_RATE,
        )
        self.loss_of = torch.compile(text_loss, dynamic=True)

    def step(self, exercises: list[Exercise], factor: float) -> float:
        """One optimizer step; ``factor`` scales both learning rates."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.loss_of(self.model, *pad(exercises, self.tokenizer.pad_token_id))
        self.optimizers.step(loss, factor)
        return float(loss.detach())

    def learn_copying(self, *, most: int = 1200, enough: float = 0.25, report: Callable[[str], None]) -> None:
        """Loops until they are copied; the loss falls from 7.5 to near 0 once copying has formed."""
        average = math.log(len(self.tokenizer))
        for step in range(most):
            loss = self.step(copying(self.tokenizer, self.rng), min(1.0, (step + 1) / 50))
            average = 0.9 * average + 0.1 * loss
            if (step + 1) % 50 == 0:
                report(f"copying step={step + 1} loss={average:.3f}")
            if average < enough:
                report(f"copying learnt in {step + 1} steps")
                return

    def learn_choosing(self, steps: int, *, first: int = 0, report: Callable[[str], None]) -> Iterator[int]:
        """Choices for a number of steps, from ``first`` on; yields how many are done."""
        average = 2.0
        for step in range(first, steps):
            batch = choosing(self.tokenizer, self.rng, step / steps)
            average = 0.98 * average + 0.02 * self.step(batch, cosine_rate(step, steps))
            if (step + 1) % 50 == 0:
                report(f"choosing step={step + 1} of {steps} loss={average:.3f}")
            yield step + 1
