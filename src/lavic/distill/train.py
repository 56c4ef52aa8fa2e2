"""Training of stage 1, from a model with LoRA and its data to the end of the last step."""

from __future__ import annotations

import torch
from peft import PeftModel

from lavic.console import Console
from lavic.distill.config import DistillSettings
from lavic.distill.evaluation import ValidationLoss
from lavic.distill.setup import Data, make_accelerations, make_dataset, make_prefix
from lavic.distill.task import DistillTask
from lavic.distill.teacher import objective_of
from lavic.formats import SkipLog
from lavic.model.adapters import LoraSettings, lora_parameters, trainable_by_part
from lavic.model.load import BaseModel
from lavic.model.visual_tokens import FiveTokenModel
from lavic.training.checkpoints import RunState, restore
from lavic.training.devices import choose_device, choose_precision, make_fabric
from lavic.training.loop import Trainer
from lavic.training.run_log import RunLog
from lavic.training.runs import loop_settings
from lavic.training.sampler import steps_per_epoch


def train_to_end(
    settings: DistillSettings,
    console: Console,
    skipped: SkipLog,
    state: RunState,
    base: BaseModel,
    wrapped: PeftModel,
    lora: LoraSettings,
    data: Data,
    log: RunLog,
    *,
    resumed: bool,
) -> ValidationLoss | None:
    """Set up the task and train it to its end; the validation of the best adapter."""
    device = choose_device(settings.device)
    fabric = make_fabric(device, choose_precision(settings.precision, device))
    parameters = lora_parameters(wrapped)
    optimizer = torch.optim.AdamW(parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay)
    if resumed:
        restore(settings.output_dir, parameters, optimizer)
    model = FiveTokenModel(base, make_accelerations(settings))
    loop = loop_settings(settings, len(data.train))
    total = loop.total_steps(steps_per_epoch(len(data.train), settings.batch_size, settings.gradient_accumulation))
    with console.progress("Distilling", total - state.step) as bar:
        task = DistillTask(
            fabric=fabric,
            model=model,
            wrapped=wrapped,
            lora=lora,
            parameters=parameters,
            optimizer=optimizer,
            train=make_dataset(data.train, data.builder, base, settings.picture_cache),
            valid=make_dataset(data.valid, data.builder, base, settings.picture_cache),
            prefix=make_prefix(model, data.train),
            valid_prefix=make_prefix(model, data.valid),
            batch_size=settings.batch_size,
            accumulation=settings.gradient_accumulation,
            seed=settings.seed,
            group_by_length=settings.group_by_length,
            workers=settings.num_workers,
            output_dir=settings.output_dir,
            base_name=base.name,
            skipped=skipped,
            log=log,
            console=console,
            bar=bar,
            objective=objective_of(settings),
            teacher=data.teacher,
            best=None if state.best_result is None else ValidationLoss(**state.best_result),  # type: ignore[arg-type]
        )
        trainer = Trainer(fabric, task, loop, parameters, optimizer, state, notice=console.info)
        _announce(settings, console, log, base, wrapped, data, total, state, resumed=resumed)
        if settings.validate_before_training and not resumed:
            task.validate(0)
        trainer.run()
    return task.best


def _announce(
    settings: DistillSettings,
    console: Console,
    log: RunLog,
    base: BaseModel,
    wrapped: PeftModel,
    data: Data,
    total: int,
    state: RunState,
    *,
    resumed: bool,
) -> None:
    """Say what is trained and what is frozen, and start the log."""
    parts = trainable_by_part(wrapped)
    trained = sum(parts.values())
    everything = sum(parameter.numel() for parameter in wrapped.parameters())
    for part, count in parts.items():
        console.info(f"{part:>20}: " + (f"{count:,} LoRA parameters trained" if count else "frozen"))
    console.info(f"{'in all':>20}: {trained:,} trained, {everything - trained:,} frozen")
    log_format = choose_precision(settings.precision, base.model.device)
    console.info(
        f"{len(data.train)} training and {len(data.valid)} validation samples; {total} optimizer steps of "
        f"{settings.batch_size} x {settings.gradient_accumulation} samples; {log_format} on {base.model.device}"
    )
    log.start(
        "distill",
        total_steps=total,
        settings=settings.model_dump(mode="json"),
        train_samples=len(data.train),
        val_samples=len(data.valid),
        trainable_parameters=trained,
    )
    if data.teacher is not None:
        console.info(
            f"--objective {settings.objective}: the teacher's {data.teacher.k} likeliest tokens at each place, from "
            f"{data.teacher.folder}/; validation is the nll, as always"
        )
        if data.teacher.has_other_prompt(data.builder.prompts):
            console.warn("The teacher's probabilities were made with another prompt than this run's.")
    if settings.warmup >= total:
        console.warn(f"--warmup {settings.warmup} is longer than the run, which never comes to its full rate.")
    if resumed:
        console.info(f"Resumed at step {state.step} of {total}")
