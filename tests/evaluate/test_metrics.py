"""Ranking metrics: values by hand, and ir-measures (trec_eval) on random rows."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from lavic.evaluate.metrics import Interval, Measures, RankedRow, differences, measure, rank

FEW = 200  # resamples, where the interval is not what is tested


def row(ranking: str, gt_items: str, candidates: str = "A B C D", *, with_picture: int = 0) -> RankedRow:
    """A row from IDs divided by spaces."""
    return RankedRow(tuple(ranking.split()), tuple(candidates.split()), tuple(gt_items.split()), with_picture)


def values_of(rows: Sequence[RankedRow], ks: Sequence[int] = (1, 3, 5, 10)) -> dict[str, float]:
    found = measure(rows, resamples=FEW, ks=ks)
    return {name: interval.value for name, interval in found.values.items()}


# -- by hand -------------------------------------------------------------------------------------------------


def test_the_names_of_the_values() -> None:
    expected = ["hr@1", "hr@3", "hr@5", "hr@10", "mrr", "ndcg@3", "ndcg@5", "ndcg@10", "recall@1", "validity@1"]
    assert list(values_of([row("A B", "A")])) == expected
    assert list(values_of([row("A B", "A")], ks=[2])) == ["hr@1", "hr@2", "mrr", "ndcg@2", "recall@1", "validity@1"]


def test_one_right_item_in_third_place() -> None:
    found = values_of([row("A B C D", "C")])
    # Discount of place 3: 1 / log2(4) = 1/2; the best place's is 1.
    expected = {"hr@1": 0, "hr@3": 1, "hr@5": 1, "mrr": 1 / 3, "ndcg@3": 0.5, "ndcg@5": 0.5, "recall@1": 0}
    assert {name: found[name] for name in expected} == expected


def test_a_repeated_right_item_counts_as_often_as_it_is_listed_in_recall_only() -> None:
    # Hits over entries: 2 of [A, A, B] and 0 of [D]: 2/4. Counting each right item once would give 1/3, rows 1/2.
    rows = [row("A B C D", "A A B"), row("A B C D", "D")]
    found = values_of(rows)
    assert found["recall@1"] == 0.5
    assert found["hr@1"] == 0.5
    assert values_of([rows[0]])["recall@1"] == 2 / 3
    # Two different right items at 1 and 2 are the best there is, the repeat makes no third.
    assert values_of([rows[0]])["ndcg@5"] == 1
    assert measure(rows, resamples=FEW).chance == pytest.approx((2 / 4 + 1 / 4) / 2)


def test_any_right_item_is_a_hit_and_the_first_decides_mrr() -> None:
    found = values_of([row("B C A D", "A C")])
    assert found["hr@1"] == 0
    assert found["hr@3"] == 1
    assert found["mrr"] == 0.5
    assert found["recall@1"] == 0
    # Places 2 and 3 instead of 1 and 2: (1/log2 3 + 1/2) / (1 + 1/log2 3).
    second = 1 / math.log2(3)
    assert found["ndcg@3"] == pytest.approx((second + 0.5) / (1 + second), rel=1e-15)
    assert values_of([row("C B A D", "A C")])["recall@1"] == 0.5


def test_ndcg_takes_right_items_that_are_no_candidates_as_missed() -> None:
    # The best ranking of the two right items, A and X, would have both; X was never offered.
    found = values_of([row("A B C D", "A X")])
    assert found["ndcg@5"] == pytest.approx(1 / (1 + 1 / math.log2(3)), rel=1e-15)
    assert values_of([row("A B C D", "A X")], ks=[1, 2])["ndcg@2"] == found["ndcg@5"]
    # With more right items than k only k could be shown.
    assert values_of([row("A B C D", "A B X Y Z")], ks=[2])["ndcg@2"] == 1


def test_a_right_item_that_is_absent_is_no_hit_anywhere() -> None:
    found = measure([row("A B C D", "X"), row("A B C D", "A")], resamples=FEW)
    assert {name: each.value for name, each in found.values.items() if name != "validity@1"} == dict.fromkeys(
        ["hr@1", "hr@3", "hr@5", "hr@10", "mrr", "ndcg@3", "ndcg@5", "ndcg@10", "recall@1"], 0.5
    )
    assert found.ceiling == 0.5
    assert found.chance == pytest.approx(1 / 8)
    assert found.values["validity@1"] == Interval(1, 1, 1)


def test_rows_with_different_numbers_of_candidates() -> None:
    rows = [
        row("A", "A", "A", with_picture=1),
        row("B A", "A", "A B"),
        row("A B C D E", "E", "A B C D E", with_picture=4),
    ]
    found = measure(rows, resamples=FEW)
    assert found.chance == pytest.approx((1 + 1 / 2 + 1 / 5) / 3)
    assert found.picture_share == 5 / 8  # of all candidates; the mean of the rows' shares would be 0.6
    assert found.values["hr@1"].value == pytest.approx(1 / 3)
    assert found.values["hr@3"].value == pytest.approx(2 / 3)
    assert found.values["hr@5"].value == 1
    assert found.values["mrr"].value == pytest.approx((1 + 1 / 2 + 1 / 5) / 3)
    assert found.depth == 5


def test_isbns_are_ids_like_any_other() -> None:
    rows = [
        row("0545010225 B00000000A", "0545010225", "B00000000A 0545010225"),
        row("039480001X", "B1", "039480001X B1"),
    ]
    found = values_of(rows)
    assert (found["hr@1"], found["recall@1"], found["validity@1"]) == (0.5, 0.5, 1)


def test_greedy_answers_name_one_candidate_or_none() -> None:
    found = measure([row("A", "A"), row("B", "A"), row("", "A"), row("", "X")], resamples=FEW)
    assert found.values["validity@1"].value == 0.5
    assert found.values["hr@1"].value == found.values["hr@10"].value == found.values["mrr"].value == 0.25
    assert found.ceiling == 0.75
    assert found.depth == 1


def test_all_answers_invalid() -> None:
    found = measure([row("", "A"), row("", "B")], resamples=FEW)
    assert set(found.values.values()) == {Interval(0, 0, 0)}
    assert (found.ceiling, found.chance, found.depth) == (1, 0.25, 0)


def test_a_single_row() -> None:
    found = measure([row("B A", "A", "A B", with_picture=2)])
    assert found.values["hr@1"] == Interval(0, 0, 0)
    assert found.values["mrr"] == Interval(0.5, 0.5, 0.5)
    assert (found.rows, found.ceiling, found.chance, found.picture_share) == (1, 1, 0.5, 1)


def test_rows_without_a_right_item_stand_apart() -> None:
    rows = [row("A B C D", "A"), row("A B C D", "", with_picture=4), row("", "")]
    found = measure(rows, resamples=FEW)
    assert (found.rows, found.without_right_item) == (3, 2)
    assert found.values["hr@1"] == Interval(1, 1, 1)
    assert found.values["recall@1"].value == found.ceiling == 1
    assert found.chance == 0.25
    assert found.values["validity@1"].value == pytest.approx(2 / 3)
    assert found.picture_share == 4 / 12


def test_without_any_right_item_nothing_is_known() -> None:
    found = measure([row("A B C D", "")], resamples=FEW)
    assert found.values["hr@1"] == found.values["recall@1"] == Interval(0, 0, 1)
    assert found.values["validity@1"] == Interval(1, 1, 1)
    assert (found.ceiling, found.chance) == (0, 0)


def test_a_row_without_candidates_divides_nothing_by_zero() -> None:
    found = measure([row("", "A", "")], resamples=FEW)
    assert (found.ceiling, found.chance, found.picture_share, found.values["validity@1"].value) == (0, 0, 0, 0)


def test_equal_seeds_give_equal_measures() -> None:
    rows = [row(" ".join(random.Random(i).sample("ABCD", 4)), "A") for i in range(60)]
    assert measure(rows, seed=1) == measure(rows, seed=1) == measure(rows[::-1], seed=1)
    intervals = [measure(rows, seed=seed).values["ndcg@3"] for seed in range(6)]
    assert len(set(intervals)) > 1


# -- against others ------------------------------------------------------------------------------------------


def random_rows(count: int, seed: int) -> list[RankedRow]:
    """Rows of 1 to 12 candidates and 1 to 4 right items, repeats among them; some greedy, some invalid."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        candidates = tuple(f"B{i:09}" for i in rng.sample(range(40), rng.randint(1, 12)))
        ranking = rng.sample(candidates, len(candidates))[: rng.choice([0, 1, 12, 12, 12])]
        right = [rng.choice([*candidates, "0545010225"]) for _ in range(rng.randint(1, 4))]
        rows.append(RankedRow(tuple(ranking), candidates, tuple(right)))
    return rows


def test_equal_to_ir_measures() -> None:
    ir_measures = pytest.importorskip("ir_measures", reason="ir-measures is not installed (pip install 'lavic[dev]')")
    rows = random_rows(200, seed=11)
    judgements = {str(i): dict.fromkeys(each.gt_items, 1) for i, each in enumerate(rows)}
    run = {
        str(i): {item_id: float(-place) for place, item_id in enumerate(each.ranking)} for i, each in enumerate(rows)
    }
    names = {
        "hr@1": ir_measures.Success @ 1,
        "hr@3": ir_measures.Success @ 3,
        "hr@5": ir_measures.Success @ 5,
        "hr@10": ir_measures.Success @ 10,
        "mrr": ir_measures.RR,
        "ndcg@3": ir_measures.nDCG @ 3,
        "ndcg@5": ir_measures.nDCG @ 5,
        "ndcg@10": ir_measures.nDCG @ 10,
    }
    theirs = ir_measures.calc_aggregate(list(names.values()), judgements, run)
    ours = values_of(rows)
    assert {name: ours[name] for name in names} == pytest.approx(
        {name: theirs[each] for name, each in names.items()}, abs=1e-12
    )
    assert 0.05 < ours["hr@1"] < ours["hr@3"] < ours["hr@10"] < 0.95  # the rows are neither all easy nor all lost


def test_recall_equal_to_a_plain_count() -> None:
    rows = random_rows(200, seed=12)
    entries = [(each.ranking[:1], item_id) for each in rows for item_id in each.gt_items]
    assert values_of(rows)["recall@1"] == sum(top == (item_id,) for top, item_id in entries) / len(entries)


@pytest.mark.parametrize(
    ("category", "hr", "recall", "ceiling"),
    [("all_beauty", 14, (14, 890), 23.2), ("amazon_fashion", 24, (26, 998), 22.9)],
)
def test_the_first_candidate_of_the_published_lists(
    shared_data: Path, category: str, hr: int, recall: tuple[int, int], ceiling: float
) -> None:
    # Counted from the files by hand: rows whose first candidate is right, entries of gt_items that equal it.
    lines = (shared_data / "reddit-amazon" / category / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [
        RankedRow(tuple(read["candidates_st"]), tuple(read["candidates_st"]), tuple(read["gt_items"]))
        for read in map(json.loads, lines)
    ]
    found = measure(rows)
    assert found.values["hr@1"].value == hr / len(rows)
    assert found.values["recall@1"].value == pytest.approx(recall[0] / recall[1])
    assert round(100 * found.ceiling, 1) == ceiling
    assert found.values["hr@10"].value == found.ceiling
    assert found.values["hr@1"].low < found.chance < found.values["hr@1"].high


# -- two systems ---------------------------------------------------------------------------------------------


def test_differences_are_paired_and_recall_stays_a_ratio() -> None:
    better = [row("A B C D", "A"), row("B A C D", "B B B"), row("A B C D", "D")]
    worse = [row("B A C D", "A"), row("A B C D", "B B B"), row("A B C D", "D")]
    found = differences(better, worse, resamples=FEW)
    assert found["hr@1"].value == pytest.approx(2 / 3)
    assert found["recall@1"].value == pytest.approx(4 / 5)  # the mean over rows would be 2/3
    assert found["mrr"].value == pytest.approx(1 / 3)
    assert found["validity@1"] == Interval(0, 0, 0)
    assert list(found) == list(values_of(better))
    assert differences(worse, better, resamples=FEW)["recall@1"].value == pytest.approx(-4 / 5)


def test_a_system_does_not_differ_from_itself() -> None:
    rows = random_rows(50, seed=13)
    assert set(differences(rows, rows, resamples=FEW).values()) == {Interval(0, 0, 0)}


def test_other_rows_cannot_be_compared() -> None:
    for other in ([row("A", "B")], [row("A", "A")] * 2, []):
        with pytest.raises(ValueError, match="the same rows"):
            differences([row("A", "A")], other)
    without = [row("A", "")]
    assert differences(without, without, resamples=FEW)["hr@1"] == Interval(0, -1, 1)


# -- ranking by score ----------------------------------------------------------------------------------------


def test_the_highest_score_is_first() -> None:
    assert rank([-3.5, -0.25, -math.inf, -1], ["A", "B", "C", "D"]) == ("B", "D", "A", "C")
    assert rank([], []) == ()


def test_the_place_in_the_list_never_breaks_a_tie() -> None:
    rng = random.Random(6)
    candidates = [f"B{i:09}" for i in range(10)]
    scores = dict(zip(candidates, [1.0, 1.0, 0.0, 1.0, 0.0, -0.0, 2.0, 0.0, 1.0, 1.0], strict=True))
    expected = rank(list(scores.values()), candidates)
    assert expected[0] == candidates[6]
    assert [scores[item_id] for item_id in expected] == sorted(scores.values(), reverse=True)
    for _ in range(50):
        rng.shuffle(candidates)
        assert rank([scores[item_id] for item_id in candidates], candidates) == expected


def test_a_system_that_scores_all_alike_prefers_neither_place_nor_id() -> None:
    rng = random.Random(8)
    places: Counter[int] = Counter()
    picked: Counter[str] = Counter()
    for _ in range(4000):
        candidates = rng.sample([f"B{i:09}" for i in range(20)], 10)
        top = rank([0.0] * 10, candidates)[0]
        places[candidates.index(top)] += 1
        picked[top] += 1
    # 400 a place with a standard deviation of 19, 200 an ID with 14: within 5 of them. A fixed order of the IDs would
    # put the first ID on top in each of the 2,000 rows that offer it.
    assert all(305 < places[place] < 495 for place in range(10))
    assert len(picked) == 20
    assert all(130 < count < 270 for count in picked.values())


@pytest.mark.parametrize(
    ("scores", "candidates", "problem"),
    [
        ([math.nan, 1.0], ["A", "B"], "NaN"),
        ([1.0], ["A", "B"], "1 scores for 2 candidates"),
        ([1.0, 2.0], ["A", "A"], "stands twice"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores: list[float], candidates: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        rank(scores, candidates)


# -- wrong rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranking", "candidates", "with_picture", "problem"),
    [
        (["A"], ["A", "B", "A"], 0, "twice in candidates: A, B, A"),
        (["A", "A"], ["A", "B"], 0, "twice in ranking"),
        (["C", "A"], ["A", "B"], 0, "no candidate: C"),
        (["A"], ["A", "B"], 3, "3 of 2 candidates"),
        (["A"], ["A", "B"], -1, "-1 of 2 candidates"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(
    ranking: list[str], candidates: list[str], with_picture: int, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        RankedRow(tuple(ranking), tuple(candidates), ("A",), with_picture)


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        measure([])
    with pytest.raises(ValueError, match="from 1, not 0"):
        measure([row("A", "A")], ks=[0, 5])


def test_a_hundred_thousand_rows_are_measured() -> None:
    rows = [row(ranking, "A B") for ranking in ("A B C D", "C A B D", "C D A B", "C D B A")] * 25_000
    found: Measures = measure(rows)
    assert found.values["hr@1"].value == 0.25
    # The standard error of a share of 1/4 in 100,000 rows is 0.00137; the interval is 1.96 of them to each side.
    assert found.values["hr@1"].low == pytest.approx(0.25 - 1.96 * 0.00137, abs=1e-4)
    assert found.values["hr@1"].high == pytest.approx(0.25 + 1.96 * 0.00137, abs=1e-4)
