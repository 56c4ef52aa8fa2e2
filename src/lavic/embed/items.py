"""The items of the metadata, and which of their pictures are there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from lavic.embed.config import EmbedSettings
from lavic.errors import InputError
from lavic.files import open_regular
from lavic.formats import item_id_of, item_rows
from lavic.layout import ABSENT, find_picture, picture_name, require_images
from lavic.rows import PictureRow, PublicRow, check_row, name_problem, read_rows
from lavic.skipped import SkipLog


@dataclass(frozen=True)
class ListedItem:
    """An item as the metadata list it.

    Attributes:
        folders: where its pictures may lie; two for an item that both files list.
        where: "file, item ID" or "file, line N".
    """

    item_id: str
    folders: tuple[Path, ...]
    where: str


@dataclass(frozen=True)
class NumberedPicture:
    """A picture of an item, there or not; ``number`` is 0 for ``ID_0.jpg``."""

    item_id: str
    number: int

    @property
    def image_name(self) -> str:
        """Its name in the metadata."""
        return picture_name(self.item_id, self.number)

    @property
    def key(self) -> tuple[str, int]:
        """What the store knows it by."""
        return self.item_id, self.number


@dataclass(frozen=True)
class Picture(NumberedPicture):
    """A picture that is there, not yet decoded."""

    path: Path
    where: str


@dataclass(frozen=True)
class Problem(NumberedPicture):
    """Why a picture cannot be used, as ``skipped.jsonl`` lists it."""

    file: Path
    where: str
    reason: str


@dataclass
class Found:
    """What was found of the items' pictures, in the order of the metadata.

    Attributes:
        items: how many were looked at.
        pictures: those that are there.
        problems: those that cannot be used, and the first one of each item that has none at all.
    """

    items: int = 0
    pictures: list[Picture] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def check_data(settings: EmbedSettings) -> None:
    """See that files and folders are there, before anything is read or loaded.

    Raises:
        InputError: one is not.
    """
    parts = (
        ("item_meta_path", settings.item_meta_path, "train_images_dir", settings.train_images_dir),
        ("val_data", settings.val_data, "val_images_dir", settings.val_images_dir),
    )
    for flag, path, images_flag, images_dir in parts:
        if path is None:
            continue
        try:
            open_regular(path).close()
        except InputError as error:
            remedy = f"Give --{flag}, or `none` to leave it out."
            raise InputError(error.problem, where=error.where, remedy=remedy) from error
        require_images(images_dir, f"Give --{images_flag}, or fetch the pictures with lavic crawl.")


def read_items(settings: EmbedSettings, skipped: SkipLog) -> list[ListedItem]:
    """The items of both files, each once, in file order, at most ``max_items``.

    Raises:
        InputError: a file as a whole cannot be used; a bad row is only listed.
    """
    sources: list[Iterator[ListedItem]] = []
    if settings.item_meta_path is not None:
        sources.append(_train_items(settings.item_meta_path, settings.train_images_dir, skipped))
    if settings.val_data is not None:
        sources.append(_valid_items(settings.val_data, settings.val_images_dir, skipped))
    found: dict[str, ListedItem] = {}
    for item in chain.from_iterable(sources):
        known = found.get(item.item_id)
        if known is None:
            found[item.item_id] = item
        elif not set(item.folders) <= set(known.folders):
            found[item.item_id] = replace(known, folders=(*known.folders, *item.folders))
    return list(islice(found.values(), settings.max_items))


def _train_items(path: Path, images_dir: Path, skipped: SkipLog) -> Iterator[ListedItem]:
    for item_id, _, _ in item_rows(path, PublicRow, skipped):
        yield ListedItem(item_id, (images_dir,), f"{path}, item {item_id}")


def _valid_items(path: Path, images_dir: Path, skipped: SkipLog) -> Iterator[ListedItem]:
    for number, value in read_rows(path, skipped):
        row, key, reason = check_row(PictureRow, value)
        item_id = "" if row is None else item_id_of(row.image_name)
        if row is not None:
            key, reason = "image_name", name_problem(row.image_name) or name_problem(item_id)
        if reason:
            skipped.add(file=path, where=f"line {number}", key=key, reason=reason)
        else:
            yield ListedItem(item_id, (images_dir,), f"{path}, line {number}")


def find_pictures(items: Iterable[ListedItem], per_item: int) -> Found:
    """Look for ``ID_0.jpg`` to ``ID_{per_item - 1}.jpg`` of each item; nothing is decoded."""
    found = Found()
    for item in items:
        found.items += 1
        before, first = len(found.pictures), None
        for number in range(per_item):
            looked = _look(item, number)
            if isinstance(looked, Picture):
                found.pictures.append(looked)
            elif looked.reason != ABSENT:
                found.problems.append(looked)
            first = first or (looked if isinstance(looked, Problem) else None)
        # That an item has fewer pictures than were asked for is no problem; that it has none is one.
        if len(found.pictures) == before and first is not None and first.reason == ABSENT:
            found.problems.append(first)
    return found


def _look(item: ListedItem, number: int) -> Picture | Problem:
    """The picture in the first folder that has it; else what is wrong with the one that comes nearest."""
    name = picture_name(item.item_id, number)
    worst: Problem | None = None
    for folder in item.folders:
        path, reason = find_picture(folder, name)
        if not reason:
            return Picture(item.item_id, number, path, item.where)
        if worst is None or worst.reason == ABSENT:
            worst = Problem(item.item_id, number, path, item.where, reason)
    assert worst is not None, "an item has a folder"
    return worst
