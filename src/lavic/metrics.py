"""Figures over whole data sets: token-weighted loss and perplexity."""

from __future__ import annotations

import math

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
