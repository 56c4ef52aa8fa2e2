"""A training run around its training: its folder, what it may be resumed with, its log, its last line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch

from lavic.config import CONFIG_FILE, VERSIONS_FILE
from lavic.console import Console, Outcome
from lavic.files import FolderLock, prepare_output
from lavic.folders import LOCK_NAME
from lavic.model.load import BaseModel
from lavic.skipped import SkipLog
from lavic.training.checkpoints import CHECKPOINT_FILE, RunState, read_state
from lavic.training.devices import choose_device, choose_precision
from lavic.training.identity import check_same_run, identity_of, weights_mark
from lavic.training.loop import LoopSettings
from lavic.training.run_log import (
    EVENTS_FILE,
    RUN_LOG_NAMES,
    SKIPPED_FILE,
    RunLog,
    check_log_folder,
    read_events,
)
from lavic.training.run_process import forget_process
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
    # Both change nothing where there is one device, and lavic takes one.
    "strategy",
    "devices",
}

#: What to say of a folder with the rows of a finished run (``has_finished``) and no state to go on from.
LOST_CHECKPOINT = f"a finished run without its {CHECKPOINT_FILE}, which --resume needs"

S = TypeVar("S", bound=TrainingSettings)
Result = TypeVar("Result")


@dataclass
class TrainingRun(Generic[S]):
    """One run, new or resumed.

    Attributes:
        skipped: the rows and pictures that it leaves out.
        state: where it stands.
        resumed: whether ``state`` is a checkpoint's.
        identity: what must be the same for it to be resumed, as far as it is known.
        outputs: what such a run writes into its folder.
    """

    settings: S
    console: Console
    skipped: SkipLog
    state: RunState = field(default_factory=lambda: RunState(threads=torch.get_num_threads()))
    resumed: bool = False
    identity: dict[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()

    def begin(self, base: BaseModel, marks: Mapping[str, str]) -> None:
        """All that decides the run is known: see that it is the one that is resumed, and save its settings.

        Only now an older run is deleted that is to be replaced: nothing can be refused any more.

        Args:
            marks: what else must be the same besides settings, files and model, by the name that a user knows.

        Raises:
            OutputError: the folder holds a run with other settings or data, or cannot be written.
        """
        self.identity |= {"content of --model": weights_mark(base.model), **marks}
        if self.resumed:
            check_same_run(self.state, self.identity, self.settings.output_dir, self.console.warn)
        else:
            self.state.identity = self.identity
        if self.settings.overwrite:
            folder = self.settings.output_dir
            prepare_output(folder, resume=False, overwrite=True, known=self.outputs)
            self.skipped.keep_at(folder / SKIPPED_FILE)
        self.settings.save(self.settings.output_dir)

    @contextmanager
    def logged(self, left_out: str) -> Iterator[RunLog]:
        """The run's log; a block that comes to its end writes the rows of a finished run.

        Args:
            left_out: what the closing warning calls the rows that were left out.
        """
        with self._open_log(self.console) as log:
            yield log
            if self.skipped.count:
                self.console.warn(f"{self.skipped.count} {left_out} were left out; {self.skipped.path} lists them.")
            self._log_end(log)

    def finished_already(self) -> Outcome:
        """Say so; a run that was killed between its last checkpoint and its last line gets that line."""
        folder = self.settings.output_dir
        if not has_finished(folder):
            with self._open_log(None) as log:
                self._log_end(log)
        forget_process(folder)
        self.console.info(f"The run in {folder}/ has finished already, at step {self.state.step}.")
        return Outcome(summary={"output_dir": str(folder), "step": self.state.step, "status": "finished"})

    def best_so_far(self, kind: Callable[..., Result]) -> Result | None:
        """The best validation that the checkpoint knows of, as ``kind`` holds it."""
        return None if self.state.best_result is None else kind(**self.state.best_result)

    def _open_log(self, console: Console | None) -> RunLog:
        return RunLog(
            self.settings.output_dir,
            self.settings.log_dir,
            console=console,
            resume_step=self.state.step if self.resumed else None,
            resume_rows=self.state.event_rows if self.resumed else None,
        )

    def _log_end(self, log: RunLog) -> None:
        if self.skipped.count:
            log.skipped(self.skipped.count, reasons=dict(self.skipped.by_reason))
        for what, count in self.skipped.notes.most_common():
            log.note(f"{count:,} {what}")
        log.end("finished", best_step=self.state.best_step, best_loss=self.state.best_loss)


@contextmanager
def open_run(
    settings: S, console: Console, known_identity: Callable[[S], dict[str, str]], *, adapter_folder: str
) -> Iterator[TrainingRun[S]]:
    """Hold the output folder and find the run that it holds, or make it ready for a new one.

    Args:
        known_identity: what must be the same for a resumed run, as far as it is known before the model is loaded.
        adapter_folder: the name of the folder that the best adapter is written to.

    Raises:
        OutputError: the folder holds something that is not to be replaced, another run, or cannot be written; or
            another run writes there; or no log can be written.
    """
    folder = settings.output_dir
    with FolderLock(folder):
        outputs = run_outputs(adapter_folder)
        state = _prepare_folder(settings, outputs)
        identity = known_identity(settings)
        if state is not None:
            check_same_run(state, identity, folder, console.warn, whole=False)
        if state is None or not state.finished:
            # Now, not where the log begins: by then the older run is deleted, or the settings lie in a new folder.
            check_log_folder(settings.log_dir)
        path = None if settings.overwrite else folder / SKIPPED_FILE
        with SkipLog(path, resume=state is not None, aside=settings.overwrite) as skipped:
            if state is None:
                yield TrainingRun(settings, console, skipped, identity=identity, outputs=outputs)
            else:
                yield TrainingRun(settings, console, skipped, state, resumed=True, identity=identity)


def run_outputs(adapter_folder: str) -> tuple[str, ...]:
    """What a run writes into its folder; --overwrite deletes these and nothing else.

    The checkpoint stands first: a kill in between must not leave one without what belongs to it.
    """
    files = ("val_metrics_epoch_*.txt", SKIPPED_FILE, CONFIG_FILE, VERSIONS_FILE)
    return (CHECKPOINT_FILE, *RUN_LOG_NAMES, adapter_folder, *files)


def _prepare_folder(settings: TrainingSettings, known: tuple[str, ...]) -> RunState | None:
    """Make the output folder ready; the state to resume from, if any. What --overwrite replaces stays for now."""
    folder = settings.output_dir
    if settings.overwrite:
        prepare_output(folder, resume=True, overwrite=False, known=known)
        return None
    skipped = folder / SKIPPED_FILE
    if skipped.is_file() and {path.name for path in folder.iterdir()} <= {SKIPPED_FILE, LOCK_NAME}:
        # A run that found nothing to train on: it left the list of what was wrong with the data, no more.
        skipped.unlink()
    state = read_state(folder) if folder.is_dir() else None
    holds, can_resume = "", True
    if state is not None:
        holds = f"a run at step {state.step}" + (" (finished)" if state.finished else "")
    elif has_finished(folder):
        # Begun anew by --resume, it would lose its adapter without a word.
        holds, can_resume = LOST_CHECKPOINT, False
    resume = settings.resume and can_resume
    prepare_output(folder, resume=resume, overwrite=False, known=known, holds=holds, can_resume=can_resume)
    return state if resume else None


def has_finished(folder: Path) -> bool:
    """Whether the rows of a run in this folder come to its end."""
    rows = read_events(folder / EVENTS_FILE)
    return any(row["kind"] == "end" and row.get("status") == "finished" for row in rows)


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
