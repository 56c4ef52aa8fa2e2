"""The one training loop, for distill and tune.

What is special to a task (its batches, its loss, its validation, what is saved as best) is a ``Task``;
the loop knows steps, accumulation, schedules, validation, checkpoints and resuming.

One optimizer step minimises (sum of nats over all target tokens of its micro-batches) / (their number):
the same whatever the micro-batch size and however uneven they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from collections.abc import Sequence as Rows
from contextlib import closing
from dataclasses import dataclass
from typing import NoReturn, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from lavic.errors import TrainingError
from lavic.training.checkpoints import RunState
from lavic.training.interrupts import Interrupts, StopRequested

#: fp16 steps in a row that may overflow. Each halves the loss scale: 25 take it from 65,536, where it begins, below a
#: hundredth, and gradients that do not fit then either never will.
MAX_OVERFLOWS = 25


@dataclass(frozen=True)
class LoopSettings:
    """How to train; intervals are in optimizer steps, 0 means never (an epoch's end always validates)."""

    lr: float = 5e-5
    gradient_clip: float = 1.0
    warmup: int = 0
    schedule: str = "constant"
    seed: int = 42
    epochs: int = 1
    max_steps: int | None = None
    validate_every: int = 0
    checkpoint_steps: int = 0
    checkpoint_minutes: float = 0.0
    patience: int | None = None

    def total_steps(self, per_epoch: int) -> int:
        """Optimizer steps of the whole run."""
        steps = per_epoch * self.epochs
        return steps if self.max_steps is None else min(steps, self.max_steps)


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did.

    Attributes:
        train_loss: nats per target token; NaN if no picture of the step could be read.
        gradient_norm: before clipping.
        seconds: with the wait for the pictures, without validation and checkpoint.
    """

    step: int
    epoch: float
    train_loss: float
    tokens: int
    samples: int
    lr: float
    gradient_norm: float
    seconds: float


class MicroStep(Protocol):
    """One forward pass over a micro-batch whose pictures have been read."""

    @property
    def names(self) -> tuple[str, ...]:
        """The samples in it; empty if none could be read."""

    @property
    def tokens(self) -> int:
        """Target tokens that ``nats`` sums over."""

    def nats(self) -> Tensor:
        """Sum of the target tokens' losses, with gradient."""


class Task(Protocol):
    """What the loop needs to know of a task."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""

    def steps(self, epoch: int, first: int) -> Generator[list[MicroStep], None, None]:
        """The optimizer steps of an epoch (0-based) from number ``first`` (0-based, in the epoch) on."""

    def validate(self, step: int, between_batches: Callable[[], None]) -> float:
        """Measure and report the loss that the best weights are chosen by (lower is better).

        ``between_batches`` may raise; nothing must have been reported then.
        """

    def keep_best(self, step: int) -> None:
        """Save the current weights as the best."""

    def astray(self, micro: MicroStep) -> tuple[str, ...]:
        """Samples of a micro-step whose loss has just come out not finite: those that it is, where they are known."""

    def step_done(self, report: StepReport) -> None:
        """Log a step."""

    def epoch_done(self, epoch: int) -> None:
        """Called behind the validation that ends an epoch (0-based)."""

    def save_checkpoint(self, state: RunState, *, record: bool) -> None:
        """Write a checkpoint of the state; ``record`` notes it among the run's events too."""


def learning_rate(settings: LoopSettings, step: int, total: int) -> float:
    """The rate of optimizer step ``step`` (0-based) of ``total``."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / (settings.warmup + 1)
    if settings.schedule == "cosine":
        progress = (step - settings.warmup) / max(1, total - settings.warmup)
        return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))
    return settings.lr


def seed_dropout(seed: int, step: int, micro_step: int) -> None:
    """Dropout of a micro-step is a function of its number, so a resumed run draws the same."""
    torch.manual_seed(((seed * 1_000_003 + step) * 1_000_003 + micro_step) % 2**63)


def first_of(names: Rows[str], most: int = 4) -> str:
    """``a.jpg, b.jpg``; of many the first ones, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class Trainer:
    """Runs a task to its end from wherever ``state`` stands."""

    def __init__(
        self,
        fabric: Fabric,
        task: Task,
        settings: LoopSettings,
        parameters: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        state: RunState,
        *,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.fabric, self.task, self.settings = fabric, task, settings
        self.parameters, self.optimizer, self.state = list(parameters.values()), optimizer, state
        # Steps go through Fabric's wrapper: with fp16 it skips a step whose scaled gradients overflowed.
        self._stepper = fabric.setup_optimizers(optimizer)
        self._precision = fabric.strategy.precision
        self._skips_overflow = bool(self._precision.state_dict())
        if state.scaler:
            self._precision.load_state_dict(state.scaler)
        self.total = settings.total_steps(task.steps_per_epoch)
        self._saved_at = self._step_began = time.monotonic()
        self._interrupts = Interrupts(notice)

    def run(self) -> RunState:
        """Train to the last step, or until validations stop improving.

        Raises:
            KeyboardInterrupt: the user stopped the run; its state is saved.
        """
        state = self.state
        with self._interrupts:
            if state.validation_due:
                self._between_steps()
            while state.step < self.total and not self._out_of_patience():
                self._epoch()
        state.finished = True
        self._save()
        return state

    def _epoch(self) -> None:
        """The steps of one epoch from where the state stands."""
        state, per_epoch = self.state, self.task.steps_per_epoch
        epoch, first = divmod(state.step, per_epoch)
        self._step_began = time.monotonic()
        with closing(self.task.steps(epoch, first)) as steps:
            for micro_steps in steps:
                self._step(micro_steps)
                self._between_steps()
                self._step_began = time.monotonic()
                if self._ends_epoch() or self._out_of_patience():
                    return

    def _ends_epoch(self) -> bool:
        return self.state.step % self.task.steps_per_epoch == 0 or self.state.step == self.total

    def _out_of_patience(self) -> bool:
        return self.settings.patience is not None and self.state.bad_validations >= self.settings.patience

    # -- one optimizer step --------------------------------------------------------------------------------

    def _step(self, micro_steps: list[MicroStep]) -> None:
        rate = learning_rate(self.settings, self.state.step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        nats, tokens, samples = self._accumulate(micro_steps)
        norm = 0.0
        if tokens:
            norm = self._clip(micro_steps)
            self._stepper.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        self.task.step_done(
            StepReport(
                step=self.state.step,
                epoch=self.state.step / self.task.steps_per_epoch,
                train_loss=nats / tokens if tokens else math.nan,
                tokens=tokens,
                samples=samples,
                lr=rate,
                gradient_norm=norm,
                # From the end of the step before: waiting for pictures counts.
                seconds=time.monotonic() - self._step_began,
            )
        )

    def _accumulate(self, micro_steps: list[MicroStep]) -> tuple[float, int, int]:
        """Gradients of (sum of nats) / (number of tokens) over all micro-steps; returns nats, tokens, samples."""
        filled = [(number, micro) for number, micro in enumerate(micro_steps) if micro.names]
        tokens = sum(micro.tokens for _, micro in filled)
        nats, samples = 0.0, 0
        for number, micro in filled:
            seed_dropout(self.settings.seed, self.state.step, number)
            total = micro.nats()
            value = float(total.detach())
            if not math.isfinite(value):
                names = first_of(self.task.astray(micro))
                raise TrainingError(
                    f"the loss of step {self.state.step + 1} is {value}, with {names} in it",
                    remedy="The last good checkpoint is kept. Look at these samples, or lower --lr.",
                )
            self.fabric.backward(total / tokens)
            nats += value
            samples += len(micro.names)
        return nats, tokens, samples

    def _clip(self, micro_steps: list[MicroStep]) -> float:
        """Shorten the gradient to ``gradient_clip``; returns its length before."""
        self._precision.unscale_gradients(self.optimizer)
        longest = self.settings.gradient_clip if self.settings.gradient_clip > 0 else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, longest))
        state = self.state
        state.overflows = 0 if math.isfinite(norm) else state.overflows + 1
        if state.overflows and (not self._skips_overflow or state.overflows >= MAX_OVERFLOWS):
            in_a_row = f", as in the {state.overflows - 1} steps before" if state.overflows > 1 else ""
            names = first_of([name for micro in micro_steps for name in micro.names])
            raise TrainingError(
                f"the gradient of step {state.step + 1} is {norm}{in_a_row}, with {names} in it",
                remedy="The last good checkpoint is kept. Lower --lr, or use another --precision.",
            )
        return norm

    # -- between steps -------------------------------------------------------------------------------------

    def _between_steps(self) -> None:
        """What follows the step that was done last: validation, checkpoint, and the end if the user wants it."""
        state, settings = self.state, self.settings
        ends_epoch = self._ends_epoch()
        validates = ends_epoch or (settings.validate_every > 0 and state.step % settings.validate_every == 0)
        state.validation_due = validates
        if validates and not self._validate():
            self._stop()
        state.validation_due = False
        if ends_epoch or self._out_of_patience():
            self.task.epoch_done((state.step - 1) // self.task.steps_per_epoch)
        by_steps = settings.checkpoint_steps > 0 and state.step % settings.checkpoint_steps == 0
        by_time = (
            settings.checkpoint_minutes > 0 and time.monotonic() - self._saved_at >= 60 * settings.checkpoint_minutes
        )
        if validates or by_steps or by_time:
            # What a clock decides leaves no row: runs of different speed have the same ones.
            self._save(record=validates or by_steps)
        if self._interrupts.requested:
            self._stop()

    def _stop(self) -> NoReturn:
        """Save what was reached and leave; an uninterrupted run would not have recorded this checkpoint."""
        self._save(record=False)
        raise KeyboardInterrupt

    def _save(self, *, record: bool = True) -> None:
        self.state.scaler = dict(self._precision.state_dict())
        self.task.save_checkpoint(self.state, record=record)
        self._saved_at = time.monotonic()

    def _validate(self) -> bool:
        """Validate and keep the best; False if the user stopped it, with nothing changed or reported.

        Raises:
            TrainingError: the loss is not finite, so that no later one could be called better or worse.
        """
        try:
            self._interrupts.check()
            loss = self.task.validate(self.state.step, self._interrupts.check)
        except StopRequested:
            return False
        if not math.isfinite(loss):
            raise TrainingError(
                f"the validation loss after step {self.state.step} is {loss}",
                remedy="The last good checkpoint is kept. Lower --lr, or use another --precision.",
            )
        if self.state.best_loss is None or loss < self.state.best_loss:
            self.state.best_loss, self.state.best_step, self.state.bad_validations = loss, self.state.step, 0
            self.task.keep_best(self.state.step)
        else:
            self.state.bad_validations += 1
        return True
