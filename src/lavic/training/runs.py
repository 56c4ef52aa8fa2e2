"""What a training run does around its training: its folder, what it may be resumed with, its last line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from lavic.console import Console, Outcome
from lavic.files import prepare_output
from lavic.folders import LOCK_NAME
from lavic.skipped import SkipLog
from lavic.training.checkpoints import RunState, read_state
from lavic.training.devices import choose_device, choose_precision
from lavic.training.identity import identity_of
from lavic.training.loop import LoopSettings
from lavic.training.run_log import EVENTS_FILE, PROCESS_FILE, SKIPPED_FILE, RunLog, read_rows
from lavic.training.sampler import steps_per_epoch
from lavic.training.settings import TrainingSettings

#: Settings that may differ between a run and its resumption without changing its result. Prompts may lie elsewhere
#: by now: their content is compared.
_FREE_TO_CHANGE = {
    "prompts",
    "checkpoint_every",
    "log_dir",
    "resume",
    "overwrite",
    "output_dir",
    "validate_before_training",
    "skip_gpu_check",
}


def prepare_run(settings: TrainingSettings, known: tuple[str, ...]) -> RunState | None:
    """Make the output folder ready; the state to resume from, if any.

    Args:
        known: what a run writes into its folder; --overwrite deletes these and nothing else.

    Raises:
        OutputError: the folder holds something that is not to be replaced, or cannot be written.
    """
    folder = settings.output_dir
    skipped = folder / SKIPPED_FILE
    if skipped.is_file() and {path.name for path in folder.iterdir()} <= {SKIPPED_FILE, LOCK_NAME}:
        # A run that found nothing to train on: it left the list of what was wrong with the data, no more.
        skipped.unlink()
    state = read_state(folder) if folder.is_dir() and not settings.overwrite else None
    holds = ""
    if state is not None:
        holds = f"a run at step {state.step}" + (" (finished)" if state.finished else "")
    prepare_output(folder, resume=settings.resume, overwrite=settings.overwrite, known=known, holds=holds)
    return state if settings.resume else None


def run_identity(
    settings: TrainingSettings, *, free: Iterable[str], files: Mapping[str, Path | None]
) -> dict[str, str]:
    """What must be the same for a resumed run, as far as it is known before the model is loaded.

    Args:
        free: the command's own settings that do not change the result.
        files: flag -> file whose content counts.
    """
    device = choose_device(settings.device)
    # What `auto` means may change between two calls.
    resolved = {"device": device.type, "precision": choose_precision(settings.precision, device)}
    return identity_of({**settings.model_dump(mode="json"), **resolved}, free=_FREE_TO_CHANGE.union(free), files=files)


def loop_settings(settings: TrainingSettings, samples: int) -> LoopSettings:
    """The loop's settings, with intervals in optimizer steps."""
    per_epoch = steps_per_epoch(samples, settings.batch_size, settings.gradient_accumulation)
    validation, checkpoint = settings.validation_interval, settings.checkpoint_interval
    every = validation.amount * (per_epoch if validation.unit == "epochs" else 1)
    return LoopSettings(
        lr=settings.lr,
        gradient_clip=settings.gradient_clip,
        warmup=settings.warmup,
        schedule=settings.schedule,
        seed=settings.seed,
        epochs=settings.num_epochs,
        max_steps=settings.max_steps,
        validate_every=max(1, round(every)) if settings.val_every else 0,
        checkpoint_steps=int(checkpoint.amount) if checkpoint.unit == "steps" else 0,
        checkpoint_minutes=checkpoint.amount if checkpoint.unit == "minutes" else 0.0,
        patience=settings.early_stopping,
    )


def finished_already(settings: TrainingSettings, console: Console, skipped: SkipLog, state: RunState) -> Outcome:
    """Say so; a run that was killed between its last checkpoint and its last line gets that line."""
    folder = settings.output_dir
    if not any(row["kind"] == "end" and row.get("status") == "finished" for row in read_rows(folder / EVENTS_FILE)):
        with RunLog(folder, settings.log_dir, resume_step=state.step, resume_rows=state.event_rows) as log:
            log_end(log, state, skipped)
    (folder / PROCESS_FILE).unlink(missing_ok=True)
    console.info(f"The run in {folder}/ has finished already, at step {state.step}.")
    return Outcome(summary={"output_dir": str(folder), "step": state.step, "status": "finished"})


def log_end(log: RunLog, state: RunState, skipped: SkipLog) -> None:
    """The last rows of a run that came to its end."""
    if skipped.count:
        log.skipped(skipped.count, reasons=dict(skipped.by_reason))
    log.end("finished", best_step=state.best_step, best_loss=state.best_loss)
