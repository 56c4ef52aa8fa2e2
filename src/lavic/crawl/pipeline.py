"""The crawl itself: targets in, rows out, with as many on the way as the settings allow."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lavic.crawl.config import CrawlSettings
from lavic.crawl.failures import LEFT_ALONE, CrawlFailure, Stopped, Waiting
from lavic.crawl.fetching import Fetched, Fetcher
from lavic.crawl.parked import LOOK_S, MAX_PARKED, Job, Parked
from lavic.crawl.picture_pool import PicturePool, Stored
from lavic.crawl.report import FAILED, OK, PRESENT, UNCHANGED, Report
from lavic.crawl.report_rows import conditions_of, known_of, ok_row, row_of
from lavic.crawl.storage import FileStorage, Storage
from lavic.crawl.tally import Tally
from lavic.crawl.targets import Target
from lavic.crawl.tries import Try
from lavic.errors import InputError
from lavic.files import open_regular

_BATCH = 256
KEPT, NOT_ASKED = "kept", "not_asked"
# After the first Ctrl-C what is under way may end; a download that is not done by then is given up.
GRACE_S = 10.0


class Pipeline:
    """One run over all targets.

    Args:
        done: called after each picture with 1, and with 0 while all that is left waits.
        stop: set it to let the run end in order.
    """

    def __init__(
        self,
        settings: CrawlSettings,
        storage: Storage,
        report: Report,
        tally: Tally,
        done: Callable[[int], None],
        stop: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._report = report
        self._tally = tally
        self._done = done
        self._stop = stop
        self._tasks: list[asyncio.Task[None]] = []
        self._undecided = 0
        self._taking = asyncio.Lock()
        self._read = False
        self._parked: Parked | None = None
        self.hopeless = ""

    @property
    def waiting(self) -> int:
        """Pictures that wait for dead hosts."""
        return self._parked.count if self._parked is not None else 0

    async def run(self, targets: Iterator[Target], fetcher: Fetcher, pool: PicturePool, processes: int) -> None:
        """Work through the targets; returns when all are done or ``stop`` is set and what was under way has ended.

        Raises:
            OutputError: a picture or the report cannot be written.
            InputError: the metadata changed since it was planned.
        """
        # Besides those that download, some wait for a decoder, or for their next attempt.
        count = 2 * self._settings.workers + 4 * processes
        queue: asyncio.Queue[Target | None] = asyncio.Queue(2 * count)
        self._parked = Parked(fetcher.is_waited_for)
        self._tasks = [asyncio.create_task(self._feed(targets, queue))]
        self._tasks += [asyncio.create_task(self._work(queue, fetcher, pool)) for _ in range(count)]
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self.cancel()
            results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def cancel(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()

    async def _feed(self, targets: Iterator[Target], queue: asyncio.Queue[Target | None]) -> None:
        while not self._stop.is_set():
            # Reading JSON takes its time, and the downloads must not wait for it.
            batch = await asyncio.to_thread(list, itertools.islice(targets, _BATCH))
            if not batch:
                break
            for target in batch:
                await queue.put(target)
        await queue.put(None)

    async def _next(self, queue: asyncio.Queue[Target | None], parked: Parked) -> Job | None:
        """The next picture: one whose host may be asked again, else the next of the metadata; None at the end."""
        async with self._taking:
            while True:
                stopped = self._stop.is_set()
                if not stopped and (job := parked.take()) is not None:
                    return job
                if not self._read and (stopped or parked.count < MAX_PARKED):
                    # Also when the run is stopped: who reads the metadata waits until these are taken.
                    target = await queue.get()
                    if target is None:
                        self._read = True
                    elif not stopped:
                        return Job(target, Try(self._settings.deadline_s))
                elif stopped or not parked.count:
                    return None
                else:
                    self._done(0)
                    await asyncio.sleep(LOOK_S)

    async def _work(self, queue: asyncio.Queue[Target | None], fetcher: Fetcher, pool: PicturePool) -> None:
        assert self._parked is not None
        while (job := await self._next(queue, self._parked)) is not None:
            try:
                await self._one(job.target, job.spent, fetcher, pool)
            except Stopped:
                continue
            except Waiting as waiting:
                self._parked.add(waiting.host, job)
                continue
            self._done(1)
            if not self.hopeless:
                self.hopeless = self._tally.hopeless(self._undecided)
                if self.hopeless:
                    self._stop.set()

    async def _one(self, target: Target, spent: Try, fetcher: Fetcher, pool: PicturePool) -> None:
        """See one picture through: there already, fetched, or failed.

        Raises:
            Waiting: its host is dead for now.
        """
        whole = False
        known: dict[str, Any] = {}
        try:
            there = self._storage.has(target)
            earlier = self._report.earlier(target.key)
            facts = await self._facts(target, pool) if there and self._settings.check_existing else {}
            whole = there and facts is not None
            if whole:
                known = known_of(earlier, target, self._size(target))
            if whole and not self._settings.refresh:
                await self._present(target, earlier, known, facts, pool)
                return
            if self._settings.retry_failed and not (earlier and earlier["status"] == FAILED and earlier.get("passing")):
                self._tally.count(NOT_ASKED, tried=False)
                self._tally.never_asked += earlier is None
                return
            if not target.url:
                raise CrawlFailure("no_url", "the metadata has no address for it")
            fetched, stored, place = await self._fetch_and_store(target, conditions_of(known), spent, fetcher, pool)
        except CrawlFailure as failure:
            self._failed(target, failure, spent, known, whole=whole)
            return
        if stored is None:
            self._report.add(row_of(target, UNCHANGED) | known | {"http_code": 304, "attempts": spent.attempts})
            self._tally.count(UNCHANGED)
            return
        self._tally.downloaded_bytes += len(fetched.body or b"")
        self._report.add(ok_row(target, fetched, stored, spent) | place)
        self._tally.count(OK)

    async def _fetch_and_store(
        self, target: Target, conditions: dict[str, str], spent: Try, fetcher: Fetcher, pool: PicturePool
    ) -> tuple[Fetched, Stored | None, dict[str, Any]]:
        """Download, decode, store; a picture cut off without anyone's noticing is asked for again."""
        while True:
            fetched = await fetcher.fetch(target.url, conditions, spent)
            if fetched.body is None:
                return fetched, None, {}
            self._undecided += 1
            try:
                stored, place = await self._storage.put(target, fetched.body, pool)
            except CrawlFailure as failure:
                # Without a length, a connection that breaks looks like the end of the picture.
                failure.passing = failure.kind == "empty" or (failure.kind == "damaged" and not fetched.framed)
                if not failure.passing or spent.attempts > self._settings.retries:
                    raise
                failed = failure
            else:
                return fetched, stored, place
            finally:
                self._undecided -= 1
            await fetcher.back_off(spent, failed)

    async def _present(
        self,
        target: Target,
        earlier: dict[str, Any] | None,
        known: dict[str, Any],
        facts: dict[str, Any] | None,
        pool: PicturePool,
    ) -> None:
        """Count a picture that was there; a row that a killed run could not write is made up for."""
        if not facts and not known.get("sha256"):
            facts = await self._facts(target, pool)
        if facts and facts["sha256"] != known.get("sha256"):
            known = facts
        self._tally.count(PRESENT, tried=False)
        new = bool(known.get("sha256")) and earlier is not None and earlier.get("sha256") != known["sha256"]
        if earlier is None or earlier["status"] == FAILED or new:
            self._report.add(row_of(target, PRESENT) | {"bytes": self._size(target)} | known)

    def _size(self, target: Target) -> int | None:
        path = self._path(target)
        return path.stat().st_size if path is not None else None

    def _path(self, target: Target) -> Path | None:
        return self._storage.path(target) if isinstance(self._storage, FileStorage) else None

    async def _facts(self, target: Target, pool: PicturePool) -> dict[str, Any] | None:
        """What the report says of a file, from the file itself: all of it is decoded; None if it is broken."""
        path = self._path(target)
        if path is None:
            return {}
        try:
            seen = await pool.look(await asyncio.to_thread(_read, path))
        except (CrawlFailure, InputError):
            return None
        return {"bytes": seen.byte_count, "size": [seen.width, seen.height], "sha256": seen.sha256}

    def _failed(self, target: Target, failure: CrawlFailure, spent: Try, known: dict[str, Any], *, whole: bool) -> None:
        """Count and report a failure; a picture that was there stays, with what is known of it.

        A broken one stays too, but counts as missing.
        """
        row = row_of(target, FAILED) | known
        row |= {
            "http_code": failure.http_code,
            "attempts": spent.attempts,
            "error": failure.kind,
            "message": failure.message[:300],
            "passing": failure.passing,
        }
        self._report.add(row | ({"kept": True} if whole else {}))
        left_alone = failure.kind in LEFT_ALONE
        if left_alone:
            self._tally.count_left_alone(failure.kind, failure.message)
        # What was never asked for says nothing of what others will be answered.
        tried = not left_alone or spent.attempts > 0
        self._tally.count(KEPT if whole else FAILED, failure.kind, passing=failure.passing, tried=tried)


def _read(path: Path) -> bytes:
    with open_regular(path) as stream:
        return stream.read()
