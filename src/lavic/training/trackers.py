"""Where a run's curves go besides its own files: TensorBoard, and Weights & Biases if the user has set it up.

A tracker is a convenience: one that fails is reported once and dropped, and the training goes on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """A receiver of curves."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each named curve."""

    def close(self) -> None:
        """Write out what is buffered."""


def open_trackers(
    output_dir: Path,
    *,
    tensorboard_dir: Path | None,
    resume_step: int | None,
    settings: Mapping[str, Any],
    warn: Callable[[str], None],
) -> list[Tracker]:
    """The trackers that work here.

    Args:
        output_dir: the run's folder.
        tensorboard_dir: where TensorBoard's event files go; None writes none.
        resume_step: points after it are dropped from the curves; None for a new run.
        settings: the resolved configuration, for W&B.
        warn: told of a tracker that fails.
    """
    trackers: list[Tracker] = []
    if tensorboard_dir is not None:
        opened = _opened("TensorBoard", lambda: _TensorBoard(tensorboard_dir, resume_step), warn)
        trackers += [opened] if opened else []
    if os.environ.get("WANDB_PROJECT") and importlib.util.find_spec("wandb") is not None:
        opened = _opened("Weights & Biases", lambda: _WandB(output_dir, resume_step, settings), warn)
        trackers += [opened] if opened else []
    return trackers


def _opened(name: str, make: Callable[[], Tracker], warn: Callable[[str], None]) -> Tracker | None:
    try:
        return _Forgiving(name, make(), warn)
    except Exception as error:
        warn(f"{name} is not written: {type(error).__name__}: {error}")
        return None


class _Forgiving:
    """A tracker whose first failure is reported and whose later calls then do nothing."""

    def __init__(self, name: str, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self._name, self._tracker, self._warn = name, tracker, warn
        self._broken = False

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._try(lambda: self._tracker.scalars(values, step))

    def close(self) -> None:
        self._try(self._tracker.close)

    def _try(self, call: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            call()
        except Exception as error:
            self._broken = True
            self._warn(f"{self._name} is no longer written: {type(error).__name__}: {error}")


class _TensorBoard:
    def __init__(self, folder: Path, resume_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if resume_step is None and folder.is_dir():
            # A run that replaces another: its curves must not be drawn over the old ones.
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        purge = None if resume_step is None else resume_step + 1
        self._writer: Any = SummaryWriter(str(folder), purge_step=purge, flush_secs=10)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, output_dir: Path, resume_step: int | None, settings: Mapping[str, Any]) -> None:
        import wandb

        place = str(output_dir.resolve())
        # A resumed run finds its own curves again; a new one in the same folder gets curves of its own.
        run_id_file = output_dir / "wandb_id.txt"
        if resume_step is None or not run_id_file.is_file():
            salt = os.urandom(8).hex()
            run_id_file.write_text(hashlib.sha256(f"{place}{salt}".encode()).hexdigest()[:16], encoding="utf-8")
        self._run: Any = wandb.init(
            project=os.environ["WANDB_PROJECT"],
            id=run_id_file.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(output_dir),
            config=dict(settings),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()
