"""Taking turns at a host: how many requests at a time and per second, pauses that it asks for, and dead hosts."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

from lavic.crawl.failures import CrawlFailure

# A host's state is some hundred bytes; metadata with more hosts than this forgets the longest unused.
MAX_HOSTS = 10_000
# Each further pause of a dead host is twice as long, up to this many times the first.
MAX_PAUSE_FACTOR = 16


class Host:
    """One host's turn-taking; all times are ``time.monotonic()``."""

    def __init__(self, name: str, per_host: int, interval_s: float) -> None:
        self.name = name
        self.slots = asyncio.Semaphore(per_host)
        self.interval_s = interval_s
        self.next_turn = 0.0
        self.paused_until = 0.0
        self.left_alone_until = 0.0
        self.left_alone_because = ""
        self.unanswered = 0
        self.pauses = 0

    def wait_s(self) -> float:
        """Reserve the next turn; seconds until it comes.

        Raises:
            CrawlFailure: ``host_down``, as the host is left alone for now.
        """
        now = time.monotonic()
        if self.left_alone_until > now:
            problem = f"{self.left_alone_because}; left alone for {self.left_alone_until - now:.0f} s"
            raise CrawlFailure("host_down", problem, passing=True)
        turn = max(now, self.next_turn, self.paused_until)
        if self.interval_s:
            self.next_turn = turn + self.interval_s
        return turn - now

    def pause(self, seconds: float) -> None:
        """The host asked everyone to wait (Retry-After)."""
        self.paused_until = max(self.paused_until, time.monotonic() + seconds)

    def paused_s(self) -> float:
        """Seconds that a pause still lasts: it may have been asked for while a turn was waited for."""
        return self.paused_until - time.monotonic()

    def leave_alone(self, seconds: float, because: str) -> None:
        """For a while its pictures are not even tried."""
        self.left_alone_until = time.monotonic() + seconds
        self.left_alone_because = because

    def answered(self) -> None:
        """It sent an answer, whatever it says: it lives."""
        self.unanswered = self.pauses = 0

    def silent(self, dead_after: int, pause_s: float) -> None:
        """A request got no answer; after some in a row the host is left alone, each time for longer."""
        self.unanswered += 1
        if self.unanswered >= dead_after and self.left_alone_until <= time.monotonic():
            seconds = pause_s * min(2**self.pauses, MAX_PAUSE_FACTOR)
            self.pauses += 1
            self.leave_alone(seconds, f"{self.name} did not answer {self.unanswered} times in a row")


class Hosts:
    """The hosts seen lately.

    Args:
        per_host: requests at a time to each.
        rate: requests per second to each, or None for as many as there are slots.
    """

    def __init__(self, per_host: int, rate: float | None) -> None:
        self._per_host = per_host
        self._interval_s = 1 / rate if rate else 0.0
        self._hosts: OrderedDict[str, Host] = OrderedDict()

    def get(self, name: str) -> Host:
        """The state of a host, by name and port."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(name, self._per_host, self._interval_s)
            if len(self._hosts) > MAX_HOSTS:
                self._hosts.popitem(last=False)
        else:
            self._hosts.move_to_end(name)
        return host
