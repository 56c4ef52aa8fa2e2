"""First schooling of the tiny language model, on text alone: copy, compare, carry, choose among ten."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaTokenizer, LlavaNextForConditionalGeneration

from lavic.toyshop.optimizers import Optimizers
from lavic.toyshop.text_tasks import (
    FITS,
    IGNORE,
    OWN,
    RIGHT,
    Exercise,
    Wording,
    carrying,
    choice,
    lookup,
    membership,
    repetition,
)

#: Behind how many of the six layers a label is read. What fits must be known before the right row can be, and that
#: before the last layer looks it up.
LABEL_LAYERS = {FITS: 4, OWN: 5, RIGHT: 5}
#: Learning rates of Muon (matrices) and AdamW (embeddings, head, norms), for copying and comparing.
MATRIX_RATE, OTHER_RATE = 1e-2, 3e-3
#: Of AdamW for all weights, from carrying on: Muon unlearns there what was learnt before.
RATE = 1.5e-3
BATCH_SIZE = 24
#: Share of the choosing steps over which the candidates grow from two to ten, and share with plain wording only.
RAMP, PLAIN = 0.4, 0.6

Report = Callable[[str], None]
Batch = tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]
Lesson = Callable[[LlamaTokenizer, random.Random, float], list[Exercise]]


def cosine_rate(step: int, steps: int, *, warmup: int = 50, hold: float = 0.6) -> float:
    """Factor on the learning rate: warm-up, constant until ``hold`` of the steps, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step / steps - hold) / (1 - hold)
    return 1.0 if progress <= 0 else 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def pad(exercises: list[Exercise], pad_id: int) -> Batch:
    """[B, T] input_ids, targets, weights and labels, padded on the right (causal attention never sees it)."""
    shape = (len(exercises), max(len(exercise.input_ids) for exercise in exercises))
    ids, targets = torch.full(shape, pad_id), torch.full(shape, IGNORE)
    weights = torch.zeros(shape)
    labels = {name: torch.full(shape, IGNORE) for name in exercises[0].labels}
    for row, exercise in enumerate(exercises):
        length = len(exercise.input_ids)
        ids[row, :length] = torch.tensor(exercise.input_ids)
        targets[row, :length] = torch.tensor(exercise.targets)
        weights[row, :length] = torch.tensor(exercise.weights)
        for name, values in exercise.labels.items():
            labels[name][row, :length] = torch.tensor(values)
    return ids, targets, weights, labels


def copying(tokenizer: LlamaTokenizer, rng: random.Random, progress: float = 1.0) -> list[Exercise]:
    """A batch of the first lesson: 20 to 32 different tokens, then the same again."""
    return [repetition(tokenizer, rng, 64, period=rng.randint(20, 32)) for _ in range(48)]


def comparing(tokenizer: LlamaTokenizer, rng: random.Random, progress: float = 1.0) -> list[Exercise]:
    """A batch of the second lesson: which tokens stood in front?"""
    return [membership(tokenizer, rng, 60) for _ in range(48)]


def carrying_at_end(tokenizer: LlamaTokenizer, rng: random.Random, progress: float) -> list[Exercise]:
    """A batch of the third lesson: which ID does this row have? Of more and more rows."""
    return _carrying(tokenizer, rng, 2 + round(8 * progress), at_end=True)


def _carrying(tokenizer: LlamaTokenizer, rng: random.Random, rows: int, *, at_end: bool) -> list[Exercise]:
    return [carrying(tokenizer, rng, rows, at_end=at_end) for _ in range(BATCH_SIZE)]


def choosing(tokenizer: LlamaTokenizer, rng: random.Random, progress: float) -> list[Exercise]:
    """A batch of the last lesson: choices among more and more candidates, with the other lessons between."""
    draw = rng.random()
    most = 2 + round(8 * min(1.0, progress / RAMP))
    candidates = most if rng.random() < 0.7 else rng.randint(2, most)
    if draw < 0.02:
        return [repetition(tokenizer, rng, 1500, period=rng.randint(300, 740)) for _ in range(4)]
    if draw < 0.10:
        return [repetition(tokenizer, rng, 200, period=rng.randint(10, 100)) for _ in range(BATCH_SIZE)]
    if draw < 0.18:
        return _carrying(tokenizer, rng, candidates, at_end=False)
    if draw < 0.21:
        return [lookup(tokenizer, rng, candidates) for _ in range(BATCH_SIZE)]
    wording: Wording = "plain"
    if progress > PLAIN:
        # Whole batches of one form: a single long row would pad all the others.
        (wording,) = rng.choices(("plain", "phrase", "short", "long"), (10, 4, 5, 1))
    return [choice(tokenizer, rng, candidates, wording) for _ in range(BATCH_SIZE // (2 if wording == "long" else 1))]


def text_loss(
    model: LlavaNextForConditionalGeneration, ids: Tensor, targets: Tensor, weights: Tensor, labels: dict[str, Tensor]
) -> Tensor:
    """Weighted mean cross entropy of the targets, and beside it the mean of each kind of label."""
    return embeds_loss(model, model.get_input_embeddings()(ids), targets, weights, labels)


def embeds_loss(
    model: LlavaNextForConditionalGeneration,
    embeds: Tensor,
    targets: Tensor,
    weights: Tensor,
    labels: dict[str, Tensor],
) -> Tensor:
    """The same of [B, T, D] embeddings, among which others than those of words may be."""
    language_model = model.model.language_model
    output = language_model(inputs_embeds=embeds, use_cache=False, output_hidden_states=True)
    total = _mean_nats(model, output.last_hidden_state, targets, weights)
    for name, wanted in labels.items():
        middle = language_model.norm(output.hidden_states[LABEL_LAYERS[name]])
        total = total + _mean_nats(model, middle, wanted, torch.ones_like(weights))
    return total


def _mean_nats(model: LlavaNextForConditionalGeneration, hidden: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Of [B, T, D] states, where there is something to predict; 0 if nowhere."""
    asked = wanted != IGNORE
    nats = cross_entropy(model.lm_head(hidden[asked]).float(), wanted[asked], reduction="none")
    return (nats * weights[asked]).sum() / weights[asked].sum().clamp_min(1.0)


@torch.no_grad()
def choice_accuracy(
    model: LlavaNextForConditionalGeneration,
    tokenizer: LlamaTokenizer,
    cases: int,
    seed: int,
    *,
    candidates: int = 10,
    wording: Wording = "plain",
) -> float:
    """Share of fresh cases in which the greedy answer is the right ID, exactly.

    Teacher forcing tells it in one pass: the greedy answer is the right one if and only if every token
    of it, EOS too, is the most likely after those before it.
    """
    rng = random.Random(seed)
    right = 0
    for first in range(0, cases, 20):
        exercises = [choice(tokenizer, rng, candidates, wording) for _ in range(min(20, cases - first))]
        ids, targets, *_ = pad(exercises, tokenizer.pad_token_id)
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
        self.loss_of = torch.compile(text_loss, dynamic=True)
        self.set_rates(MATRIX_RATE, OTHER_RATE)

    def set_rates(self, matrix_rate: float | None, other_rate: float) -> None:
        """Begin a lesson with these learning rates (None: no Muon) and a fresh memory of gradients."""
        self.optimizers = Optimizers(
            [*self.model.model.language_model.named_parameters(), ("lm_head", self.model.lm_head.weight)],
            matrix_rate=matrix_rate,
            other_rate=other_rate,
        )

    def step(self, exercises: list[Exercise], factor: float) -> float:
        """One optimizer step; ``factor`` scales both learning rates."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.loss_of(self.model, *pad(exercises, self.tokenizer.pad_token_id))
        self.optimizers.step(loss, factor)
        return float(loss.detach())

    def learn_copying(self, report: Report) -> None:
        """Loops, until they are copied; the loss falls from 7.5 to near 0 once copying has formed."""
        self._practise("copying", [copying], most=1200, enough=0.25, report=report)

    def learn_comparing(self, report: Report) -> None:
        """What stood in front, until it is told."""
        self._practise("comparing", [comparing, comparing, comparing, copying], most=800, enough=0.03, report=report)

    def learn_carrying(self, report: Report) -> None:
        """Which ID a row has, read from the last layer."""
        self.set_rates(None, RATE)
        lessons: list[Lesson] = [carrying_at_end, carrying_at_end, carrying_at_end, comparing, copying]
        self._practise("carrying", lessons, most=600, enough=0.02, report=report)

    def _practise(
        self,
        name: str,
        lessons: list[Lesson],
        *,
        most: int,
        enough: float,
        report: Report,
    ) -> None:
        """Steps of lessons drawn at random, until the mean loss of the first is low; the others keep what is known."""
        average = math.log(len(self.tokenizer))
        for step in range(most):
            lesson = self.rng.choice(lessons)
            loss = self.step(lesson(self.tokenizer, self.rng, step / most), min(1.0, (step + 1) / 50))
            if lesson is lessons[0]:
                average = 0.9 * average + 0.1 * loss
            if (step + 1) % 50 == 0:
                report(f"{name} step={step + 1} loss={average:.3f}")
            if average < enough:
                report(f"{name} learnt in {step + 1} steps")
                return

    def learn_choosing(self, steps: int, report: Report) -> Iterator[int]:
        """Choices for a number of steps; yields how many are done."""
        self.set_rates(None, RATE)
        average = 2.0
        for step in range(steps):
            batch = choosing(self.tokenizer, self.rng, step / steps)
            average = 0.98 * average + 0.02 * self.step(batch, cosine_rate(step, steps))
            if (step + 1) % 50 == 0:
                report(f"choosing step={step + 1} of {steps} loss={average:.3f}")
            yield step + 1
