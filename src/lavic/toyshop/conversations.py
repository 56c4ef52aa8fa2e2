"""Conversations about the drawn products, in the public format, that nothing but the pictures can answer.

Titles and IDs say nothing. The ten candidates are of one kind, each could be asked for, and the one that is asked for
is drawn by lot: without the conversation no candidate is likelier than another, without the pictures neither.

Of the rows that judge, those of validation and test, several in a row have the same candidates: each that may be right
is asked for once, each time at another place of the list. A model that sees no pictures has its likings all the same,
for places and for IDs that look like some that it was taught; what they hit evens out so, instead of by lot.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lavic.conversations import Conversation, write_conversations
from lavic.errors import ConfigError
from lavic.toyshop import requests
from lavic.toyshop.items import ToyItem, plan_looks
from lavic.toyshop.look_alikes import Shelf, in_company, shelves_of, unmistakable
from lavic.toyshop.requests import Wish, asked_before, conversation_about, wish_for

#: The folder inside the catalogue's folder.
CATEGORY = "toy_shop"
MIN_CANDIDATES, MAX_CANDIDATES = 2, 100
#: Leads nowhere: ``.invalid`` is reserved for that.
LINK = "https://shop.invalid/dp/"
WITH_DETAIL, IN_TURNS, CHANGED = 0.5, 0.3, 0.2
#: How often the second list, ``gpt_large``, holds the right item.
GPT_LARGE_CEILING = 0.8
#: More items than any number of candidates needs.
_MOST_ITEMS = 20_000


@dataclass(frozen=True)
class ConversationCounts:
    """Rows of each file."""

    train: int
    valid: int
    test: int


@dataclass(frozen=True)
class PlannedConversation:
    """A conversation, and what it is about.

    Attributes:
        wish: what is asked for in the end; exactly one of the candidates fits.
        first_wish: what was asked for before the asker changed their mind, which another candidate fits; else None.
        in_turns: whether the (first) wish is spread over several comments.
    """

    conversation: Conversation
    wish: Wish
    first_wish: Wish | None
    in_turns: bool


def write_conversations_of(
    output_dir: Path,
    train: Sequence[ToyItem],
    valid: Sequence[ToyItem],
    seed: int,
    *,
    train_rows: int,
    valid_rows: int,
    test_rows: int,
    candidates: int = 10,
) -> ConversationCounts:
    """Write ``toy_shop/{train,valid,test}.jsonl``; a file of no rows is not written.

    Args:
        output_dir: the catalogue's folder, which exists.
        train: the items that the training rows are about.
        valid: the items that the validation and test rows are about.
        seed: the same seed and items give the same bytes.
        candidates: how many each list has, 2 to 100.

    Raises:
        ConfigError: another number of candidates, or too few items of each kind for it.
        OutputError: the files cannot be written.
    """
    check_look_alikes(train, valid, seed, candidates=candidates)
    folder = Path(output_dir) / CATEGORY
    folder.mkdir(exist_ok=True)
    for split, items, rows in (("train", train, train_rows), ("valid", valid, valid_rows), ("test", valid, test_rows)):
        if rows:
            planned = plan_conversations(items, rows, seed, split, candidates=candidates)
            write_conversations(folder / f"{split}.jsonl", (each.conversation for each in planned))
    return ConversationCounts(train_rows, valid_rows, test_rows)


def check_look_alikes(train: Sequence[ToyItem], valid: Sequence[ToyItem], seed: int, *, candidates: int = 10) -> None:
    """Refuse a catalogue in which no kind has enough items on both sides.

    Raises:
        ConfigError: it names a number of items that is enough with this seed.
    """
    if not MIN_CANDIDATES <= candidates <= MAX_CANDIDATES:
        problem = f"{candidates} is not a number of candidates from {MIN_CANDIDATES} to {MAX_CANDIDATES}"
        raise ConfigError(problem, where="--candidates")
    if all(_on_offer(items, candidates) for items in (train, valid)):
        return
    have = len(train) + len(valid)
    problem = f"among {have:,} items no kind has {candidates} look-alikes, both for training and for validation"
    enough = _enough_items(have, seed, candidates)
    raise ConfigError(problem, where="--conversations", remedy=f"Give --items {enough} or more.")


def _enough_items(have: int, seed: int, candidates: int) -> int:
    """A number of items, in hundreds, with which conversations of this many candidates can be written."""
    for items in range(have - have % 100 + 100, _MOST_ITEMS, 100):
        sides = ([ToyItem("", "", "", look, "") for look in side] for side in plan_looks(items, seed))
        if all(_on_offer(side, candidates) for side in sides):
            return items
    return _MOST_ITEMS


def _on_offer(items: Sequence[ToyItem], candidates: int) -> dict[bool, list[Shelf]]:
    """The kinds that have enough look-alikes, by whether the detail is asked for; empty if there are none.

    Kinds in which each candidate can be told from each; where there are none, those in which only some can.
    """
    shelves = shelves_of(items)
    for measure in (Shelf.tells_apart, Shelf.fills):
        offer = {
            with_detail: [shelf for shelf in shelves if measure(shelf, with_detail=with_detail) >= candidates]
            for with_detail in (False, True)
        }
        offer = {with_detail: fitting for with_detail, fitting in offer.items() if fitting}
        if offer:
            return offer
    return {}


def plan_conversations(
    items: Sequence[ToyItem], rows: int, seed: int, split: str, *, candidates: int = 10
) -> Iterator[PlannedConversation]:
    """Conversations about some of the items, one at a time.

    Args:
        items: one side of ``plan_catalogue``: the training items for the split ``train``, else the validation items.
        seed: row i of a split depends on it and the items, not on the number of rows.

    Raises:
        ConfigError: no kind has enough items.
    """
    offer = _on_offer(items, candidates)
    if not offer:
        problem = f"among {len(items):,} items no kind has {candidates} look-alikes"
        raise ConfigError(problem, where="--conversations", remedy="Draw more items.")
    sets, left = 0, list[tuple[ToyItem, int]]()
    for row in range(rows):
        rng = random.Random(f"toyshop/{seed}/conversations/{split}/{row}")
        if split == "train":
            offered = _offered(offer, rng, candidates)
            yield _planned(offered, rng.choice(offered.may_be_right), rng)
            continue
        if not left:
            set_rng = random.Random(f"toyshop/{seed}/conversations/{split}/candidates/{sets}")
            offered = _offered(offer, set_rng, candidates)
            places = set_rng.sample(range(candidates), len(offered.may_be_right))
            left = list(zip(_shuffled(set_rng, offered.may_be_right), places, strict=True))
            sets += 1
        right, place = left.pop()
        yield _planned(offered, right, rng, place)


@dataclass(frozen=True)
class _Offered:
    """The candidates of a conversation, or of several.

    Attributes:
        may_be_right: those that can be asked for so that no other fits.
    """

    shelf: Shelf
    with_detail: bool
    drawn: list[ToyItem]
    may_be_right: list[ToyItem]


def _offered(offer: dict[bool, list[Shelf]], rng: random.Random, count: int) -> _Offered:
    with_detail = rng.random() < WITH_DETAIL
    if with_detail not in offer:
        with_detail = not with_detail
    shelf = rng.choice(offer[with_detail])
    # First the candidates, then one of them: drawn the other way round, the right item would be the one in the middle
    # of the look-alikes, which the pictures alone give away.
    drawn = shelf.draw(rng, count, with_detail=with_detail)
    possible = unmistakable(drawn, with_detail=with_detail)
    befriended = {item.item_id for item in in_company(drawn)}
    return _Offered(shelf, with_detail, drawn, [item for item in possible if item.item_id in befriended] or possible)


def _planned(offered: _Offered, right: ToyItem, rng: random.Random, place: int | None = None) -> PlannedConversation:
    """A conversation; without a ``place`` the right item's is drawn by lot."""
    drawn, with_detail = offered.drawn, offered.with_detail
    trap = _trap(rng, drawn, right) if rng.random() < CHANGED else None
    wish = wish_for(right.look, with_detail=with_detail)
    first_wish = wish_for(trap.look, with_detail=with_detail) if trap else None
    in_turns = rng.random() < IN_TURNS
    others = _other_list(rng, offered, [right, trap] if trap else [right])
    context = conversation_about(wish, first_wish, rng, in_turns=in_turns)
    order = _shuffled(rng, drawn)
    if place is not None:
        order.remove(right)
        order.insert(place, right)
    conversation = Conversation(
        context=context,
        gt_items=(right.item_id,),
        candidates={"st": _ids(order), "gpt_large": _ids(_shuffled(rng, others))},
        answer=requests.answered(LINK + right.item_id, rng),
    )
    return PlannedConversation(conversation, wish, first_wish, in_turns)


def _trap(rng: random.Random, drawn: Sequence[ToyItem], right: ToyItem) -> ToyItem | None:
    """The candidate that was asked for at first."""
    before = asked_before([item.look for item in drawn], drawn.index(right), rng)
    return None if before is None else drawn[before]


def _other_list(rng: random.Random, offered: _Offered, include: Sequence[ToyItem]) -> list[ToyItem]:
    """Look-alikes of the right item, the first of ``include``; mostly it is among them."""
    shelf, with_detail, count = offered.shelf, offered.with_detail, len(offered.drawn)
    if rng.random() >= GPT_LARGE_CEILING:
        drawn = shelf.draw(rng, count + 1, with_detail=with_detail, include=include)
        if len(drawn) > count:
            return [item for item in drawn if item is not include[0]]
    return shelf.draw(rng, count, with_detail=with_detail, include=include)


def _ids(items: Sequence[ToyItem]) -> tuple[str, ...]:
    return tuple(item.item_id for item in items)


def _shuffled(rng: random.Random, items: Sequence[ToyItem]) -> list[ToyItem]:
    return rng.sample(items, len(items))
