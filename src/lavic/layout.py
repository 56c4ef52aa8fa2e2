"""Where a data set in the public format keeps its parts: one folder, two metadata files, two of pictures."""

from __future__ import annotations

import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import TypedDict

from lavic.errors import InputError, system_words
from lavic.files import safe_join

TRAIN_METADATA, VALID_METADATA = "item2meta_train.json", "item2meta_valid.jsonl"
#: Beside the training metadata: the same with the pictures deranged (``lavic.data.derange``).
BLIND_METADATA = "item2meta_train_blind.json"
TRAIN_IMAGES, VALID_IMAGES = "train_images", "valid_images"
#: The files of a category of conversations.
SPLITS = ("train", "valid", "test")
SPLIT_NAMES = "train.jsonl, valid.jsonl or test.jsonl"

ABSENT = "there is no such picture"


def served_address(value: str | None) -> str | None:
    """An address under which pictures are served, as ``--served_at`` takes it.

    Raises:
        ValueError: it is none.
    """
    if value is not None and not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", value):
        raise ValueError(f"{value!r} is not an address; write http://127.0.0.1:8000")
    return value


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


def picture_name(item_id: str, number: int) -> str:
    """The file of an item's picture: ``ID_0.jpg`` is the first."""
    return f"{item_id}_{number}.jpg"


def find_picture(folder: Path, name: str) -> tuple[Path, str]:
    """Where a picture lies (the folder, if the name can name no file in it), and why it cannot be used, or "".

    Nothing is decoded: that it is a picture, reading it will tell.
    """
    path = folder
    try:
        path = safe_join(folder, name)
        found = path.stat()
    except InputError as error:
        return folder, error.problem
    except (FileNotFoundError, NotADirectoryError):
        return path, "the link leads nowhere" if path.is_symlink() else ABSENT
    except OSError as error:
        return path, f"cannot be read ({error.strerror})"
    if not stat.S_ISREG(found.st_mode):
        return path, "is a folder" if stat.S_ISDIR(found.st_mode) else "is not an ordinary file"
    if found.st_size == 0:
        return path, "the file is empty (0 bytes)"
    return path, ""


def require_images(folder: Path, remedy: str) -> None:
    """See that a folder of pictures is there and can be read.

    Args:
        remedy: which flag names it.

    Raises:
        InputError: it cannot.
    """
    try:
        next(folder.iterdir(), None)
    except NotADirectoryError:
        raise InputError("this is not a folder", where=str(folder), remedy=remedy) from None
    except (OSError, ValueError) as error:
        problem = f"the folder cannot be read ({system_words(error)})"
        if isinstance(error, FileNotFoundError):
            problem = "the folder with the pictures does not exist"
        raise InputError(problem, where=str(folder), remedy=remedy) from None


def conversation_files(folder: Path) -> dict[str, dict[str, Path]]:
    """Category -> split -> file, of one category's folder or of a folder of such.

    Raises:
        InputError: there is none.
    """
    if not folder.is_dir():
        raise InputError("there is no such folder", where=str(folder), remedy="Give --conversations.")
    own = split_files(folder)
    found = {folder.resolve().name: own} if own else {}
    for inner in sorted(folder.iterdir()) if not own else ():
        if inner.is_dir() and (splits := split_files(inner)):
            found[inner.name] = splits
    if not found:
        problem = f"neither the folder nor one in it holds {SPLIT_NAMES}"
        remedy = "Give --conversations the folder of a category, or the folder that holds those of several."
        raise InputError(problem, where=str(folder), remedy=remedy)
    return found


def split_files(folder: Path) -> dict[str, Path]:
    """Split -> file, of those that a category's folder has."""
    return {split: folder / f"{split}.jsonl" for split in SPLITS if (folder / f"{split}.jsonl").is_file()}
