"""From pictures to tokens in the store: the model's vision side, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lavic.console import Console
from lavic.embed.config import EmbedSettings
from lavic.embed.items import Problem
from lavic.embed.ledger import Ledger
from lavic.embed.pending import Work, problem_of
from lavic.embed.towers import CutPictures, Tower
from lavic.embed.writer import Entry, StoreWriter
from lavic.skipped import SkipLog
from lavic.training.interrupts import Interrupts
from lavic.training.loaders import micro_batches

NOT_FINITE = "its visual tokens are not finite numbers"


@dataclass
class Tally:
    """What a run comes to.

    Attributes:
        skipped: what was left out.
        bad: (item ID, number) -> what is wrong with a picture.
    """

    skipped: SkipLog
    bad: dict[tuple[str, int], str] = field(default_factory=dict)
    embedded: int = 0
    seconds: float = 0.0

    def list(self, problem: Problem) -> None:
        """A picture cannot be used."""
        self.skipped.add(file=problem.file, where=problem.where, key=problem.image_name, reason=problem.reason)
        self.bad[problem.key] = problem.reason


def embed(
    settings: EmbedSettings,
    console: Console,
    writer: StoreWriter,
    tower: Tower[Any],
    work: Work,
    tally: Tally,
) -> None:
    """Compute and store what is pending.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; the batch that was under way is stored.
        OutputError: the disk is full, for example; whole batches stay.
    """
    facts = {"batch_size": settings.batch_size, "threads": torch.get_num_threads(), "device": tower.device.type}
    _warn_of_other_bits(console, writer.ledger, facts)
    writer.begin(facts)
    dataset = tower.batches(work.pictures, settings.batch_size)
    batches = list(work.batches(settings.batch_size))
    begun = time.monotonic()
    with Interrupts(console.warn) as interrupts, console.progress("Embedding", len(work.pending)) as bar:
        reader = micro_batches(dataset, batches, workers=settings.num_workers)
        for batch in reader:
            _store(writer, tower, work, batch, tally)
            bar.advance(len(batch.cuts))
            if interrupts.requested:
                reader.close()
                console.info(f"The tokens of {len(writer.ledger.pictures):,} pictures are in {settings.output_dir}/.")
                raise KeyboardInterrupt
    tally.seconds = time.monotonic() - begun


def _warn_of_other_bits(console: Console, ledger: Ledger, facts: Mapping[str, Any]) -> None:
    """A run that goes on otherwise than it began is right, but not the same to the last bit."""
    before = ledger.run or facts
    changed = [f"{name} {before.get(name)}, now {now}" for name, now in facts.items() if before.get(name) != now]
    if changed:
        console.warn(f"The run began with {'; '.join(changed)}: the last bits of the other tokens may differ.")


def _store(writer: StoreWriter, tower: Tower[Any], work: Work, batch: CutPictures, tally: Tally) -> None:
    """The tokens of one batch into the store; what cannot be used is listed."""
    problems = {cut.index: cut.problem for cut in batch.cuts if cut.problem}
    usable = [cut for cut in batch.cuts if not cut.problem]
    if usable:
        tokens = [each.to(writer.dtype) for each in tower.tokens(batch)]
        finite = [bool(each.isfinite().all()) for each in tokens]  # what fits into fp32 may not fit into fp16
        problems |= {cut.index: NOT_FINITE for cut in usable if not finite[cut.slot]}
        kept = [cut for cut in usable if finite[cut.slot]]
        if kept:
            entries = [Entry(*work.pictures[cut.index].key, cut.size, cut.mark, len(tokens[cut.slot])) for cut in kept]
            writer.append(entries, torch.cat([tokens[cut.slot] for cut in kept]))
        tally.embedded += len(kept)
    for index in sorted(problems):
        tally.list(problem_of(work.pictures[index], problems[index]))
