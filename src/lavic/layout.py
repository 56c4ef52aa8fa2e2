"""Where a data set in the public format keeps its parts: one folder, two metadata files, two of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

TRAIN_METADATA, VALID_METADATA = "item2meta_train.json", "item2meta_valid.jsonl"
#: Beside the training metadata: the same with the pictures deranged (``lavic.data.derange``).
BLIND_METADATA = "item2meta_train_blind.json"
TRAIN_IMAGES, VALID_IMAGES = "train_images", "valid_images"


class DataPaths(TypedDict):
    """The four paths by the names of the settings and flags that take them."""

    train_data: Path
    val_data: Path
    train_images_dir: Path
    val_images_dir: Path


def data_paths(folder: Path, train_metadata: str = TRAIN_METADATA) -> DataPaths:
    """The parts of the data set in a folder; ``train_metadata`` names another training file."""
    return {
        "train_data": folder / train_metadata,
        "val_data": folder / VALID_METADATA,
        "train_images_dir": folder / TRAIN_IMAGES,
        "val_images_dir": folder / VALID_IMAGES,
    }


def data_flags(folder: Path) -> str:
    """The parts of the data set in a folder as flags of a command line."""
    return " ".join(f"--{name} {path}" for name, path in data_paths(folder).items())


def distill_command(folder: Path) -> str:
    """What to call next on a data set: the tiny model, which needs no download."""
    return f"lavic distill --model tiny {data_flags(folder)}"
