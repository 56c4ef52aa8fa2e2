"""How numbers are spread: counted, so that memory depends on how many different ones there are."""

from __future__ import annotations

import math
from collections import Counter
from itertools import accumulate


class Spread:
    """Whole numbers, of which count, mean and quantiles are wanted."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, number: int) -> None:
        """Count one number."""
        self._counts[number] += 1

    @property
    def count(self) -> int:
        """How many numbers there were."""
        return self._counts.total()

    def quantile(self, share: float) -> int:
        """The smallest number that at least this share (0 to 1) of the numbers does not exceed."""
        return self._ranked(max(1, math.ceil(share * self.count)))

    @property
    def median(self) -> float:
        """The middle one, or the mean of the two in the middle."""
        return (self._ranked((self.count + 1) // 2) + self._ranked(self.count // 2 + 1)) / 2

    def _ranked(self, rank: int) -> int:
        """The number of a rank, from 1."""
        numbers = sorted(self._counts)
        for number, up_to in zip(numbers, accumulate(self._counts[each] for each in numbers), strict=True):
            if up_to >= rank:
                return number
        raise ValueError("there are fewer numbers")

    def summary(self) -> dict[str, int | float]:
        """Count, mean, and five places of the distribution; of nothing, only the count."""
        if not self._counts:
            return {"count": 0}
        total = sum(number * times for number, times in self._counts.items())
        return {
            "count": self.count,
            "mean": round(total / self.count, 2),
            "min": min(self._counts),
            "median": self.median,
            "p95": self.quantile(0.95),
            "max": max(self._counts),
        }
