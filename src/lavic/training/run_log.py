"""A run's events: training writes them, ``lavic monitor`` reads them (``lavic.training.run_view``).

Each event goes to three places: a row of ``OUTPUT_DIR/events.jsonl`` for machines, a line of
``LOG_DIR/training_YYYYMMDD_HHMMSS.log`` for ``tail`` and ``grep``, and TensorBoard (and Weights & Biases,
where it is installed and ``WANDB_PROJECT`` is set).

The kinds of rows: ``start``, ``step``, ``validation``, ``checkpoint``, ``skipped``, ``end``.
Every row has ``kind``, ``step`` and ``time``. A resumed run cuts off what came after its checkpoint, so that
its rows equal those of a run that was never interrupted, apart from the ``TIMING_FIELDS``.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lavic.console import Console, LogFile
from lavic.errors import OutputError
from lavic.files import json_line, output_error, sync, write_atomic
from lavic.rendering import json_ready
from lavic.training.run_process import PROCESS_FILE, forget_process, note_process
from lavic.training.trackers import Tracker, open_trackers

EVENTS_FILE = "events.jsonl"
SKIPPED_FILE = "skipped.jsonl"
TENSORBOARD_DIR = "tensorboard"
# What a run log, trackers included, leaves in the output folder; --overwrite may delete these.
RUN_LOG_NAMES = (EVENTS_FILE, PROCESS_FILE, TENSORBOARD_DIR, "wandb_id.txt", "wandb")
# What two equal runs may differ in.
TIMING_FIELDS = frozenset({"time", "seconds", "samples_per_s", "memory_gb", "log_file"})
# Counted on the way, thus too long for a line: the rest of a row is shown in the text log.
_NOT_IN_TEXT = frozenset({"kind", "step", "time", "settings", "log_file"})


class RunLog:
    """Writes a run's events; each is on disk when the call returns.

    Args:
        output_dir: the run's folder; gets ``events.jsonl``, ``tensorboard/`` and for a time ``running.json``.
        log_dir: gets ``training_YYYYMMDD_HHMMSS.log``.
        console: its notices and warnings are copied to the text log while the run lasts.
        resume_step: the step of the checkpoint that the run goes on from; None replaces old events.
        resume_rows: ``rows`` as it was when that checkpoint was written. Without it every row up to
            ``resume_step`` is kept, which is right if a checkpoint is the last thing that happens in a step.
        tensorboard: False writes no TensorBoard events.

    Raises:
        OutputError: a file cannot be written.
    """

    def __init__(
        self,
        output_dir: Path,
        log_dir: Path,
        *,
        console: Console | None = None,
        resume_step: int | None = None,
        resume_rows: int | None = None,
        tensorboard: bool = True,
    ) -> None:
        self.output_dir = output_dir
        self._console = console
        self._resume_step = resume_step
        self._tensorboard = tensorboard
        self._trackers: list[Tracker] = []
        self._step = resume_step or 0
        self._ended = False
        self._text = LogFile(new_log_path(log_dir))
        if console is not None:
            console.attach(self._text)
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            path = output_dir / EVENTS_FILE
            kept = [] if resume_step is None else rows_until(path, resume_step, resume_rows)
            write_atomic(path, b"".join(json_line(row) for row in kept))
            note_process(output_dir, self._text.path)
            self._events = path.open("a", encoding="utf-8")
        except (OSError, OutputError) as error:
            if console is not None:
                console.detach(self._text)
            self._text.close()
            if isinstance(error, OutputError):
                raise
            raise self._not_written(error) from None
        self.rows = len(kept)

    @property
    def log_path(self) -> Path:
        """The text log."""
        return self._text.path

    # -- events --------------------------------------------------------------------------------------------

    def start(
        self, command: str, *, total_steps: int, settings: Mapping[str, Any] | None = None, **fields: Any
    ) -> None:
        """The run begins. A resumed run keeps its first start row; only its text log tells of the second.

        Args:
            command: ``distill`` or another name of a command.
            total_steps: optimizer steps of the whole run.
            settings: the resolved configuration.
            fields: further facts, such as ``train_samples`` and ``trainable_parameters``.
        """
        if self._tensorboard or os.environ.get("WANDB_PROJECT"):
            self._trackers = open_trackers(
                self.output_dir,
                tensorboard_dir=self.output_dir / TENSORBOARD_DIR if self._tensorboard else None,
                resume_step=self._resume_step,
                settings=json_ready(settings or {}),
                warn=self.warn,
            )
        if self._resume_step is not None and self.rows:
            self._text.write(f"{command} resumes after step {self._resume_step} of {total_steps}")
            return
        row = {"command": command, "total_steps": total_steps, **fields, "settings": settings or {}}
        self._add("start", 0, row)

    def step(self, step: int, *, train_loss: float, lr: float, **fields: Any) -> None:
        """An optimizer step is done.

        Args:
            step: its number in the run, from 1.
            train_loss: the step's loss, nats per target token.
            lr: the learning rate it was taken with.
            fields: further numbers: ``epoch``, ``tokens``, ``samples``, ``seconds``, ``samples_per_s``,
                ``gradient_norm``, ``memory_gb``.
        """
        row = {"train_loss": train_loss, "lr": lr, **fields}
        self._add("step", step, row)
        self._track("train", row, step)

    def validation(self, step: int, *, val_loss: float, val_perplexity: float, **fields: Any) -> None:
        """A validation is done after ``step`` optimizer steps; ``best=True`` says that none was better."""
        row = {"val_loss": val_loss, "val_perplexity": val_perplexity, **fields}
        self._add("validation", step, row)
        self._track("val", row, step)

    def checkpoint(self, step: int, *, path: Path | str, **fields: Any) -> None:
        """A checkpoint is about to be written: the row first, so that a checkpoint has all of its rows."""
        self._add("checkpoint", step, {"path": str(path), **fields})
        try:
            sync(self._events.fileno())  # the checkpoint outlives a crash of the machine; so must its rows
        except OSError as error:
            raise self._not_written(error) from None

    def skipped(self, count: int, *, step: int | None = None, **fields: Any) -> None:
        """Rows or pictures were left out."""
        self._add("skipped", step, {"count": count, **fields})

    def note(self, text: str) -> None:
        """A line of the text log that is no event, such as ``Best LoRA adapter saved.``"""
        self._text.write(text)

    def end(self, status: str = "finished", **fields: Any) -> None:
        """The run is over: ``finished``, ``stopped`` (on purpose, early), ``interrupted`` or ``failed``."""
        self._ended = True
        # After the end nothing else tells a reader which of the text logs was this run's last.
        self._add("end", None, {"status": status, **fields, "log_file": str(self.log_path)})

    # -- life ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Flush and close everything; an unfinished run can be resumed afterwards."""
        for tracker in self._trackers:
            tracker.close()
        self._trackers = []
        # Every row was flushed, or its failure was told of: only a full disk can make these fail.
        with contextlib.suppress(OSError):
            self._events.close()
        with contextlib.suppress(OSError):
            forget_process(self.output_dir)
        if self._console is not None:
            self._console.detach(self._text)
        self._text.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self._ended:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            # What went wrong first is what the user must hear of, not that this row cannot be written either.
            with contextlib.suppress(OutputError):
                self.end(status, reason=f"{type(error).__name__}: {error}".rstrip(": "))
        self.close()

    # -- inside --------------------------------------------------------------------------------------------

    def _add(self, kind: str, step: int | None, fields: Mapping[str, Any]) -> None:
        self._step = self._step if step is None else step
        row = {"kind": kind, "step": self._step, "time": round(time.time(), 3), **fields}
        try:
            self._events.write(json.dumps(json_ready(row), ensure_ascii=False, allow_nan=False) + "\n")
            self._events.flush()
        except OSError as error:
            raise self._not_written(error) from None
        self.rows += 1
        self._text.write(_as_text(row))

    def _not_written(self, error: OSError) -> OutputError:
        return output_error(self.output_dir / EVENTS_FILE, error)

    def _track(self, part: str, row: Mapping[str, Any], step: int) -> None:
        numbers = {
            f"{part}/{name}": float(value)
            for name, value in row.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for tracker in self._trackers:
            tracker.scalars(numbers, step)

    def warn(self, message: str) -> None:
        """Tell the user, on the console and in the text log; no event, for equal runs may differ in it."""
        if self._console is not None:
            self._console.warn(message)
        else:
            self._text.write(f"WARNING {message}")


def new_log_path(log_dir: Path) -> Path:
    """A free name for a text log, from the time; a second run in the same second gets the next one's."""
    moment = time.time()
    while True:
        path = log_dir / f"training_{datetime.fromtimestamp(moment):%Y%m%d_%H%M%S}.log"
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
            path.open("x").close()
        except FileExistsError:
            if not log_dir.is_dir():
                raise OutputError("is not a folder", where=str(log_dir), remedy="Choose another --log_dir.") from None
            moment += 1
        except OSError as error:
            raise OutputError(f"the log cannot be written ({error.strerror})", where=str(path)) from None
        else:
            return path


def check_log_folder(log_dir: Path) -> None:
    """See that a run can write its text log there; no file stays.

    Raises:
        OutputError: it cannot.
    """
    new_log_path(log_dir).unlink(missing_ok=True)


def rows_until(path: Path, step: int, rows: int | None = None) -> list[dict[str, Any]]:
    """A run's rows up to a checkpoint: the first ``rows``, or all up to ``step``; without end rows."""
    found = read_events(path)
    kept = found[:rows] if rows is not None else [row for row in found if row["step"] <= step]
    return [row for row in kept if row["kind"] != "end"]


def read_events(path: Path) -> list[dict[str, Any]]:
    """The rows of an events file; a line torn by a kill, or not ours, is passed over. No file, no rows."""
    rows: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                row = parse_event(line)
                if row is not None:
                    rows.append(row)
    except FileNotFoundError:
        pass
    return rows


def parse_event(line: str) -> dict[str, Any] | None:
    """The row that a line of an events file holds; None if it is not one of ours."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str) or not isinstance(row.get("step"), int):
        return None
    return row


def _as_text(row: Mapping[str, Any]) -> str:
    """A row as ``name=value`` pairs for ``grep``."""
    pairs = [f"{name}={_short(value)}" for name, value in row.items() if name not in _NOT_IN_TEXT]
    return " ".join([str(row["kind"]), f"step={row['step']}", *pairs])


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e6 or value == 0 else f"{value:.3e}"
    if isinstance(value, Mapping):
        return json.dumps(json_ready(value), ensure_ascii=False, separators=(",", ":"))
    return str(value)
