"""Choosing among rows of which only the picture says what they are: exercises that words and pictures can fill.

A row is a line of the recommendation prompt: ID, a title that says nothing, and the places of five visual tokens. The
same places can hold five words: of background, colour, pattern, kind and detail. The language model has
learnt to choose among words (``text_tasks``); so an exercise is built in words, with its labels, and says which picture
may stand in which places instead.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from transformers import LlamaTokenizer

from lavic.model.recommendation import Candidate, RecommendationPrompts
from lavic.model.sequences import SequenceBuilder
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop import grammar
from lavic.toyshop.kinds import Look
from lavic.toyshop.text_tasks import (
    FITS,
    IGNORE,
    NO,
    OWN,
    RIGHT,
    YES,
    Exercise,
    answer_weights,
    first_free,
    item_id,
    tokens_of_id,
    wish_context,
)

#: Visual tokens of a picture, and so words in its place.
PLACES = 5
#: Which place names which attribute that can be asked for; the first names the background.
NAMED = ((1, "colour"), (2, "pattern"), (3, "kind"), (4, "detail"))
#: Longest prompt; the tiny model knows 4,096 positions.
_MAX_LENGTH = 4096
#: How often a list is of look-alikes, and a request names the detail.
_LOOK_ALIKES, _WITH_DETAIL = 0.75, 0.7
#: Of look-alikes: how often one has the same colour and pattern (if the detail is asked for), colour, pattern, kind.
_TWINS, _COLOUR, _PATTERN, _KIND = 0.4, 0.2, 0.25, 0.15


@dataclass(frozen=True)
class RowsExercise:
    """A choice in words, and the pictures that can take the words' places.

    Attributes:
        exercise: with the words in it.
        places: positions of the words, five a row, in order.
        pictures: one index per row.
        synonyms: where a request words a pattern in the second way, its last position; and the token of the first
            wording, which is what a row's word is.
    """

    exercise: Exercise
    places: tuple[int, ...]
    pictures: tuple[int, ...]
    synonyms: tuple[tuple[int, int], ...]


class PictureRows:
    """Makes exercises about a list of pictures.

    Args:
        looks: what each picture shows; an exercise names pictures by their index here.
    """

    def __init__(self, tokenizer: LlamaTokenizer, looks: Rows[Look]) -> None:
        self.tokenizer, self.looks = tokenizer, looks
        builder = SequenceBuilder(tokenizer, DEFAULT_PROMPTS, views=PLACES)
        self._prompts = RecommendationPrompts(builder, _MAX_LENGTH)
        self._yes, self._no = tokenizer.convert_tokens_to_ids([YES, NO])
        self._sharing: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for index, look in enumerate(looks):
            for shared in _shared_by(look):
                self._sharing[shared].append(index)
        self._words: dict[str, list[int]] = {}

    def words_of(self, look: Look) -> list[int]:
        """The five tokens that stand for a picture."""
        pattern = grammar.PATTERN_WORDS[look.pattern][0]
        # Backgrounds differ in their first word, and so do a kind's details.
        background, detail = (words.removeprefix("a ") for words in (look.background, look.detail))
        first = [self._tokens_of(words)[0] for words in (background, look.colour, pattern)]
        return [*first, self._tokens_of(look.kind)[-1], self._tokens_of(detail)[0]]

    def _tokens_of(self, words: str) -> list[int]:
        if words not in self._words:
            tokens = self.tokenizer.encode(words, add_special_tokens=False)
            # The mark of a word's start is a token of its own in front of some words.
            self._words[words] = [token for token in tokens if token != self.tokenizer.convert_tokens_to_ids("▁")]
        return self._words[words]

    def exercise(self, rng: random.Random, candidates: int) -> RowsExercise:
        """Which of the candidates is asked for? The labels are those of ``text_tasks.choice``."""
        right, with_detail = rng.randrange(candidates), rng.random() < _WITH_DETAIL
        pictures = self._company(rng, candidates, right, with_detail)
        context = wish_context([self.looks[picture] for picture in pictures], right, rng, with_detail=with_detail)
        rows = [Candidate(item_id(rng), grammar.title(rng), True) for _ in pictures]
        sequence = self._prompts.sequence(context, rows, rows[right].item_id)
        ids, places = list(sequence.input_ids), sequence.placeholders
        for row, picture in enumerate(pictures):
            for place, word in zip(places[PLACES * row :], self.words_of(self.looks[picture]), strict=False):
                ids[place] = word
        owns = [tokens_of_id(self.tokenizer, row.item_id) for row in rows]
        asked = [name for _, name in NAMED if with_detail or name != "detail"]
        labels = self._labels(ids, places, pictures, owns, right, asked)
        start = sequence.prompt_length
        targets = [*[IGNORE] * (start - 1), *ids[start:], IGNORE]
        weights = answer_weights(len(ids), start, owns, right)
        exercise = Exercise(ids, targets, weights, labels, rows[right].item_id, start)
        return RowsExercise(exercise, places, tuple(pictures), self._synonyms(ids[: places[0]]))

    def _synonyms(self, ids: list[int]) -> tuple[tuple[int, int], ...]:
        found = []
        for first, second in grammar.PATTERN_WORDS.values():
            words = self._tokens_of(second)
            for start in range(len(ids) - len(words) + 1):
                if ids[start : start + len(words)] == words:
                    found.append((start + len(words) - 1, self._tokens_of(first)[0]))
        return tuple(found)

    def _company(self, rng: random.Random, count: int, right: int, with_detail: bool) -> list[int]:
        """Pictures of which one fits; most lists hold products that are easily mistaken for it."""
        wanted = rng.randrange(len(self.looks))
        look = self.looks[wanted]
        fitting = {*self._sharing[_fitting(look, with_detail=with_detail)]}
        near = [look.combination, (look.kind, look.colour), (look.kind, look.pattern), (look.kind,)]
        shares = [_TWINS if with_detail else 0.0, _COLOUR, _PATTERN, _KIND]
        alike = rng.random() < _LOOK_ALIKES
        others: list[int] = []
        while len(others) < count - 1:
            pool = self._sharing[rng.choices(near, shares)[0]] if alike else range(len(self.looks))
            other = rng.choice(pool)
            if other not in fitting:
                others.append(other)
        return [*others[:right], wanted, *others[right:]]

    def _labels(
        self,
        ids: list[int],
        places: tuple[int, ...],
        pictures: list[int],
        owns: list[list[int]],
        right: int,
        asked: list[str],
    ) -> dict[str, list[int]]:
        """At the colon the row's own ID, at each word whether all fits so far, behind the row whether it is the one."""
        labels = {name: [IGNORE] * len(ids) for name in (FITS, OWN, RIGHT)}
        free = first_free(owns)
        wanted = self.looks[pictures[right]]
        start = _place_of(ids, owns[0], before=places[0])
        for row, (picture, own) in enumerate(zip(pictures, owns, strict=True)):
            first = places[PLACES * row]
            labels[OWN][start + len(own)] = own[free]
            fits = True
            for place, name in NAMED:
                same = getattr(self.looks[picture], name) == getattr(wanted, name)
                fits = fits and (same or name not in asked)
                labels[FITS][first + place] = self._yes if fits else self._no
            labels[RIGHT][first + PLACES] = own[free] if row == right else self._no
            start = first + PLACES + 1
        return labels


def _shared_by(look: Look) -> list[tuple[str, ...]]:
    """What pictures can be looked up by."""
    return [
        (look.kind,),
        (look.kind, look.colour),
        (look.kind, look.pattern),
        look.combination,
        (*look.combination, look.detail),
    ]


def _fitting(look: Look, *, with_detail: bool) -> tuple[str, ...]:
    return (*look.combination, look.detail) if with_detail else look.combination


def _place_of(ids: list[int], own: list[int], *, before: int) -> int:
    """Where an ID stands last in front of a position."""
    return next(start for start in range(before, -1, -1) if ids[start : start + len(own)] == own)
