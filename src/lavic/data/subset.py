"""A part of a data set that is whole in itself: conversations, the items they need, those items' pictures."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lavic.conversations import Conversation, read_conversations, write_conversations
from lavic.data.choose import choose_rows
from lavic.data.listing import is_ascii, number_first, picture_path, read_entries
from lavic.data.outputs import Output, output_of, refuse_sources_inside
from lavic.errors import InputError, NothingLeftError, OutputError
from lavic.files import atomic_path, json_line, open_regular, part_of, safe_join, sha256_file
from lavic.formats import DESCRIPTIONS_KEY, Item, read_train_items, write_train_metadata
from lavic.layout import SPLIT_NAMES, SPLITS, TRAIN_IMAGES, TRAIN_METADATA, VALID_IMAGES, VALID_METADATA, split_files
from lavic.rows import name_problem
from lavic.skipped import SkipLog

# What was taken; its presence says that a folder was made by this command, and may be replaced.
MARKER = "subset.json"
_IMAGES = {"train": TRAIN_IMAGES, "valid": VALID_IMAGES}

NO_METADATA = "an item that the conversation needs has no metadata"
NO_PICTURE = "an item that the conversation needs has no picture"


@dataclass(frozen=True)
class SubsetPlan:
    """What to take from where; as ``lavic.data.config.SubsetSettings``."""

    conversations: Path
    category: str
    metadata: dict[str, Path]
    images_dirs: dict[str, Path]
    images_per_item: int
    max_items: int | None
    seed: int
    link: bool


@dataclass
class _Found:
    """What the source holds of the items that are needed.

    Attributes:
        known: IDs that have metadata.
        pictures: part -> ID -> names of pictures that are there, as many as are to be taken.
    """

    known: set[str] = field(default_factory=set)
    pictures: dict[str, dict[str, list[str]]] = field(default_factory=lambda: {"train": {}, "valid": {}})

    def has_picture(self, item_id: str) -> bool:
        return any(item_id in each for each in self.pictures.values())


def make_subset(plan: SubsetPlan, output_dir: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Take a subset.

    Conversations are drawn by lot, evenly from all splits, as long as the items they need (right ones and all
    candidates) stay within ``max_items``. A row is taken only if each of these items has metadata and a picture.

    Returns:
        The manifest's counts.

    Raises:
        InputError: a source file cannot be used, or there is no such category.
        NothingLeftError: no conversation can be taken.
        OutputError: the output folder holds something else, or cannot be written.
    """
    problem = name_problem(plan.category)
    if problem:
        raise InputError(problem, where="--category", remedy="Give the name of a folder in --conversations.")
    splits = _splits(plan)
    refuse_sources_inside(output_dir, [*splits.values(), *plan.metadata.values(), *plan.images_dirs.values()])
    outputs: tuple[str, ...] = (
        MARKER,
        TRAIN_METADATA,
        VALID_METADATA,
        TRAIN_IMAGES,
        VALID_IMAGES,
        plan.category,
        "skipped.jsonl",
    )
    with output_of(output_dir, outputs, "a subset", overwrite=overwrite) as output:
        manifest = _take(plan, splits, output)
        output.finish(manifest)
    return {name: value for name, value in manifest.items() if name not in ("items", "rows", "sources")}


def _splits(plan: SubsetPlan) -> dict[str, Path]:
    folder = safe_join(plan.conversations, plan.category)
    found = split_files(folder)
    if not found:
        others = sorted(path.parent.name for path in plan.conversations.glob("*/*.jsonl") if path.stem in SPLITS)
        there = f"There are: {', '.join(dict.fromkeys(others))}." if others else "Give --conversations."
        problem = f"there is no {SPLIT_NAMES} of this category"
        raise InputError(problem, where=str(folder), remedy=there)
    return found


def _settings(plan: SubsetPlan) -> dict[str, Any]:
    limits = {"images_per_item": plan.images_per_item, "max_items": plan.max_items, "seed": plan.seed}
    return {"category": plan.category, **limits, "pictures": "linked" if plan.link else "copied"}


def _take(plan: SubsetPlan, splits: dict[str, Path], output: Output) -> dict[str, Any]:
    output_dir, skipped = output.folder, output.skipped
    needs, lines = _read_needs(splits, skipped)
    wanted = {item_id for rows in needs.values() for row in rows for item_id in row}
    found = _look_for(plan, wanted, skipped)
    left_out: Counter[str] = Counter()
    usable = {
        split: list(_usable(splits[split], needs[split], lines[split], found, skipped, left_out)) for split in splits
    }
    chosen = choose_rows(needs, usable, plan.max_items, plan.seed)
    taken = {item_id for split, rows in chosen.items() for index in rows for item_id in needs[split][index]}
    if not taken:
        raise NothingLeftError(_why_nothing(needs, usable, left_out, plan.max_items), where=plan.category)
    no_room = sum(map(len, usable.values())) - sum(map(len, chosen.values()))
    if no_room:
        left_out["no room under --max_items"] = no_room
    pictures = {
        part: {item_id: names for item_id, names in each.items() if item_id in taken}
        for part, each in found.pictures.items()
    }
    if plan.link:
        _try_a_link(plan, pictures, output_dir)
    output.begin(_settings(plan))
    for part in plan.images_dirs:
        _take_pictures(plan, part, pictures[part], output_dir / _IMAGES[part])
    # Metadata and conversations last: where they are, every picture they need is.
    _write_metadata(plan, pictures, output_dir)
    (output_dir / plan.category).mkdir(exist_ok=True)
    for split, rows in chosen.items():
        if rows:  # readers refuse an empty file
            write_conversations(output_dir / plan.category / f"{split}.jsonl", _rows(splits[split], set(rows)))
    sources = {str(path): sha256_file(path) for path in (*splits.values(), *plan.metadata.values())}
    return {
        "conversations": {split: len(rows) for split, rows in chosen.items()},
        "conversations_left_out": dict(left_out.most_common()),
        "item_count": len(taken),
        "train_pictures": sum(map(len, pictures["train"].values())),
        "valid_pictures": sum(map(len, pictures["valid"].values())),
        "skipped": skipped.count,
        "items": {
            item_id: [*pictures["train"].get(item_id, ()), *pictures["valid"].get(item_id, ())]
            for item_id in sorted(taken)
        },
        "rows": {split: [lines[split][index] for index in rows] for split, rows in chosen.items()},
        "sources": sources,
    }


def _read_needs(
    splits: dict[str, Path], skipped: SkipLog
) -> tuple[dict[str, list[tuple[str, ...]]], dict[str, list[int]]]:
    """Split -> what each of its usable rows needs, and in which line each stands."""
    needs: dict[str, list[tuple[str, ...]]] = {split: [] for split in splits}
    lines: dict[str, list[int]] = {split: [] for split in splits}
    for split, path in splits.items():
        for row in read_conversations(path, skipped):
            needs[split].append(row.needed_ids)
            lines[split].append(int(row.place.removeprefix("line ")))
    return needs, lines


def _look_for(plan: SubsetPlan, wanted: set[str], skipped: SkipLog) -> _Found:
    """Which of the wanted items have metadata, and which pictures."""
    found = _Found()
    for part, metadata in plan.metadata.items():
        names: dict[str, list[str]] = {}
        for entry in read_entries(part, metadata, skipped):
            if entry.item_id not in wanted:
                continue
            found.known.add(entry.item_id)
            there = [name for name in entry.images if _can_be_read(plan.images_dirs[part], name)]
            if there:
                names.setdefault(entry.item_id, []).extend(there)
        for item_id, each in names.items():
            found.pictures[part][item_id] = sorted(set(each), key=number_first)[: plan.images_per_item]
    return found


def _can_be_read(folder: Path, name: str) -> bool:
    # Opened, too: what may not be read is to be known before an earlier subset goes.
    path = picture_path(folder, name)
    if path is None:
        return False
    try:
        open_regular(path).close()
    except InputError:
        return False
    return True


def _usable(
    path: Path, needs: list[tuple[str, ...]], lines: list[int], found: _Found, skipped: SkipLog, left_out: Counter[str]
) -> Iterator[int]:
    """The rows of a split whose items are all there; the others are counted and listed."""
    for index, needed in enumerate(needs):
        unknown = next((item_id for item_id in needed if item_id not in found.known), None)
        bare = next((item_id for item_id in needed if not found.has_picture(item_id)), None)
        if not needed:
            unknown, reason = "", "the conversation names no item"
        else:
            reason = NO_METADATA if unknown is not None else NO_PICTURE if bare is not None else ""
        if reason:
            left_out[reason] += 1
            skipped.add(file=path, where=f"line {lines[index]}", key=unknown or bare or "", reason=reason)
        else:
            yield index


def _why_nothing(
    needs: dict[str, list[tuple[str, ...]]], usable: dict[str, list[int]], left_out: Counter[str], max_items: int | None
) -> str:
    smallest = min((len(needs[split][index]) for split, rows in usable.items() for index in rows), default=0)
    if smallest:
        return f"no conversation can be taken: the smallest needs {smallest} items, --max_items is {max_items}"
    reasons = "; ".join(f"{count} times: {reason}" for reason, count in left_out.most_common(2))
    return f"no conversation can be taken ({reasons or 'there is none'})"


def _take_pictures(plan: SubsetPlan, part: str, pictures: dict[str, list[str]], target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in (name for names in pictures.values() for name in names):
        source = safe_join(plan.images_dirs[part], name)
        if not plan.link:
            with open_regular(source) as stream, atomic_path(target / name) as copy, copy.open("wb") as out:
                shutil.copyfileobj(stream, out)
            continue
        # Two entries may name the picture.
        with contextlib.suppress(FileExistsError):
            _link(source, target / name)


def _link(source: Path, target: Path) -> None:
    """A hard link: a symbolic one would lead out of its folder, which no other command follows."""
    try:
        os.link(source.resolve(), target)
    except FileExistsError:
        raise
    except OSError as error:
        problem = f"a hard link cannot be made ({error.strerror})"
        remedy = "Leave --link out: the pictures are then copied."
        raise OutputError(problem, where=str(target), remedy=remedy) from error


def _try_a_link(plan: SubsetPlan, pictures: dict[str, dict[str, list[str]]], output_dir: Path) -> None:
    """Find out, before anything is deleted, whether each folder of pictures can be linked from."""
    for part, each in pictures.items():
        first = next((name for names in each.values() for name in names), None)
        if first is not None:
            trial = part_of(output_dir / first)
            _link(safe_join(plan.images_dirs[part], first), trial)
            trial.unlink()


def _write_metadata(plan: SubsetPlan, pictures: dict[str, dict[str, list[str]]], output_dir: Path) -> None:
    """The two files, each only where a picture of it was taken."""
    if pictures["valid"]:
        kept = {name for names in pictures["valid"].values() for name in names}
        with atomic_path(output_dir / VALID_METADATA) as half, half.open("wb") as stream:
            for entry in read_entries("valid", plan.metadata["valid"], SkipLog()):
                if kept.issuperset(entry.images):
                    stream.write(json_line(entry.raw))
    if pictures["train"]:
        path = plan.metadata["train"]
        items = (
            _only(item, pictures["train"][item.item_id])
            for item in read_train_items(path, SkipLog())
            if item.item_id in pictures["train"]
        )
        write_train_metadata(output_dir / TRAIN_METADATA, items, ascii_only=is_ascii(path))


def _only(item: Item, names: list[str]) -> Item:
    """An item that names only the pictures that were taken; ``images`` keeps the numbers that they have."""
    raw = dict(item.raw or {})
    descriptions = {name: text for name, text in item.descriptions.items() if name in names}
    if raw.get(DESCRIPTIONS_KEY):
        raw[DESCRIPTIONS_KEY] = descriptions
    if isinstance(raw.get("images"), list):
        raw["images"] = raw["images"][: 1 + max(number_first(name)[0] for name in names)]
    return replace(item, descriptions=descriptions, raw=raw)


def _rows(path: Path, indices: set[int]) -> Iterator[Conversation]:
    return (row for index, row in enumerate(read_conversations(path, SkipLog())) if index in indices)
