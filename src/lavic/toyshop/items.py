"""What a catalogue of drawn products consists of, before anything is drawn."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from lavic.errors import ConfigError
from lavic.layout import picture_name
from lavic.toyshop import grammar
from lavic.toyshop.kinds import Look, looks

MIN_ITEMS = 12
VALID_SHARE, MIN_VALID_ITEMS = 0.2, 2

_ID_CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class ToyItem:
    """One product: what is told about it, and all that its picture is made from."""

    item_id: str
    title: str
    description: str
    look: Look
    picture_seed: str

    @property
    def image_name(self) -> str:
        """The file of its only picture."""
        return picture_name(self.item_id, 0)


def plan_catalogue(items: int, seed: int) -> tuple[list[ToyItem], list[ToyItem]]:
    """The training items and the validation items, before anything is drawn.

    Raises:
        ConfigError: fewer items than 12.
    """
    ids = _item_ids(random.Random(f"toyshop/{seed}/ids"))
    train_looks, valid_looks = plan_looks(items, seed)
    train = [_toy_item(next(ids), look, seed, index) for index, look in enumerate(train_looks)]
    start = len(train)
    return train, [_toy_item(next(ids), look, seed, index) for index, look in enumerate(valid_looks, start)]


def plan_looks(items: int, seed: int) -> tuple[list[Look], list[Look]]:
    """What the training items and the validation items of ``plan_catalogue`` look like.

    Raises:
        ConfigError: fewer items than 12.
    """
    if items < MIN_ITEMS:
        problem = f"{items} items are too few for training and validation"
        raise ConfigError(problem, where="items", remedy=f"Give at least {MIN_ITEMS}.")
    valid = max(MIN_VALID_ITEMS, round(items * VALID_SHARE))
    shown = random.Random(f"toyshop/{seed}/looks")
    return list(looks(shown, items - valid, held_out=False)), list(looks(shown, valid, held_out=True))


def _item_ids(rng: random.Random) -> Iterator[str]:
    seen: set[str] = set()
    while True:
        item_id = "B0" + "".join(rng.choices(_ID_CHARACTERS, k=8))
        if item_id not in seen:
            seen.add(item_id)
            yield item_id


def _toy_item(item_id: str, look: Look, seed: int, index: int) -> ToyItem:
    # A stream of its own for each purpose: titles stay the same when the wording of descriptions changes.
    title = grammar.title(random.Random(f"toyshop/{seed}/{index}/title"))
    description = grammar.describe(look, random.Random(f"toyshop/{seed}/{index}/description"))
    return ToyItem(item_id, title, description, look, f"toyshop/{seed}/{index}/picture")
