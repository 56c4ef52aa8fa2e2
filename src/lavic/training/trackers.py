"""Where a run's curves go besides its own files: TensorBoard, and Weights & Biases if the user has set it up.

A tracker is a convenience: one that fails is reported once and dropped, and the training goes on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

# Followed by seconds since 1970, host and process, as TensorBoard's own writer has it.
_TFEVENTS = "events.out.tfevents."


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
    """TensorBoard's own file format, a record a call, each on its way to the disk when the call returns.

    The usual SummaryWriter keeps records back for seconds, which a kill would take, and writes them in a thread,
    whose death on a full disk is a traceback on the user's screen.
    """

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        old = sorted(folder.glob(f"{_TFEVENTS}*"))
        if resume_step is None:
            # A run that replaces another: its curves must not be drawn over the old ones.
            for path in old:
                path.unlink()
        # Files are read in the order of their names: the second in it must not be that of an earlier file.
        taken = [int(seconds) for path in old if (seconds := path.name.removeprefix(_TFEVENTS).split(".")[0]).isdigit()]
        second = max([int(time.time()), *(seconds + 1 for seconds in taken)])
        name = f"{_TFEVENTS}{second:010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("xb", buffering=0)
        self._records = RecordWriter(self._file)
        self._add(Event(file_version="brain.Event:2"))
        if resume_step is not None:
            # Tells readers to drop the points that come after the checkpoint.
            self._add(Event(step=resume_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(Event(step=step, summary=Summary(value=points)))

    def close(self) -> None:
        self._file.close()


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
