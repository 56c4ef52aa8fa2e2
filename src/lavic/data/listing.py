"""Metadata as a list of entries, described or not yet: what stats, subset and Parquet read.

``lavic.formats`` gives training what it can learn from; here an entry without a description counts too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavic.archives import open_text_maybe_zipped
from lavic.errors import ConfigError
from lavic.files import json_line
from lavic.formats import Item, object_pieces, read_train_items, read_valid_metadata
from lavic.layout import find_picture, picture_name, require_images
from lavic.skipped import SkipLog

_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Entry:
    """An item of the training file, or a line (one picture) of the validation file.

    Attributes:
        images: image_name -> image_description, "" where there is none yet; in the order of their numbers in a
            training file's ``images``, then what only the descriptions name.
        where: "item ID" or "line N".
    """

    item_id: str
    title: str
    images: Mapping[str, str]
    where: str
    raw: Mapping[str, Any] = field(repr=False, compare=False)


def read_entries(part: str, path: Path, skipped: SkipLog) -> Iterator[Entry]:
    """The entries of a metadata file, one at a time.

    Args:
        part: ``train`` (one JSON object) or ``valid`` (JSON lines).

    Raises:
        InputError: the file as a whole cannot be used; a bad entry is only listed.
    """
    return _train_entries(path, skipped) if part == "train" else _valid_entries(path, skipped)


def _train_entries(path: Path, skipped: SkipLog) -> Iterator[Entry]:
    for item in read_train_items(path, skipped):
        images = {name: item.descriptions.get(name, "") for name in image_names(item)}
        yield Entry(item.item_id, item.title, images, f"item {item.item_id}", item.raw or {})


def image_names(item: Item) -> tuple[str, ...]:
    """``ID_i.jpg`` of every address, then the described ones that are named otherwise."""
    numbered = [picture_name(item.item_id, index) for index, url in enumerate(item.image_urls) if url]
    described = sorted(set(item.descriptions) - set(numbered), key=number_first)
    return (*numbered, *described)


def number_first(image_name: str) -> tuple[int, str]:
    """A key to sort image names by: ``ID_2.jpg`` comes before ``ID_10.jpg``."""
    digits = Path(image_name).stem.rpartition("_")[2]
    return (int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 10**10, image_name)


def _valid_entries(path: Path, skipped: SkipLog) -> Iterator[Entry]:
    for picture in read_valid_metadata(path, skipped, described=False):
        images = {picture.image_name: picture.description}
        place = picture.where.rpartition(", ")[2]
        yield Entry(picture.item_id, picture.title, images, place, picture.raw or {})


def rewritten(part: str, entries: Iterable[tuple[str, Mapping[str, Any]]], ascii_only: bool) -> Iterator[bytes]:
    """A metadata file's bytes, entry by entry: one object on one line (training), or lines (validation)."""
    if part == "valid":
        for _, raw in entries:
            yield json_line(raw)
    else:
        yield from object_pieces(entries, ascii_only=ascii_only)


def picture_path(folder: Path, image_name: str) -> Path | None:
    """Where a picture lies, or None if there is no ordinary file of this name with something in it."""
    path, problem = find_picture(folder, image_name)
    return None if problem else path


def is_ascii(path: Path) -> bool:
    """Whether a metadata file holds no byte beyond ASCII, so that writing it again must escape."""
    with open_text_maybe_zipped(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            if not chunk.isascii():
                return False
    return True


def require_file(path: Path | None, flag: str) -> None:
    """Refuse a metadata file that is not there.

    Raises:
        ConfigError: with the flag.
    """
    if path is not None and not path.exists():
        remedy = f"Name the file with {flag}, or leave it out with `{flag} none`."
        raise ConfigError("there is no such file", where=str(path), remedy=remedy)


def require_folder(path: Path | None, flag: str) -> None:
    """Refuse a folder of pictures that is not there.

    Raises:
        InputError: with the flag.
    """
    if path is not None:
        require_images(path, f"Name the folder with {flag}, or leave it out with `{flag} none`.")
