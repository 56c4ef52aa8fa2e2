"""From an address to the bytes behind it: turns, robots.txt, redirects, retries, one deadline over all."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from yarl import URL

from lavic.crawl.addresses import AddressRules, checked_url
from lavic.crawl.config import CrawlSettings
from lavic.crawl.exchange import Answer, open_session, redirected, request
from lavic.crawl.failures import LEFT_ALONE, CrawlFailure, Stopped, Waiting, http_failure
from lavic.crawl.hosts import Host, Hosts
from lavic.crawl.politeness import MAX_ROBOTS_BYTES, forbids_ai, retry_after_s
from lavic.crawl.robots import Robots, agent_of
from lavic.crawl.tries import Try

_MAX_BACKOFF_S = 60.0
# Of so many hosts it is told that they are waited for; of more, the bar's count of waiting pictures must do.
_MAX_TOLD = 10
_NO_ANSWER = ("dns", "connect", "tls", "timeout", "reset")


@dataclass(frozen=True)
class Fetched:
    """What one picture's address gave.

    Attributes:
        body: the bytes; None if the host says that they have not changed (304).
        redirected_to: the last address, if it is not the first.
    """

    body: bytes | None
    http_code: int
    etag: str
    last_modified: str
    redirected_to: str
    framed: bool


class Fetcher:
    """Fetches addresses with one session; use as an async context.

    Args:
        settings: limits and manners.
        stop: set when the run is to end; waits end at once then.
        tell: takes a sentence about a host that is waited for.
    """

    def __init__(self, settings: CrawlSettings, stop: asyncio.Event, tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._stop = stop
        self._tell = tell
        self._told: set[str] = set()
        self._rules = AddressRules(settings.allow_private)
        self._hosts = Hosts(min(settings.per_host, settings.workers), settings.rate)
        self._slots = asyncio.Semaphore(settings.workers)
        self._agent = agent_of(settings)
        self._robots = Robots(settings, self._rules, self._hosts, self._ask_robots)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Fetcher:
        settings = self._settings
        per_host = min(settings.per_host, settings.workers)
        self._session = open_session(self._rules, settings.user_agent, settings.workers, per_host)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._robots.close()
        if self._session is not None:
            await self._session.close()

    async def fetch(self, address: str, conditions: dict[str, str], spent: Try) -> Fetched:
        """The picture at an address, tried again after failures that may pass.

        Args:
            conditions: headers such as If-None-Match.
            spent: counts the attempts; its deadline covers all of them.

        Raises:
            CrawlFailure: it could not be had.
            Waiting: its host is dead for now; call again when ``is_waited_for`` says no more.
            Stopped: the run ends before it could.
        """
        url = checked_url(address, self._rules)
        try:
            return await self._try(url, conditions, spent)
        finally:
            while spent.probed:
                spent.probed.pop().release(spent)

    def is_waited_for(self, host: str) -> bool:
        """Whether a host, by name and port, is dead for now."""
        return self._hosts.is_waited_for(host)

    async def _try(self, url: URL, conditions: dict[str, str], spent: Try) -> Fetched:
        while True:
            spent.attempts += 1
            try:
                return await self._follow(url, conditions, spent)
            except Waiting:
                spent.attempts -= 1
                raise
            except CrawlFailure as failure:
                if failure.kind in LEFT_ALONE:
                    spent.attempts -= 1
                    raise
                if not failure.passing or failure.kind == "deadline" or spent.attempts > self._settings.retries:
                    raise
                await self.back_off(spent, failure)

    async def back_off(self, spent: Try, failure: CrawlFailure) -> None:
        """Wait before the next attempt: as long as the host asked for, or twice as long as before, with jitter.

        Raises:
            CrawlFailure: the wait would go beyond the deadline; ``failure`` itself, if the host answered with trouble.
            Stopped: the run ends meanwhile.
        """
        asked_s = failure.retry_after_s
        usual = min(_MAX_BACKOFF_S, self._settings.backoff_s * 2 ** (spent.attempts - 1))
        # After Retry-After all who wait would come back in the same instant.
        wait_s = usual * random.uniform(0.5, 1.5) if asked_s is None else asked_s + random.uniform(0, 0.1 * usual)
        # What the host said tells more than that there was no time to hear it again.
        if failure.kind.startswith("http_") and (spent.left_s <= wait_s or (asked_s or 0) > self._settings.max_wait_s):
            raise failure
        spent.require_time(wait_s)
        spent.spend(wait_s)
        await self._sleep(wait_s)

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return
        raise Stopped

    async def _follow(self, url: URL, conditions: dict[str, str], spent: Try) -> Fetched:
        """One attempt, over its redirects."""
        first = url
        for _ in range(self._settings.max_redirects + 1):
            self._host(url, spent)
            if not self._settings.ignore_robots:
                await self._require_permission(url, spent)
            answer = await self._ask(url, conditions, spent, self._settings.max_bytes)
            if answer.leads_on:
                url = redirected(url, answer, self._rules)
                continue
            return self._result(answer, conditions, "" if url == first else str(url))
        raise CrawlFailure(
            "too_many_redirects", f"more than {self._settings.max_redirects} redirects", http_code=answer.code
        )

    def _result(self, answer: Answer, conditions: dict[str, str], redirected_to: str) -> Fetched:
        if answer.code == 304 and not conditions:
            raise CrawlFailure("bad_answer", "not modified, says the host, but since when was not asked", http_code=304)
        if answer.code not in (200, 304):
            raise http_failure(answer.code, retry_after_s(answer.headers.get("Retry-After")))
        if not self._settings.ignore_x_robots_tag and forbids_ai(answer.tags, self._agent):
            raise CrawlFailure("noai", "X-Robots-Tag forbids use for AI", http_code=answer.code)
        return Fetched(
            None if answer.code == 304 else answer.body,
            answer.code,
            answer.headers.get("ETag", ""),
            answer.headers.get("Last-Modified", ""),
            redirected_to,
            answer.framed,
        )

    async def _require_permission(self, url: URL, spent: Try) -> None:
        rules = await self._robots.of(url.origin(), spent)
        if not rules.allows(url.raw_path_qs):
            raise CrawlFailure("robots", "robots.txt forbids it")

    async def _ask_robots(self, url: URL, spent: Try) -> Answer:
        return await self._ask(url, {}, spent, MAX_ROBOTS_BYTES, cut=True)

    async def _ask(self, url: URL, headers: dict[str, str], spent: Try, max_bytes: int, *, cut: bool = False) -> Answer:
        """One request, when it is this one's turn."""
        assert self._session is not None
        host = self._host(url, spent)
        async with host.slots:
            self._host(url, spent)  # it may have died while a place was waited for
            await self._turn(host)
            async with self._slots:
                if self._stop.is_set():
                    raise Stopped
                self._host(url, spent)
                spent.require_time()
                begun = time.monotonic()
                timeout_s = min(self._settings.timeout_s, spent.left_s)
                try:
                    answer = await request(
                        self._session, url, headers, max_bytes=max_bytes, timeout_s=timeout_s, cut=cut
                    )
                except CrawlFailure as failure:
                    self._note_failure(host, failure, begun)
                    raise
                finally:
                    spent.spend(time.monotonic() - begun)
        self._note_life(host)
        self._note_wish(host, answer)
        return answer

    def _host(self, url: URL, spent: Try) -> Host:
        """The host of an address.

        Raises:
            CrawlFailure: nothing more is asked of it.
            Waiting: it is dead for now.
        """
        host = self._hosts.get(url.raw_authority)
        host.require(spent.asker)
        if host.prober is spent.asker and host not in spent.asker.probed:
            spent.asker.probed.append(host)
        return host

    async def _turn(self, host: Host) -> None:
        wait_s = host.wait_s()
        while wait_s > 0:
            await self._sleep(wait_s)
            # All whose turn fell into a pause would come at once at its end: each takes a new turn.
            wait_s = host.wait_s() if host.paused_s() > 0 else 0.0

    def _note_life(self, host: Host) -> None:
        if host.answered() and host.name in self._told:
            self._tell(f"{host.name} answers again.")

    def _note_failure(self, host: Host, failure: CrawlFailure, begun: float) -> None:
        if failure.http_code is not None:
            self._note_life(host)
        elif failure.kind in _NO_ANSWER:
            pause_s = host.silent(begun, self._settings.dead_after, self._settings.dead_pause_s)
            if pause_s and (host.name in self._told or len(self._told) < _MAX_TOLD):
                self._told.add(host.name)
                follows = f"its pictures wait, and in {pause_s:.3g} s it is asked again" if pause_s < math.inf else ""
                times = f"{host.name} did not answer {host.unanswered} times in a row"
                self._tell(f"{times}: {follows or 'it is given up'}.")

    def _note_wish(self, host: Host, answer: Answer) -> None:
        """Retry-After concerns everyone at the host."""
        asked = retry_after_s(answer.headers.get("Retry-After")) if answer.code in (429, 503) else None
        if asked is None:
            return
        if asked > self._settings.max_wait_s:
            host.leave_alone(asked, f"{host.name} asked to wait {asked:.0f} s (Retry-After)")
        else:
            host.pause(asked)
