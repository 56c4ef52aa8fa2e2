"""What is to be done: which pictures have no tokens yet, or other bytes than their tokens were made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from lavic.embed.items import Found, Picture, Problem
from lavic.embed.ledger import Ledger, Stored
from lavic.embed.pictures import bytes_mark
from lavic.errors import ImageError
from lavic.images import decode_image, picture_bytes
from lavic.layout import ABSENT

Answer = TypeVar("Answer")


@dataclass
class Work:
    """What a run has in hand.

    Attributes:
        pictures: those that this run computes, and those that it computed before it was interrupted, in the order of
            the metadata: together they decide which pictures stand beside each other in a batch.
        pending: places in ``pictures`` of what is to be computed.
        unchanged: how many other pictures have their tokens.
        problems: of pictures that were looked at and cannot be used.
    """

    pictures: list[Picture] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    unchanged: int = 0
    problems: list[Problem] = field(default_factory=list)

    def batches(self, size: int) -> Iterator[list[int]]:
        """``pending``, those together that belong to the same ``size`` pictures of the list."""
        batch: list[int] = []
        for index in self.pending:
            if batch and index // size != batch[0] // size:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch


def find_work(found: Found, ledger: Ledger, threads: int, look: Callable[[], None]) -> Work:
    """Compare the pictures with what is stored.

    All stored pictures are read once, for a picture that was exchanged has no other sign that can be relied on.

    Args:
        threads: how many read at the same time.
        look: called after each picture that was read; what it raises ends the search.
    """
    stored = [picture for picture in found.pictures if picture.key in ledger.pictures]
    same = _ask(stored, lambda picture: _is_unchanged(picture, ledger.pictures[picture.key]), threads, look)
    unchanged = {picture.key for picture, is_same in zip(stored, same, strict=True) if is_same}
    # What could not be read in an earlier run, or has changed, may be unusable now: no reason to load a model, and
    # no place in a batch.
    suspect = {key for key, reason in ledger.bad.items() if reason != ABSENT} | ledger.pictures.keys() - unchanged
    suspects = [picture for picture in found.pictures if picture.key in suspect]
    reasons = _ask(suspects, _problem, threads, look)
    problems = [problem_of(picture, reason) for picture, reason in zip(suspects, reasons, strict=True) if reason]
    unusable = {problem.key for problem in problems}
    work = Work(unchanged=len(unchanged), problems=problems)
    for picture in found.pictures:
        pending = picture.key not in unchanged and picture.key not in unusable
        if pending:
            work.pending.append(len(work.pictures))
        if pending or (picture.key in unchanged and ledger.stored_by_this_run(picture.key)):
            work.pictures.append(picture)
    return work


def problem_of(picture: Picture, reason: str) -> Problem:
    """Why a picture that is there cannot be used."""
    return Problem(picture.item_id, picture.number, picture.path, picture.where, reason)


def _ask(
    pictures: Rows[Picture], question: Callable[[Picture], Answer], threads: int, look: Callable[[], None]
) -> list[Answer]:
    """An answer for each picture."""
    answers: list[Answer] = []
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        for answer in pool.map(question, pictures):
            answers.append(answer)
            look()
    finally:
        pool.shutdown(cancel_futures=True)
    return answers


def _is_unchanged(picture: Picture, stored: Stored) -> bool:
    try:
        if picture.path.stat().st_size != stored.size:
            return False
        data = picture_bytes(picture.path)
    except (OSError, ImageError):
        return False
    return len(data) == stored.size and bytes_mark(data) == stored.mark


def _problem(picture: Picture) -> str:
    """Why a picture cannot be used, or ""."""
    try:
        decode_image(picture_bytes(picture.path))
    except ImageError as error:
        return error.problem
    return ""
