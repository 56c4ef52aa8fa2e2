"""Which conversations go into a subset: by lot, evenly from all splits, within a number of items."""

from __future__ import annotations

import random
from collections.abc import Mapping
from collections.abc import Sequence as Rows


def choose_rows(
    needs: Mapping[str, Rows[tuple[str, ...]]], usable: Mapping[str, Rows[int]], max_items: int | None, seed: int
) -> dict[str, list[int]]:
    """Take rows in an order drawn by lot, each that fits beside those before it.

    The splits are dealt like cards of one deck, in proportion to their sizes, so that a small subset has a share
    of each. Rows that bring no new item always fit.

    Args:
        needs: split -> row -> the items it needs.
        usable: split -> the rows that may be taken.
        max_items: of all rows taken together; None takes every usable row.
        seed: of the lot.

    Returns:
        Split -> rows, in file order.
    """
    deck: list[tuple[float, str, int]] = []
    for split, rows in usable.items():
        shuffled = list(rows)
        random.Random(f"subset/{seed}/{split}").shuffle(shuffled)
        deck += [((place + 0.5) / len(shuffled), split, row) for place, row in enumerate(shuffled)]
    chosen: dict[str, list[int]] = {split: [] for split in usable}
    items: set[str] = set()
    for _, split, row in sorted(deck):
        new = set(needs[split][row]) - items
        if max_items is None or len(items) + len(new) <= max_items:
            items |= new
            chosen[split].append(row)
    return {split: sorted(rows) for split, rows in chosen.items()}
