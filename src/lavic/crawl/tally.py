"""Counting while a crawl runs, and noticing that it is pointless to go on."""

from __future__ import annotations

from collections import Counter, deque

from lavic.crawl.failures import explanation

MAX_REASONS = 100
_OTHER = "other"


class Tally:
    """What became of the pictures so far.

    Args:
        stop_after: how many tries in a row are looked at; 0 looks at none.
        stop_share: which share of them must have failed for one reason.

    Attributes:
        by_status: ``ok``, ``present``, ``unchanged``, ``kept``, ``failed``, ``not_asked`` -> pictures.
        by_reason: class of failure -> pictures.
        left_alone: class and sentence of a host that nothing more was asked of -> pictures that failed of it.
        never_asked: pictures that ``--retry_failed`` left out and no earlier run has a row of.
        passing: failed pictures whose reason may have passed.
        downloaded_bytes: of pictures that came whole.
    """

    def __init__(self, stop_after: int, stop_share: float) -> None:
        self.by_status: Counter[str] = Counter()
        self.by_reason: Counter[str] = Counter()
        self.left_alone: Counter[tuple[str, str]] = Counter()
        self.never_asked = 0
        self.passing = 0
        self.downloaded_bytes = 0
        self._stop_share = stop_share
        self._stop_after = stop_after
        self._lately: deque[str] = deque()
        self._lately_by_reason: Counter[str] = Counter()

    def count(self, status: str, reason: str = "", *, passing: bool = False, tried: bool = True) -> None:
        """Count a picture; one that was ``tried`` also counts for ``hopeless``."""
        if reason and reason not in self.by_reason and len(self.by_reason) >= MAX_REASONS:
            reason = _OTHER
        self.by_status[status] += 1
        if reason:
            self.by_reason[reason] += 1
            self.passing += passing
        if tried and self._stop_after:
            self._lately.append(reason)
            self._lately_by_reason[reason] += 1
            if len(self._lately) > self._stop_after:
                self._lately_by_reason[self._lately.popleft()] -= 1

    def count_left_alone(self, reason: str, sentence: str) -> None:
        """Count a picture of a host that nothing more is asked of."""
        if (reason, sentence) not in self.left_alone and len(self.left_alone) >= MAX_REASONS:
            sentence = "more hosts could not be asked"
        self.left_alone[reason, sentence] += 1

    def hopeless(self, undecided: int = 0) -> str:
        """Why it is pointless to go on, some sentences; "" while it is not.

        Args:
            undecided: pictures that came and wait to be decoded. They may all be good, and are overtaken by failures.
        """
        if not self._stop_after or len(self._lately) < self._stop_after:
            return ""
        reason, times = self._lately_by_reason.most_common(1)[0]
        if not reason or times < self._stop_share * (len(self._lately) + undecided):
            return ""
        return (
            f"{times} of the last {len(self._lately)} pictures failed for the same reason ({reason}), so the crawl "
            f"stops here. {explanation(reason)} --stop_after 0 goes on all the same."
        )

    def fields(self, reasons: int) -> dict[str, object]:
        """For the progress bar: what came, and so many of the most frequent reasons."""
        shown: dict[str, object] = {"ok": self.by_status["ok"]}
        return shown | dict(self.by_reason.most_common(reasons))
