"""The metadata of the public data set as Item and ItemImage: streamed reading, checks, byte-compatible writing.

A file that cannot be used at all is an InputError; a row that cannot is listed in the SkipLog and left out.
What is written again unchanged has the same bytes: ``raw`` keeps unknown keys and the order of all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavic.files import atomic_path, json_line
from lavic.json_stream import stream_members
from lavic.rows import (
    REPEATED_KEY,
    PictureRow,
    Row,
    TrainRow,
    ValidRow,
    check_row,
    json_kind,
    name_problem,
    picture_problem,
    read_rows,
    surrogate_problem,
    text_problem,
)
from lavic.skipped import SkipLog

__all__ = [
    "DESCRIPTIONS_KEY",
    "DESCRIPTION_KEY",
    "NO_TITLE",
    "NO_TITLE_NOTE",
    "URL_KEYS",
    "Item",
    "ItemImage",
    "SkipLog",
    "image_address",
    "item_id_of",
    "item_rows",
    "object_pieces",
    "read_train_items",
    "read_train_metadata",
    "read_valid_metadata",
    "title_of",
    "write_train_metadata",
    "write_valid_metadata",
]

NO_TITLE = "No Title"
NO_TITLE_NOTE = "titles missing, taken as 'No Title'"
DESCRIPTIONS_KEY = "image_descriptions_llava_cleaned"  # of an item in the training file
DESCRIPTION_KEY = "image_description_llava_cleaned"  # of a row in the validation file

# The addresses of one picture, best first; some entries have only a larger or a smaller one.
URL_KEYS = ("large", "hi_res", "thumb")

_IMAGE_NAME = re.compile(r"(?P<item_id>.+)_[0-9]+\.[A-Za-z0-9]+")


@dataclass(frozen=True)
class Item:
    """An entry of the catalogue.

    Attributes:
        image_urls: entry i belongs to the file ``ID_i.jpg``; "" where the entry has no address.
        descriptions: image_name -> image_description, those that can be trained on.
        where: "file, item ID".
        raw: the row as read.
    """

    item_id: str
    title: str
    image_urls: tuple[str, ...] = ()
    descriptions: Mapping[str, str] = field(default_factory=dict)
    where: str = ""
    raw: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class ItemImage:
    """One picture with its description, which makes one sample of stage 1.

    Attributes:
        where: "file, line N" or "file, item ID".
        raw: the row as read, of a validation file; None where the training file holds the whole item.
    """

    item_id: str
    image_name: str
    title: str
    description: str
    where: str = ""
    image_url: str = ""
    raw: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)


def item_rows(
    path: Path, model: type[Row], skipped: SkipLog, *, once: bool = True
) -> Iterator[tuple[str, Row, dict[str, Any]]]:
    """ID, checked row and value of each item of a training file (one JSON object, plain or zipped), in file order.

    Args:
        model: the keys that are looked at.
        once: of an item that stands twice, give the first only; this remembers all IDs.

    Raises:
        InputError: the file as a whole cannot be used; items before the place of trouble have been given.
    """
    seen: set[str] = set()
    for member in stream_members(path):
        place, key = f"item {member.key}", ""
        for repeated in member.repeated:
            skipped.add(file=path, where=place, key=repeated, reason=REPEATED_KEY)
        reason = name_problem(member.key)
        if not reason and member.key in seen:
            reason = "the item stands twice; the first is kept"
        if not reason and not isinstance(member.value, dict):
            reason = f"the item is {json_kind(member.value)}, not an object"
        row: Row | None = None
        if not reason:
            if once:
                seen.add(member.key)
            row, key, reason = check_row(model, member.value)
        if row is None:
            skipped.add(file=path, where=place, key=key, reason=reason)
        else:
            yield member.key, row, member.value


def title_of(title: str | None, skipped: SkipLog | None = None) -> str:
    """A title of the metadata, or what stands for one that is missing or empty, which ``skipped`` counts."""
    if title is not None and title.strip():
        return title
    if skipped is not None:
        skipped.note(NO_TITLE_NOTE)
    return NO_TITLE


def read_train_items(path: Path, skipped: SkipLog, *, described: bool = True) -> Iterator[Item]:
    """The items of a training file, one at a time; see ``item_rows``.

    Args:
        described: check and give the descriptions; otherwise they are no matter, and left out.
    """
    for item_id, row, value in item_rows(path, TrainRow, skipped):
        place, title = f"item {item_id}", title_of(row.title, skipped)
        if surrogate_problem(title):
            skipped.add(file=path, where=place, key="title", reason=surrogate_problem(title))
            continue
        yield Item(
            item_id=item_id,
            title=title,
            image_urls=tuple(image_address(entry)[0] for entry in row.images or ()),
            descriptions=dict(_descriptions(row, path, place, skipped)) if described else {},
            where=f"{path}, {place}",
            raw=value,
        )


def image_address(entry: object) -> tuple[str, str]:
    """The best address in an entry of ``images``, and which of ``URL_KEYS`` it stands under; two "" without one."""
    if isinstance(entry, dict):
        for key in URL_KEYS:
            address = entry.get(key)
            if isinstance(address, str) and address.strip():
                return address, key
    return (entry, "") if isinstance(entry, str) else ("", "")


def _descriptions(row: TrainRow, path: Path, place: str, skipped: SkipLog) -> Iterator[tuple[str, str]]:
    for image_name, text in (row.image_descriptions_llava_cleaned or {}).items():
        reason = name_problem(image_name) or text_problem(text)
        if reason:
            skipped.add(file=path, where=place, key=image_name, reason=reason)
        else:
            yield image_name, text


def read_train_metadata(path: Path, skipped: SkipLog) -> Iterator[ItemImage]:
    """The described pictures of a training file, in file order; see ``read_train_items``."""
    for item in read_train_items(path, skipped):
        if not item.raw or not item.raw.get(DESCRIPTIONS_KEY):
            reason = "the item has no image descriptions"
            skipped.add(file=path, where=f"item {item.item_id}", key=DESCRIPTIONS_KEY, reason=reason)
        for image_name, description in item.descriptions.items():
            yield ItemImage(item.item_id, image_name, item.title, description, item.where)


def item_id_of(image_name: str) -> str:
    """``B000000000`` of ``B000000000_3.jpg``; of a name built otherwise, what stands before its ending."""
    match = _IMAGE_NAME.fullmatch(image_name)
    return match["item_id"] if match else Path(image_name).stem


def read_valid_metadata(path: Path, skipped: SkipLog, *, described: bool = True) -> Iterator[ItemImage]:
    """The pictures of a validation file (JSONL, plain or zipped), in file order.

    Args:
        described: leave out those without a usable description; otherwise its place is "".

    Raises:
        InputError: the file cannot be opened or is empty; a bad line is only listed.
    """
    for number, value in read_rows(path, skipped):
        place = f"line {number}"
        row, key, reason = check_row(ValidRow if described else PictureRow, value)
        if row is not None:
            key, reason = picture_problem(row)
        if row is None or reason:
            skipped.add(file=path, where=place, key=key, reason=reason)
            continue
        text = row.image_description_llava_cleaned
        yield ItemImage(
            item_id=item_id_of(row.image_name),
            image_name=row.image_name,
            title=title_of(row.title, skipped),
            description="" if not described and text_problem(text) else text,
            where=f"{path}, {place}",
            image_url=row.image or "",
            raw=value,
        )


def object_pieces(members: Iterable[tuple[str, Mapping[str, Any]]], *, ascii_only: bool = False) -> Iterator[bytes]:
    """One JSON object on one line, spaced as ``json.dump`` does, member by member."""
    before = b"{"
    for key, value in members:
        # json_line of a one-member object, without its braces and line end, is the member.
        yield before + json_line({key: value}, ascii_only=ascii_only)[1:-2]
        before = b", "
    yield b"{}" if before == b"{" else b"}"


def write_train_metadata(path: Path, items: Iterable[Item], *, ascii_only: bool = False) -> None:
    """Write a training file item by item: one object on one line, spaced as ``json.dump`` does.

    An item that was read keeps its keys; its descriptions are taken from ``item.descriptions`` where they
    differ. ``ascii_only`` escapes everything beyond ASCII, as the conversation files do.
    """
    with atomic_path(path) as part, part.open("wb") as stream:
        members = ((item.item_id, _train_row(item)) for item in items)
        stream.writelines(object_pieces(members, ascii_only=ascii_only))


def _train_row(item: Item) -> dict[str, Any]:
    if item.raw is None:
        return {
            "title": item.title,
            "categories": [],
            "features": [],
            "description": [],
            "images": [{"large": url} for url in item.image_urls],
            DESCRIPTIONS_KEY: dict(item.descriptions),
        }
    row = dict(item.raw)
    if item.descriptions:
        row[DESCRIPTIONS_KEY] = {**(row.get(DESCRIPTIONS_KEY) or {}), **item.descriptions}
    return row


def write_valid_metadata(path: Path, rows: Iterable[ItemImage]) -> None:
    """Write a validation file: UTF-8, not escaped; a row that was read keeps its keys."""
    with atomic_path(path) as part, part.open("wb") as stream:
        for image in rows:
            row = dict(image.raw) if image.raw is not None else _new_valid_row(image)
            row[DESCRIPTION_KEY] = image.description
            stream.write(json_line(row))


def _new_valid_row(image: ItemImage) -> dict[str, Any]:
    return {"title": image.title, "image_name": image.image_name, "image": image.image_url}
