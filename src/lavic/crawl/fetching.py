"""From an address to the bytes behind it: turns, robots.txt, redirects, retries, one deadline over all."""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from dataclasses import dataclass

import aiohttp
from yarl import URL

from lavic.crawl.addresses import AddressRules, checked_url, parsed_url
from lavic.crawl.config import CrawlSettings
from lavic.crawl.exchange import Answer, open_session, request
from lavic.crawl.failures import CrawlFailure, Stopped, http_failure
from lavic.crawl.hosts import MAX_HOSTS, Host, Hosts
from lavic.crawl.politeness import MAX_ROBOTS_BYTES, RobotsRules, forbids_ai, parse_robots, retry_after_s

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_BACKOFF_S = 60.0
_NO_ANSWER = ("dns", "connect", "tls", "timeout", "reset")
_ALL = RobotsRules()


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


class Try:
    """What one picture has used up: attempts, and seconds of its deadline (waiting for a turn costs none)."""

    def __init__(self, deadline_s: float) -> None:
        self.attempts = 0
        self.left_s = deadline_s

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


class Fetcher:
    """Fetches addresses with one session; use as an async context.

    Args:
        settings: limits and manners.
        stop: set when the run is to end; waits end at once then.
    """

    def __init__(self, settings: CrawlSettings, stop: asyncio.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._rules = AddressRules(settings.allow_private)
        self._hosts = Hosts(min(settings.per_host, settings.workers), settings.rate)
        self._slots = asyncio.Semaphore(settings.workers)
        self._agent = settings.user_agent.split("/")[0].split()[0]
        self._robots: OrderedDict[URL, asyncio.Task[RobotsRules]] = OrderedDict()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Fetcher:
        settings = self._settings
        per_host = min(settings.per_host, settings.workers)
        self._session = open_session(self._rules, settings.user_agent, settings.workers, per_host)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._robots.values():
            task.cancel()
        await asyncio.gather(*self._robots.values(), return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def fetch(self, address: str, conditions: dict[str, str], spent: Try) -> Fetched:
        """The picture at an address, tried again after failures that may pass.

        Args:
            conditions: headers such as If-None-Match.
            spent: counts the attempts; its deadline covers all of them.

        Raises:
            CrawlFailure: it could not be had.
            Stopped: the run ends before it could.
        """
        url = checked_url(address, self._rules)
        while True:
            spent.attempts += 1
            try:
                return await self._follow(url, conditions, spent)
            except CrawlFailure as failure:
                if not failure.passing or failure.kind in ("host_down", "deadline"):
                    raise
                if spent.attempts > self._settings.retries:
                    raise
                await self.back_off(spent, failure.retry_after_s)

    async def back_off(self, spent: Try, asked_s: float | None = None) -> None:
        """Wait before the next attempt: as long as the host asked for, or twice as long as before, with jitter.

        Raises:
            CrawlFailure: ``deadline``, as the wait would go beyond it.
            Stopped: the run ends meanwhile.
        """
        usual = min(_MAX_BACKOFF_S, self._settings.backoff_s * 2 ** (spent.attempts - 1))
        # After Retry-After all who wait would come back in the same instant.
        wait_s = usual * random.uniform(0.5, 1.5) if asked_s is None else asked_s + random.uniform(0, 0.1 * usual)
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
            if not self._settings.ignore_robots:
                await self._require_permission(url, spent)
            answer = await self._ask(url, conditions, spent, self._settings.max_bytes)
            if answer.code in _REDIRECTS and "Location" in answer.headers:
                url = self._next(url, answer)
                continue
            return self._result(answer, conditions, "" if url == first else str(url))
        raise CrawlFailure(
            "too_many_redirects", f"more than {self._settings.max_redirects} redirects", http_code=answer.code
        )

    def _next(self, url: URL, answer: Answer) -> URL:
        try:
            return checked_url(str(url.join(parsed_url(answer.headers["Location"]))), self._rules)
        except CrawlFailure as failure:
            problem = f"it redirects to where {failure.message}"
            raise CrawlFailure(failure.kind, problem, http_code=answer.code) from failure

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

    async def _ask(self, url: URL, headers: dict[str, str], spent: Try, max_bytes: int, *, cut: bool = False) -> Answer:
        """One request, when it is this one's turn."""
        assert self._session is not None
        host = self._hosts.get(url.raw_authority)
        async with host.slots:
            await self._turn(host)
            async with self._slots:
                if self._stop.is_set():
                    raise Stopped
                spent.require_time()
                begun = time.monotonic()
                timeout_s = min(self._settings.timeout_s, spent.left_s)
                try:
                    answer = await request(
                        self._session, url, headers, max_bytes=max_bytes, timeout_s=timeout_s, cut=cut
                    )
                except CrawlFailure as failure:
                    self._note_failure(host, failure)
                    raise
                finally:
                    spent.spend(time.monotonic() - begun)
        host.answered()
        self._note_wish(host, answer)
        return answer

    async def _turn(self, host: Host) -> None:
        wait_s = host.wait_s()
        while wait_s > 0:
            await self._sleep(wait_s)
            # All whose turn fell into a pause would come at once at its end: each takes a new turn.
            wait_s = host.wait_s() if host.paused_s() > 0 else 0.0

    def _note_failure(self, host: Host, failure: CrawlFailure) -> None:
        if failure.http_code is not None:
            host.answered()
        elif failure.kind in _NO_ANSWER:
            host.silent(self._settings.dead_after, self._settings.dead_pause_s)

    def _note_wish(self, host: Host, answer: Answer) -> None:
        """Retry-After concerns everyone at the host."""
        asked = retry_after_s(answer.headers.get("Retry-After")) if answer.code in (429, 503) else None
        if asked is None:
            return
        if asked > self._settings.max_wait_s:
            host.leave_alone(asked, f"{host.name} asked to wait {asked:.0f} s (Retry-After)")
        else:
            host.pause(asked)

    # -- robots.txt ------------------------------------------------------------------------------------------

    async def _require_permission(self, url: URL, spent: Try) -> None:
        rules = await self._robots_rules(url.origin(), spent)
        if not rules.allows(url.raw_path_qs):
            raise CrawlFailure("robots", "robots.txt forbids it")

    async def _robots_rules(self, origin: URL, spent: Try) -> RobotsRules:
        """A host's rules, kept or read; waiting for them costs a picture its time."""
        task = self._robots.get(origin)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            # One request for all who wait; a failure is not kept, as the host may come back.
            task = self._robots[origin] = asyncio.create_task(self._read_robots(origin))
            if len(self._robots) > MAX_HOSTS:
                self._forget_rules()
        begun = time.monotonic()
        try:
            async with asyncio.timeout(spent.left_s):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise spent.over() from error
        finally:
            spent.spend(time.monotonic() - begun)

    def _forget_rules(self) -> None:
        """Forget the rules that were read first; those that are being read are waited for."""
        oldest = next((origin for origin, task in self._robots.items() if task.done()), None)
        if oldest is not None and not (task := self._robots.pop(oldest)).cancelled():
            task.exception()  # looked at, or asyncio complains when all who waited for it gave up before

    async def _read_robots(self, origin: URL) -> RobotsRules:
        """A host's rules; a page that does not exist (4xx) allows all, one that cannot be read allows nothing yet.

        Raises:
            CrawlFailure: the host does not answer, or with server trouble.
        """
        url = origin.with_path("/robots.txt")
        spent = Try(self._settings.deadline_s)
        for _ in range(self._settings.max_redirects + 1):
            answer = await self._ask(url, {}, spent, MAX_ROBOTS_BYTES, cut=True)
            if answer.code not in _REDIRECTS or "Location" not in answer.headers:
                break
            url = self._next(url, answer)
        if answer.code == 429 or answer.code >= 500:
            asked = retry_after_s(answer.headers.get("Retry-After"))
            raise CrawlFailure(
                f"http_{answer.code}",
                f"the host answered {answer.code} for its robots.txt",
                passing=True,
                http_code=answer.code,
                retry_after_s=asked,
            )
        if answer.code != 200:
            return _ALL
        rules = parse_robots(answer.body.decode("utf-8", "replace"), self._agent)
        host, delay_s = self._hosts.get(origin.raw_authority), rules.crawl_delay_s
        if delay_s > self._settings.max_wait_s:
            host.leave_alone(delay_s, f"{host.name} asks for {delay_s:.0f} s between requests (robots.txt)")
        else:
            host.interval_s = max(host.interval_s, delay_s)
        return rules
