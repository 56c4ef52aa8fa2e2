"""Item metadata of Amazon-Reviews-2023 (``meta_<Category>.jsonl``) as items of the public format.

Source: Hou et al., "Bridging Language and Items for Retrieval and Recommendation" (arXiv 2403.03952), whose data pages
list the fields. Only those that the public format has are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavic.formats import DESCRIPTIONS_KEY, URL_KEYS, title_of
from lavic.rows import PublicRow, check_row, name_problem, read_rows, surrogate_problem
from lavic.skipped import SkipLog

#: Longer addresses are no product pictures.
MAX_URL_CHARS = 2048
_URL = re.compile(r"https?://[^\s\"'<>\\]+", re.IGNORECASE)
_IMAGE_KEYS = ("thumb", "large", "variant", "hi_res")

NO_PICTURE = "no entry of images has an address that can be used"
BAD_ENTRIES_NOTE = "entries of images without a usable address, or with an earlier one's"


class _Named(PublicRow):
    """All that is looked at of a row before it is known whether the item is wanted."""

    parent_asin: str


class _MetaRow(_Named):
    """The keys that are kept."""

    title: str | None = None
    features: list[Any] | None = None
    description: list[Any] | None = None
    categories: list[Any] | None = None
    main_category: str | None = None
    images: list[Any] | None = None


@dataclass(frozen=True)
class MetaRow:
    """A row whose ID can be used; ``value`` is unchecked beyond that."""

    item_id: str
    where: str
    value: dict[str, Any]


def read_meta(path: Path, skipped: SkipLog) -> Iterator[MetaRow]:
    """The rows of a metadata file, plain or packed, one at a time.

    Raises:
        InputError: the file cannot be opened, is empty, or its archive is damaged; a bad line is only listed.
    """
    for number, value in read_rows(path, skipped):
        where = f"line {number}"
        row, key, reason = check_row(_Named, value)
        if row is not None:
            key, reason = "parent_asin", name_problem(row.parent_asin)
        if row is None or reason:
            skipped.add(file=path, where=where, key=key, reason=reason)
        else:
            yield MetaRow(row.parent_asin, where, value)


def as_item(meta: MetaRow, images_per_item: int, path: Path, skipped: SkipLog) -> dict[str, Any] | None:
    """A row as an item of ``item2meta_train.json``, without image descriptions yet; None if it is left out.

    ``images`` is empty where no entry has an address that can be used.

    Args:
        images_per_item: pictures to keep, in the row's order; entry i of ``images`` is the file ``ID_i.jpg``.
    """
    row, key, reason = check_row(_MetaRow, meta.value)
    images: list[dict[str, Any]] = []
    if row is not None:
        key, reason = "title", surrogate_problem(row.title or "")
        images = _images(row.images or [], images_per_item, skipped)
    if row is None or reason:
        skipped.add(file=path, where=meta.where, key=key, reason=reason)
        return None
    categories = _texts(row.categories) or _texts([row.main_category])
    return {
        "title": title_of(row.title, skipped),
        "categories": categories,
        "features": _texts(row.features),
        "description": _texts(row.description),
        "images": images,
        DESCRIPTIONS_KEY: {},
    }


def _texts(values: list[Any] | None) -> list[str]:
    return [text for text in values or [] if isinstance(text, str) and text.strip() and not surrogate_problem(text)]


def _images(entries: list[Any], most: int, skipped: SkipLog) -> list[dict[str, Any]]:
    """The first entries with an address of their own; ``large`` is that address."""
    kept: list[dict[str, Any]] = []
    seen: set[str] = set()
    for entry in entries:
        if len(kept) == most:
            break
        url = next(iter(addresses(entry)), "")
        if not url or url in seen:
            skipped.note(BAD_ENTRIES_NOTE)
            continue
        seen.add(url)
        known = {key: entry[key] for key in _IMAGE_KEYS if isinstance(entry.get(key), str)}
        kept.append({**{key: text for key, text in known.items() if not surrogate_problem(text)}, "large": url})
    return kept


def addresses(entry: object) -> list[str]:
    """The addresses of an entry's picture that can be used, the best first."""
    urls = [entry.get(key) for key in URL_KEYS] if isinstance(entry, dict) else []
    return [url for url in urls if isinstance(url, str) and _is_address(url)]


def _is_address(url: str) -> bool:
    return len(url) <= MAX_URL_CHARS and url.isprintable() and _URL.fullmatch(url) is not None
