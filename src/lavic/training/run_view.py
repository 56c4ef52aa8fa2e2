"""Reading a run's events: what is running, how far it is, and how it goes."""

from __future__ import annotations

import json
import stat
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lavic.errors import InputError, system_words
from lavic.skipped import MAX_REASONS, OTHER_REASON, kind_of
from lavic.training.growing_file import GrowingFile
from lavic.training.run_log import EVENTS_FILE, SKIPPED_FILE, parse_event
from lavic.training.run_process import is_elsewhere, living_pid, lock_holder, read_process
from lavic.training.run_totals import RunTotals, Validation, eta_s, number, samples_per_s

Status = Literal["none", "starting", "running", "finished", "stopped", "interrupted", "failed", "killed"]
_ENDS: tuple[Status, ...] = ("finished", "stopped", "interrupted", "failed")

# On another machine a process cannot be asked for; a run that wrote this recently is taken to be running.
_FOREIGN_SILENCE_S = 600.0
# A run keeps its folder locked for a moment after its last row; only later does a lock mean that another begins.
_ENDING_S = 5.0


@dataclass(frozen=True)
class RunView:
    """A run as its events tell it. Numbers that are not known yet are None.

    Args:
        status: ``none`` if the folder holds no run; ``starting`` if a process holds the folder and has written
            nothing yet; ``killed`` if it neither ended nor is running.
        command: ``distill`` or another command's name.
        step: the last optimizer step taken, of ``total_steps``.
        epoch: how many passes over the data, a fraction inside one.
        losses: (step, train_loss) of every step.
        validations: every validation, in order.
        best: the validation with the lowest loss (``Validation.judged_by``).
        samples_per_s: over the last steps.
        mean_samples_per_s: over all steps, without validations and checkpoints.
        eta_s: seconds until ``total_steps`` at the present rate, validations included; only of a running run.
        elapsed_s: seconds from the start to the last event.
        silent_s: seconds since the last event; None where another clock than ours wrote it.
        lr, gradient_norm, memory_gb: of the last step; the norm is that before clipping, the memory the peak.
        skipped: rows and pictures left out so far.
        skipped_reasons: how often each reason, most frequent first; empty where no list of them is left.
        log_file: the run's last text log, as the run named it.
        pid: the run's process, if it lives on this machine.
        start: the start row, with ``settings``.
        end: the end row, empty while there is none.
    """

    output_dir: Path
    status: Status
    command: str = ""
    step: int = 0
    total_steps: int | None = None
    epoch: float | None = None
    losses: Sequence[tuple[int, float]] = ()
    validations: Sequence[Validation] = ()
    best: Validation | None = None
    samples_per_s: float | None = None
    mean_samples_per_s: float | None = None
    eta_s: float | None = None
    elapsed_s: float | None = None
    silent_s: float | None = None
    lr: float | None = None
    gradient_norm: float | None = None
    memory_gb: float | None = None
    skipped: int = 0
    skipped_reasons: Mapping[str, int] = field(default_factory=dict)
    last_checkpoint_step: int | None = None
    log_file: str | None = None
    pid: int | None = None
    start: Mapping[str, Any] | None = None
    end: Mapping[str, Any] | None = None

    @property
    def train_loss(self) -> float | None:
        """The loss of the last step."""
        return self.losses[-1][1] if self.losses else None

    @property
    def lowest_train_loss(self) -> float | None:
        """The lowest loss of a single step."""
        return min((loss for _, loss in self.losses), default=None)

    @property
    def smoothing(self) -> int:
        """Over how many of the last steps ``smoothed_train_loss`` is the mean."""
        return smoothing_window(len(self.losses))

    @property
    def smoothed_train_loss(self) -> float | None:
        """The mean loss of the last ``smoothing`` steps."""
        last = [loss for _, loss in self.losses[-self.smoothing :]]
        return statistics.fmean(last) if last else None


def smoothing_window(steps: int) -> int:
    """A twentieth of the steps taken so far, but ten at least: what makes a trend visible in noise."""
    return max(1, min(steps, max(10, steps // 20)))


def read_run(output_dir: Path) -> RunView:
    """The run in a folder; of a missing or empty folder one with status ``none``.

    Raises:
        InputError: ``output_dir`` is a file, or its events cannot be read.
    """
    return RunReader(output_dir).look()


class RunReader:
    """Looks at a run again and again; each look reads only what is new in its files.

    It only reads. A run that is replaced, resumed or deleted between two looks is simply read anew.
    """

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self._events = GrowingFile(output_dir / EVENTS_FILE)
        self._list = GrowingFile(output_dir / SKIPPED_FILE)
        self._rows = RunTotals()
        self._reasons: Counter[str] = Counter()
        self._looks = 0
        self._grew_at: float | None = None

    def look(self) -> RunView:
        """The run as it is now.

        Raises:
            InputError: ``output_dir`` is a file or an impossible path, or it or its events cannot be read.
        """
        _check_folder(self.output_dir)
        self._read_events()
        self._read_skipped()
        process = read_process(self.output_dir)
        silent_s = self._silent_s(process)
        status = self._status(process, silent_s)
        return RunView(self.output_dir, "none") if status == "none" else self._view(status, process, silent_s)

    def _read_events(self) -> None:
        growth = self._events.read()
        if growth.restarted:
            self._rows = RunTotals()
        for line in growth.lines:
            row = parse_event(line)
            if row is not None:
                self._rows.add(row)
        self._looks += 1
        # What the first look finds may be of any age; what comes later came just now, by our own clock.
        if growth.lines and self._looks > 1:
            self._grew_at = time.monotonic()

    def _read_skipped(self) -> None:
        growth = self._list.read()
        if growth.restarted:
            self._reasons = Counter()
        for line in growth.lines:
            if line.strip():
                reason = kind_of(reason_of(line))
                known = reason in self._reasons or len(self._reasons) < MAX_REASONS
                self._reasons[reason if known else OTHER_REASON] += 1

    def _silent_s(self, process: Mapping[str, Any]) -> float | None:
        if self._grew_at is not None:
            return time.monotonic() - self._grew_at
        last = self._rows.last_time if self._rows.last_time is not None else number(process, "started")
        age = None if last is None else time.time() - last
        return age if age is not None and age >= 0 else None

    def _status(self, process: Mapping[str, Any], silent_s: float | None) -> Status:
        rows, end = self._rows, self._rows.end
        if end is not None or (rows.last is None and not process):
            ending = end is not None and silent_s is not None and silent_s < _ENDING_S
            if not process and not ending and lock_holder(self.output_dir) is not None:
                return "starting"
            return "none" if end is None else next((s for s in _ENDS if s == end.get("status")), "finished")
        if is_elsewhere(process):
            return "running" if silent_s is None or silent_s < _FOREIGN_SILENCE_S else "killed"
        if living_pid(process) is not None:
            return "running" if rows.last is not None else "starting"
        holder = lock_holder(self.output_dir)
        if holder is None:
            return "killed"
        # Held by another process than the one noted: a killed run is being resumed and loads its model.
        return "running" if holder in (process.get("pid"), 0) else "starting"

    def _view(self, status: Status, process: Mapping[str, Any], silent_s: float | None) -> RunView:
        rows = self._rows
        total = rows.total_steps
        last = rows.steps[-1] if rows.steps else {}
        log_file = process.get("log_file") or (rows.end or {}).get("log_file")
        # The one before training is for comparison: nothing is kept of it.
        trained = (each for each in rows.validations if each.step > 0)
        judged = [(loss, each.step, each) for each in trained if (loss := each.judged_by) is not None]
        return RunView(
            output_dir=self.output_dir,
            status=status,
            command=str((rows.start or {}).get("command", "")),
            step=rows.last_step,
            total_steps=total,
            epoch=number(last, "epoch"),
            losses=list(rows.losses),
            validations=list(rows.validations),
            best=min(judged, key=lambda pair: pair[:2])[2] if judged else None,
            samples_per_s=samples_per_s(rows.steps),
            mean_samples_per_s=rows.samples / rows.seconds if rows.seconds > 0 else None,
            eta_s=eta_s(rows, total) if status == "running" and total is not None else None,
            elapsed_s=rows.elapsed_s,
            silent_s=silent_s,
            lr=number(last, "lr"),
            gradient_norm=number(last, "gradient_norm"),
            memory_gb=number(last, "memory_gb"),
            skipped=self._reasons.total() or rows.skipped,
            skipped_reasons=dict(self._reasons.most_common()),
            last_checkpoint_step=rows.checkpoint_step,
            log_file=str(log_file) if log_file else None,
            pid=living_pid(process),
            start=rows.start or {},
            end=rows.end,
        )


def _check_folder(path: Path) -> None:
    """That it is one, if there is anything."""
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({system_words(error)})", where=str(path)) from error
    if not is_folder:
        raise InputError("is not a folder", where=str(path))


def reason_of(line: str) -> str:
    """Why something was left out, by a line of ``skipped.jsonl``."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return OTHER_REASON
    return str(row.get("reason", OTHER_REASON)) if isinstance(row, dict) else OTHER_REASON
