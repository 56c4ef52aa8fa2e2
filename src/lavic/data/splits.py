"""Splits without leaks: items that share a picture stay together, and so do conversations under one opening post."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from collections.abc import Sequence as Rows

from lavic.data.lots import lot


def picture_groups(pictures: Mapping[str, Iterable[Hashable]]) -> list[list[str]]:
    """IDs in groups: those that share a picture, directly or through others, are in one.

    Args:
        pictures: ID -> what its pictures are known by (addresses, hashes).

    Returns:
        Sorted groups of sorted IDs.
    """
    leader = {item_id: item_id for item_id in pictures}

    def find(item_id: str) -> str:
        while leader[item_id] != item_id:
            leader[item_id] = leader[leader[item_id]]  # halves the way for the next time
            item_id = leader[item_id]
        return item_id

    owner: dict[Hashable, str] = {}
    for item_id, keys in pictures.items():
        for key in keys:
            first, second = find(owner.setdefault(key, item_id)), find(item_id)
            leader[max(first, second)] = min(first, second)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for item_id in pictures:
        groups[find(item_id)].append(item_id)
    return sorted(sorted(group) for group in groups.values())


def choose_valid(groups: Rows[Rows[str]], share: float, seed: int) -> set[str]:
    """The IDs of whole groups, drawn by lot, that make up about a share of all; at least one group, never all.

    A group that would go beyond the share is passed over: many variants of one product may share a picture.

    Raises:
        ValueError: fewer than two groups.
    """
    if len(groups) < 2:
        raise ValueError("one group cannot be divided")
    target = max(1, round(share * sum(map(len, groups))))
    drawn = sorted(groups, key=lambda group: (lot(seed, f"item/{group[0]}"), group[0]))
    chosen: list[Rows[str]] = []
    for group in drawn[:-1]:
        if sum(map(len, chosen)) + len(group) <= target:
            chosen.append(group)
    if not chosen:
        chosen = [min(drawn, key=len)]
    return {item_id for group in chosen for item_id in group}


def split_posts(rows: Mapping[bytes, int], valid_share: float, test_share: float, seed: int) -> dict[bytes, str]:
    """Opening post -> split; each split gets at least one.

    Args:
        rows: post -> how many rows stand under it; the shares are of rows.

    Raises:
        ValueError: fewer than three posts.
    """
    if len(rows) < 3:
        raise ValueError("three splits need three posts")
    total = sum(rows.values())
    left = {"test": max(1, round(test_share * total)), "valid": max(1, round(valid_share * total))}
    splits: dict[bytes, str] = {}
    drawn = sorted(rows, key=lambda post: (lot(seed, f"post/{post.hex()}"), post))
    for place, post in enumerate(drawn):
        after = len(drawn) - place - 1
        if left["test"] > 0 and (after >= 2 or place == 0):
            split = "test"
        elif left["valid"] > 0 and (after >= 1 or "valid" not in splits.values()):
            split = "valid"
        else:
            split = "train"
        splits[post] = split
        if split in left:
            left[split] -= rows[post]
    return splits
