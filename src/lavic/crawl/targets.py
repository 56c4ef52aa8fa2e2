"""What to fetch: pictures and their addresses, read one after another from metadata or any table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lavic.conversations import read_conversations
from lavic.crawl.config import CrawlSettings
from lavic.crawl.tables import table_rows
from lavic.errors import InputError
from lavic.files import safe_name
from lavic.formats import image_address, item_id_of, item_rows
from lavic.layout import SPLIT_NAMES, picture_name, split_files
from lavic.rows import PublicRow, check_row, name_problem, read_rows, text_problem
from lavic.skipped import SkipLog

TRAIN, VALID, TABLE = "train", "valid", "table"
_PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


@dataclass(frozen=True, slots=True)
class Target:
    """A picture to fetch.

    Attributes:
        split: ``train``, ``valid`` or ``table``: which folder it goes to.
        url: "" where the metadata has none.
        described: whether the metadata describes it (an item: any of its pictures).
        url_key: under which key or in which column the address stood.
    """

    split: str
    item_id: str
    image_name: str
    url: str
    url_key: str
    described: bool = False

    @property
    def key(self) -> str:
        """What no other picture has: the same name may stand in both files."""
        return f"{self.split}/{self.image_name}"


class _ItemPictures(PublicRow):
    """What a crawl reads of an item in ``item2meta_train.json``."""

    images: list[Any] | None = None
    image_descriptions_llava_cleaned: Any = None


class _ImageRow(PublicRow):
    """What a crawl reads of a line in ``item2meta_valid.jsonl``; a description is not needed."""

    image_name: str
    image: str | None = None
    image_description_llava_cleaned: Any = None


def read_targets(settings: CrawlSettings, skipped: SkipLog, ids: frozenset[str] | None = None) -> Iterator[Target]:
    """All pictures that the settings name, in file order; what cannot name a file is listed in ``skipped``.

    Args:
        ids: only these items, or None for all.

    Raises:
        InputError: a file cannot be used as a whole.
    """
    if settings.table is not None:
        found = _table_targets(settings.table, settings, skipped)
    else:
        found = _both(settings, skipped)
    return (target for target in found if ids is None or target.item_id in ids)


def _both(settings: CrawlSettings, skipped: SkipLog) -> Iterator[Target]:
    if not settings.valid_only:
        yield from _train_targets(settings.train_data, settings.images_per_item, skipped)
    if not settings.train_only:
        yield from _valid_targets(settings.val_data, settings.images_per_item, skipped)


def require_files(settings: CrawlSettings) -> None:
    """Say that a metadata file is missing before anything is made or read.

    Raises:
        InputError: with the flag that names it.
    """
    if settings.table is not None:
        wanted = [("--table", settings.table, "")]
    else:
        train_way = "Name it, or fetch the validation pictures alone with --valid_only."
        valid_way = "Name it, or fetch the training pictures alone with --train_only."
        wanted = [] if settings.valid_only else [("--train_data", settings.train_data, train_way)]
        wanted += [] if settings.train_only else [("--val_data", settings.val_data, valid_way)]
    for flag, path, way_out in wanted:
        if not path.exists():
            raise InputError("there is no such file", where=f"{flag} {path}", remedy=way_out)


def _train_targets(path: Path, images_per_item: int | None, skipped: SkipLog) -> Iterator[Target]:
    # Each time that an item stands there: the plan, which takes less memory, finds names that repeat.
    for item_id, row, _ in item_rows(path, _ItemPictures, skipped, once=False):
        texts = row.image_descriptions_llava_cleaned
        described = isinstance(texts, dict) and any(not text_problem(text) for text in texts.values())
        if not row.images:
            skipped.note("items without pictures")
        for number, entry in enumerate((row.images or [])[:images_per_item]):
            url, url_key = image_address(entry)
            place = (path, f"item {item_id}", skipped)
            target = Target(TRAIN, item_id, picture_name(item_id, number), url, url_key, described)
            yield from _named(target, place)


def _valid_targets(path: Path, images_per_item: int | None, skipped: SkipLog) -> Iterator[Target]:
    taken: defaultdict[str, set[str]] = defaultdict(set)
    for number, value in read_rows(path, skipped):
        place = f"line {number}"
        row, key, reason = check_row(_ImageRow, value)
        if row is None:
            skipped.add(file=path, where=place, key=key, reason=reason)
            continue
        item_id = item_id_of(row.image_name)
        if images_per_item is not None:
            names = taken[item_id]
            if len(names) >= images_per_item and row.image_name not in names:
                continue
            names.add(row.image_name)
        described = not text_problem(row.image_description_llava_cleaned)
        target = Target(VALID, item_id, row.image_name, row.image or "", "image", described)
        yield from _named(target, (path, place, skipped))


def _table_targets(path: Path, settings: CrawlSettings, skipped: SkipLog) -> Iterator[Target]:
    for place, name, urls in table_rows(path, settings.id_column, settings.url_column, skipped):
        is_file_name = name.lower().endswith(_PICTURE_ENDINGS)
        item_id = item_id_of(name) if is_file_name else name
        for number, url in enumerate(urls[: 1 if is_file_name else settings.images_per_item]):
            image_name = name if is_file_name else picture_name(name, number)
            yield from _named(Target(TABLE, item_id, image_name, url, settings.url_column), (path, place, skipped))


def _named(target: Target, place: tuple[Path, str, SkipLog]) -> Iterator[Target]:
    """The target, if its name can name a file."""
    reason = name_problem(target.image_name)
    if reason:
        path, where, skipped = place
        skipped.add(file=path, where=where, key="image_name", reason=reason)
    else:
        yield target if target.url else replace(target, url_key="")


def category_ids(data_dir: Path, category: str, skipped: SkipLog) -> frozenset[str]:
    """The items that a category's conversations mention: as context, as answer or as a candidate.

    Raises:
        InputError: none of its files is there.
    """
    folder = data_dir / safe_name(category)
    paths = split_files(folder).values()
    if not paths:
        remedy = f"--category names a folder beside the metadata that holds {SPLIT_NAMES}."
        raise InputError("there are no conversations here", where=str(folder), remedy=remedy)
    ids: set[str] = set()
    for path in paths:
        for conversation in read_conversations(path, skipped):
            ids.update(conversation.needed_ids, conversation.context_items)
    return frozenset(ids)
