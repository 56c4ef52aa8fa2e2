"""How well ranked candidates answer test conversations: HR@k, published Recall@1, MRR, NDCG@k, validity; their bounds.

All figures are over the whole test set, never means of batches' means. ``docs/formats.md`` tells where they end up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lavic.evaluate.bootstrap import RESAMPLES, FloatArray, Interval, ratio_intervals
from lavic.evaluate.chance import hit_within, reciprocal_of_first
from lavic.metrics import rank

__all__ = ["KS", "Interval", "Measures", "RankedRow", "differences", "measure", "rank"]

KS = (1, 3, 5, 10)


@dataclass(frozen=True)
class RankedRow:
    """One test conversation, answered.

    Attributes:
        ranking: candidate IDs, best first; of greedy generation the named candidate alone, or nothing where it named
            none.
        candidates: as given, in order.
        gt_items: as published, repeats kept.
        with_picture: how many of the candidates had visual tokens.

    Raises:
        ValueError: a repeated candidate, a ranking that repeats an ID or holds one that is no candidate, or more
            pictures than candidates.
    """

    ranking: tuple[str, ...]
    candidates: tuple[str, ...]
    gt_items: tuple[str, ...]
    with_picture: int = 0

    def __post_init__(self) -> None:
        for name, ids in (("candidates", self.candidates), ("ranking", self.ranking)):
            if len(set(ids)) != len(ids):
                raise ValueError(f"an ID stands twice in {name}: {', '.join(ids)}")
        strangers = set(self.ranking) - set(self.candidates)
        if strangers:
            raise ValueError(f"the ranking holds what is no candidate: {', '.join(sorted(strangers))}")
        if not 0 <= self.with_picture <= len(self.candidates):
            raise ValueError(f"{self.with_picture} of {len(self.candidates)} candidates with a picture")

    @property
    def recommended(self) -> str | None:
        """The top item; None where the answer named no candidate."""
        return self.ranking[0] if self.ranking else None

    @property
    def right(self) -> frozenset[str]:
        """The right IDs, each once."""
        return frozenset(self.gt_items)

    @property
    def reachable(self) -> int:
        """How many different right items are among the candidates."""
        return len(self.right & set(self.candidates))

    @property
    def right_places(self) -> tuple[int, ...]:
        """Where right items stand in the ranking, in order; 1 is the top."""
        right = self.right
        return tuple(place for place, item_id in enumerate(self.ranking, 1) if item_id in right)


@dataclass(frozen=True)
class Measures:
    """What ``measure`` found.

    Attributes:
        rows: all rows, also those without a right item.
        values: ``hr@k`` for each k, ``mrr``, ``ndcg@k`` for each k above 1 (ndcg@1 is hr@1), ``recall@1`` (as
            published), ``validity@1``; shares from 0 to 1, with their intervals.
        chances: by the same names, what candidates in an order drawn by lot are to be expected to reach.
        ceilings: by the same names, what the same candidates reach with the right ones first (of several, those first
            that ``gt_items`` lists most often): no ranking's figure can be higher.
        picture_share: share of candidates that had visual tokens.
        without_right_item: rows whose ``gt_items`` are empty. They count for ``validity@1`` and ``picture_share``
            and for nothing else, since no answer to them could be right.
        depth: the longest ranking. At 1 (greedy generation) hr@k is hr@1 for every k.
    """

    rows: int
    values: Mapping[str, Interval]
    chances: Mapping[str, float]
    ceilings: Mapping[str, float]
    picture_share: float
    without_right_item: int = 0
    depth: int = 0

    @property
    def chance(self) -> float:
        """hr@1 to be expected of a candidate drawn at random: mean of (right candidates / candidates)."""
        return self.chances["hr@1"]

    @property
    def ceiling(self) -> float:
        """Share of rows whose candidates hold a right item: no ranking's hr@k can be higher."""
        return self.ceilings["hr@1"]


def measure(
    rows: Sequence[RankedRow], *, seed: int = 0, resamples: int = RESAMPLES, ks: Sequence[int] = KS
) -> Measures:
    """The figures of one system over a test set.

    - ``hr@k``: share of rows with any right item among the first k.
    - ``mrr``: mean of 1 / place of the first right item; 0 where none is ranked.
    - ``ndcg@k``: gain 1 for each right item, discount 1 / log2(place + 1), divided by the best that the row's different
      right items allow (at most k of them), whether or not they are among the candidates; trec_eval's ``ndcg_cut``
      with the right items as judgements.
    - ``recall@1``: how many entries of ``gt_items``, over all rows together, are their row's recommended item, divided
      by how many entries there are. Repeats count, in both: a row of [A, A, B] answered with A gives 2 of 3. So a row
      with several right items weighs more and cannot be wholly right. LaViC's published evaluation prints this figure
      (`evaluate_recall_at_k` in its prompt_tuning.py).
    - ``validity@1``: share of rows whose answer names a candidate.

    Args:
        rows: at least one.
        seed: of the bootstrap; equal seeds give equal intervals.
        resamples: how many times the rows are drawn.
        ks: places to look at, from 1; 1 is always among them.

    Returns:
        Where no row has a right item, what cannot be known is 0, with an interval from 0 to 1.

    Raises:
        ValueError: no rows, or a k below 1.
    """
    if not rows:
        raise ValueError("no rows were measured")
    answerable = [row for row in rows if row.gt_items]
    candidates = sum(len(row.candidates) for row in rows)
    values: dict[str, Interval] = {}
    for table in _tables(rows, ks):
        values |= table.intervals(unknown=Interval(0.0, 0.0, 1.0), seed=seed, resamples=resamples)
    best = [_at_best(row) for row in rows]
    return Measures(
        rows=len(rows),
        values=values,
        chances=_ratios(_tables(best, ks, _row_chances)),
        ceilings=_ratios(_tables(best, ks)),
        picture_share=_share(sum(row.with_picture for row in rows), candidates),
        without_right_item=len(rows) - len(answerable),
        depth=max(len(row.ranking) for row in rows),
    )


def differences(
    rows: Sequence[RankedRow],
    baseline: Sequence[RankedRow],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    ks: Sequence[int] = KS,
) -> dict[str, Interval]:
    """Each figure of ``rows`` minus that of ``baseline``, two systems on the same test rows, paired row by row.

    An interval that does not hold 0 says that the two differ by more than the choice of test rows explains. The
    candidates may differ, the right items may not.

    Raises:
        ValueError: no rows, or not the same right items in the same order.
    """
    if not rows or [row.gt_items for row in rows] != [row.gt_items for row in baseline]:
        raise ValueError("the two systems did not answer the same rows")
    found: dict[str, Interval] = {}
    for ours, theirs in zip(_tables(rows, ks), _tables(baseline, ks), strict=True):
        gaps = _Table(ours.names, ours.numerators - theirs.numerators, ours.denominators)
        found |= gaps.intervals(unknown=Interval(0.0, -1.0, 1.0), seed=seed, resamples=resamples)
    return found


@dataclass(frozen=True)
class _Table:
    """Figures over one set of rows: [N, M] numerators and denominators, a column per name."""

    names: tuple[str, ...]
    numerators: FloatArray
    denominators: FloatArray

    def intervals(self, *, unknown: Interval, seed: int, resamples: int) -> dict[str, Interval]:
        if not len(self.numerators):
            return dict.fromkeys(self.names, unknown)
        found = ratio_intervals(self.numerators, self.denominators, seed=seed, resamples=resamples)
        return dict(zip(self.names, found, strict=True))


def _ratios(tables: Sequence[_Table]) -> dict[str, float]:
    """The figures alone; 0 where there are no rows."""
    return {
        name: math.fsum(table.numerators[:, at]) / (math.fsum(table.denominators[:, at]) or 1.0)
        for table in tables
        for at, name in enumerate(table.names)
    }


def _row_figures(row: RankedRow, places: Sequence[int], deeper: Sequence[int]) -> list[float]:
    """A row's numerators, in the order of the names in ``_tables``."""
    found = row.right_places
    first = found[0] if found else math.inf
    hits = [float(first <= k) for k in places]
    gains = [
        math.fsum(_discount(place) for place in found if place <= k) / _best_gain(min(k, len(row.right)))
        for k in deeper
    ]
    return [*hits, 1 / first, *gains, float(row.gt_items.count(row.recommended))]


def _row_chances(row: RankedRow, places: Sequence[int], deeper: Sequence[int]) -> list[float]:
    """What a row's numerators are to be expected to be if its candidates are in an order drawn by lot."""
    candidates, right = len(row.candidates), row.reachable
    hits = [hit_within(k, right, candidates) for k in places]
    # Each right item is at each place as often as at any other.
    share = _share(right, candidates)
    gains = [share * _best_gain(min(k, candidates)) / _best_gain(min(k, len(row.right))) for k in deeper]
    entries = sum(item_id in row.candidates for item_id in row.gt_items)
    return [*hits, reciprocal_of_first(right, candidates), *gains, _share(entries, candidates)]


def _tables(
    rows: Sequence[RankedRow], ks: Sequence[int], figures_of: Callable[..., list[float]] = _row_figures
) -> tuple[_Table, _Table]:
    """What is over rows with a right item, and what is over all rows.

    Args:
        figures_of: ``_row_figures``, or another function with its arguments and order of values.
    """
    if any(k < 1 for k in ks):
        raise ValueError(f"places are counted from 1, not {min(ks)}")
    places = sorted({1, *ks})
    deeper = places[1:]
    names = (*(f"hr@{k}" for k in places), "mrr", *(f"ndcg@{k}" for k in deeper), "recall@1")
    answerable = [row for row in rows if row.gt_items]
    figures = [figures_of(row, places, deeper) for row in answerable]
    numerators = np.array(figures, dtype=np.float64).reshape(len(answerable), len(names))
    denominators = np.ones_like(numerators)
    denominators[:, -1] = [len(row.gt_items) for row in answerable]
    valid = np.array([[row.recommended is not None] for row in rows], dtype=np.float64)
    return _Table(names, numerators, denominators), _Table(("validity@1",), valid, np.ones_like(valid))


def _at_best(row: RankedRow) -> RankedRow:
    """The row with all candidates ranked, right ones first, of several those that are listed most often."""
    return replace(row, ranking=tuple(sorted(row.candidates, key=lambda item_id: -row.gt_items.count(item_id))))


def _discount(place: int) -> float:
    return 1 / math.log2(place + 1)


@functools.cache
def _best_gain(items: int) -> float:
    """All of ``items`` right items on top."""
    return math.fsum(_discount(place) for place in range(1, items + 1))


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0
