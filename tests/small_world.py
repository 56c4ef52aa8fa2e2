"""A toy shop of a few items and the flags to distil on it, for tests of whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lavic.cli.main import run_command_line
from lavic.layout import data_paths
from lavic.toyshop.catalogue import write_catalogue


def make_world(folder: Path, items: int = 20, seed: int = 0) -> Path:
    """A catalogue of ``items`` (a fifth for validation) in ``folder``."""
    write_catalogue(folder, items, seed)
    return folder


def flags(world: Path, output: Path, **more: Any) -> list[str]:
    """Command line of ``lavic distill`` on a world; ``more`` adds flags or replaces the usual ones."""
    values: dict[str, Any] = {
        "model": "tiny",
        **data_paths(world),
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


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one sentence of a run that ends with exit code 2."""
    capsys.readouterr()
    assert run_command_line(arguments) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return lines[0].removeprefix("Error: ")


def make_empty(path: Path) -> None:
    """A file of no bytes in its place."""
    path.write_bytes(b"")


def make_folder(path: Path) -> None:
    """A folder in a file's place."""
    path.unlink()
    path.mkdir()
