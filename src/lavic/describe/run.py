"""``lavic describe``: the full-token teacher describes every picture that has no description yet."""

from __future__ import annotations

import shlex
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Rows
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from lavic.console import Console, Outcome
from lavic.describe.batches import Read, plan_batches, read_ahead, readable
from lavic.describe.cleaning import clean
from lavic.describe.config import DescribeSettings
from lavic.describe.engines import Answer, Engine, Request, picture_seed
from lavic.describe.journal import Described, Journal
from lavic.describe.merge import merge
from lavic.describe.page import write_comparison
from lavic.describe.sides import Picture, Side, look_for_pictures, resolve_sides
from lavic.describe.store_run import check_store, store_top_logits
from lavic.describe.teacher import Teacher, check_machine, known_identity
from lavic.files import FolderLock, remove_file
from lavic.rendering import duration
from lavic.rows import text_problem
from lavic.skipped import SkipLog
from lavic.training.failures import machine_failures
from lavic.training.interrupts import Interrupts

SKIPPED_NAME = "describe_skipped.jsonl"
NOTHING_SAID = "the teacher said nothing that can be used"
NO_SENTENCE = "the token limit ended the text within its first sentence"
_MEMORY_REMEDY = "Use a smaller --batch_size or --num_workers; what was described is kept."


@dataclass
class _Work:
    """What a run has in hand.

    Attributes:
        lacking: by side, the pictures that the metadata have no description of, in file order.
        kept: how many descriptions the journals had when the run began.
        todo: how many pictures they had none of.
    """

    sides: tuple[Side, ...]
    journals: dict[str, Journal] = field(default_factory=dict)
    lacking: dict[str, list[Picture]] = field(default_factory=dict)
    kept: int = 0
    todo: int = 0
    described: int = 0
    tokens: int = 0
    cut_off: int = 0
    seconds: float = 0.0

    def has(self, picture: Picture) -> bool:
        """Whether the journal of its file has a picture."""
        return picture.image_name in self.journals[picture.side].described


def run(settings: DescribeSettings, console: Console) -> Outcome:
    """Describe, merge, and store what else was asked for.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; what was described is in the journal.
        LavicError: see ``lavic.errors``; nothing described is lost.
    """
    check_machine(settings)
    if settings.adapter is not None:
        with machine_failures(_MEMORY_REMEDY):
            return write_comparison(settings, console)
    sides = resolve_sides(settings)
    teacher = Teacher(settings, console)
    with ExitStack() as stack:
        for folder in dict.fromkeys(side.target.parent for side in sides):
            stack.enter_context(FolderLock(folder))
        skipped = stack.enter_context(SkipLog(sides[0].target.with_name(SKIPPED_NAME)))
        work = _collect(settings, sides, skipped)
        if settings.top_logits:
            check_store(settings, sides[0])
        with machine_failures(_MEMORY_REMEDY):
            if work.todo:
                _describe(settings, work, teacher, skipped, console)
            merged = {side.name: _merge(work, side) for side in sides}
            stored = store_top_logits(settings, sides[0], teacher, skipped, console) if settings.top_logits else {}
    return _outcome(settings, work, merged, stored, skipped, console)


def _collect(settings: DescribeSettings, sides: tuple[Side, ...], skipped: SkipLog) -> _Work:
    """Look for what is to be done, and refuse to go on where another model left off."""
    work = _Work(sides)
    limit = settings.max_samples
    for side in sides:
        # With a limit, what the journal has counts too: else every run would go N pictures further.
        pictures = look_for_pictures(side, skipped, limit).pictures
        limit = None if limit is None else limit - len(pictures)
        work.lacking[side.name] = pictures
    for side in sides:
        journal = work.journals[side.name] = _journal(settings, side, work.lacking[side.name])
        names = {picture.image_name for picture in work.lacking[side.name]}
        kept = names & journal.described.keys()
        # Also of a journal that is complete: what is merged must be what was asked for.
        if names:
            journal.check(known_identity(settings))
        work.kept += len(kept)
        work.todo += len(names) - len(kept)
        for picture in work.lacking[side.name]:
            said = journal.described.get(picture.image_name)
            if said is not None and said.problem:
                skipped.add(file=picture.path, where=picture.where, key=picture.image_name, reason=said.problem)
    return work


def _journal(settings: DescribeSettings, side: Side, lacking: Rows[Picture]) -> Journal:
    """The journal of a file; with --overwrite an empty one, unless there is nothing to write into it."""
    if settings.overwrite and lacking:
        remove_file(side.journal)
    return Journal(side.journal)


def _describe(settings: DescribeSettings, work: _Work, teacher: Teacher, skipped: SkipLog, console: Console) -> None:
    engine = teacher.engine()
    identity = {**known_identity(settings), "content of --model": engine.weights}
    for side in work.sides:
        if any(picture.image_name not in work.journals[side.name].described for picture in work.lacking[side.name]):
            work.journals[side.name].begin(identity)
    if work.kept:
        console.info(f"{work.kept:,} descriptions are in the journal already.")
    length = engine.image_tokens if settings.group_by_length else None
    planned = plan_batches(_each_once(work), settings.batch_size, length)
    begun = time.monotonic()
    with Interrupts(console.warn) as interrupts, console.progress("Describing", work.todo) as bar:
        batches = read_ahead(_unfinished(planned, work), settings.num_workers)
        for batch in batches:
            new = sum(not work.has(picture) for picture, _ in batch)
            _describe_batch(settings, engine, batch, work, skipped)
            bar.advance(new, tokens=work.tokens)
            if interrupts.requested:
                batches.close()
                console.info(f"{work.described + work.kept:,} descriptions are in the journal.")
                raise KeyboardInterrupt
    work.seconds = time.monotonic() - begun


def _each_once(work: _Work) -> list[Picture]:
    """All that the metadata lack: a picture that several items name is described once."""
    pictures = chain.from_iterable(work.lacking.values())
    return list({(picture.side, picture.image_name): picture for picture in pictures}.values())


def _unfinished(batches: Iterable[list[Picture]], work: _Work) -> Iterator[list[Picture]]:
    """The batches of an uninterrupted run, whole, but for those that were done.

    What stands beside a picture, and how much padding, moves the last bits of its numbers (in 16-bit formats far enough
    to change a word), so a run that goes on does not make batches of its own.
    """
    return (batch for batch in batches if not all(map(work.has, batch)))


def _describe_batch(
    settings: DescribeSettings, engine: Engine, batch: list[Read[Picture]], work: _Work, skipped: SkipLog
) -> None:
    decoded = readable(batch, skipped)
    if all(work.has(picture) for picture, _ in decoded):
        return  # nothing was missing but pictures that cannot be read
    requests = [Request(image, picture_seed(settings.seed, picture.image_name)) for picture, image in decoded]
    for (picture, _), answer in zip(decoded, engine.describe(requests), strict=True):
        if work.has(picture):
            continue
        described = _cleaned(settings, picture, answer)
        work.journals[picture.side].add(described)
        work.tokens += answer.tokens
        if described.problem:
            skipped.add(file=picture.path, where=picture.where, key=picture.image_name, reason=described.problem)
        else:
            work.described += 1
            work.cut_off += answer.cut_off


def _cleaned(settings: DescribeSettings, picture: Picture, answer: Answer) -> Described:
    text = clean(answer.text, picture.title, cut_off=answer.cut_off, keep_title=settings.keep_title)
    problem = ""
    if text_problem(text):
        text, problem = "", NO_SENTENCE if answer.cut_off else NOTHING_SAID
    return Described(picture.image_name, text, answer.tokens, answer.cut_off, problem)


def _merge(work: _Work, side: Side) -> int:
    """Descriptions of the journal that found their place; a file to which nothing comes is not touched."""
    described = work.journals[side.name].described
    texts: dict[str, dict[str, str]] = defaultdict(dict)
    # In the file's order: the journal has that of the batches.
    for picture in work.lacking[side.name]:
        said = described.get(picture.image_name)
        if said is not None and said.text:
            texts[picture.home][picture.image_name] = said.text
    return merge(side, texts) if texts else 0


def _outcome(
    settings: DescribeSettings,
    work: _Work,
    merged: Mapping[str, int],
    stored: Mapping[str, Any],
    skipped: SkipLog,
    console: Console,
) -> Outcome:
    summary: dict[str, Any] = {
        "described": work.described,
        "from_the_journal": work.kept,
        "merged": dict(merged),
        "cut_off": work.cut_off,
        **({"descriptions_per_s": round(work.described / work.seconds, 2)} if work.described else {}),
        **({"tokens_per_s": round(work.tokens / work.seconds, 1)} if work.described else {}),
        "time": duration(work.seconds),
        **({"top_logits": dict(stored)} if stored else {}),
        **skipped.summary(),
    }
    if skipped.count:
        console.warn(f"{skipped.count:,} rows or pictures were left out; {skipped.path} lists them.")
    if not work.todo and not any(merged.values()):
        console.info("Every picture that is there has a description.")
    return Outcome(summary, next_step=f"Next: {_next(settings, work.sides)}")


def _next(settings: DescribeSettings, sides: Rows[Side]) -> str:
    """What to call on the described files."""
    written = {side.name: side.target for side in sides}
    flags: dict[str, object] = {
        "model": settings.model,
        "train_data": written.get("train", settings.train_data),
        "val_data": written.get("valid", settings.val_data),
        "train_images_dir": settings.train_images_dir,
        "val_images_dir": settings.val_images_dir,
    }
    if settings.top_logits:
        flags["objective"] = "nll+kl"
        flags |= {"logits_dir": settings.logits_dir} if settings.logits_dir else {}
    return "lavic distill " + " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in flags.items())
