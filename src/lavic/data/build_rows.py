"""Conversations for a data set that is built: which rows can be used, and to which split each belongs."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path

from lavic.conversations import Conversation, read_conversations
from lavic.data.conversation_facts import leaks_of, opening_post
from lavic.data.splits import split_posts
from lavic.errors import InputError, NothingLeftError
from lavic.layout import SPLIT_NAMES, SPLITS, split_files
from lavic.skipped import SkipLog

#: A post that stands in two splits stays in the first of these, so that a published test set stays whole.
_STRONGEST = ("test", "valid", "train")
NO_METADATA = "a right item has no usable metadata"
NO_PICTURE = "a right item has no picture"


@dataclass(frozen=True)
class Row:
    """What is remembered of a conversation.

    Attributes:
        split: where it stands, "" if it is yet to be split.
        index: its place among the usable rows of its file.
        right: right items, without which the row is of no use.
        candidates: what else its lists name.
        mentioned: what its ``context_items`` name.
        post: hash of its opening post.
    """

    path: Path
    split: str
    index: int
    right: tuple[str, ...]
    candidates: tuple[str, ...]
    mentioned: tuple[str, ...]
    post: bytes


def conversation_sources(path: Path) -> dict[str, Path]:
    """Split -> file of a folder; of a single file, "" -> the file.

    Raises:
        InputError: the folder holds no such file.
    """
    if not path.is_dir():
        return {"": path}
    found = split_files(path)
    if not found:
        problem = f"the folder holds no {SPLIT_NAMES}"
        raise InputError(problem, where=str(path), remedy="Give --conversations a file, or the folder of a category.")
    return found


def read_all(sources: dict[str, Path], skipped: SkipLog) -> list[Row]:
    """All rows that have a right item, each once; of equal rows in several files that of the strongest split."""
    rows: list[Row] = []
    seen: dict[bytes, str] = {}
    for split in sorted(sources, key=("", *_STRONGEST).index):
        path = sources[split]
        for index, conversation in enumerate(read_conversations(path, skipped)):
            where = conversation.place
            mark = _mark(conversation)
            if not conversation.gt_items:
                skipped.add(file=path, where=where, key="gt_items", reason="the conversation has no right item")
            elif mark in seen:
                reason = "the conversation stands twice; the first is kept"
                if seen[mark] != split:
                    reason = f"the conversation stands in {seen[mark]}.jsonl too"
                skipped.add(file=path, where=where, reason=reason)
            else:
                seen[mark] = split
                rows.append(_row(path, split, index, conversation))
    return rows


def _mark(row: Conversation) -> bytes:
    text = json.dumps([row.context, row.gt_items, row.answer])
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).digest()


def _row(path: Path, split: str, index: int, row: Conversation) -> Row:
    candidates = tuple(item_id for item_id in row.needed_ids if item_id not in row.ground_truth)
    right = tuple(dict.fromkeys(row.gt_items))
    return Row(path, split, index, right, candidates, row.context_items, opening_post(row.context))


def assign_splits(
    rows: list[Row],
    pictures: Mapping[str, Sized],
    valid_share: float,
    test_share: float,
    seed: int,
    left_out: Counter[str],
) -> dict[str, list[Row]]:
    """Split -> rows whose right items are all known and have pictures; no opening post stands in two splits.

    A candidate needs neither: what trains and evaluates shows it by ID and title, or by ID alone, and counts it.

    Args:
        pictures: ID -> pictures of each item that has metadata.

    Raises:
        NothingLeftError: nothing to split, or too little.
    """
    usable = []
    for row in rows:
        reason = _lacks(row, pictures)
        if reason:
            left_out[reason] += 1
        else:
            usable.append(row)
    if not usable:
        problem = f"of {len(rows)} conversations none has all its right items, with pictures, in the metadata"
        raise NothingLeftError(problem, where="--conversations", remedy="Is --meta of the same category?")
    posts = Counter(row.post for row in usable)
    if usable[0].split:
        owner = {row.post: row.split for row in sorted(usable, key=lambda row: -_STRONGEST.index(row.split))}
    elif len(posts) < 3:
        problem = f"the usable conversations have {len(posts)} opening posts; three splits need three"
        raise NothingLeftError(problem, where="--conversations")
    else:
        owner = split_posts(posts, valid_share, test_share, seed)
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row in usable:
        if row.split in ("", owner[row.post]):
            splits[owner[row.post]].append(row)
        else:
            left_out[f"its opening post stands in {owner[row.post]}.jsonl too"] += 1
    return {split: each for split, each in splits.items() if each}


def _lacks(row: Row, pictures: Mapping[str, Sized]) -> str:
    """Why a row cannot be used, or ""."""
    if any(item_id not in pictures for item_id in row.right):
        return NO_METADATA
    return "" if all(len(pictures[item_id]) for item_id in row.right) else NO_PICTURE


def poor_candidates(rows: Iterable[Row], pictures: Mapping[str, Sized]) -> dict[str, int]:
    """How many items that stand among candidates only lack metadata, or a picture."""
    named = {item_id for row in rows for item_id in row.candidates}
    known = named & pictures.keys()
    without_picture = sum(1 for item_id in known if not len(pictures[item_id]))
    return {"without_metadata": len(named) - len(known), "without_picture": without_picture}


def chosen_conversations(rows: list[Row], leaks: Counter[str]) -> Iterator[Conversation]:
    """The rows again, as they were read, in the order of their files; leaks are counted on the way."""
    wanted: dict[Path, set[int]] = {}
    for row in rows:
        wanted.setdefault(row.path, set()).add(row.index)
    for path, indices in wanted.items():
        for index, conversation in enumerate(read_conversations(path, SkipLog())):
            if index in indices:
                in_text, in_items = leaks_of(conversation)
                leaks["right_id_in_text"] += in_text
                leaks["right_id_in_context_items"] += in_items
                yield conversation
