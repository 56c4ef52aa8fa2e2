"""Things drawn by lot from a stream of unknown length: the same ones in whatever order they come."""

from __future__ import annotations

import hashlib
import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


def lot(seed: int, key: str) -> int:
    """A number of 64 bits that depends on seed and key only, so on no machine and no order."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).digest()[:8])


class Lots(Generic[T]):
    """Keeps the things with the smallest lots; memory holds only these.

    Args:
        size: how many to keep.
        seed: another one draws others.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        # Largest lot first, as negative numbers: it is the one to go.
        self._heap: list[tuple[int, str]] = []
        self._kept: dict[str, T] = {}

    def would_keep(self, key: str) -> bool:
        """Whether a thing of this key would be kept now; one that is kept already would not."""
        if key in self._kept or not self.size:
            return False
        return len(self._heap) < self.size or (-lot(self.seed, key), key) > self._heap[0]

    def offer(self, key: str, thing: T) -> None:
        """Keep a thing if its lot is among the smallest so far; of one key, the first."""
        if not self.would_keep(key):
            return
        if len(self._heap) == self.size:
            self._kept.pop(heapq.heappop(self._heap)[1])
        heapq.heappush(self._heap, (-lot(self.seed, key), key))
        self._kept[key] = thing

    def kept(self) -> dict[str, T]:
        """What was drawn, smallest lot first."""
        return {key: self._kept[key] for _, key in sorted(self._heap, reverse=True)}
