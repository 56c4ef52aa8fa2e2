"""Where a data set in the public format keeps its parts: one folder, two metadata files, two of pictures."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TypedDict

from lavic.errors import InputError

TRAIN_METADATA, VALID_METADATA = "item2meta_train.json", "item2meta_valid.jsonl"
#: Beside the training metadata: the same with the pictures deranged (``lavic.data.derange``).
BLIND_METADATA = "item2meta_train_blind.json"
TRAIN_IMAGES, VALID_IMAGES = "train_images", "valid_images"
#: The files of a category of conversations.
SPLITS = ("train", "valid", "test")


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


def data_flags(folder: Path, parts: Collection[str] = ("train", "val")) -> str:
    """The data set in a folder as flags of a command line, or a part of it."""
    return " ".join(f"--{name} {path}" for name, path in data_paths(folder).items() if name.startswith(tuple(parts)))


def distill_command(folder: Path, parts: Collection[str] = ("train", "val")) -> str:
    """What to call next on a data set: the tiny model, which needs no download."""
    return f"lavic distill --model tiny {data_flags(folder, parts)}".rstrip()


def conversation_files(folder: Path) -> dict[str, dict[str, Path]]:
    """Category -> split -> file, of one category's folder or of a folder of such.

    Raises:
        InputError: there is none.
    """
    if not folder.is_dir():
        raise InputError("there is no such folder", where=str(folder), remedy="Give --conversations.")
    own = _splits(folder)
    found = {folder.resolve().name: own} if own else {}
    for inner in sorted(folder.iterdir()) if not own else ():
        if inner.is_dir() and (splits := _splits(inner)):
            found[inner.name] = splits
    if not found:
        problem = "neither the folder nor one in it holds train.jsonl, valid.jsonl or test.jsonl"
        remedy = "Give --conversations the folder of a category, or the folder that holds those of several."
        raise InputError(problem, where=str(folder), remedy=remedy)
    return found


def _splits(folder: Path) -> dict[str, Path]:
    return {split: folder / f"{split}.jsonl" for split in SPLITS if (folder / f"{split}.jsonl").is_file()}
