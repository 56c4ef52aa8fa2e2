"""Training of stage 1, from a model with LoRA and its data to the end of the last step."""

from __future__ import annotations

from lavic.distill.config import DistillSettings
from lavic.distill.evaluation import ValidationLoss
from lavic.distill.setup import Data, make_accelerations, make_dataset, make_prefix
from lavic.distill.task import DistillTask
from lavic.distill.teacher import objective_of
from lavic.model.adapters import trainable_by_part
from lavic.model.visual_tokens import FiveTokenModel
from lavic.training.picture_cache import PictureCache
from lavic.training.run_log import RunLog
from lavic.training.runs import TrainingRun
from lavic.training.session import Session, Trainee


def train_to_end(
    run: TrainingRun[DistillSettings], student: Trainee, data: Data, log: RunLog, cache: PictureCache | None = None
) -> ValidationLoss | None:
    """Set up the task and train it to its end; the validation of the best adapter.

    Args:
        cache: where cut pictures are kept.
    """
    settings, base = run.settings, student.base
    session = Session(run, student, log, len(data.train))
    model = FiveTokenModel(base, make_accelerations(settings))
    with session.bar("Distilling") as bar:
        task = DistillTask(
            **session.task_fields(bar),
            model=model,
            train=make_dataset(data.train, data.builder, base, cache),
            valid=make_dataset(data.valid, data.builder, base, cache),
            prefix=make_prefix(model, data.train),
            valid_prefix=make_prefix(model, data.valid),
            workers=settings.num_workers,
            objective=objective_of(settings),
            teacher=data.teacher,
            best=run.best_so_far(ValidationLoss),
        )
        _announce(session, settings, data)
        session.train(task)
    return task.best


def _announce(session: Session, settings: DistillSettings, data: Data) -> None:
    """Say what is trained and what is frozen, and start the log."""
    console, wrapped = session.run.console, session.trainee.wrapped
    parts = trainable_by_part(wrapped)
    trained = sum(parts.values())
    everything = sum(parameter.numel() for parameter in wrapped.parameters())
    for part, count in parts.items():
        console.info(f"{part:>20}: " + (f"{count:,} LoRA parameters trained" if count else "frozen"))
    console.info(f"{'in all':>20}: {trained:,} trained, {everything - trained:,} frozen")
    console.info(f"{len(data.train)} training and {len(data.valid)} validation samples; {session.plan}")
    session.log_start("distill", data.train, data.valid)
    if data.teacher is not None:
        console.info(
            f"--objective {settings.objective}: the teacher's {data.teacher.k} likeliest tokens at each place, from "
            f"{data.teacher.folder}/; validation is the nll, as always"
        )
        if data.teacher.has_other_prompt(data.builder.prompts):
            console.warn("The teacher's probabilities were made with another prompt than this run's.")
