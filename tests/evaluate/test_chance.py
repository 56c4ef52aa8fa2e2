"""Chance in closed form and ceilings, against every order of small lists."""

from __future__ import annotations

import itertools
import math

import pytest

from lavic.evaluate.chance import hit_within, reciprocal_of_first
from lavic.evaluate.metrics import RankedRow, measure

KS = (1, 2, 3, 5, 10)
#: Candidates and right items: one, several, repeated, more than there are places, absent, and none at all.
CASES = [
    ("A", "A"),
    ("A B C D", "B"),
    ("A B C D E", "B E"),
    ("A B C D", "A A C"),
    ("A B C D", "A B B C C C"),
    ("A B C D", "A X Y"),
    ("A B C", "A B C"),
    ("A B C D", "X X"),
    ("A B C", ""),
    ("", "A"),
]


@pytest.mark.parametrize(("candidates", "gt_items"), CASES)
def test_chance_and_ceiling_are_mean_and_maximum_over_all_orders(candidates: str, gt_items: str) -> None:
    ids, right = tuple(candidates.split()), tuple(gt_items.split())
    orders = [RankedRow(order, ids, right) for order in itertools.permutations(ids)]
    each = [measure([row], resamples=1, ks=KS).values for row in orders]
    found = measure(orders[-1:], resamples=1, ks=KS)
    assert found.chances.keys() == found.ceilings.keys() == found.values.keys()
    for name in found.values:
        figures = [values[name].value for values in each]
        assert found.chances[name] == pytest.approx(math.fsum(figures) / len(figures), abs=1e-12), name
        assert found.ceilings[name] == pytest.approx(max(figures), abs=1e-12), name


def test_over_several_rows_recall_is_a_ratio_of_sums_and_the_others_are_means() -> None:
    one, other = (RankedRow((), tuple("ABCD"), right) for right in (("A", "A", "B"), ("C",)))
    found = measure([one, other, RankedRow((), tuple("ABCD"), ())], resamples=1)
    # By hand: of four candidates A is listed twice, B once, of 3 entries; C once of 1. The third row has no right item.
    assert found.chances["recall@1"] == pytest.approx((3 / 4 + 1 / 4) / 4)
    assert found.ceilings["recall@1"] == pytest.approx((2 + 1) / 4)
    # Two of four among three places: 1 - C(2, 3) / C(4, 3) = 1; one of four: 3/4.
    assert found.chances["hr@3"] == pytest.approx((1 + 3 / 4) / 2)
    # The first of two right ones of four: (3 * 1 + 2 / 2 + 1 / 3) / 6; of one: (1 + 1/2 + 1/3 + 1/4) / 4.
    assert found.chances["mrr"] == pytest.approx(((3 + 1 + 1 / 3) / 6 + 25 / 48) / 2)
    assert found.ceilings["mrr"] == 1
    assert found.chances["validity@1"] == 1


def test_a_list_of_a_thousand_candidates_is_no_trouble() -> None:
    assert hit_within(1, 3, 1000) == 0.003
    assert hit_within(1000, 1, 1000) == 1
    # Of one right item: the thousandth harmonic number over a thousand.
    assert reciprocal_of_first(1, 1000) == pytest.approx(math.fsum(1 / n for n in range(1, 1001)) / 1000, rel=1e-12)
