"""The rules of each host's robots.txt: read once for all pictures that wait for them, and kept."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from yarl import URL

from lavic.crawl.addresses import AddressRules
from lavic.crawl.config import CrawlSettings
from lavic.crawl.exchange import Answer, redirected
from lavic.crawl.failures import CrawlFailure, and_asked
from lavic.crawl.hosts import MAX_HOSTS, Hosts
from lavic.crawl.politeness import RobotsRules, parse_robots, retry_after_s
from lavic.crawl.tries import Try

_ALL = RobotsRules()


class Robots:
    """What hosts allow.

    Args:
        hosts: whose pace a Crawl-delay sets.
        ask: sends one request when its turn has come.
    """

    def __init__(
        self, settings: CrawlSettings, rules: AddressRules, hosts: Hosts, ask: Callable[[URL, Try], Awaitable[Answer]]
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._hosts = hosts
        self._ask = ask
        self._agent = agent_of(settings)
        self._tasks: OrderedDict[URL, asyncio.Task[RobotsRules]] = OrderedDict()

    async def close(self) -> None:
        """Give up what is being read."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def of(self, origin: URL, spent: Try) -> RobotsRules:
        """A host's rules, kept or read; waiting for them costs a picture its time.

        Raises:
            CrawlFailure: they cannot be read now.
            Waiting: the host is dead for now.
        """
        task = self._tasks.get(origin)
        if task is not None and task.done():
            if not task.cancelled() and task.exception() is None:
                return task.result()
            task = None
        if task is None:
            # One request for all who wait; a failure is not kept, as the host may come back.
            task = self._tasks[origin] = asyncio.create_task(self._read(origin, spent))
            if len(self._tasks) > MAX_HOSTS:
                self._forget()
        begun = time.monotonic()
        try:
            async with asyncio.timeout(spent.left_s):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise spent.over() from error
        finally:
            spent.spend(time.monotonic() - begun)

    def _forget(self) -> None:
        """Forget the rules that were read first; those that are being read are waited for."""
        oldest = next((origin for origin, task in self._tasks.items() if task.done()), None)
        if oldest is not None and not (task := self._tasks.pop(oldest)).cancelled():
            task.exception()  # looked at, or asyncio complains when all who waited for it gave up before

    async def _read(self, origin: URL, asker: Try) -> RobotsRules:
        """A host's rules; a page that does not exist (4xx) allows all, one that cannot be read allows nothing yet.

        Raises:
            CrawlFailure: the host does not answer, or with server trouble.
        """
        answer = await self._answer(origin.with_path("/robots.txt"), Try(self._settings.deadline_s, asker))
        if answer.code == 429 or answer.code >= 500:
            asked = retry_after_s(answer.headers.get("Retry-After"))
            raise CrawlFailure(
                f"http_{answer.code}",
                f"the host answered {answer.code} for its robots.txt{and_asked(asked)}",
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

    async def _answer(self, url: URL, spent: Try) -> Answer:
        """What comes for robots.txt at the end of its redirects."""
        first = url
        for _ in range(self._settings.max_redirects + 1):
            try:
                answer = await self._ask(url, spent)
            except CrawlFailure as failure:
                if url != first and failure.kind == "not_allowed_address":
                    failure.message = f"robots.txt redirects to where {failure.message}"
                raise
            if not answer.leads_on:
                break
            url = redirected(url, answer, self._rules, "robots.txt")
        return answer


def agent_of(settings: CrawlSettings) -> str:
    """The name that hosts' rules know this crawler by."""
    return settings.user_agent.split("/")[0].split()[0]
