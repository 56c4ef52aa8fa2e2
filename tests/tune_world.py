"""A toy shop with conversations and an item store, and the flags to tune and evaluate on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lavic.cli.main import run_command_line
from lavic.layout import data_paths
from lavic.toyshop.catalogue import write_catalogue

CATEGORY = "toy_shop"


def make_shop(folder: Path, *, items: int = 300, candidates: int = 4, conversations: int = 24) -> Path:
    """A catalogue with conversations, and ``folder/store``, the undistilled visual tokens of all its items."""
    shop = folder / "shop"
    write_catalogue(shop, items, 0, conversations=conversations, test_conversations=12, candidates=candidates)
    paths = data_paths(shop)
    words = ["embed", "--model", "tiny", "--output_dir", str(folder / "store"), "--store_dtype", "fp32"]
    words += ["--num_workers", "0", "--batch_size", "50"]
    for name, path in paths.items():
        words += [f"--{name}", str(path)]
    assert run_command_line(words) == 0
    return folder


def data_flags(world: Path, **more: Any) -> list[str]:
    """What tuning and evaluation share; None drops a flag, True is a switch."""
    paths = data_paths(world / "shop")
    values: dict[str, Any] = {
        "model": "tiny",
        "conversations": world / "shop",
        "item_meta_path": paths["train_data"],
        "val_data": paths["val_data"],
        "item_store": world / "store",
        **more,
    }
    words: list[str] = []
    for name, value in values.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None:
            words += [f"--{name}", str(value)]
    return words


def tune_flags(world: Path, output: Path, **more: Any) -> list[str]:
    """Command line of ``lavic tune``."""
    usual = {"output_dir": output, "log_dir": output.parent / "logs", "batch_size": 4, "lr": "3e-3"}
    return ["tune", *data_flags(world, **{**usual, **more})]


def evaluate_flags(world: Path, output: Path, **more: Any) -> list[str]:
    """Command line of ``lavic evaluate``."""
    return ["evaluate", *data_flags(world, **{"output_dir": output, "resamples": 200, **more})]


def rows_of(world: Path, split: str) -> list[dict[str, Any]]:
    """The conversations of a file."""
    path = world / "shop" / CATEGORY / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(world: Path, split: str, rows: list[dict[str, Any]]) -> None:
    """Replace the conversations of a file."""
    path = world / "shop" / CATEGORY / f"{split}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
