"""What a run leaves, in a form in which two equal runs are equal."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lavic.distill.task import ADAPTER_FOLDER
from lavic.files import sha256_file
from lavic.folders import LOCK_NAME
from lavic.training.checkpoints import CHECKPOINT_FILE
from lavic.training.run_log import EVENTS_FILE, TENSORBOARD_DIR, TIMING_FIELDS

# What only says where a run writes, and how it was started.
_PLACES = ("output_dir", "log_dir", "resume", "overwrite")
_TIMED_CURVES = tuple(f"/{name}" for name in TIMING_FIELDS)


def results(output: Path) -> dict[str, Any]:
    """SHA-256 of adapter, optimizer state, metrics and the rest; events and curves apart from recorded times."""
    compared = [*output.glob("val_metrics_epoch_*.txt"), *(output / ADAPTER_FOLDER).iterdir(), output / "skipped.jsonl"]
    found: dict[str, Any] = {
        path.relative_to(output).as_posix(): sha256_file(path) for path in compared if path.exists()
    }
    found["checkpoint"] = sha256_file(output / CHECKPOINT_FILE)
    with safe_open(output / CHECKPOINT_FILE, framework="pt") as stored:
        # Apart too, so that a failing test says which part of the file it was.
        found["best loss and counters"] = json.loads(stored.metadata()["state"])
        found["tensors"] = {
            name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:12]
            for name, tensor in load_file(output / CHECKPOINT_FILE).items()
        }
    found["events"] = events(output)
    found["curves"] = curves(output)
    found["files"] = sorted(
        path.relative_to(output).as_posix()
        for path in output.rglob("*")
        if path.name != LOCK_NAME and path.parent.name != TENSORBOARD_DIR
    )
    return found


def events(output: Path) -> list[dict[str, Any]]:
    """The rows of the event log without what two equal runs may differ in."""
    rows = [json.loads(line) for line in (output / EVENTS_FILE).read_text(encoding="utf-8").splitlines()]
    for row in rows:
        for name in TIMING_FIELDS:
            row.pop(name, None)
        for name in _PLACES:
            row.get("settings", {}).pop(name, None)
    return rows


def curves(output: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's curves as a reader sees them."""
    reader = EventAccumulator(str(output / TENSORBOARD_DIR))
    reader.Reload()
    names = [name for name in reader.Tags()["scalars"] if not name.endswith(_TIMED_CURVES)]
    return {name: [(point.step, point.value) for point in reader.Scalars(name)] for name in names}
