"""Reading a run's events: what is running, how far it is, and how it goes."""

from __future__ import annotations

import itertools
import os
import socket
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lavic.errors import InputError
from lavic.files import read_json
from lavic.training.run_log import EVENTS_FILE, PROCESS_FILE, process_born, read_rows

Status = Literal["none", "running", "finished", "stopped", "interrupted", "failed", "killed"]

# Steps over which rate and time left are averaged: long enough to be steady, short enough to follow a change.
_RATE_WINDOW = 50
# On another machine a process cannot be asked for; a run that wrote this recently is taken to be running.
_FOREIGN_SILENCE_S = 600.0


@dataclass(frozen=True)
class Validation:
    """One validation; ``fields`` holds all numbers of its row."""

    step: int
    val_loss: float | None
    val_perplexity: float | None
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class RunView:
    """A run as its events tell it. Numbers that are not known yet are None.

    Args:
        status: ``none`` if the folder holds no run; ``killed`` if it neither ended nor is running.
        command: ``distill`` or another command's name.
        step: the last optimizer step taken, of ``total_steps``.
        epoch: how many passes over the data, a fraction inside one.
        losses: (step, train_loss) of every step.
        validations: every validation, in order.
        best: the validation with the lowest loss.
        samples_per_s: over the last steps.
        eta_s: seconds until ``total_steps`` at the present rate; only of a running run.
        elapsed_s: seconds from the start to the last event.
        skipped: rows and pictures left out.
        warnings: the messages, oldest first.
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
    eta_s: float | None = None
    elapsed_s: float | None = None
    skipped: int = 0
    warnings: Sequence[str] = ()
    last_checkpoint_step: int | None = None
    log_file: str | None = None
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


def read_run(output_dir: Path) -> RunView:
    """The run in a folder; of a missing or empty folder one with status ``none``.

    Raises:
        InputError: ``output_dir`` is a file, or its events cannot be read.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError("is not a folder", where=str(output_dir))
    path = output_dir / EVENTS_FILE
    try:
        rows = read_rows(path)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
    process = _process(output_dir)
    if not rows and not process:
        return RunView(output_dir, "none")
    return _view(output_dir, rows, process)


def _view(output_dir: Path, rows: list[dict[str, Any]], process: Mapping[str, Any]) -> RunView:
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row)
    steps = kinds.get("step", [])
    start = kinds.get("start", [{}])[0]
    end = rows[-1] if rows and rows[-1]["kind"] == "end" else None
    status = _status(end, process, rows)
    total = start.get("total_steps")
    last_step = max((row["step"] for row in rows), default=0)
    validations = [_validation(row) for row in kinds.get("validation", [])]
    judged = [v for v in validations if v.val_loss is not None]
    left = total - last_step if isinstance(total, int) else None
    return RunView(
        output_dir=output_dir,
        status=status,
        command=str(start.get("command", "")),
        step=last_step,
        total_steps=total if isinstance(total, int) else None,
        epoch=_number(steps[-1], "epoch") if steps else None,
        losses=[(row["step"], loss) for row in steps if (loss := _number(row, "train_loss")) is not None],
        validations=validations,
        best=min(judged, key=lambda v: v.val_loss or 0.0) if judged else None,
        samples_per_s=_samples_per_s(steps),
        eta_s=_eta_s(steps, left) if status == "running" else None,
        elapsed_s=_elapsed_s(rows),
        skipped=sum(int(_number(row, "count") or 0) for row in kinds.get("skipped", [])),
        warnings=[str(row.get("message", "")) for row in kinds.get("warning", [])],
        last_checkpoint_step=max((row["step"] for row in kinds.get("checkpoint", [])), default=None),
        log_file=str(process["log_file"]) if "log_file" in process else None,
        start=start,
        end=end,
    )


def _status(end: Mapping[str, Any] | None, process: Mapping[str, Any], rows: list[dict[str, Any]]) -> Status:
    if end is not None:
        status = end.get("status")
        known: tuple[Status, ...] = ("finished", "stopped", "interrupted", "failed")
        return next((name for name in known if name == status), "finished")
    if process and process.get("host") != socket.gethostname():
        last = _number(rows[-1], "time") if rows else _number(process, "started")
        return "running" if last is not None and time.time() - last < _FOREIGN_SILENCE_S else "killed"
    return "running" if process and _is_alive(process) else "killed"


def _is_alive(process: Mapping[str, Any]) -> bool:
    pid = process.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # The number may have been given to another process since, after a reboot for one.
    born = process_born(pid)
    return born is None or born == process.get("born")


def _process(output_dir: Path) -> dict[str, Any]:
    """What a running (or killed) process noted of itself; empty after an orderly end."""
    try:
        facts = read_json(output_dir / PROCESS_FILE)
    except InputError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _validation(row: Mapping[str, Any]) -> Validation:
    return Validation(row["step"], _number(row, "val_loss"), _number(row, "val_perplexity"), row)


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _samples_per_s(steps: list[dict[str, Any]]) -> float | None:
    rates = [rate for row in steps[-_RATE_WINDOW:] if (rate := _number(row, "samples_per_s")) is not None]
    return statistics.fmean(rates) if rates else None


def _eta_s(steps: list[dict[str, Any]], left: int | None) -> float | None:
    window = steps[-_RATE_WINDOW:]
    if left is None or len(window) < 2:
        return None
    times = [_number(row, "time") or 0.0 for row in window]
    # The median: a validation between two steps must not count as a slow step.
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return max(0.0, statistics.median(gaps) * left)


def _elapsed_s(rows: list[dict[str, Any]]) -> float | None:
    times = [moment for row in rows if (moment := _number(row, "time")) is not None]
    return max(times) - min(times) if times else None
