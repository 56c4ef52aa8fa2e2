"""The blind control: training metadata in which no picture stays with its description.

A model trained on it learns how descriptions are worded and how often each thing occurs, but nothing about
seeing; what a true run gains over it was read from the pictures.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from lavic.errors import InputError
from lavic.formats import DESCRIPTIONS_KEY, Item, SkipLog, read_train_items, write_train_metadata


def derangement(count: int, rng: random.Random) -> list[int]:
    """A random permutation that leaves nothing in its place (drawn until one does: a third of all do)."""
    if count < 2:
        raise ValueError("one thing cannot be deranged")
    while True:
        order = rng.sample(range(count), count)
        if all(place != index for index, place in enumerate(order)):
            return order


def write_deranged(source: Path, target: Path, seed: int) -> int:
    """Copy training metadata with all described pictures deranged; titles stay with their descriptions.

    Args:
        source: ``item2meta_train.json``.
        target: the file to write.
        seed: of the permutation.

    Returns:
        How many pictures there are.

    Raises:
        InputError: fewer than two described pictures.
    """
    items = [item for item in read_train_items(source, SkipLog()) if item.descriptions]
    pictures = [name for item in items for name in item.descriptions]
    if len(pictures) < 2:
        raise InputError("holds fewer than two described pictures", where=str(source))
    shuffled = iter([pictures[place] for place in derangement(len(pictures), random.Random(f"derange/{seed}"))])
    deranged: list[Item] = []
    for item in items:
        descriptions = {next(shuffled): text for text in item.descriptions.values()}
        # The raw row would bring its own descriptions along, pictures in their places.
        raw = {**(item.raw or {}), DESCRIPTIONS_KEY: descriptions}
        deranged.append(replace(item, descriptions=descriptions, raw=raw))
    write_train_metadata(target, deranged, ascii_only=True)
    return len(pictures)
