"""Stage 1 as a task of the training loop: its steps, its validation, what it writes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field

from torch import Tensor

from lavic.distill.card import CardFacts, model_card
from lavic.distill.criteria import write_val_metrics
from lavic.distill.evaluation import ValidationLoss, batch_loss, names_of, validate
from lavic.distill.samples import costs
from lavic.distill.teacher import TeacherStore
from lavic.errors import NothingLeftError
from lavic.model.adapters import set_lora_dropout
from lavic.model.losses import TEXT_ALONE, Objective
from lavic.model.prefix_cache import PrefixCache
from lavic.model.visual_tokens import FiveTokenModel
from lavic.training.loaders import MicroBatch, MicroBatches, micro_batches
from lavic.training.loop import MicroStep, StepReport
from lavic.training.sampler import epoch_batches, steps_per_epoch
from lavic.training.task import TrainTask

ADAPTER_FOLDER = "vision_lora_adapter_best"


@dataclass(frozen=True)
class DistillMicroStep:
    """A micro-batch with the model that it goes through."""

    task: DistillTask
    batch: MicroBatch

    @property
    def names(self) -> tuple[str, ...]:
        """Picture names of its samples."""
        return names_of(self.task.train, self.batch.indices)

    @property
    def tokens(self) -> int:
        """Target tokens, EOS included."""
        return sum(self.task.train.samples[index].sequence.target_tokens for index in self.batch.indices)

    def nats(self) -> Tensor:
        """Their summed loss, with gradient to the LoRA weights."""
        task, teacher = self.task, None
        if task.teacher is not None:
            teacher = task.teacher.tokens_of([task.train.samples[index] for index in self.batch.indices])
        with task.fabric.autocast():
            loss = batch_loss(task.model, self.batch, task.prefix, teacher, task.objective)
            task.judged = loss.detached()
            if loss.divergences is not None:
                task.parts.append((float(loss.total.detach()), float(loss.divergences.detach().sum())))
            return loss.weighed(task.objective)


@dataclass(kw_only=True)
class DistillTask(TrainTask):
    """See ``lavic.training.loop.Task``.

    Attributes:
        train, valid: the two sets; micro-batches are made from them in worker processes.
        prefix, valid_prefix: caches of what the prompts of each set start with.
        last: the last validation.
        best: validation of the adapter that is saved.
        teacher: its probabilities at every target token; None for an objective without them.
        parts: of the step that is being done, (nats, divergence) of each micro-batch; empty without a teacher.
    """

    model: FiveTokenModel
    train: MicroBatches
    valid: MicroBatches
    prefix: PrefixCache | None
    valid_prefix: PrefixCache | None
    workers: int
    objective: Objective = TEXT_ALONE
    teacher: TeacherStore | None = None
    last: ValidationLoss | None = None
    best: ValidationLoss | None = None
    unreadable: set[int] = field(default_factory=set)
    parts: list[tuple[float, float]] = field(default_factory=list)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last takes what is left."""
        return steps_per_epoch(len(self.train.samples), self.batch_size, self.accumulation)

    # -- steps ---------------------------------------------------------------------------------------------

    def steps(self, epoch: int, first: int) -> Generator[list[MicroStep], None, None]:
        """The optimizer steps of an epoch from number ``first`` on.

        Raises:
            NothingLeftError: the epoch is over and no picture could be read.
        """
        batches = epoch_batches(
            costs(self.train.samples),
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            by_length=self.group_by_length,
        )
        group: list[MicroStep] = []
        remaining = batches[first * self.accumulation :]
        set_lora_dropout(self.wrapped, True)
        with closing(micro_batches(self.train, remaining, workers=self.workers)) as batches_read:
            for number, batch in enumerate(batches_read, start=1):
                self.train.list_failed(batch.failed, self.skipped)
                self.notice(batch.notice)
                self.unreadable.update(index for index, _ in batch.failed)
                if len(self.unreadable) == len(self.train.samples):
                    raise NothingLeftError(
                        f"no training picture can be read; the last one: {batch.failed[-1][1]}",
                        where=str(self.train.samples[0].path.parent),
                        remedy=f"{self.skipped.path} lists them all.",
                    )
                group.append(DistillMicroStep(self, batch))
                if len(group) == self.accumulation or number == len(remaining):
                    self.parts.clear()
                    yield group
                    group = []

    def parts_of(self, report: StepReport) -> dict[str, float]:
        """The step's nats and divergence per target token, by what the log calls them; nothing without a teacher."""
        if not self.parts or not report.tokens:
            return {}
        nats, divergences = (math.fsum(column) for column in zip(*self.parts, strict=True))
        return {"train_nll": nats / report.tokens, "train_kl": divergences / report.tokens}

    # -- validation ----------------------------------------------------------------------------------------

    def validate(self, step: int, between_batches: Callable[[], None] = lambda: None) -> float:
        """Validation loss with EOS, which the best adapter is chosen by."""
        started = time.monotonic()
        self.last = self.measure(between_batches)
        self.log.validation(
            step,
            val_loss=self.last.loss_without_eos,
            val_perplexity=self.last.perplexity_without_eos,
            val_loss_with_eos=self.last.loss,
            val_perplexity_with_eos=self.last.perplexity,
            samples=self.last.samples,
            seconds=round(time.monotonic() - started, 2),
        )
        self.console.info(
            f"Step {step}: val_loss={self.last.loss_without_eos:.4f} "
            f"val_perplexity={self.last.perplexity_without_eos:.4f} (without EOS), "
            f"{self.last.loss:.4f} and {self.last.perplexity:.4f} with EOS, {self.last.samples} samples"
        )
        return self.last.loss

    def measure(self, between_batches: Callable[[], None] = lambda: None) -> ValidationLoss:
        """Loss of the validation set with the current weights, dropout off."""
        set_lora_dropout(self.wrapped, False)
        with self.fabric.autocast():
            result = validate(
                self.model,
                self.valid,
                prefix=self.valid_prefix,
                workers=self.workers,
                where=str(self.valid.samples[0].path.parent),
                on_failed=lambda failed: self.valid.list_failed(failed, self.skipped),
                on_batch=lambda _: between_batches(),
            )
        set_lora_dropout(self.wrapped, True)
        return result

    def keep_best(self, step: int) -> None:
        """Save the adapter, its configuration and its card."""
        assert self.last is not None, "the best is chosen by a validation"
        self.best = self.last
        card = model_card(
            CardFacts(
                base_name=self.base_name,
                lora=self.lora,
                train_samples=len(self.train.samples),
                step=step,
                trainable_parameters=self.trained,
                views=self.model.views,
                result=self.last,
            )
        )
        self.save_best(ADAPTER_FOLDER, card)

    def epoch_done(self, epoch: int) -> None:
        """Record the epoch's validation."""
        assert self.last is not None, "an epoch ends with a validation"
        write_val_metrics(self.output_dir, epoch + 1, self.last)
