"""Training samples of stage 2: one per conversation and distinct right item; and rows to be answered, as they are."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path

from lavic.conversations import Conversation
from lavic.errors import NothingLeftError
from lavic.model.recommendation import Candidate, RecommendationPrompts
from lavic.skipped import SkipLog, most_frequent
from lavic.tune.conversations import SHORTENED, Catalogue

TOO_LONG = "candidates and answer alone are longer than --max_length"
NO_RIGHT_ITEM = "there is no right item"
NO_CHOICE = "no other candidate is left beside the right item, so there is nothing to choose"
_MENDS = {
    TOO_LONG: "Give a larger --max_length, or a list of fewer candidates.",
    NO_RIGHT_ITEM: "Give conversations that name right items in gt_items.",
    NO_CHOICE: "Give lists with candidates that are not right, or --published, which trains on such samples too.",
}


@dataclass(frozen=True)
class TuneSample:
    """A conversation with one right item among its candidates.

    Attributes:
        name: where it comes from, as messages name it.
        context: shortened where needed.
        candidates: the right one among them, no other right one.
        answer: the right one's ID.
        length: tokens of prompt and answer.
    """

    name: str
    context: str
    candidates: tuple[Candidate, ...]
    answer: str
    length: int


@dataclass(frozen=True)
class AskedRow:
    """A conversation with its candidates as they are given.

    Attributes:
        context: shortened where needed.
        length: tokens of the prompt with the ID of the most tokens.
    """

    conversation: Conversation
    context: str
    candidates: tuple[Candidate, ...]
    length: int

    @property
    def item_ids(self) -> tuple[str, ...]:
        """IDs of the candidates, in their order."""
        return tuple(candidate.item_id for candidate in self.candidates)


def tune_samples(
    rows: Iterable[tuple[Conversation, Rows[str]]],
    catalogue: Catalogue,
    prompts: RecommendationPrompts,
    *,
    path: Path,
    skipped: SkipLog,
    seed: int,
    repeat_right_items: bool = False,
    without_choice: bool = False,
    max_samples: int | None = None,
) -> list[TuneSample]:
    """Samples in file order.

    A right item that is not among the candidates takes the place of one, drawn from the seed; other right items are
    taken out of the sample's list. The conversation's own list stays as it is. A sample that cannot be used is listed;
    the conversation's others stay.

    Args:
        repeat_right_items: an item that is listed as right twice makes two samples.
        without_choice: keep a sample whose only candidate is the right one, as published; it teaches no choice.

    Raises:
        NothingLeftError: no sample is left.
    """
    samples: list[TuneSample] = []
    left_out: Counter[str] = Counter()
    for conversation, given in rows:
        place = conversation.place
        if not conversation.gt_items:
            skipped.add(file=path, where=place, key="gt_items", reason=NO_RIGHT_ITEM)
            left_out[NO_RIGHT_ITEM] += 1
            continue
        right_items = conversation.gt_items if repeat_right_items else tuple(dict.fromkeys(conversation.gt_items))
        for number, right in enumerate(right_items):
            if max_samples is not None and len(samples) >= max_samples:
                return samples
            drawn = random.Random(f"lavic/tune/{seed}/{place}/{number}")
            candidates = tuple(
                map(catalogue.candidate, with_right_item(given, right, conversation.ground_truth, drawn))
            )
            name = f"{place}, {right}"
            if len(candidates) == 1 and not without_choice:
                skipped.add(file=path, where=name, reason=NO_CHOICE)
                left_out[NO_CHOICE] += 1
                continue
            context = prompts.fit(conversation.context, candidates)
            if context is None:
                skipped.add(file=path, where=name, reason=TOO_LONG)
                left_out[TOO_LONG] += 1
                continue
            if context != conversation.context:
                skipped.note(SHORTENED)
            length = len(prompts.sequence(context, candidates, right).input_ids)
            samples.append(TuneSample(name, context, candidates, right, length))
    if not samples:
        raise _nothing_left("no conversation can be trained on", path, left_out)
    return samples


def _nothing_left(problem: str, path: Path, left_out: Counter[str]) -> NothingLeftError:
    """The error with the most frequent reason and its mend; without, where there were no rows."""
    if not left_out:
        return NothingLeftError(problem, where=str(path))
    mend = _MENDS[left_out.most_common(1)[0][0]]
    return NothingLeftError(f"{problem}; {most_frequent(left_out)}", where=str(path), remedy=mend)


def with_right_item(given: Rows[str], right: str, all_right: frozenset[str], drawn: random.Random) -> list[str]:
    """A copy of the candidates in which ``right`` is the only right one; as many as were given, if that can be."""
    kept = [item_id for item_id in given if item_id == right or item_id not in all_right]
    if right in kept:
        return kept
    if len(kept) < len(given):
        kept.insert(drawn.randrange(len(kept) + 1), right)
    else:
        kept[drawn.randrange(len(kept))] = right
    return kept


def in_order(sample: TuneSample, *, seed: int, epoch: int, shuffle: bool) -> tuple[Candidate, ...]:
    """The candidates in the epoch's order: a function of seed, epoch and sample, so a resumed run has the same."""
    if not shuffle:
        return sample.candidates
    order = list(sample.candidates)
    random.Random(f"lavic/order/{seed}/{epoch}/{sample.name}").shuffle(order)
    return tuple(order)


def asked_rows(
    rows: Iterable[tuple[Conversation, Rows[str]]],
    catalogue: Catalogue,
    prompts: RecommendationPrompts,
    *,
    path: Path,
    skipped: SkipLog,
    max_rows: int | None = None,
) -> list[AskedRow]:
    """Rows to be answered, in file order; those without a right item too, for they have an answer.

    Raises:
        NothingLeftError: no row is left.
    """
    found: list[AskedRow] = []
    left_out: Counter[str] = Counter()
    for conversation, given in rows:
        if max_rows is not None and len(found) >= max_rows:
            break
        candidates = tuple(map(catalogue.candidate, given))
        context = prompts.fit(conversation.context, candidates)
        if context is None:
            skipped.add(file=path, where=conversation.place, reason=TOO_LONG)
            left_out[TOO_LONG] += 1
            continue
        if context != conversation.context:
            skipped.note(SHORTENED)
        length = len(prompts.sequence(context, candidates, prompts.longest_answer(candidates)).input_ids)
        found.append(AskedRow(conversation, context, candidates, length))
    if not found:
        raise _nothing_left("no conversation can be answered", path, left_out)
    return found
