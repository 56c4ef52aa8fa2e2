"""What commands of ``lavic data`` count and draw with: by hand, or against a plain way to say the same."""

from __future__ import annotations

import random
import statistics
from itertools import combinations

import pytest

from lavic.data.choose import choose_rows
from lavic.data.lots import Lots, lot
from lavic.data.splits import choose_valid, picture_groups, split_posts
from lavic.data.spread import Spread


@pytest.mark.parametrize("count", [1, 2, 7, 200])
def test_a_spread_is_that_of_the_list(count: int) -> None:
    numbers = [random.Random(count).randrange(50) for _ in range(count)]
    spread = Spread()
    for number in numbers:
        spread.add(number)
    ordered = sorted(numbers)
    assert spread.summary() == {
        "count": count,
        "mean": round(statistics.mean(numbers), 2),
        "min": ordered[0],
        "median": statistics.median(numbers),
        "p95": ordered[-(-95 * count // 100) - 1],
        "max": ordered[-1],
    }
    assert Spread().summary() == {"count": 0}


def test_lots_are_the_smallest_whatever_the_order() -> None:
    keys = [f"item {number}" for number in range(60)]
    expected = sorted(keys, key=lambda key: lot(3, key))[:7]
    for order in (keys, keys[::-1], [*keys, *keys]):
        lots: Lots[str] = Lots(7, 3)
        for key in order:
            lots.offer(key, key.upper())
        assert list(lots.kept()) == expected
        assert list(lots.kept().values()) == [key.upper() for key in expected]
        assert not any(lots.would_keep(key) for key in keys)
    assert sorted(keys, key=lambda key: lot(4, key))[:7] != expected


def test_items_that_share_a_picture_are_one_group() -> None:
    pictures = {"d": ["4"], "a": ["1"], "b": ["2", "1"], "e": ["5", "2"], "c": ["3"], "f": ["6", "3"]}
    # a-b by 1, b-e by 2, c-f by 3.
    assert picture_groups(pictures) == [["a", "b", "e"], ["c", "f"], ["d"]]


@pytest.mark.parametrize("seed", range(8))
def test_groups_are_never_divided_and_both_sides_get_one(seed: int) -> None:
    groups = [[f"{group}.{member}" for member in range(size)] for group, size in enumerate([1, 2, 3, 9, 1, 4])]
    chosen = choose_valid(groups, 0.3, seed)
    assert all(set(group) <= chosen or not set(group) & chosen for group in groups)
    assert 1 <= len(chosen) <= 6  # 0.3 of 20
    assert choose_valid(groups, 0.3, seed) == chosen
    assert len(choose_valid([["a", "b"], ["c", "d", "e"]], 0.1, seed)) == 2  # none fits: the smaller one
    with pytest.raises(ValueError, match="one group"):
        choose_valid(groups[:1], 0.3, seed)


@pytest.mark.parametrize("count", [3, 4, 40])
def test_every_split_gets_a_post_and_about_its_share(count: int) -> None:
    rows = {bytes([number]): 1 + number % 3 for number in range(count)}
    splits = split_posts(rows, 0.2, 0.2, 0)
    assert splits.keys() == rows.keys()
    assert set(splits.values()) == {"train", "valid", "test"}
    if count == 40:
        total = sum(rows.values())
        sizes = {split: sum(rows[post] for post in rows if splits[post] == split) for split in set(splits.values())}
        assert all(0.2 * total - 1 <= sizes[split] <= 0.2 * total + 3 for split in ("valid", "test"))
    with pytest.raises(ValueError, match="three"):
        split_posts({b"a": 5, b"b": 5}, 0.2, 0.2, 0)


def test_rows_are_chosen_within_the_number_of_items_and_from_each_split() -> None:
    needs = {
        "train": [(f"t{number}", f"t{number + 1}") for number in range(30)],
        "test": [(f"x{number}", "t0") for number in range(10)],
    }
    usable = {split: range(len(rows)) for split, rows in needs.items()}
    chosen = choose_rows(needs, usable, 12, 5)
    taken = {item for split, rows in chosen.items() for row in rows for item in needs[split][row]}
    assert len(taken) <= 12
    assert all(chosen.values())
    left = [(split, row) for split in needs for row in usable[split] if row not in chosen[split]]
    assert all(len(taken | set(needs[split][row])) > 12 for split, row in left)
    assert choose_rows(needs, usable, None, 5) == {split: list(rows) for split, rows in usable.items()}
    others = [choose_rows(needs, usable, 12, seed)["train"] for seed in range(4)]
    assert any(first != second for first, second in combinations(others, 2))
