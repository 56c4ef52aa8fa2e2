"""``lavic distill --dry_run N``: memory and time of the planned run, measured on a few of its steps.

The steps are true ones, of the same loop with the same settings, in a temporary folder that is removed however the dry
run ends. First come the longest samples, which show the most memory the run will take, then ordinary ones, which show
its speed.
"""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lavic.console import Console, Outcome, Progress
from lavic.distill.config import DistillSettings
from lavic.distill.evaluation import VALIDATION_BATCH
from lavic.distill.run_time import (
    WARM_UP,
    Plan,
    Timings,
    after_warm_up,
    longest,
    plan_of,
    spread,
    tokens_of,
    whole_run_s,
)
from lavic.distill.samples import costs
from lavic.distill.setup import Data, collect_data, make_dataset, read_metadata
from lavic.distill.train import train_to_end
from lavic.errors import NothingLeftError
from lavic.files import write_atomic
from lavic.model.adapters import attach_vision_lora
from lavic.rendering import duration
from lavic.skipped import SkipLog
from lavic.training.base_model import load_model
from lavic.training.checkpoints import CHECKPOINT_FILE
from lavic.training.devices import choose_device
from lavic.training.interrupts import stopping_signals
from lavic.training.loaders import Sample
from lavic.training.run_log import RunLog
from lavic.training.runs import TrainingRun, loop_settings
from lavic.training.sampler import epoch_batches
from lavic.training.session import Trainee, with_lora
from lavic.training.task import peak_memory_gb

#: Validation samples that are timed at most.
TIMED_VALIDATION = 6 * VALIDATION_BATCH


class Stopwatch(RunLog):
    """The log of a dry run's steps: it goes to the temporary folder, and the times stay here.

    Attributes:
        steps: seconds of each step.
        validation_s: seconds of the last validation.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        super().__init__(folder, folder, console=console, tensorboard=False)
        self.steps: list[float] = []
        self.validation_s = 0.0

    def start(self, command: str, *, total_steps: int, settings: Any = None, **fields: Any) -> None:
        """Nothing: neither TensorBoard nor Weights & Biases shall hear of a dry run."""

    def step(self, step: int, *, train_loss: float, lr: float, **fields: Any) -> None:
        """Log the step and keep its seconds."""
        super().step(step, train_loss=train_loss, lr=lr, **fields)
        self.steps.append(float(fields["seconds"]))

    def validation(self, step: int, *, val_loss: float, val_perplexity: float, **fields: Any) -> None:
        """Log the validation and keep its seconds."""
        super().validation(step, val_loss=val_loss, val_perplexity=val_perplexity, **fields)
        self.validation_s = float(fields["seconds"])


class _PartConsole(Console):
    """Bars and warnings only: losses and what was "saved" mean nothing in a dry run."""

    def __init__(self, outer: Console) -> None:
        super().__init__(json=outer.json, stdout=outer.stdout, stderr=outer.stderr)
        self._outer = outer

    def info(self, text: str) -> None:
        """Dropped."""

    @contextmanager
    def progress(self, description: str, total: int | None) -> Iterator[Progress]:
        """The real console's bar."""
        with self._outer.progress(description, total) as bar:
            yield bar


def run_dry(settings: DistillSettings, console: Console) -> Outcome:
    """Measure the planned run on ``settings.dry_run`` steps; nothing is left behind.

    Raises:
        LavicError: as the run itself; a full GPU too, which is what a dry run is for.
    """
    assert settings.dry_run is not None, "called for a dry run only"
    begun = time.monotonic()
    skipped = SkipLog()
    described = read_metadata(settings, skipped)
    base = load_model(settings, console)
    data = collect_data(settings, base, described, skipped)
    steps, settings = settings.dry_run, _possible(settings, len(data.train))
    bench = _Bench(settings, console, skipped, with_lora(settings, base, attach_vision_lora), data)
    with _temporary_folder() as folder:
        timings = bench.measure(folder, steps, begun)
    plan = plan_of(loop_settings(settings, len(data.train)), settings, len(data.train), timings)
    return _outcome(settings, console, data, plan, timings, skipped)


def _possible(settings: DistillSettings, samples: int) -> DistillSettings:
    """The same with steps no larger than those of the run itself: here few samples come again and again."""
    batch_size = min(settings.batch_size, samples)
    accumulation = min(settings.gradient_accumulation, -(-samples // batch_size))
    return settings.model_copy(update={"batch_size": batch_size, "gradient_accumulation": accumulation})


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder that is removed however the block ends, by signals too that would end Python on the spot."""
    in_main = threading.current_thread() is threading.main_thread()
    kinds = [kind for kind in stopping_signals() if kind is not signal.SIGINT] if in_main else []
    before = {kind: signal.signal(kind, signal.default_int_handler) for kind in kinds}
    try:
        with tempfile.TemporaryDirectory(prefix="lavic-dry-run-") as folder:
            yield Path(folder)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@dataclass(frozen=True)
class _Bench:
    """What both parts of a dry run work with."""

    settings: DistillSettings
    console: Console
    skipped: SkipLog
    student: Trainee
    data: Data

    def measure(self, folder: Path, steps: int, begun: float) -> Timings:
        """Train ``steps`` on the longest samples, then half as many (five at least) on ordinary ones."""
        long = longest(self.data.train, steps * self.per_step)
        many = "1 step" if steps == 1 else f"{steps} steps"
        self.console.info(
            f"Dry run: {many} on the longest of {len(self.data.train)} samples (up to {tokens_of(long[0])} tokens, "
            f"{costs(long[:1])[0]} of them from the picture on)"
        )
        start_s = time.monotonic() - begun
        long_log = self._part(folder / "longest", long)
        ordinary = self._ordinary(max(WARM_UP + 2, steps // 2))
        self.console.info(f"Dry run: {len(ordinary) // self.per_step} steps on ordinary samples")
        log = self._part(folder / "ordinary", ordinary)
        checkpoint = (folder / "ordinary" / CHECKPOINT_FILE).read_bytes()
        began = time.monotonic()
        write_atomic(folder / "again", checkpoint)
        save_s = time.monotonic() - began
        valid = len(self.data.valid)
        return Timings(
            long_step_s=statistics.median(after_warm_up(long_log.steps)),
            step_s=max(statistics.fmean(after_warm_up(log.steps)), self._reading_s(ordinary)),
            validation_s=log.validation_s * valid / min(valid, TIMED_VALIDATION),
            save_s=save_s,
            start_s=start_s,
        )

    @property
    def per_step(self) -> int:
        """Samples of an optimizer step."""
        return self.settings.batch_size * self.settings.gradient_accumulation

    def _part(self, folder: Path, samples: list[Sample]) -> Stopwatch:
        """One epoch of these samples, as the run would train it, and a validation of a part of the set."""
        settings = self.settings.model_copy(
            update={
                "output_dir": folder,
                "log_dir": folder,
                "num_epochs": 1,
                "max_steps": None,
                "warmup": 0,
                "val_every": None,
                "checkpoint_every": "1000000",
                "validate_before_training": False,
                "early_stopping": None,
            }
        )
        data = replace(self.data, train=samples, valid=spread(self.data.valid, TIMED_VALIDATION))
        folder.mkdir()
        console = _PartConsole(self.console)
        with Stopwatch(folder, console) as log:
            try:
                # Without --picture_cache: it would be left behind, and a run's first epoch has nothing from it.
                train_to_end(TrainingRun(settings, console, self.skipped), self.student, data, log)
            except NothingLeftError as error:
                # The loop's own words name a list that a dry run does not write.
                remedy = "lavic check looks at all pictures."
                raise NothingLeftError(error.problem, where=error.where, remedy=remedy) from None
        return log

    def _ordinary(self, steps: int) -> list[Sample]:
        """The samples that the run begins with; all over again where there are too few."""
        samples, settings = self.data.train, self.settings
        order = epoch_batches(
            costs(samples),
            settings.batch_size,
            seed=settings.seed,
            epoch=0,
            by_length=settings.group_by_length,
        )
        indices = itertools.islice(itertools.cycle(itertools.chain(*order)), steps * self.per_step)
        return [samples[index] for index in indices]

    def _reading_s(self, samples: list[Sample]) -> float:
        """Seconds that the workers need to read a step's pictures.

        A short part lives on what was read ahead while it warmed up; a long run is as slow as its readers.
        """
        workers = min(self.settings.num_workers, len(os.sched_getaffinity(0)))
        if not workers:
            return 0.0  # reading is part of each step's time
        dataset = make_dataset(samples[: 2 * VALIDATION_BATCH], self.data.builder, self.student.base)
        began = time.monotonic()
        for index in range(len(dataset)):
            dataset[[index]]
        return (time.monotonic() - began) / len(dataset) * self.per_step / workers


def _outcome(
    settings: DistillSettings, console: Console, data: Data, plan: Plan, timings: Timings, skipped: SkipLog
) -> Outcome:
    seconds = whole_run_s(plan, timings)
    device = choose_device(settings.device)
    on_gpu, peak_gb = device.type == "cuda", peak_memory_gb(device)
    total_gb = torch.cuda.get_device_properties(0).total_memory / 1e9 if on_gpu else None
    samples = min(settings.batch_size * settings.gradient_accumulation, len(data.train))
    summary = {
        "steps": settings.dry_run,
        "longest_sample_tokens": max(map(tokens_of, data.train)),
        "peak_memory_gb": peak_gb,
        "memory_of": "GPU" if on_gpu else "process",
        "gpu_memory_gb": None if total_gb is None else round(total_gb, 2),
        "seconds_per_longest_step": timings.long_step_s,
        "seconds_per_step": timings.step_s,
        "samples_per_s": samples / timings.step_s,
        "seconds_per_validation": timings.validation_s,
        "seconds_to_start": timings.start_s,
        "total_steps": plan.steps,
        "validations": plan.validations,
        "hours": seconds / 3600,
        **skipped.summary(),
    }
    of_gpu = f" of {total_gb:.1f} GB" if total_gb is not None else ""
    console.table(
        [
            ["peak memory", f"{peak_gb:.2f} GB{of_gpu} ({'GPU' if on_gpu else 'this process'})"],
            ["a step of the longest", f"{timings.long_step_s:.3g} s (median after {WARM_UP} steps)"],
            ["an ordinary step", f"{timings.step_s:.3g} s, {samples / timings.step_s:.3g} samples/s"],
            ["a validation", f"{duration(timings.validation_s)} (worked out from a part of it)"],
            ["the whole run", f"{plan.steps:,} steps, {plan.validations:,} validations"],
            ["it will take about", f"{duration(seconds)}" + _early(settings)],
        ]
    )
    return Outcome(
        summary, next_step="Nothing was kept. Start the run with the same flags without --dry_run.", printed=True
    )


def _early(settings: DistillSettings) -> str:
    return " or less (--early_stopping)" if settings.early_stopping else ""
