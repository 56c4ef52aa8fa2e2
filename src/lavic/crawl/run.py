"""``lavic crawl``: from addresses in metadata to whole pictures, and a row that says what became of each."""

from __future__ import annotations

import asyncio
import os
import resource
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from lavic.console import Console, Outcome
from lavic.crawl.config import CrawlSettings
from lavic.crawl.failures import explanation
from lavic.crawl.fetching import Fetcher
from lavic.crawl.picture_pool import PicturePool
from lavic.crawl.pictures import Wanted
from lavic.crawl.pipeline import GRACE_S, KEPT, NOT_ASKED, Pipeline
from lavic.crawl.plan import Plan, make_plan
from lavic.crawl.report import FAILED, OK, PRESENT, UNCHANGED, Report
from lavic.crawl.storage import FileStorage, ShardStorage, Storage, image_folders, lock_folders
from lavic.crawl.tally import Tally
from lavic.crawl.targets import require_files
from lavic.errors import ConfigError
from lavic.layout import DataPaths
from lavic.rendering import duration
from lavic.skipped import SkipLog, most_frequent

# Files that are open besides the connections and one socket to each picture process.
_OTHER_FILES = 64
# Hosts that were given up; of more their number is told.
_MAX_TOLD = 5


@dataclass(frozen=True)
class _Ended:
    """How the crawl ended: ``hopeless`` says why it stopped by itself; ``seconds`` from the first request."""

    interrupted: bool
    hopeless: str
    seconds: float


def run(settings: CrawlSettings, console: Console) -> Outcome:
    """Fetch what is missing; exit code 0 if all is there in the end, 1 if some is not or rows could not be used.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; all that was finished is kept and reported.
        LavicError: the metadata cannot be used, or pictures cannot be written.
    """
    require_files(settings)
    _allow_files(settings.workers, _processes(settings))
    tally = Tally(settings.stop_after, settings.stop_share)
    with ExitStack() as stack:
        folders = image_folders(settings)
        lock_folders(folders, stack)
        report = stack.enter_context(Report(settings.report_path))
        skipped = stack.enter_context(SkipLog(settings.skipped_path))
        plan = make_plan(settings, skipped)
        _tell_skipped(skipped, console)
        storage: Storage = FileStorage(folders)
        if settings.output == "webdataset":
            storage = ShardStorage(folders, settings.shard_size, stack)
        ended = asyncio.run(_crawl(plan, storage, report, tally, console))
    if ended.interrupted:
        console.info(f"{tally.by_status[OK]:,} pictures were fetched and are kept.")
        raise KeyboardInterrupt
    if ended.hopeless:
        console.warn(ended.hopeless)
    _tell_left_alone(tally, console)
    return _outcome(plan, tally, ended.seconds, stopped=bool(ended.hopeless))


async def _crawl(plan: Plan, storage: Storage, report: Report, tally: Tally, console: Console) -> _Ended:
    settings = plan.settings
    stop = asyncio.Event()
    processes = _processes(settings)
    wanted = Wanted(settings.longest_side, settings.quality, settings.reencode, settings.max_pixels)
    # On 80 columns there is room for one reason beside the bar.
    reasons = 1 if console.stderr.isatty() and shutil.get_terminal_size().columns < 110 else 3
    waited = False
    with console.progress("Fetching", plan.total) as progress:

        def done(pictures: int) -> None:
            nonlocal waited
            waited = waited or pipeline.waiting > 0
            waiting = {"waiting": pipeline.waiting} if waited else {}
            progress.advance(pictures, **tally.fields(reasons), **waiting)

        pipeline = Pipeline(settings, storage, report, tally, done, stop)
        interrupted = _on_signals(stop, pipeline, console.warn)
        async with PicturePool(wanted, processes) as pool, Fetcher(settings, stop, console.info) as fetcher:
            begun = time.monotonic()
            await pipeline.run(plan.targets(), fetcher, pool, processes)
            seconds = time.monotonic() - begun
    return _Ended(bool(interrupted), pipeline.hopeless, seconds)


def _on_signals(stop: asyncio.Event, pipeline: Pipeline, tell: Callable[[str], None]) -> list[int]:
    """The first SIGINT or SIGTERM lets what is under way end, the second gives it up; the list fills with them."""
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def handle(number: int) -> None:
        seen.append(number)
        if len(seen) > 1:
            pipeline.cancel()
            return
        stop.set()
        loop.call_later(GRACE_S, pipeline.cancel)
        tell("stopping: downloads under way are being finished; once more stops at once.")

    for kind in (signal.SIGINT, signal.SIGTERM):
        # Only a main thread can hear signals.
        with suppress(ValueError, RuntimeError):
            loop.add_signal_handler(kind, handle, kind)
    return seen


def _processes(settings: CrawlSettings) -> int:
    """How many processes decode pictures."""
    return settings.processes or len(os.sched_getaffinity(0))


def _allow_files(workers: int, processes: int) -> None:
    """Every connection is an open file, also that to a picture process; many systems allow 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = workers + processes + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            kinds = f"{workers} connections at a time and {processes} picture processes"
            problem = f"{kinds} need {needed} open files; this system allows {hard}"
            raise ConfigError(problem, where="--workers", remedy="Lower it, or raise `ulimit -n`.")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _tell_skipped(skipped: SkipLog, console: Console) -> None:
    if skipped.count:
        console.warn(
            f"{skipped.count:,} rows of the metadata cannot be used ({most_frequent(skipped.by_reason)}); "
            f"{skipped.path} lists them."
        )
    for note, times in skipped.notes.most_common():
        console.info(f"{times:,} {note}.")


def _tell_left_alone(tally: Tally, console: Console) -> None:
    told = tally.left_alone.most_common(_MAX_TOLD)
    for (reason, sentence), pictures in told:
        console.warn(f"{sentence}, so {pictures:,} of its pictures were given up. {explanation(reason)}")
    if len(tally.left_alone) > len(told):
        more = tally.left_alone.total() - sum(pictures for _, pictures in told)
        console.warn(f"{more:,} pictures of {len(tally.left_alone) - len(told):,} more hosts were given up likewise.")


def _outcome(plan: Plan, tally: Tally, seconds: float, *, stopped: bool) -> Outcome:
    settings, by_status = plan.settings, tally.by_status
    there = by_status[OK] + by_status[PRESENT] + by_status[UNCHANGED] + by_status[KEPT]
    missing = plan.total - there
    summary: dict[str, Any] = {
        "pictures": plan.total,
        "fetched": by_status[OK],
        "already_there": by_status[PRESENT],
        "unchanged": by_status[UNCHANGED],
        "failed": by_status[FAILED] + by_status[KEPT],
        "missing": missing,
        "reasons": dict(tally.by_reason.most_common()),
        "downloaded_mb": round(tally.downloaded_bytes / 1e6, 1),
        "pictures_per_s": round(by_status[OK] / seconds, 1) if seconds > 0 else 0.0,
        "time": duration(seconds),
        "stopped_early": stopped,
        "report": str(settings.report_path),
    }
    if not by_status[UNCHANGED] and not settings.refresh:
        del summary["unchanged"]
    if plan.unusable:
        summary["unusable_rows"] = plan.unusable
    if by_status[NOT_ASKED]:
        summary["not_asked"] = by_status[NOT_ASKED]
        summary["never_asked"] = tally.never_asked
    if not stopped:
        del summary["stopped_early"]
    next_step = _next_step(plan, tally, missing, stopped)
    return Outcome(summary, exit_code=1 if missing or plan.unusable else 0, next_step=next_step)


def _next_step(plan: Plan, tally: Tally, missing: int, stopped: bool) -> str:
    settings, never = plan.settings, tally.never_asked
    if stopped:
        return "Next: mend the cause, then run the same command again; it fetches only what is missing."
    parts = []
    if tally.passing:
        again = f"asks again for {tally.passing:,} whose reason may have passed."
        parts.append(f"Next: the same command with --retry_failed {again}")
    if never:
        parts.append(f"{never:,} were never asked for: run the same command without --retry_failed.")
    if missing > never and not tally.passing:
        each = "each of the others" if never else "each"
        parts.append(f"{settings.report_path} says why {each} is missing; training leaves those out.")
    if parts:
        return " ".join(parts)
    rows = f"{plan.unusable:,} {'row' if plan.unusable == 1 else 'rows'} that cannot be used"
    ending = f"All pictures are there but those of {rows}: see {settings.skipped_path}."
    ending = ending if plan.unusable else "All pictures are there."
    following = _following(plan)
    return f"{ending} Next: {following}" if following else ending


def _following(plan: Plan) -> str:
    """The command that can use the pictures; none reads shards, or a table."""
    settings = plan.settings
    if settings.output == "webdataset" or settings.table is not None:
        return ""
    flags = " ".join(f"--{name} {shlex.quote(str(getattr(settings, name)))}" for name in DataPaths.__annotations__)
    if not plan.undescribed:
        return f"lavic check {flags}"
    only = " --train_only" if settings.train_only else " --valid_only" if settings.valid_only else ""
    return f"lavic describe {flags}{only}"
