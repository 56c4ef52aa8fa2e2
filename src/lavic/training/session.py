"""What every run trains with: LoRA on the base model, Fabric, the optimizer as the checkpoint left it, the loop."""

from __future__ import annotations

from collections.abc import Callable, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel

from lavic.console import Progress
from lavic.model.adapters import LoraSettings, lora_parameters
from lavic.model.load import BaseModel
from lavic.training.checkpoints import restore
from lavic.training.devices import choose_device, choose_precision, make_fabric
from lavic.training.loop import Task, Trainer
from lavic.training.run_log import RunLog
from lavic.training.runs import TrainingRun, loop_settings
from lavic.training.sampler import steps_per_epoch
from lavic.training.settings import TrainingSettings


@dataclass(frozen=True)
class Trainee:
    """A base model and the LoRA weights on it, which alone are trained."""

    base: BaseModel
    wrapped: PeftModel
    lora: LoraSettings

    @property
    def trained(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in lora_parameters(self.wrapped).values())


def with_lora(settings: TrainingSettings, base: BaseModel, attach: Callable[..., PeftModel]) -> Trainee:
    """The base model with fresh LoRA weights.

    Args:
        attach: puts them where the command trains, such as ``adapters.attach_vision_lora``.
    """
    lora = LoraSettings(settings.lora_r, settings.lora_alpha, settings.lora_dropout)
    wrapped = attach(base.model, lora, seed=settings.seed)
    wrapped.to(base.model.device)
    return Trainee(base, wrapped, lora)


class Session:
    """A run from its first (or next) optimizer step to its last.

    Args:
        samples: how many it trains on.

    Raises:
        OutputError: the checkpoint that it goes on from is damaged, or belongs to another model or other LoRA settings.

    Attributes:
        total: optimizer steps of the whole run.
    """

    def __init__(self, run: TrainingRun[Any], trainee: Trainee, log: RunLog, samples: int) -> None:
        self.run, self.trainee, self.log = run, trainee, log
        settings: TrainingSettings = run.settings
        device = choose_device(settings.device)
        self.precision = choose_precision(settings.precision, device)
        self.fabric = make_fabric(device, self.precision)
        self.parameters = lora_parameters(trainee.wrapped)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay)
        if run.resumed:
            restore(settings.output_dir, self.parameters, self.optimizer)
        self.loop = loop_settings(settings, samples)
        self.total = self.loop.total_steps(
            steps_per_epoch(samples, settings.batch_size, settings.gradient_accumulation)
        )

    @property
    def plan(self) -> str:
        """How many steps of how many samples, and what they are computed with."""
        settings = self.run.settings
        return (
            f"{self.total} optimizer steps of {settings.batch_size} x {settings.gradient_accumulation} samples; "
            f"{self.precision} on {self.trainee.base.model.device}"
        )

    def bar(self, doing: str) -> AbstractContextManager[Progress]:
        """The bar of the steps that are left."""
        return self.run.console.progress(doing, self.total - self.run.state.step)

    def task_fields(self, bar: Progress) -> dict[str, Any]:
        """The fields of ``lavic.training.task.TrainTask``, for the command's own task."""
        settings = self.run.settings
        return {
            "fabric": self.fabric,
            "wrapped": self.trainee.wrapped,
            "lora": self.trainee.lora,
            "parameters": self.parameters,
            "optimizer": self.optimizer,
            "batch_size": settings.batch_size,
            "accumulation": settings.gradient_accumulation,
            "seed": settings.seed,
            "group_by_length": settings.group_by_length,
            "output_dir": settings.output_dir,
            "base_name": self.trainee.base.name,
            "skipped": self.run.skipped,
            "log": self.log,
            "console": self.run.console,
            "bar": bar,
        }

    def log_start(self, command: str, train: Sized, valid: Sized, **facts: Any) -> None:
        """The log's first row; ``facts`` are what the command has to add."""
        self.log.start(
            command,
            total_steps=self.total,
            settings=self.run.settings.model_dump(mode="json"),
            train_samples=len(train),
            val_samples=len(valid),
            trainable_parameters=self.trainee.trained,
            **facts,
        )

    def train(self, task: Task) -> None:
        """Train to the end of the last step.

        Raises:
            KeyboardInterrupt: the user stopped the run; its state is saved.
        """
        settings, console, state = self.run.settings, self.run.console, self.run.state
        if settings.warmup >= self.total:
            console.warn(f"--warmup {settings.warmup} is longer than the run, which never comes to its full rate.")
        if self.run.resumed:
            console.info(f"Resumed at step {state.step} of {self.total}")
        elif settings.resume:
            console.info(f"{settings.output_dir}/ holds no checkpoint: the run starts at step 0.")
        trainer = Trainer(self.fabric, task, self.loop, self.parameters, self.optimizer, state, notice=console.info)
        if settings.validate_before_training and not self.run.resumed:
            task.validate(0, lambda: None)
        trainer.run()
