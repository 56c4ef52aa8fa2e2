"""Pictures that wait for dead hosts while the others go on; what they hold is an address and what was used up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from lavic.crawl.targets import Target
from lavic.crawl.tries import Try

# Some hundred bytes each. Beyond it the metadata are not read on until a host is alive again, or given up.
MAX_PARKED = 20_000
# How often it is looked whether a host's pause is over; with thousands of dead hosts a look takes a millisecond.
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Job:
    """A picture to fetch, and what it has used up so far."""

    target: Target
    spent: Try


class Parked:
    """By host, the first that came first.

    Args:
        is_waited_for: whether a host, by name and port, is still dead.
    """

    def __init__(self, is_waited_for: Callable[[str], bool]) -> None:
        self._is_waited_for = is_waited_for
        self._jobs: dict[str, deque[Job]] = {}
        self._look_at = 0.0
        self.count = 0

    def add(self, host: str, job: Job) -> None:
        """Put a picture aside."""
        self._jobs.setdefault(host, deque()).append(job)
        self.count += 1

    def take(self) -> Job | None:
        """One whose host may be asked again: it lives, or is given up, or this one probes."""
        if not self.count or time.monotonic() < self._look_at:
            return None
        for host, jobs in self._jobs.items():
            if not self._is_waited_for(host):
                job = jobs.popleft()
                self.count -= 1
                if not jobs:
                    del self._jobs[host]
                return job
        self._look_at = time.monotonic() + LOOK_S
        return None
