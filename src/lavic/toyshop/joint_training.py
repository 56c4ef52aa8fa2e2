"""The last lessons of the tiny model: to read pictures in rows as it reads words; then to describe and to choose.

Reading is learnt by a projector that begins anew, in a minute or two, and goes on while describing comes back. The
vision tower stays as it is, so its features are computed once. docs/experiments.md has the figures.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import LlamaTokenizer, LlavaNextForConditionalGeneration

from lavic.toyshop.conditioning import begin_projector
from lavic.toyshop.picture_choosing import (
    ERROR_WEIGHT,
    SYNONYM,
    PictureLessons,
    first_states,
    picture_choice_accuracy,
    reading_loss,
    view_tokens,
)
from lavic.toyshop.picture_pool import PicturePool
from lavic.toyshop.picture_rows import PictureRows
from lavic.toyshop.picture_training import (
    DescribingLessons,
    assemble,
    describing_loss,
    packed_image_tokens,
    tower_states,
)
from lavic.toyshop.text_training import Batch, Report, choice_accuracy, choosing, cosine_rate, embeds_loss, pad

#: AdamW's rate of projector and first layer, which read, while they learn it and later; and of all behind them.
READER_RATE, LATER_READER_RATE, RATE = 2.5e-3, 2e-4, 4e-4
#: Steps and rate of reading once more, alone, by a model that reads already: what is new comes in a minute then, and
#: in an hour between the other lessons, whose gradients are larger.
REVISING, REVISING_RATE = 250, 4e-4
#: How often a step is which lesson, while reading is learnt and behind that.
READING = {"read": 1.0}
CHOOSING = {"read": 0.1, "describe": 0.3, "text": 0.1, "rows": 0.5}
#: Sequences of a step; one token a view makes short ones, few candidates too.
READING_BATCH, DESCRIBING_BATCH, CANDIDATES = 10, 48, 160
_WARMUP = 30
#: How often a batch of rows is of pictures alone, and else the share of pictures among the rows.
_ALL_PICTURES, _PICTURES = 0.3, 0.8
#: How often one token a view is shown, and how often a part of all image tokens, of so many.
_VIEWS, _PART, _IMAGE_TOKENS, _FEWEST, _MOST = 0.1, 0.4, 135, 20, 110


@torch.no_grad()
def features_of(model: LlavaNextForConditionalGeneration, pool: PicturePool, lessons: DescribingLessons) -> Tensor:
    """[N, 5, P, W] features of every picture, bf16."""
    batches = [
        tower_states(model, lessons.pixels(range(first, min(first + 200, len(pool)))))[0].bfloat16()
        for first in range(0, len(pool), 200)
    ]
    return torch.cat(batches)


def reader_rate(step: int, reading: int, choosing: int) -> float:
    """Of projector and first layer: constant, half a cosine down to what it is while choosing is learnt."""
    if step > reading:
        return LATER_READER_RATE * cosine_rate(step - reading, choosing, warmup=0, hold=0.3)
    return max(LATER_READER_RATE, READER_RATE * cosine_rate(step, reading, warmup=0, hold=0.4))


def rate(step: int, reading: int, choosing: int) -> float:
    """Of all behind them: constant, and half a cosine to 0 while choosing is learnt."""
    return RATE * (cosine_rate(step - reading, choosing, warmup=0, hold=0.3) if step > reading else 1.0)


class JointTraining:
    """For a model that describes, and chooses among words.

    Args:
        train, valid: pictures to learn from, and new ones to be examined on.
    """

    def __init__(
        self,
        model: LlavaNextForConditionalGeneration,
        tokenizer: LlamaTokenizer,
        train: PicturePool,
        valid: PicturePool,
        seed: int,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.rng = random.Random(seed)
        model.model.vision_tower.requires_grad_(False)
        # Words stay what they are: that is what pictures are to become.
        model.model.language_model.embed_tokens.requires_grad_(False)
        self._words = copy.deepcopy(model.model.language_model)
        self.describing = DescribingLessons(tokenizer, train, seed)
        self.new_describing = DescribingLessons(tokenizer, valid, seed + 1)
        self.features = features_of(model, train, self.describing)
        self.new_features = features_of(model, valid, self.new_describing)
        rows, new_rows = PictureRows(tokenizer, train.looks), PictureRows(tokenizer, valid.looks)
        self.rows = PictureLessons(model, rows, self.features, seed + 2)
        self.new_rows = PictureLessons(model, new_rows, self.new_features, seed + 3)
        self._describing_loss = torch.compile(describing_loss, dynamic=True)
        self._choosing_loss = torch.compile(embeds_loss, dynamic=True)

    def revise(self, report: Report) -> None:
        """Reading alone, for a model that has had this lesson."""
        readers = self._readers()
        optimizer = torch.optim.AdamW(readers, lr=REVISING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
        for step in range(1, REVISING + 1):
            loss = self._read()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(readers, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step % 50 == 0:
                report(f"revising step={step} of {REVISING} read={float(loss.detach()):.3f}")

    def _readers(self) -> list[torch.nn.Parameter]:
        inner = self.model.model
        return [*inner.multi_modal_projector.parameters(), *inner.language_model.layers[0].parameters()]

    def learn(self, reading: int, choosing: int, report: Report) -> Iterator[int]:
        """Steps in which reading is learnt, then steps in which all is; yields how many are done."""
        if reading:
            begin_projector(self.model, self.features[:2000].float())
        readers = self._readers()
        known = {id(parameter) for parameter in readers}
        others = [one for one in self.model.parameters() if one.requires_grad and id(one) not in known]
        optimizer = torch.optim.AdamW([{"params": readers}, {"params": others}], betas=(0.9, 0.98), weight_decay=0.01)
        lessons = {"read": self._read, "describe": self._describe, "text": self._text, "rows": self._rows}
        losses: dict[str, float] = {}
        for step in range(1, reading + choosing + 1):
            shares = READING if step <= reading else CHOOSING
            (name,) = self.rng.choices(list(shares), list(shares.values()))
            loss = lessons[name]()
            value = float(loss.detach())
            losses[name] = 0.96 * losses.get(name, value) + 0.04 * value
            begun = min(1.0, step / _WARMUP)
            optimizer.param_groups[0]["lr"] = begun * reader_rate(step, reading, choosing)
            optimizer.param_groups[1]["lr"] = begun * rate(step, reading, choosing)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*readers, *others], 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step % 50 == 0:
                told = " ".join(f"{name}={value:.3f}" for name, value in sorted(losses.items()))
                report(f"step={step} of {reading + choosing} {told}")
            yield step

    # -- lessons -------------------------------------------------------------------------------------------

    def _read(self) -> Tensor:
        exercises = self.rows.draw(READING_BATCH, 10)
        ids = self.rows.batch(exercises)[0]
        words = self.model.get_input_embeddings()(ids)
        embeds, places = self.rows.shown(words, exercises, self.rng.choice((0.5, 1.0)))
        meant = self.rows.meant(ids, exercises)
        places[meant != ids] = SYNONYM
        with torch.no_grad():
            wanted = first_states(self._words, self.model.get_input_embeddings()(meant))
        got = first_states(self.model.model.language_model, embeds)
        apart, error = reading_loss(got, wanted, places, ids != self.tokenizer.pad_token_id)
        return apart.mean() + ERROR_WEIGHT * error

    def _describe(self) -> Tensor:
        drawn, count, keep = self.rng.random(), DESCRIBING_BATCH, None
        if drawn < _VIEWS:
            count *= 2
        elif drawn < _VIEWS + _PART:
            keep = sorted(self.rng.sample(range(_IMAGE_TOKENS), self.rng.randint(_FEWEST, _MOST)))
        indices, texts = self.describing.draw(count)
        sequences = [self.describing.prompt(text, chat=self.rng.random() < 0.3) for text in texts]
        shown = view_tokens if drawn < _VIEWS else packed_image_tokens
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens = shown(self.model, self.features[indices].float())
            loss: Tensor = self._describing_loss(self.model, *assemble(self.model, tokens, sequences, keep))
        return loss

    def _text(self) -> Tensor:
        batch = pad(choosing(self.tokenizer, self.rng, 1.0), self.tokenizer.pad_token_id)
        return self._choose(self.model.get_input_embeddings()(batch[0]), batch)

    def _rows(self) -> Tensor:
        candidates = self.rng.choice((10, 10, 6, 3))
        exercises = self.rows.draw(max(1, CANDIDATES // candidates), candidates)
        batch = self.rows.batch(exercises)
        share = 1.0 if self.rng.random() < _ALL_PICTURES else _PICTURES
        embeds, _ = self.rows.shown(self.model.get_input_embeddings()(batch[0]), exercises, share)
        return self._choose(embeds, batch)

    def _choose(self, embeds: Tensor, batch: Batch) -> Tensor:
        _, targets, weights, labels = batch
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss: Tensor = self._choosing_loss(self.model, embeds, targets, weights, labels)
        return loss

    @torch.no_grad()
    def examine(self) -> str:
        """On new pictures: loss with all image tokens, and right of ten among words and among pictures."""
        losses = []
        for _ in range(4):
            indices, texts = self.new_describing.draw(min(50, len(self.new_features)))
            sequences = [self.new_describing.prompt(text, chat=False) for text in texts]
            tokens = packed_image_tokens(self.model, self.new_features[indices].float())
            losses.append(float(describing_loss(self.model, *assemble(self.model, tokens, sequences, None))))
        words = choice_accuracy(self.model, self.tokenizer, 100, seed=9)
        pictures = picture_choice_accuracy(self.new_rows, 100)
        return f"held-out loss={sum(losses) / 4:.3f} right of ten words={words:.2f} pictures={pictures:.2f}"
