"""The crawl itself: targets in, rows out, with as many on the way as the settings allow."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lavic.crawl.config import CrawlSettings
from lavic.crawl.failures import CrawlFailure, Stopped
from lavic.crawl.fetching import Fetched, Fetcher, Try
from lavic.crawl.picture_pool import PicturePool, Stored
from lavic.crawl.report import FAILED, OK, PRESENT, THERE, UNCHANGED, Report
from lavic.crawl.storage import FileStorage, Storage
from lavic.crawl.tally import Tally
from lavic.crawl.targets import Target
from lavic.errors import InputError
from lavic.files import open_regular

_BATCH = 256
KEPT, NOT_ASKED = "kept", "not_asked"
# Keys of a report's row.
_OF_THE_FILE = ("bytes", "size", "sha256", "as_it_came")
_OF_THE_ADDRESS = ("etag", "last_modified", "redirected_to")
# After the first Ctrl-C what is under way may end; a download that is not done by then is given up.
GRACE_S = 10.0


class Pipeline:
    """One run over all targets.

    Args:
        done: called after each picture.
        stop: set it to let the run end in order.
    """

    def __init__(
        self,
        settings: CrawlSettings,
        storage: Storage,
        report: Report,
        tally: Tally,
        done: Callable[[], None],
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
        self.hopeless = ""

    async def run(self, targets: Iterator[Target], fetcher: Fetcher, pool: PicturePool, processes: int) -> None:
        """Work through the targets; returns when all are done or ``stop`` is set and what was under way has ended.

        Raises:
            OutputError: a picture or the report cannot be written.
            InputError: the metadata changed since it was planned.
        """
        # Besides those that download, some wait for a decoder, or for their next attempt.
        count = 2 * self._settings.workers + 4 * processes
        queue: asyncio.Queue[Target | None] = asyncio.Queue(2 * count)
        self._tasks = [asyncio.create_task(self._feed(targets, queue, count))]
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

    async def _feed(self, targets: Iterator[Target], queue: asyncio.Queue[Target | None], count: int) -> None:
        while not self._stop.is_set():
            # Reading JSON takes its time, and the downloads must not wait for it.
            batch = await asyncio.to_thread(list, itertools.islice(targets, _BATCH))
            if not batch:
                break
            for target in batch:
                await queue.put(target)
        for _ in range(count):
            await queue.put(None)

    async def _work(self, queue: asyncio.Queue[Target | None], fetcher: Fetcher, pool: PicturePool) -> None:
        while (target := await queue.get()) is not None:
            if self._stop.is_set():
                continue
            try:
                await self._one(target, fetcher, pool)
            except Stopped:
                continue
            self._done()
            if not self.hopeless:
                self.hopeless = self._tally.hopeless(self._undecided)
                if self.hopeless:
                    self._stop.set()

    async def _one(self, target: Target, fetcher: Fetcher, pool: PicturePool) -> None:
        """See one picture through: there already, fetched, or failed."""
        spent = Try(self._settings.deadline_s)
        whole = False
        known: dict[str, Any] = {}
        try:
            there = self._storage.has(target)
            earlier = self._report.earlier(target.key)
            whole = there and not (self._settings.check_existing and await self._is_broken(target, pool))
            if whole:
                known = _known(earlier, target, self._size(target))
            if whole and not self._settings.refresh:
                self._present(target, earlier, known)
                return
            if self._settings.retry_failed and not (earlier and earlier["status"] == FAILED and earlier.get("passing")):
                self._tally.count(NOT_ASKED, tried=False)
                return
            if not target.url:
                raise CrawlFailure("no_url", "the metadata has no address for it")
            fetched, stored, place = await self._fetch_and_store(target, _conditions(known), spent, fetcher, pool)
        except CrawlFailure as failure:
            self._failed(target, failure, spent, known, whole=whole)
            return
        if stored is None:
            self._report.add(_row(target, UNCHANGED) | known | {"http_code": 304, "attempts": spent.attempts})
            self._tally.count(UNCHANGED)
            return
        self._tally.downloaded_bytes += len(fetched.body or b"")
        self._report.add(_ok_row(target, fetched, stored, spent) | place)
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
            else:
                return fetched, stored, place
            finally:
                self._undecided -= 1
            await fetcher.back_off(spent)

    def _present(self, target: Target, earlier: dict[str, Any] | None, known: dict[str, Any]) -> None:
        self._tally.count(PRESENT, tried=False)
        if earlier is None or earlier["status"] == FAILED:
            self._report.add(_row(target, PRESENT) | {"bytes": self._size(target)} | known)

    def _size(self, target: Target) -> int | None:
        path = self._path(target)
        return path.stat().st_size if path is not None else None

    def _path(self, target: Target) -> Path | None:
        return self._storage.path(target) if isinstance(self._storage, FileStorage) else None

    async def _is_broken(self, target: Target, pool: PicturePool) -> bool:
        path = self._path(target)
        if path is None:
            return False
        try:
            await pool.store(await asyncio.to_thread(_read, path), None)
        except (CrawlFailure, InputError):
            return True
        return False

    def _failed(self, target: Target, failure: CrawlFailure, spent: Try, known: dict[str, Any], *, whole: bool) -> None:
        """Count and report a failure; a picture that was there stays, with what is known of it.

        A broken one stays too, but counts as missing.
        """
        row = _row(target, FAILED) | known
        row |= {
            "http_code": failure.http_code,
            "attempts": spent.attempts,
            "error": failure.kind,
            "message": failure.message[:300],
            "passing": failure.passing,
        }
        self._report.add(row | ({"kept": True} if whole else {}))
        self._tally.count(KEPT if whole else FAILED, failure.kind, passing=failure.passing)


def _read(path: Path) -> bytes:
    with open_regular(path) as stream:
        return stream.read()


def _known(earlier: dict[str, Any] | None, target: Target, size: int | None) -> dict[str, Any]:
    """What an earlier row says of the file that is there, if it is still the same one.

    Args:
        size: bytes of the file.
    """
    if earlier is None or (earlier["status"] not in THERE and not earlier.get("kept")):
        return {}
    if size is None or earlier.get("bytes") != size:
        return {}
    # What the host said of another address says nothing of this one.
    keys = (*_OF_THE_FILE, *(_OF_THE_ADDRESS if earlier.get("url") == target.url else ()))
    return {key: earlier[key] for key in keys if key in earlier}


def _conditions(known: dict[str, Any]) -> dict[str, str]:
    """What lets a host answer that nothing has changed."""
    if known.get("etag"):
        return {"If-None-Match": str(known["etag"])}
    return {"If-Modified-Since": str(known["last_modified"])} if known.get("last_modified") else {}


def _row(target: Target, status: str) -> dict[str, Any]:
    return {
        "split": target.split,
        "item_id": target.item_id,
        "image_name": target.image_name,
        "url": target.url,
        "url_key": target.url_key,
        "status": status,
        "http_code": None,
        "bytes": None,
        "size": None,
        "sha256": None,
        "attempts": 0,
        "error": None,
    }


def _ok_row(target: Target, fetched: Fetched, stored: Stored, spent: Try) -> dict[str, Any]:
    more = {"etag": fetched.etag, "last_modified": fetched.last_modified, "redirected_to": fetched.redirected_to}
    return {
        **_row(target, OK),
        "http_code": fetched.http_code,
        "bytes": stored.byte_count,
        "size": [stored.width, stored.height],
        "sha256": stored.sha256,
        "attempts": spent.attempts,
        "as_it_came": stored.as_it_came,
        **{key: value for key, value in more.items() if value},
    }
