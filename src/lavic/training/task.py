"""What the tasks of the training loop have in common: how a step is logged, and a checkpoint written."""

from __future__ import annotations

import math
import resource
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from peft import PeftModel
from torch import nn

from lavic.console import Console, Progress
from lavic.model.adapters import LoraSettings, save_adapter
from lavic.model.losses import TargetLoss
from lavic.skipped import SkipLog
from lavic.training.checkpoints import CHECKPOINT_FILE, RunState, save_checkpoint
from lavic.training.loop import MicroStep, StepReport
from lavic.training.run_log import RunLog


@dataclass(kw_only=True)
class TrainTask:
    """The part of a ``lavic.training.loop.Task`` that does not depend on what is trained.

    Attributes:
        wrapped: the model with LoRA, whose parameters these are.
        batch_size: samples of a micro-batch; ``accumulation`` micro-batches make an optimizer step.
        judged: the losses of the last micro-batch, one row a sample.
        best: validation of the adapter that is saved, a dataclass of figures.
        told: how many rows and pictures left out the text log has been told of.
    """

    fabric: Fabric
    wrapped: PeftModel
    lora: LoraSettings
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    batch_size: int
    accumulation: int
    seed: int
    group_by_length: bool
    output_dir: Path
    base_name: str
    skipped: SkipLog
    log: RunLog
    console: Console
    bar: Progress
    judged: TargetLoss | None = None
    best: Any = None
    told: int = 0
    noticed: set[str] = field(default_factory=set)

    def notice(self, notice: str) -> None:
        """Warn of something once."""
        if notice and notice not in self.noticed:
            self.noticed.add(notice)
            self.console.warn(notice)

    def astray(self, micro: MicroStep) -> tuple[str, ...]:
        """The samples of the last micro-batch with a token whose loss is not finite."""
        rows = [] if self.judged is None else self.judged.rows_astray
        # All where each is finite and only their sum is not.
        return tuple(micro.names[row] for row in rows) or micro.names

    def parts_of(self, report: StepReport) -> dict[str, float]:
        """Further losses of the step per target token, by what the log calls them."""
        return {}

    def step_done(self, report: StepReport) -> None:
        """Log a step and move the bar."""
        if self.skipped.count > self.told:
            # A line of the text log, no event: the list may grow at another step in a run that was resumed.
            self.told = self.skipped.count
            self.log.note(f"left out so far: {self.told} rows or pictures; {self.skipped.path} lists them")
        rate = report.samples / max(report.seconds, 1e-9)
        parts = self.parts_of(report)
        memory_gb = peak_memory_gb(self.fabric.device)
        self.log.step(
            report.step,
            train_loss=report.train_loss,
            lr=report.lr,
            **parts,
            epoch=round(report.epoch, 4),
            tokens=report.tokens,
            gradient_norm=report.gradient_norm,
            samples=report.samples,
            seconds=round(report.seconds, 4),
            samples_per_s=round(rate, 2),
            memory_gb=memory_gb,
        )
        self.bar.advance(
            1,
            loss=f"{report.train_loss:.3f}",
            ppl=f"{math.exp(min(parts.get('train_nll', report.train_loss), 20)):.2f}",
            samples_per_s=f"{rate:.1f}",
            memory=f"{memory_gb:.1f} GB",
        )

    @property
    def trained(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    def save_best(self, folder: str, card: str) -> None:
        """Save the adapter with its configuration and its card; ``folder`` is a name in the output folder."""
        save_adapter(self.wrapped, self.output_dir / folder, base_name=self.base_name, card=card)
        self.console.info("Best LoRA adapter saved.")

    def save_checkpoint(self, state: RunState, *, record: bool) -> None:
        """Write the one checkpoint file; its event row comes first, so that a whole checkpoint has all its rows.

        What a user's Ctrl-C saves is not recorded: an uninterrupted run would not have that row.
        """
        if record:
            self.log.checkpoint(state.step, path=CHECKPOINT_FILE, finished=state.finished)
        state.event_rows = self.log.rows
        state.best_result = None if self.best is None else asdict(self.best)
        save_checkpoint(self.output_dir, state, self.parameters, self.optimizer)


def peak_memory_gb(device: torch.device) -> float:
    """Most memory used so far: of the GPU if that is the run's device, else of this process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)
