"""Taking turns at a host: how many requests at a time and per second, pauses that it asks for, and dead hosts."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict

from lavic.crawl.failures import ASKED_TO_WAIT, HOST_DOWN, CrawlFailure, Waiting

# A host's state is some hundred bytes; metadata with more hosts than this forgets the longest unused.
MAX_HOSTS = 10_000
# Pauses of a dead host, each twice as long as the one before. From 5 s on: the first outlasts a server that reloads its
# settings, all five (155 s) one that restarts, or a network that comes back.
PAUSES = 5


class Host:
    """One host's turn-taking; all times are ``time.monotonic()``.

    A host that does not answer is dead for a pause, in which its pictures wait. Behind it one of them probes whether it
    lives again; if not, the next pause begins, and behind the last it is left alone for good.
    """

    def __init__(self, name: str, per_host: int, interval_s: float) -> None:
        self.name = name
        self.slots = asyncio.Semaphore(per_host)
        self.interval_s = interval_s
        self.next_turn = 0.0
        self.paused_until = 0.0
        self.left_alone_until = 0.0
        self.left_alone_as = self.left_alone_because = ""
        self.unanswered = 0
        self.died_at = self.dead_since = self.dead_until = 0.0
        self.pauses = 0
        self.prober: object = None

    def require(self, asker: object) -> None:
        """See that one may ask now; behind a dead host's pause the first who may is the one that probes.

        Raises:
            CrawlFailure: ``host_down`` or ``asked_to_wait``, as nothing more is asked of this host.
            Waiting: it is dead for now.
        """
        if self.left_alone_until > time.monotonic():
            raise CrawlFailure(self.left_alone_as, self.left_alone_because, passing=True)
        if self.prober is not asker and self.is_waited_for():
            raise Waiting(self.name)
        if self.pauses:
            if self.dead_until > time.monotonic():
                raise Waiting(self.name)
            self.prober = asker

    def is_waited_for(self) -> bool:
        """Whether pictures wait for this host: it is dead, or is just being probed."""
        now = time.monotonic()
        return self.left_alone_until <= now and bool(self.pauses) and (self.dead_until > now or self.prober is not None)

    def release(self, asker: object) -> None:
        """One that may have probed is done; if it found out nothing, the next one may."""
        if self.prober is asker:
            self.prober = None

    def wait_s(self) -> float:
        """Reserve the next turn; seconds until it comes."""
        now = time.monotonic()
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

    def leave_alone(self, seconds: float, because: str, kind: str = ASKED_TO_WAIT) -> None:
        """For so long its pictures fail unasked, as ``kind``."""
        now = time.monotonic()
        if self.left_alone_until <= now:
            # The first sentence stays: those who were on their way bring others, by a second apart.
            self.left_alone_as, self.left_alone_because = kind, because
        self.left_alone_until = now + seconds

    def answered(self) -> bool:
        """It sent an answer, whatever it says: it lives. Says whether it was dead."""
        was_dead = self.pauses > 0
        self.unanswered = self.pauses = 0
        self.prober = None
        if was_dead and self.left_alone_as == HOST_DOWN:
            self.left_alone_until = 0.0
        return was_dead

    def silent(self, begun: float, dead_after: int, pause_s: float) -> float:
        """A request got no answer: some in a row begin a pause, and so does each that fails behind one.

        Args:
            begun: when the request was; one that was on its way already when the pause began says nothing new.

        Returns:
            Seconds of the pause that begins with it, infinity if the host is left alone for good, 0 if neither.
        """
        now = time.monotonic()
        if begun < self.dead_since:
            return 0.0
        self.unanswered += 1
        if not self.pauses and self.unanswered < dead_after:
            return 0.0
        self.died_at = self.died_at if self.pauses else now
        self.dead_since, self.prober = now, None
        if self.pauses == PAUSES:
            because = f"{self.name} did not answer {self.unanswered} times in a row, over {now - self.died_at:.0f} s"
            self.leave_alone(math.inf, because, HOST_DOWN)
            return math.inf
        pause_s *= 2**self.pauses
        self.dead_until = now + pause_s
        self.pauses += 1
        return pause_s


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

    def is_waited_for(self, name: str) -> bool:
        """Whether pictures wait for a host, which is dead for now."""
        host = self._hosts.get(name)
        return host is not None and host.is_waited_for()
