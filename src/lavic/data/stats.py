"""What a data set holds, counted in one pass over its metadata and its pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavic.data.listing import Entry, picture_path, read_entries
from lavic.data.lots import Lots
from lavic.data.picture_facts import EXAMPLES, Duplicates, PictureSizes, picture_facts
from lavic.data.sheet import Card
from lavic.data.spread import Spread
from lavic.errors import InputError
from lavic.formats import NO_TITLE, NO_TITLE_NOTE, SkipLog

#: Told of a data set's categories; a file may have made up millions of them, so no more are kept.
_CATEGORIES_SHOWN, _CATEGORIES_KEPT = 10, 10_000
_OTHER = "other categories"

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Part:
    """Where one side of a data set lies; without a folder its pictures are not looked for."""

    name: str
    metadata: Path
    images_dir: Path | None


@dataclass
class PartFacts:
    """One side of a data set, training or validation.

    Attributes:
        item_ids: all of them, to find those on both sides.
        image_names: of all pictures that the metadata name.
        missing: how many of them are not in the folder; ``missing_described`` of those that have a description.
        strays: files in the folder that the metadata do not name.
        categories: first category of an item -> items.
    """

    item_ids: set[str] = field(default_factory=set)
    image_names: set[str] = field(default_factory=set)
    described: int = 0
    without_images: int = 0
    missing: int = 0
    missing_described: int = 0
    missing_examples: list[str] = field(default_factory=list)
    strays: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    title_words: Spread = field(default_factory=Spread)
    title_tokens: Spread = field(default_factory=Spread)
    description_words: Spread = field(default_factory=Spread)
    description_tokens: Spread = field(default_factory=Spread)
    sizes: PictureSizes = field(default_factory=PictureSizes)
    skipped: dict[str, Any] = field(default_factory=dict)
    titles_missing: int = 0

    def summary(self, looked: bool) -> dict[str, object]:
        """All figures; ``looked`` tells whether there was a folder of pictures."""
        facts: dict[str, object] = {
            "items": len(self.item_ids),
            "items_without_pictures": self.without_images,
            "titles_missing": self.titles_missing,
            "pictures": len(self.image_names),
            "described_pictures": self.described,
            "categories": dict(self.categories.most_common(_CATEGORIES_SHOWN)),
            "title_tokens": self.title_tokens.summary(),
            "title_words": self.title_words.summary(),
            "description_tokens": self.description_tokens.summary(),
            "description_words": self.description_words.summary(),
            "rows_left_out": self.skipped["skipped"],
            "rows_left_out_reasons": self.skipped["reasons"],
        }
        if looked:
            facts |= {
                "missing_pictures": self.missing,
                "missing_described_pictures": self.missing_described,
                "missing_examples": self.missing_examples,
                "files_without_metadata": self.strays,
                "files": self.sizes.summary(),
            }
        return facts


def look_at_part(
    part: Part,
    skipped: SkipLog,
    count_tokens: CountTokens,
    duplicates: Duplicates,
    cards: Lots[Card],
    *,
    advance: Callable[[], object] = lambda: None,
) -> PartFacts:
    """Read one side of a data set and look at its pictures.

    Args:
        skipped: what of the metadata cannot be used; counted by side, so give each its own.
        count_tokens: length of a text.
        duplicates: gets every picture's hash.
        cards: gets every entry, to choose the contact sheet from.
        advance: called after every entry.

    Raises:
        InputError: the metadata cannot be read.
    """
    facts = PartFacts()
    for entry in read_entries(part.name, part.metadata, skipped):
        _count_texts(facts, entry, count_tokens)
        present = list(_present(facts, part, entry, duplicates))
        shown = next((path for path in present if entry.images[path.name]), present[0] if present else None)
        if shown is not None:
            key = f"{part.name}/{entry.item_id}"
            cards.offer(key, Card(part.name, entry.item_id, entry.title, entry.images[shown.name], shown))
        advance()
    if part.images_dir is not None:
        facts.strays = sum(
            not path.name.startswith(".") and path.name not in facts.image_names for path in part.images_dir.iterdir()
        )
    facts.skipped = skipped.summary()
    facts.titles_missing = skipped.notes[NO_TITLE_NOTE]
    return facts


def _count_texts(facts: PartFacts, entry: Entry, count_tokens: CountTokens) -> None:
    if entry.item_id not in facts.item_ids:
        facts.item_ids.add(entry.item_id)
        facts.without_images += not entry.images
        facts.categories[_category(entry, facts.categories)] += 1
    if entry.title is not NO_TITLE:
        facts.title_words.add(len(entry.title.split()))
        facts.title_tokens.add(count_tokens(entry.title))
    for description in entry.images.values():
        if description:
            facts.described += 1
            facts.description_words.add(len(description.split()))
            facts.description_tokens.add(count_tokens(description))


def _category(entry: Entry, known: Counter[str]) -> str:
    """The first of an item's categories, else the name of its main one; "none" in a validation file."""
    categories = entry.raw.get("categories")
    first = categories[0] if isinstance(categories, list) and categories else entry.raw.get("main_category")
    name = first if isinstance(first, str) and first.strip() else "none"
    return name if name in known or len(known) < _CATEGORIES_KEPT else _OTHER


def _present(facts: PartFacts, part: Part, entry: Entry, duplicates: Duplicates) -> Iterator[Path]:
    """The entry's pictures that are there; each file is looked at once, whoever else names it."""
    for name, description in entry.images.items():
        seen = name in facts.image_names
        facts.image_names.add(name)
        if part.images_dir is None:
            continue
        path = picture_path(part.images_dir, name)
        if path is None:
            facts.missing += not seen
            facts.missing_described += bool(description)
            if not seen and len(facts.missing_examples) < EXAMPLES:
                facts.missing_examples.append(name)
            continue
        if not seen:
            try:
                found = picture_facts(path)
            except InputError as error:
                facts.sizes.problems[error.problem] += 1
                continue
            facts.sizes.add(found)
            duplicates.add(found.sha256, part.name, name)
        yield path


def shared_names(parts: dict[str, PartFacts]) -> dict[str, int]:
    """What the metadata name on both sides: each is a leak, whatever the files hold."""
    if len(parts) < 2:
        return {}
    train, valid = parts["train"], parts["valid"]
    return {
        "items_in_both": len(train.item_ids & valid.item_ids),
        "image_names_in_both": len(train.image_names & valid.image_names),
    }
