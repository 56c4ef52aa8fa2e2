"""Answers of one system, row by row, kept in a journal so that an evaluation that was cut short goes on."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lavic.errors import InputError
from lavic.evaluate.metrics import RankedRow
from lavic.evaluate.naming import named_candidate
from lavic.files import append_jsonl, read_jsonl
from lavic.metrics import rank
from lavic.model.generation import continue_greedily
from lavic.model.recommendation import RecommendationPrompts
from lavic.model.visual_tokens import FiveTokenModel
from lavic.training.sampler import ordered_batches
from lavic.tune.conversations import Catalogue
from lavic.tune.samples import AskedRow
from lavic.tune.scoring import RowScores, score_rows, visual_tokens_of


@dataclass(frozen=True)
class Answer:
    """What a system says to one row: candidates best first, and in words."""

    ranking: tuple[str, ...]
    response: str


@dataclass(frozen=True)
class Answered:
    """A system's answers to its rows, and how long they took, in all parts of an evaluation that was cut short."""

    rows: Rows[AskedRow]
    answers: Rows[Answer]
    seconds: float


def ranked(row: AskedRow, answer: Answer) -> RankedRow:
    """The row as the metrics take it."""
    shown = sum(candidate.has_picture for candidate in row.candidates)
    return RankedRow(answer.ranking, row.item_ids, row.conversation.gt_items, shown)


def holds_other_answers(path: Path, identity: str) -> bool:
    """Whether a journal has answers of another identity, which ``Journal`` would throw away.

    Raises:
        InputError: the file is damaged.
    """
    rows = _journal_rows(path)
    return len(rows) > 1 and rows[0].get("identity") != identity


def _journal_rows(path: Path) -> list[dict[str, Any]]:
    """The identity's row, then the answers; nothing where there is no file."""
    try:
        return list(read_jsonl(path)) if path.exists() else []
    except InputError as error:
        remedy = f"Delete {path} to answer its rows again, or replace the whole evaluation with --overwrite."
        raise InputError(error.problem, where=error.where, remedy=remedy) from error


class Journal:
    """Answers by the row's place, each on disk as soon as it is there.

    Args:
        path: a JSONL file; what it holds of another identity is thrown away: see ``holds_other_answers``.
        identity: what decides the answers.

    Attributes:
        found: what was kept, by the row's place.
        seconds: from the opening to the last answer, and what it took before.

    Raises:
        InputError: the file is damaged.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        rows = _journal_rows(path)
        known = bool(rows) and rows[0].get("identity") == identity
        kept = rows[1:] if known else []
        self.found: dict[int, dict[str, Any]] = {row["row"]: row for row in kept if isinstance(row.get("row"), int)}
        self.seconds = max((float(row.get("seconds", 0.0)) for row in self.found.values()), default=0.0)
        self._began = time.monotonic() - self.seconds
        if not known:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            append_jsonl(path, {"identity": identity})

    def add(self, at: int, answer: Mapping[str, Any]) -> None:
        """Keep one row's answer."""
        self.seconds = time.monotonic() - self._began
        append_jsonl(self.path, {"row": at, **answer, "seconds": round(self.seconds, 3)})


def answer_at_random(rows: Rows[AskedRow], seed: int) -> list[Answer]:
    """A ranking drawn by lot for each row."""
    drawn = random.Random(f"lavic/evaluate/{seed}")
    rankings = [tuple(drawn.sample(row.item_ids, len(row.item_ids))) for row in rows]
    return [Answer(ranking, ranking[0]) for ranking in rankings]


def answer_in_order(rows: Rows[AskedRow]) -> list[Answer]:
    """The candidates as the list has them: what retrieval alone would recommend."""
    return [Answer(row.item_ids, row.item_ids[0]) for row in rows]


def answer_by_score(
    model: FiveTokenModel,
    rows: Rows[AskedRow],
    catalogue: Catalogue,
    prompts: RecommendationPrompts,
    journal: Journal,
    *,
    batch_size: int,
    on_rows: Callable[[int], None],
) -> list[Answer]:
    """Every candidate's ID scored: the answer is always a candidate."""
    known = {
        at: RowScores(tuple(row["log_probs"]), tuple(row["tokens"]))
        for at, row in journal.found.items()
        if "log_probs" in row
    }
    on_rows(len(known))

    def keep(scores: dict[int, RowScores]) -> None:
        for at, score in scores.items():
            journal.add(at, {"log_probs": list(score.log_probs), "tokens": list(score.tokens)})
        on_rows(len(scores))

    scores = score_rows(model, rows, catalogue, prompts, batch_size=batch_size, known=known, on_batch=keep)
    rankings = [rank(score.log_probs, row.item_ids) for row, score in zip(rows, scores, strict=True)]
    return [Answer(ranking, ranking[0]) for ranking in rankings]


@torch.no_grad()
def answer_greedily(
    model: FiveTokenModel,
    rows: Rows[AskedRow],
    catalogue: Catalogue,
    prompts: RecommendationPrompts,
    journal: Journal,
    *,
    batch_size: int,
    max_new_tokens: int,
    tokenizer: Any,
    on_rows: Callable[[int], None],
) -> list[Answer]:
    """The likeliest token each time, as published; a text that names no candidate is no answer."""
    texts = {at: str(row["response"]) for at, row in journal.found.items() if "response" in row}
    on_rows(len(texts))
    for batch in ordered_batches([row.length for row in rows], batch_size):
        if all(at in texts for at in batch):
            continue
        asked = [rows[at] for at in batch]
        sequences = [prompts.sequence(row.context, row.candidates, None) for row in asked]
        tokens = prompts.builder.collate(sequences, side="left").to(model.llava.device)
        embeds = model.inputs_embeds(tokens, visual_tokens_of([row.candidates for row in asked], catalogue, model))
        said = continue_greedily(model.llava, tokenizer, embeds, tokens.attention_mask, max_new_tokens=max_new_tokens)
        for at, text in zip(batch, said, strict=True):
            texts[at] = text
            journal.add(at, {"response": text})
        on_rows(len(batch))
    answers = []
    for at, row in enumerate(rows):
        named = named_candidate(texts[at], row.item_ids)
        answers.append(Answer(() if named is None else (named,), texts[at]))
    return answers
