"""The two metadata files: which of their pictures have no description yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavic.describe.config import DescribeSettings
from lavic.errors import InputError, NothingLeftError
from lavic.files import open_regular
from lavic.formats import DESCRIPTION_KEY, item_rows, title_of
from lavic.layout import find_picture, picture_name, require_images
from lavic.rows import TrainRow, ValidRow, check_row, read_rows, text_problem
from lavic.skipped import SkipLog

JOURNAL_ENDING = ".describe.jsonl"
_PACKED = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b")


@dataclass(frozen=True)
class Side:
    """One metadata file.

    Attributes:
        name: ``train`` or ``valid``.
        source: what is read, perhaps packed.
        target: what is written, never packed; the same as ``source`` unless that is packed.
    """

    name: str
    source: Path
    target: Path
    images_dir: Path

    @property
    def journal(self) -> Path:
        """Where descriptions go until they are merged."""
        return self.target.with_name(self.target.name + JOURNAL_ENDING)


@dataclass(frozen=True)
class Picture:
    """A picture without a description.

    Attributes:
        side: ``train`` or ``valid``.
        home: key of the item that its description belongs to; "" in a validation file, where it is a line's own.
        where: "file, item ID" or "file, line N".
    """

    side: str
    home: str
    image_name: str
    title: str
    path: Path
    where: str


def resolve_sides(settings: DescribeSettings) -> tuple[Side, ...]:
    """The files that the settings name.

    Raises:
        InputError: a file cannot be opened, or an unpacked one stands beside it that lavic did not write.
    """
    files = {
        "train": (settings.train_data, settings.train_images_dir),
        "valid": (settings.val_data, settings.val_images_dir),
    }
    return tuple(_side(name, *files[name]) for name in settings.sides)


_DATA_FLAGS = {"train": "--train_data", "valid": "--val_data"}
_IMAGES_FLAGS = {"train": "--train_images_dir", "valid": "--val_images_dir"}
_LEAVING_OUT = {"train": "--valid_only", "valid": "--train_only"}


def _side(name: str, path: Path, images_dir: Path) -> Side:
    require_images(images_dir, f"Give {_IMAGES_FLAGS[name]}, or fetch the pictures with lavic crawl.")
    flag = _DATA_FLAGS[name]
    try:
        with open_regular(path) as stream:
            head = stream.read(4)
    except InputError as error:
        raise InputError(error.problem, where=error.where, remedy=f"Give {flag}.") from error
    if not any(head.startswith(mark) for mark in _PACKED):
        return Side(name, path, path, images_dir)
    side = Side(name, path, _unpacked_name(path, name), images_dir)
    if not side.target.exists():
        return side
    if side.journal.exists():  # an earlier run of ours made it
        return Side(name, side.target, side.target, images_dir)
    raise InputError(
        f"the unpacked file {side.target} is there already",
        where=str(path),
        remedy=f"Give that one as {flag}, or move it away.",
    )


def _unpacked_name(path: Path, name: str) -> Path:
    ending = ".json" if name == "train" else ".jsonl"
    stem = path.name.removesuffix(".zip").removesuffix(".gz")
    if stem == path.name:
        stem += ".unpacked"
    return path.with_name(stem if stem.endswith((".json", ".jsonl")) else stem + ending)


@dataclass
class Found:
    """What a metadata file says of its pictures.

    Attributes:
        pictures: those that are there and have no usable description, in file order. A name that several items have
            comes once for each of them.
        described: how many have one.
        missing: how many have none and are not there either.
    """

    pictures: list[Picture] = field(default_factory=list)
    described: int = 0
    missing: int = 0


def look_for_pictures(side: Side, skipped: SkipLog, limit: int | None = None) -> Found:
    """Read a whole file, and list in ``skipped`` what cannot be described.

    Args:
        limit: of the pictures, only the first so many.

    Raises:
        InputError: the file as a whole cannot be used.
        NothingLeftError: it names no picture, or none that is there.
    """
    rows = _of_items(side, skipped) if side.name == "train" else _of_rows(side, skipped)
    found, seen = Found(), set[tuple[str, str]]()
    for row in rows:
        if row.described:
            found.described += 1
        elif (row.home, row.image_name) not in seen:
            seen.add((row.home, row.image_name))
            where = f"{side.source}, {row.place}"
            path, problem = find_picture(side.images_dir, row.image_name)
            if problem:
                found.missing += 1
                skipped.add(file=path, where=where, key=row.image_name, reason=problem)
            elif limit is None or len(found.pictures) < limit:
                found.pictures.append(Picture(side.name, row.home, row.image_name, row.title, path, where))
    if not found.described and not found.pictures and limit != 0:
        raise _nothing(side, found)
    return found


def _nothing(side: Side, found: Found) -> NothingLeftError:
    if not found.missing:
        return NothingLeftError("it names no picture that can be used", where=str(side.source))
    problem = f"none of the {found.missing:,} pictures that {side.source.name} names is there"
    remedy = (
        f"Give {_IMAGES_FLAGS[side.name]}, fetch the pictures with lavic crawl, or leave them out with "
        f"{_LEAVING_OUT[side.name]}."
    )
    return NothingLeftError(problem, where=str(side.images_dir), remedy=remedy)


@dataclass(frozen=True)
class _Named:
    """A picture as the metadata name it; ``place`` is "item ID" or "line N"."""

    home: str
    image_name: str
    title: str
    place: str
    described: bool


def _of_items(side: Side, skipped: SkipLog) -> Iterator[_Named]:
    for item_id, row, _ in item_rows(side.source, TrainRow, skipped):
        known: dict[str, Any] = row.image_descriptions_llava_cleaned or {}
        for image_name in _names(item_id, len(row.images or ()), side.images_dir, known):
            described = not text_problem(known.get(image_name))
            yield _Named(item_id, image_name, title_of(row.title), f"item {item_id}", described)


def _names(item_id: str, entries: int, images_dir: Path, known: dict[str, Any]) -> Iterator[str]:
    """Pictures by the entries of ``images``, further ones that can be used, and those that have a key already."""
    names = [picture_name(item_id, number) for number in range(entries)]
    while not find_picture(images_dir, name := picture_name(item_id, len(names)))[1]:
        names.append(name)
    yield from dict.fromkeys([*names, *known])


def _of_rows(side: Side, skipped: SkipLog) -> Iterator[_Named]:
    for number, value in read_rows(side.source, skipped):
        place = f"line {number}"
        # The key that is to be filled may be missing.
        row, key, reason = check_row(ValidRow, {**value, DESCRIPTION_KEY: value.get(DESCRIPTION_KEY)})
        if row is None:
            skipped.add(file=side.source, where=place, key=key, reason=reason)
        else:
            described = not text_problem(row.image_description_llava_cleaned)
            yield _Named("", row.image_name, title_of(row.title), place, described)
