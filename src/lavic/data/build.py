"""A data set from the public sources' own files: metadata of Amazon-Reviews-2023 and conversations."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from lavic.conversations import write_conversations
from lavic.data.amazon import NO_PICTURE, addresses, as_item, read_meta
from lavic.data.build_rows import (
    Row,
    assign_splits,
    chosen_conversations,
    conversation_sources,
    poor_candidates,
    read_all,
)
from lavic.data.config import BuildSettings
from lavic.data.lots import Lots
from lavic.data.outputs import Output, output_of, refuse_sources_inside
from lavic.data.splits import choose_valid, picture_groups
from lavic.errors import ConfigError, NothingLeftError
from lavic.files import json_line, output_error, part_of, read_jsonl
from lavic.formats import NO_TITLE_NOTE, Item, ItemImage, write_train_metadata, write_valid_metadata
from lavic.layout import TRAIN_METADATA, VALID_METADATA, picture_name
from lavic.rows import name_problem
from lavic.skipped import SkipLog

# What was built; its presence says that a folder was made by this command, and may be replaced.
MARKER = "built.json"
_SPOOL = "items.jsonl"
_META_NAME = re.compile(r"(?:meta_)?(?P<category>.+?)\.jsonl?(?:\.gz|\.zip)?", re.IGNORECASE)


@dataclass
class Catalogue:
    """The items that were found.

    Attributes:
        pictures: ID -> of each of its pictures the hashes of all its addresses.
        mentioned: how many of them a conversation names.
        spool: their rows, as found; some of these may have been given up again.
    """

    spool: Path
    pictures: dict[str, list[list[bytes]]] = field(default_factory=dict)
    mentioned: int = 0


def build_dataset(settings: BuildSettings, *, advance: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Build the data set; the metadata file is read once, line by line.

    Only items that a conversation mentions, and ``extra_items`` more, are taken. An item's pictures stand in one of
    the two metadata files only, with all items that share one of them. Conversations are kept if each of their right
    items and candidates was found, and are written as they were read: no list of candidates is made or changed.

    Args:
        advance: called for every row of metadata.

    Returns:
        The manifest's counts.

    Raises:
        InputError: a source file cannot be used.
        NothingLeftError: no item or no conversation can be used, or too few to split.
        ConfigError: the shares leave nothing to train on, or the category's name cannot be a folder's.
        OutputError: the output folder holds something else, or cannot be written.
    """
    if settings.valid_share + settings.test_share >= 1:
        problem = "together they leave nothing to train on"
        raise ConfigError(problem, where="--valid_share and --test_share", remedy="Give less than 1 in sum.")
    category = _category(settings)
    sources = conversation_sources(settings.conversations)
    output_dir = settings.output_dir
    refuse_sources_inside(output_dir, [settings.meta, settings.conversations])
    outputs: tuple[str, ...] = (MARKER, TRAIN_METADATA, VALID_METADATA, category, "skipped.jsonl", _SPOOL)
    chosen = json.loads(settings.model_dump_json(exclude={"overwrite", "output_dir"})) | {"category": category}
    with output_of(output_dir, outputs, "a data set built earlier", overwrite=settings.overwrite) as output:
        counts = _build(settings, chosen, sources, output, advance)
        output.finish(counts)
    return counts


def _category(settings: BuildSettings) -> str:
    """The name of the conversations' folder: as given, else from ``meta_All_Beauty.jsonl.gz``."""
    match = _META_NAME.fullmatch(settings.meta.name)
    name = settings.category or (match["category"].lower() if match else settings.meta.stem.lower())
    if name_problem(name) or name in (MARKER, TRAIN_METADATA, VALID_METADATA):
        problem = name_problem(name) or "this is the name of a file of the data set"
        raise ConfigError(problem, where="--category", remedy="Give a plain word, such as home_kitchen.")
    return name


def _build(
    settings: BuildSettings,
    chosen: dict[str, Any],
    sources: dict[str, Path],
    output: Output,
    advance: Callable[[], object],
) -> dict[str, Any]:
    skipped, category = output.skipped, chosen["category"]
    rows = read_all(sources, skipped)
    if not rows:
        raise NothingLeftError("no conversation can be used", where=str(settings.conversations))
    mentioned = {item_id for row in rows for item_id in (*row.right, *row.candidates, *row.mentioned)}
    output_dir, left_out = settings.output_dir, Counter[str]()
    spool = part_of(output_dir / _SPOOL)
    try:
        catalogue = _collect(settings, mentioned, spool, skipped, advance)
        shares = (settings.valid_share, settings.test_share, settings.seed)
        splits = assign_splits(rows, catalogue.pictures, *shares, left_out)
        valid_ids = _valid_ids(settings, catalogue)
        output.begin(chosen)
        _write_items(output_dir, catalogue, valid_ids)
    finally:
        with contextlib.suppress(OSError):
            spool.unlink(missing_ok=True)
    leaks = {split: _write_split(output_dir / category / f"{split}.jsonl", each) for split, each in splits.items()}
    in_valid = sum(len(catalogue.pictures[item_id]) for item_id in valid_ids)
    in_all = sum(map(len, catalogue.pictures.values()))
    return {
        "category": category,
        "items": {"train": len(catalogue.pictures) - len(valid_ids), "valid": len(valid_ids)},
        "pictures": {"train": in_all - in_valid, "valid": in_valid},
        "items_without_picture": sum(not each for each in catalogue.pictures.values()),
        "items_mentioned": catalogue.mentioned,
        "items_mentioned_without_metadata": len(mentioned) - catalogue.mentioned,
        "titles_missing": skipped.notes[NO_TITLE_NOTE],
        "conversations": {split: len(each) for split, each in splits.items()},
        "conversations_left_out": dict(left_out.most_common()),
        "candidates": poor_candidates(chain.from_iterable(splits.values()), catalogue.pictures),
        "leaks": leaks,
        "skipped": skipped.count,
    }


def _collect(
    settings: BuildSettings, mentioned: set[str], spool: Path, skipped: SkipLog, advance: Callable[[], object]
) -> Catalogue:
    """Read the metadata once; rows of wanted items go to the spool, not into memory."""
    catalogue = Catalogue(spool)
    extra: Lots[list[list[bytes]]] = Lots(settings.extra_items, settings.seed)
    try:
        with spool.open("wb") as stream:
            for meta in read_meta(settings.meta, skipped):
                advance()
                wanted = meta.item_id in mentioned
                if not wanted and not extra.would_keep(meta.item_id):
                    continue
                if wanted and meta.item_id in catalogue.pictures:
                    reason = "the item stands twice; the first is kept"
                    skipped.add(file=settings.meta, where=meta.where, key="parent_asin", reason=reason)
                    continue
                item = as_item(meta, settings.images_per_item, settings.meta, skipped)
                if item is None:
                    continue
                if not wanted and not item["images"]:
                    skipped.add(file=settings.meta, where=meta.where, key="images", reason=NO_PICTURE)
                    continue
                pictures = [[_hash(url) for url in addresses(entry)] for entry in item["images"]]
                if wanted:
                    catalogue.pictures[meta.item_id] = pictures
                else:
                    extra.offer(meta.item_id, pictures)
                stream.write(json_line({"item_id": meta.item_id, "row": item}))
    except OSError as error:
        raise output_error(spool.parent, error) from error
    catalogue.mentioned = len(catalogue.pictures)
    catalogue.pictures |= extra.kept()
    if not catalogue.pictures:
        problem = "the metadata hold no usable item that a conversation mentions"
        raise NothingLeftError(problem, where=str(settings.meta), remedy="Is it of the same category?")
    return catalogue


def _hash(url: str) -> bytes:
    return hashlib.blake2b(url.encode(), digest_size=16).digest()


def _valid_ids(settings: BuildSettings, catalogue: Catalogue) -> set[str]:
    # A row of the validation file is a picture: an item without one stands in the training file.
    pictured = {item_id: each for item_id, each in catalogue.pictures.items() if each}
    # Of two items with the same picture one may lack its large address.
    groups = picture_groups({item_id: chain.from_iterable(each) for item_id, each in pictured.items()})
    if len(groups) < 2:
        problem = f"{len(pictured)} items with pictures cannot be divided into training and validation"
        because = "" if len(pictured) < 2 else ": they share their pictures"
        raise NothingLeftError(problem + because, where=str(settings.meta), remedy="Give more --extra_items.")
    return choose_valid(groups, settings.valid_share, settings.seed)


def _write_items(output_dir: Path, catalogue: Catalogue, valid_ids: set[str]) -> None:
    """Both metadata files, in the order of the source."""
    write_valid_metadata(
        output_dir / VALID_METADATA,
        (
            ItemImage(item_id, picture_name(item_id, index), row["title"], "", image_url=entry["large"])
            for item_id, row in _spooled(catalogue)
            if item_id in valid_ids
            for index, entry in enumerate(row["images"])
        ),
    )
    write_train_metadata(
        output_dir / TRAIN_METADATA,
        (Item(item_id, row["title"], raw=row) for item_id, row in _spooled(catalogue) if item_id not in valid_ids),
    )


def _spooled(catalogue: Catalogue) -> Iterator[tuple[str, dict[str, Any]]]:
    """The items of the catalogue; the spool has each of them once, and some that were given up."""
    for line in read_jsonl(catalogue.spool):
        if line["item_id"] in catalogue.pictures:
            yield str(line["item_id"]), line["row"]


def _write_split(path: Path, rows: list[Row]) -> dict[str, int]:
    leaks = Counter({"right_id_in_text": 0, "right_id_in_context_items": 0})
    path.parent.mkdir(exist_ok=True)
    write_conversations(path, chosen_conversations(rows, leaks))
    return dict(leaks)
