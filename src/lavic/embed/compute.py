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
from lavic.embed.pictures import PictureBatch, PictureBatches
from lavic.embed.writer import Entry, StoreWriter
from lavic.model.adapters import VISION_PARTS, load_vision_adapter, merge
from lavic.model.load import BaseModel
from lavic.model.visual_tokens import FiveTokenModel
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


class Tower:
    """A model's vision side on the device, with the stage-1 adapter merged in.

    The rest of ``base`` stays where it is: of the 7B's 15 GB only 0.7 are needed on a GPU.

    Raises:
        AdapterError: the adapter does not fit.
    """

    def __init__(self, settings: EmbedSettings, base: BaseModel, device: torch.device) -> None:
        if settings.adapter is not None:
            merge(load_vision_adapter(base.model, settings.adapter))
        self.view_size, self.views, self.device = base.view_size, base.family.views, device
        self._model = FiveTokenModel(base).eval()
        for part in VISION_PARTS:
            base.model.get_submodule(f"model.{part}").to(device)
        self._model.pixel_norm.to(device)

    @torch.inference_mode()
    def tokens(self, views: torch.Tensor) -> torch.Tensor:
        """[N, V, 3, s, s] uint8 to [N, V, D] on the CPU."""
        return self._model.visual_tokens(views.to(self.device, non_blocking=True)).cpu()


def embed(
    settings: EmbedSettings, console: Console, writer: StoreWriter, tower: Tower, work: Work, tally: Tally
) -> None:
    """Compute and store what is pending.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; the batch that was under way is stored.
        OutputError: the disk is full, for example; whole batches stay.
    """
    facts = {"batch_size": settings.batch_size, "threads": torch.get_num_threads(), "device": tower.device.type}
    _warn_of_other_bits(console, writer.ledger, facts)
    writer.begin(facts)
    dataset = PictureBatches(work.pictures, settings.batch_size, view_size=tower.view_size, views=tower.views)
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


def _store(writer: StoreWriter, tower: Tower, work: Work, batch: PictureBatch, tally: Tally) -> None:
    """The tokens of one batch into the store; what cannot be used is listed."""
    problems = {cut.index: cut.problem for cut in batch.cuts if cut.problem}
    usable = [cut for cut in batch.cuts if not cut.problem]
    if usable:
        tokens = tower.tokens(batch.views).to(writer.dtype)
        finite = tokens.flatten(1).isfinite().all(dim=1).tolist()  # what fits into fp32 may not fit into fp16
        problems |= {cut.index: NOT_FINITE for cut in usable if not finite[cut.slot]}
        kept = [cut for cut in usable if finite[cut.slot]]
        if kept:
            entries = [Entry(*work.pictures[cut.index].key, cut.size, cut.mark) for cut in kept]
            writer.append(entries, tokens[[cut.slot for cut in kept]])
        tally.embedded += len(kept)
    for index in sorted(problems):
        tally.list(problem_of(work.pictures[index], problems[index]))
