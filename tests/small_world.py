"""A toy shop of a few items and the flags to distil on it, for tests of whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lavic.toyshop.catalogue import write_catalogue


def make_world(folder: Path, items: int = 20, seed: int = 0) -> Path:
    """A catalogue of ``items`` (a fifth for validation) in ``folder``."""
    write_catalogue(folder, items, seed)
    return folder


def flags(world: Path, output: Path, **more: Any) -> list[str]:
    """Command line of ``lavic distill`` on a world; ``more`` adds flags or replaces the usual ones."""
    values: dict[str, Any] = {
        "model": "tiny",
        "train_data": world / "item2meta_train.json",
        "val_data": world / "item2meta_valid.jsonl",
        "train_images_dir": world / "train_images",
        "val_images_dir": world / "valid_images",
        "output_dir": output,
        "log_dir": output.parent / "logs",
        "batch_size": 4,
        "lr": "2e-3",
        "num_workers": 0,
        **more,
    }
    words = ["distill"]
    for name, value in values.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False:
            words += [f"--{name}", str(value)]
    return words


def train_rows(world: Path) -> dict[str, Any]:
    """The training metadata."""
    rows: dict[str, Any] = json.loads((world / "item2meta_train.json").read_text())
    return rows


def write_train_rows(world: Path, rows: dict[str, Any]) -> None:
    """Replace the training metadata."""
    (world / "item2meta_train.json").write_text(json.dumps(rows))


def skipped(output: Path) -> list[dict[str, str]]:
    """What a run left out."""
    path = output / "skipped.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
