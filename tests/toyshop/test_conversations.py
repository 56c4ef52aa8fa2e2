"""The toy shop's conversations: one candidate fits, only the picture tells which, and nothing else gives it away."""

from __future__ import annotations

import math
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable
from itertools import groupby

import numpy as np
import pytest

from lavic.toyshop import grammar
from lavic.toyshop.conversations import (
    PlannedConversation,
    plan_conversations,
)
from lavic.toyshop.items import ToyItem, plan_catalogue
from lavic.toyshop.kinds import COLOURS, Look
from lavic.toyshop.requests import Wish

TRAIN, VALID = plan_catalogue(1200, seed=0)
ITEMS = {item.item_id: item for item in (*TRAIN, *VALID)}


@pytest.fixture(scope="module")
def planned() -> dict[str, list[PlannedConversation]]:
    return {
        "train": list(plan_conversations(TRAIN, 3000, 0, "train")),
        "test": list(plan_conversations(VALID, 1500, 0, "test")),
    }


@pytest.fixture(scope="module")
def everything(planned: dict[str, list[PlannedConversation]]) -> list[PlannedConversation]:
    return [*planned["train"], *planned["test"]]


def offered(row: PlannedConversation, name: str = "st") -> list[Look]:
    return [ITEMS[item_id].look for item_id in row.conversation.candidates[name]]


def right_of(row: PlannedConversation) -> str:
    (item_id,) = row.conversation.gt_items
    return item_id


def share(rows: list[PlannedConversation], holds: Callable[[PlannedConversation], bool]) -> float:
    return sum(map(holds, rows)) / len(rows)


# -- candidates ----------------------------------------------------------------------------------------------


def test_exactly_one_of_ten_look_alikes_is_what_is_asked_for(everything: list[PlannedConversation]) -> None:
    for row in everything:
        candidates = row.conversation.candidates["st"]
        assert len(set(candidates)) == 10
        assert {look.kind for look in offered(row)} == {row.wish.kind}
        assert [item_id for item_id in candidates if row.wish.fits(ITEMS[item_id].look)] == [right_of(row)]


def test_the_second_list_holds_the_right_item_in_four_rows_of_five(everything: list[PlannedConversation]) -> None:
    for row in everything:
        candidates = row.conversation.candidates["gpt_large"]
        assert len(set(candidates)) == 10
        assert {look.kind for look in offered(row, "gpt_large")} == {row.wish.kind}
        fitting = [item_id for item_id in candidates if row.wish.fits(ITEMS[item_id].look)]
        assert fitting == [right_of(row)] * (right_of(row) in candidates)
    assert 0.77 < share(everything, lambda row: right_of(row) in row.conversation.candidates["gpt_large"]) < 0.83


def test_neither_colour_nor_pattern_alone_decides_and_the_detail_often_does(
    everything: list[PlannedConversation],
) -> None:
    for row in everything:
        assert sum(look.colour == row.wish.colour for look in offered(row)) > 1
        assert sum(look.pattern == row.wish.pattern for look in offered(row)) > 1
    detailed = [row for row in everything if row.wish.detail is not None]
    twins = share(
        detailed,
        lambda row: (
            sum((look.colour, look.pattern) == (row.wish.colour, row.wish.pattern) for look in offered(row)) > 1
        ),
    )
    assert twins > 0.6


def test_training_rows_are_about_training_items_only(planned: dict[str, list[PlannedConversation]]) -> None:
    for split, items in (("train", TRAIN), ("test", VALID)):
        known = {item.item_id for item in items}
        for row in planned[split]:
            assert known >= {item_id for ids in row.conversation.candidates.values() for item_id in ids}
    assert len({row.wish.kind for row in planned["train"]}) == 12
    assert len({row.wish.kind for row in planned["test"]}) == 10  # lipstick and cream jar have too few held-out looks


# -- what is said --------------------------------------------------------------------------------------------


def test_the_shares_of_the_forms(everything: list[PlannedConversation]) -> None:
    assert 0.47 < share(everything, lambda row: row.wish.detail is not None) < 0.53
    assert 0.27 < share(everything, lambda row: row.in_turns) < 0.33
    assert 0.17 < share(everything, lambda row: row.first_wish is not None) < 0.23


def says(text: str, wish: Wish) -> bool:
    """Whether a text names all that is asked for."""
    text = text.lower()
    patterns = any(re.search(rf"\b{wording}\b", text) for wording in grammar.PATTERN_WORDS[wish.pattern])
    return patterns and all(word in text for word in (wish.colour, wish.kind, wish.detail or ""))


def test_all_that_is_asked_for_is_said_and_without_a_change_of_mind_nothing_else(
    everything: list[PlannedConversation],
) -> None:
    for row in everything:
        context = row.conversation.context
        submission = context[: context.index("</submission>")]
        told = row.first_wish or row.wish
        assert says(submission, told) != row.in_turns, context
        # Capitals make other tokens of the words that decide.
        assert not any(re.search(rf"\b{word.capitalize()}\b", context) for word in (*COLOURS, *grammar.PATTERN_WORDS))
        assert says(context, told), context
        if row.first_wish is None:
            assert [colour for colour in COLOURS if re.search(rf"\b{colour}\b", context.lower())] == [row.wish.colour]


def test_who_changes_their_mind_first_wants_another_candidate_and_then_says_what_is_new(
    everything: list[PlannedConversation],
) -> None:
    changed = [row for row in everything if row.first_wish is not None]
    whole = 0
    for row in changed:
        first, wish = row.first_wish, row.wish
        assert first is not None
        traps = [item_id for item_id in row.conversation.candidates["st"] if first.fits(ITEMS[item_id].look)]
        assert len(traps) == 1
        assert traps != [right_of(row)]
        assert (first.colour, first.pattern) != (wish.colour, wish.pattern)
        comments = re.findall("<comment>(.*?)</comment>", row.conversation.context)
        (last,) = [text for text in comments if re.search("changed my mind|not that one", text)]
        for attribute in ("colour", "pattern"):
            before, now = getattr(first, attribute), getattr(wish, attribute)
            wordings = grammar.PATTERN_WORDS[now] if attribute == "pattern" else (now,)
            if before != now:
                assert any(re.search(rf"\b{wording}\b", last) for wording in wordings), last
                assert not re.search(rf"\b{before}\b", last), last
        if wish.detail != first.detail:
            assert wish.detail is not None
            assert wish.detail in last
        whole += says(last, wish)
    assert 0.75 < whole / len(changed) < 0.95


def test_no_id_and_no_title_stands_in_what_is_read(everything: list[PlannedConversation]) -> None:
    for row in everything:
        conversation = row.conversation
        assert not re.search("B0[0-9A-Z]{8}|http", conversation.context)
        assert ITEMS[right_of(row)].title not in conversation.context
        assert conversation.context_items == ()
        assert f"https://shop.invalid/dp/{right_of(row)}" in conversation.answer


# -- nothing else tells --------------------------------------------------------------------------------------

SIZE = 2**18


def marks(words: list[str]) -> np.ndarray:
    return np.array([zlib.crc32(word.encode()) for word in words], dtype=np.int64)


def row_features(row: PlannedConversation, title_of: Callable[[ToyItem], str]) -> tuple[list[np.ndarray], int]:
    """Hashed features of each candidate, alone and with each word of the conversation; which one is right."""
    context = marks(sorted(set(re.findall(r"[a-z-]+", row.conversation.context.lower()))))
    features = []
    for place, item_id in enumerate(row.conversation.candidates["st"]):
        title = title_of(ITEMS[item_id]).lower()
        own = [f"place {place}", *title.split(), *(f"{at} {character}" for at, character in enumerate(item_id))]
        own += [f"part {title[at : at + 3]}" for at in range(0, len(title) - 2, 3)]
        alone = marks(own)
        pairs = alone[:, None] * 1_000_003 + context[None, :] * 8191
        features.append(np.concatenate([alone, pairs.ravel()]) % SIZE)
    return features, row.conversation.candidates["st"].index(right_of(row))


def text_accuracy(planned: dict[str, list[PlannedConversation]], title_of: Callable[[ToyItem], str]) -> float:
    """Right answers of a logistic regression on all text (Adagrad, one pass over the training rows), held-out rows."""
    weights, squares = np.zeros(SIZE), np.full(SIZE, 1e-8)
    for row in planned["train"]:
        features, right = row_features(row, title_of)
        scores = np.array([weights[one].sum() for one in features])
        slopes = np.exp(scores - scores.max())
        slopes /= slopes.sum()
        slopes[right] -= 1
        for one, slope in zip(features, slopes, strict=True):
            squares[one] += slope**2
            weights[one] -= 0.02 * slope / np.sqrt(squares[one])
    hits = 0
    for row in planned["test"]:
        features, right = row_features(row, title_of)
        hits += int(np.argmax([weights[one].sum() for one in features])) == right
    return hits / len(planned["test"])


def interval(accuracy: float, rows: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z = 1.96
    middle = (accuracy + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(accuracy * (1 - accuracy) / rows + z * z / (4 * rows * rows))
    return middle - half, middle + half


def test_text_alone_is_right_as_often_as_chance(planned: dict[str, list[PlannedConversation]]) -> None:
    low, high = interval(text_accuracy(planned, lambda item: item.title), len(planned["test"]))
    assert low < 0.1 < high


def test_the_same_classifier_would_find_a_title_that_tells(planned: dict[str, list[PlannedConversation]]) -> None:
    rng = random.Random(0)
    told = {item_id: grammar.short_description(item.look, rng) for item_id, item in ITEMS.items()}
    low, _ = interval(text_accuracy(planned, lambda item: told[item.item_id]), len(planned["test"]))
    assert low > 0.3


def sets_of(rows: list[PlannedConversation]) -> list[list[PlannedConversation]]:
    """Rows one after another that have the same candidates."""
    by_candidates = groupby(rows, key=lambda row: frozenset(row.conversation.candidates["st"]))
    return [list(group) for _, group in by_candidates]


def test_of_the_same_candidates_each_is_asked_for_once_and_elsewhere_in_the_rows_that_judge(
    planned: dict[str, list[PlannedConversation]],
) -> None:
    sets = sets_of(planned["test"])
    for rows in sets:
        assert len({right_of(row) for row in rows}) == len(rows)
        assert len({row.conversation.candidates["st"].index(right_of(row)) for row in rows}) == len(rows)
    # Where colour and pattern are all that is asked for, some candidates would be told by one of them alone.
    assert sum(len(rows) == 10 for rows in sets) > 0.25 * len(sets)
    assert sum(len(rows) > 5 for rows in sets) > 0.8 * len(sets)
    assert len(sets_of(planned["train"])) == len(planned["train"])  # more of different ones teach more


def test_who_likes_some_ids_more_than_others_is_right_as_often_as_chance(
    planned: dict[str, list[PlannedConversation]],
) -> None:
    for liking in range(40):
        hits = sum(
            max(row.conversation.candidates["st"], key=lambda item_id: zlib.crc32(f"{liking} {item_id}".encode()))
            == right_of(row)
            for row in planned["test"]
        )
        assert 0.085 < hits / len(planned["test"]) < 0.115


def test_who_likes_some_places_more_than_others_is_right_as_often_as_chance(
    planned: dict[str, list[PlannedConversation]],
) -> None:
    for place in range(10):
        hits = sum(row.conversation.candidates["st"][place] == right_of(row) for row in planned["test"])
        assert 0.085 < hits / len(planned["test"]) < 0.115


def test_rows_do_not_hang_on_how_many_there_are() -> None:
    for split, items in (("train", TRAIN), ("test", VALID)):
        few, many = (list(plan_conversations(items, rows, 0, split)) for rows in (17, 40))
        assert few == many[:17]


def test_the_right_item_is_not_the_one_that_is_most_like_the_others(
    planned: dict[str, list[PlannedConversation]],
) -> None:
    # Near misses gathered around the right item would make it so in nearly every row.
    for split, most in (("train", 0.13), ("test", 0.17)):
        found = 0.0
        for row in planned[split]:
            looks = offered(row)
            alike = [
                sum((one.colour == other.colour) + (one.pattern == other.pattern) for other in looks) for one in looks
            ]
            best = [place for place, value in enumerate(alike) if value == max(alike)]
            found += (row.conversation.candidates["st"].index(right_of(row)) in best) / len(best)
        assert found / len(planned[split]) < most


def test_places_are_even(everything: list[PlannedConversation]) -> None:
    for name in ("st", "gpt_large"):
        lists = [(row.conversation.candidates[name], right_of(row)) for row in everything]
        places = Counter(ids.index(right) for ids, right in lists if right in ids)
        even = sum(places.values()) / 10
        assert sum((places[place] - even) ** 2 / even for place in range(10)) < 21.67  # chi squared, 9 degrees, 1 %
