"""What the attempts at one picture may use up."""

from __future__ import annotations

from lavic.crawl.failures import CrawlFailure
from lavic.crawl.hosts import Host


class Try:
    """What one picture has used up: attempts, and seconds of its deadline (waiting for a turn costs none).

    Args:
        asker: the picture for which robots.txt is read, if that is what this is for.
    """

    def __init__(self, deadline_s: float, asker: Try | None = None) -> None:
        self.attempts = 0
        self.left_s = deadline_s
        self.asker: Try = asker or self
        self.probed: list[Host] = []

    def spend(self, seconds: float) -> None:
        """Take seconds off."""
        self.left_s -= seconds

    def require_time(self, needed_s: float = 0.0) -> None:
        """Give up if the deadline is over, or would be after a wait.

        Raises:
            CrawlFailure: ``deadline``.
        """
        if self.left_s <= needed_s:
            raise self.over()

    def over(self) -> CrawlFailure:
        """What to raise when the deadline is over."""
        return CrawlFailure("deadline", f"not done within --deadline_s ({self.attempts} attempts)", passing=True)
