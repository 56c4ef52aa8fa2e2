"""Figures over whole data sets, token-weighted loss and perplexity; and the order that scores put candidates in."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from lavic.errors import TrainingError


class TokenMean:
    """The mean loss per token over batches of any size, and its perplexity.

    The sum is kept exactly, so the result depends neither on the order of the batches nor on where they were
    cut, apart from the rounding in the figures handed in.

    Attributes:
        tokens: how many tokens were counted.
    """

    def __init__(self) -> None:
        self.tokens = 0
        # Shewchuk's expansion: doubles that do not overlap and add up to the exact sum; rarely more than 3.
        self._parts: list[float] = []

    def add(self, *, nats: float, tokens: int) -> None:
        """Count a batch.

        Args:
            nats: the loss summed (not averaged) over the tokens.
            tokens: how many tokens it was summed over.

        Raises:
            TrainingError: the loss is NaN or infinite.
            ValueError: a negative number of tokens, or a loss over none.
        """
        if not math.isfinite(nats):
            raise TrainingError(f"a loss is not finite ({nats})")
        if tokens < 0 or (tokens == 0 and nats != 0):
            raise ValueError(f"{nats} nats over {tokens} tokens")
        self.tokens += tokens
        carry = nats
        parts = []
        for part in self._parts:
            if abs(carry) < abs(part):
                carry, part = part, carry
            total = carry + part
            lost = part - (total - carry)
            if lost:
                parts.append(lost)
            carry = total
        self._parts = [*parts, carry]

    @property
    def nats(self) -> float:
        """The loss summed over all tokens."""
        return math.fsum(self._parts)

    @property
    def mean(self) -> float:
        """Nats per token.

        Raises:
            ValueError: no token was counted; a mean of nothing would be NaN, and NaN hides what went wrong.
        """
        if self.tokens == 0:
            raise ValueError("no tokens were counted")
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp of the mean; infinite where that is beyond a double."""
        try:
            return math.exp(self.mean)
        except OverflowError:
            return math.inf


def rank(scores: Sequence[float], candidates: Sequence[str]) -> tuple[str, ...]:
    """Candidates by score, highest first.

    Equal scores are ordered by a hash of the ID and of the set of candidates. So the place in the list never decides,
    the same question gets the same answer, and no ID is favoured over many rows: a system that scores all alike hits
    as often as chance.

    Args:
        scores: [C]; minus infinity is the lowest.
        candidates: [C] distinct IDs.

    Raises:
        ValueError: numbers that differ, a repeated candidate, or a score that is NaN.
    """
    if len(scores) != len(candidates):
        raise ValueError(f"{len(scores)} scores for {len(candidates)} candidates")
    if len(set(candidates)) != len(candidates):
        raise ValueError(f"an ID stands twice in candidates: {', '.join(candidates)}")
    numbers = [float(score) for score in scores]
    if any(math.isnan(number) for number in numbers):
        raise ValueError("a score is not a number (NaN)")
    # No ID holds a line end, so this tells any two sets apart.
    salt = hashlib.sha256("\n".join(sorted(candidates)).encode("utf-8", "surrogatepass"))

    def key(pair: tuple[float, str]) -> tuple[float, bytes]:
        lot = salt.copy()
        lot.update(b"\n\n" + pair[1].encode("utf-8", "surrogatepass"))
        return -pair[0], lot.digest()

    return tuple(item_id for _, item_id in sorted(zip(numbers, candidates, strict=True), key=key))
