"""What an order drawn by lot is to be expected to score, in closed form: all orders of the candidates are as likely."""

from __future__ import annotations

import functools
import math


def hit_within(k: int, right: int, candidates: int) -> float:
    """How likely any of the right ones is among the first k (hypergeometric)."""
    k = min(k, candidates)
    ways = math.comb(candidates, k)
    return (ways - math.comb(candidates - right, k)) / ways


@functools.cache
def reciprocal_of_first(right: int, candidates: int) -> float:
    """The expected 1 / place of the first right one; 0 without any."""
    none_before, terms = 1.0, []
    for place in range(1, candidates - right + 2) if right else ():
        left = candidates - place + 1
        terms.append(none_before * right / left / place)
        none_before *= (left - right) / left
    return math.fsum(terms)
