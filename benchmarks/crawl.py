"""How many pictures a second does `lavic crawl` fetch, against other ways, from a local server that takes its time?

    python benchmarks/crawl.py [--json FILE] [--source FOLDER_OF_JPEGS]

Three jobs, the same for all sides. `keep`: download pictures of 500 pixels (what shops call large), see that all of
each can be decoded, write it as it came. `shrink`: download pictures of 1,500 pixels (what shops call high resolution),
decode, shrink to 672, encode as JPEG, write. `shrink_little`: the same from 1,000 pixels.

One at a time and 64 threads are `requests` and PIL; lavic has 256 downloads at a time (its default is a polite 64).
img2dataset gets an environment of its own; the first round tries it with 16, 64 and 256 threads in 1 and 2 processes,
and the fastest of these stays for the other rounds. `alone` is what lavic does with the bytes (decoding, encoding),
from memory, in a process per core, without network or disk: no faster crawl on the same cores does the same. Starting
Python is nobody's time. Processor time a picture (at 0 ms, the server's included) is what a run costs beyond one a
fifth as long: on a machine that does other things too it is steadier than the clock. ext4 makes files more slowly for
minutes after many were deleted; a run deletes its own at its end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lavic.console import Console
from lavic.crawl.picture_pool import ENVIRONMENT
from lavic.crawl.pictures import Wanted, prepare

HERE = Path(__file__).resolve().parent
SIDES = {
    "one": "requests + PIL, one at a time",
    "threads": "requests + PIL, threads",
    "img2dataset": "img2dataset",
    "lavic": "lavic crawl",
    "alone": "decoding and encoding alone",
}
QUALITY = 90
RIVAL_PACKAGES = ("img2dataset", "requests", "pillow")
#: What img2dataset is tried with: threads of a process, processes.
RIVAL_SETTINGS = tuple(itertools.product((16, 64, 256), (1, 2)))
USUAL = (64, 2)
#: Job -> side of the drawn pictures in pixels.
JOBS = {"keep": 500, "shrink": 1500, "shrink_little": 1000}
#: So many that starting and ending are little of it.
COUNTS = {"keep": 3000, "shrink": 1000, "shrink_little": 1000}
THREADS = 64
#: One at a time fetches only some: at 200 ms each takes as long as the others' hundreds.
ONE_SECONDS, ONE_MINIMUM = 4.0, 12


def draw_pictures(folder: Path, count: int, side: int) -> None:
    """JPEGs of a photograph's size in bytes: soft shapes and a little noise."""
    folder.mkdir(parents=True)
    for number in range(count):
        random = np.random.default_rng(number)
        coarse = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
        noisy = np.clip(smooth + random.normal(0, 6, (side, side, 1)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number}.jpg", quality=85)


@contextmanager
def server(folder: Path, latency_ms: float, error_rate: float) -> Iterator[int]:
    """The server in a process of its own; gives its port."""
    command = [sys.executable, str(HERE / "crawl_server.py"), str(folder), str(latency_ms), str(error_rate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate()


def rival_python(folder: Path) -> tuple[Path | None, str]:
    """The interpreter of the others' environment, made if it is missing; or None and the reason."""
    python = folder / "bin" / "python"
    if not python.exists():
        made = subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True, check=False)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *RIVAL_PACKAGES]
        if made.returncode == 0:
            made = subprocess.run(pip, capture_output=True, text=True, check=False)
        if made.returncode:
            return None, (made.stderr.strip().splitlines() or ["it cannot be installed"])[-1]
    probe = subprocess.run(
        [str(python), "-c", f"import {', '.join(('img2dataset', 'requests', 'PIL'))}"],
        capture_output=True,
        text=True,
        check=False,
        env=rival_environment(),
    )
    return (None, probe.stderr.strip().splitlines()[-1]) if probe.returncode else (python, "")


def rival_environment() -> dict[str, str]:
    """Nothing in the others' environment looks for news on the network."""
    return {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}


class Bench:
    """One machine, one job, one set of pictures.

    Args:
        arguments: the command line.
        job: a key of ``JOBS``.
        rivals: the others' interpreter, or None.
    """

    def __init__(self, arguments: argparse.Namespace, job: str, rivals: Path | None) -> None:
        self.arguments, self.rivals = arguments, rivals
        self.job, self.shrinks = job, job != "keep"
        self.count: int = arguments.count or COUNTS[job]
        self.pictures: Path = arguments.source or arguments.work / f"drawn-{JOBS[job]}"
        if not self.pictures.exists():
            draw_pictures(self.pictures, 50, JOBS[job])
        self.work: Path = arguments.runs
        self.number = 0
        #: Latency -> the settings of img2dataset that were the fastest.
        self.best: dict[float, tuple[int, int]] = {}

    def best_run(self, latency_ms: float) -> float | None:
        """Pictures a second of img2dataset: at first of its best settings, which are kept, then of these."""
        if latency_ms in self.best:
            return self.run("img2dataset", latency_ms)
        found: dict[tuple[int, int], float] = {}
        for settings in RIVAL_SETTINGS:
            self.best[latency_ms] = settings
            rate = self.run("img2dataset", latency_ms)
            if rate is not None:
                found[settings] = rate
        if not found:
            return None
        self.best[latency_ms] = max(found, key=lambda settings: found[settings])
        return found[self.best[latency_ms]]

    def run(self, side: str, latency_ms: float) -> float | None:
        """Pictures a second of one side, or None if it cannot run."""
        # A folder for each run: ext4 is slow to make files while many were deleted minutes ago.
        self.number += 1
        self.work = self.arguments.runs / f"{self.job}-{self.number}"
        self.work.mkdir(parents=True)
        if side == "alone":
            return self._alone()
        with server(self.pictures, latency_ms, self.arguments.error_rate) as port:
            count = self.count
            if side == "one":
                count = max(ONE_MINIMUM, min(count, int(ONE_SECONDS / (latency_ms / 1000 + 0.02))))
            urls = [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(count)]
            return self._lavic(urls) if side == "lavic" else self._rival(side, urls, latency_ms)

    def _lavic(self, urls: list[str]) -> float:
        table = self.work / "urls.jsonl"
        table.write_text("".join(json.dumps({"id": f"B{i:09d}", "url": url}) + "\n" for i, url in enumerate(urls)))
        arguments = self.arguments
        words = [sys.executable, "-m", "lavic.cli.main", "crawl", "--json", "--table", str(table)]
        words += ["--train_images_dir", str(self.work / "images"), "--allow_private", "127.0.0.1/32"]
        words += ["--workers", str(arguments.workers), "--per_host", str(arguments.workers)]
        if self.shrinks:
            words += ["--reencode", "always", "--longest_side", str(arguments.longest_side)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"lavic crawl failed: {done.stderr[-2000:]}")
        return float(json.loads(done.stdout)["pictures_per_s"])

    def _rival(self, side: str, urls: list[str], latency_ms: float) -> float | None:
        if self.rivals is None:
            return None
        arguments = self.arguments
        path = self.work / "urls.txt"
        path.write_text("\n".join(urls) + "\n")
        job = {"urls": str(path), "folder": str(self.work / "images"), "quality": QUALITY, "shrinks": self.shrinks}
        threads, processes = self.best.get(latency_ms, USUAL) if side == "img2dataset" else (THREADS, 1)
        job |= {"longest_side": arguments.longest_side, "threads": threads, "processes": processes}
        command = [str(self.rivals), str(HERE / "crawl_rivals.py"), side, json.dumps(job)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=rival_environment())
        if done.returncode:
            print(f"{SIDES[side]}: failed ({done.stderr.strip().splitlines()[-1:]})", file=sys.stderr)
            return None
        result = json.loads(done.stdout)
        return float(result["pictures"] / result["seconds"])

    def _alone(self) -> float:
        processes = self.arguments.processes
        share = -(-self.count // processes)
        wanted = Wanted(None, QUALITY, "when_needed", 10**9)
        if self.shrinks:
            wanted = Wanted(self.arguments.longest_side, QUALITY, "always", 10**9)
        os.environ.update(ENVIRONMENT)  # as lavic's own processes have it; without it this side is slower
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            list(pool.map(prepare_many, [self.pictures] * processes, [2] * processes, [wanted] * processes))
            begun = time.perf_counter()
            list(pool.map(prepare_many, [self.pictures] * processes, [share] * processes, [wanted] * processes))
            return share * processes / (time.perf_counter() - begun)


def prepare_many(folder: Path, count: int, wanted: Wanted) -> None:
    """Decode, shrink, encode; the files are in the system's memory."""
    paths = sorted(folder.glob("*.jpg"))
    for number in range(count):
        prepare(paths[number % len(paths)].read_bytes(), wanted)


def verdicts(rates: dict[str, dict[str, float | None]]) -> dict[str, Any]:
    """The goals by name, with the figure that decides each; None where a side is missing."""
    found: dict[str, Any] = {}
    for latency, row in rates.items():
        ours, rival = row["lavic"], row["img2dataset"]
        found[f"times img2dataset at {latency} ms (> 1)"] = ours / rival if ours and rival else None
    for latency, goal in (("200", 20),):
        ours, one = (rates.get(latency, {}).get(side) for side in ("lavic", "one"))
        found[f"times one at a time at {latency} ms (>= {goal})"] = ours / one if ours and one else None
    ours, alone = (rates.get("50", {}).get(side) for side in ("lavic", "alone"))
    found["share of decoding and encoding alone at 50 ms (>= 0.9)"] = ours / alone if ours and alone else None
    return found


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--job", choices=JOBS, nargs="+", default=list(JOBS))
    parser.add_argument("--source", type=Path, help="folder of JPEGs to serve instead of drawn ones")
    parser.add_argument("--longest_side", type=int, default=672, help="what `shrink` shrinks to")
    parser.add_argument("--count", type=int, help=f"pictures per side and round; unset: {COUNTS}")
    parser.add_argument("--rounds", type=int, default=3, help="the sides take turns; medians are printed")
    parser.add_argument("--latency", type=int, nargs="+", default=[0, 50, 200], help="milliseconds")
    parser.add_argument("--error_rate", type=float, default=0.0, help="share of first tries answered with 503")
    parser.add_argument("--workers", type=int, default=256, help="lavic's downloads at a time")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="of alone")
    parser.add_argument("--work", type=Path, default=Path("build/crawl-bench"))
    parser.add_argument("--environment", type=Path, default=Path("build/img2dataset-venv"))
    return parser.parse_args()


def processor_ms(bench: Bench, side: str) -> float | None:
    """Processor time a picture of a side and all its processes, without what starting costs."""
    whole = bench.count
    used = []
    for count in (whole // 5, whole):
        bench.count = count
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        if bench.run(side, 0) is None:
            return None
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return 1000 * (used[1] - used[0]) / (whole - whole // 5)


def measure(bench: Bench, job: str, console: Console) -> tuple[dict[str, Any], dict[str, Any]]:
    """Medians, and all rounds, of a job: latency -> side -> pictures a second."""
    arguments = bench.arguments
    rounds: dict[str, dict[str, list[float]]] = {str(ms): {side: [] for side in SIDES} for ms in arguments.latency}
    for number in range(arguments.rounds):
        for latency in arguments.latency:
            for side in SIDES:
                rate = bench.best_run(latency) if side == "img2dataset" else bench.run(side, latency)
                if rate is not None:
                    rounds[str(latency)][side].append(rate)
                console.info(f"{job}, round {number + 1}, {latency} ms, {SIDES[side]}: {rate and round(rate, 1)}/s")
    rates = {
        latency: {side: statistics.median(values) if values else None for side, values in row.items()}
        for latency, row in rounds.items()
    }
    return rates, rounds


def main() -> int:
    """Measure all sides at all latencies, print a table and the goals for each job."""
    arguments, console = parse(), Console()
    rivals, reason = rival_python(arguments.environment)
    if rivals is None:
        console.warn(f"img2dataset and requests are left out: {reason}")
    arguments.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.work) as runs:
        arguments.runs = Path(runs)
        compare(arguments, rivals, console)
    return 0


def compare(arguments: argparse.Namespace, rivals: Path | None, console: Console) -> None:
    """Measure and print all of it, and write ``--json``."""
    document: dict[str, Any] = {"settings": {key: str(value) for key, value in vars(arguments).items()}}
    for job in arguments.job:
        bench = Bench(arguments, job, rivals)
        rates, rounds = measure(bench, job, console)
        goals = verdicts(rates)
        sizes = [path.stat().st_size for path in bench.pictures.glob("*.jpg")]
        console.print(
            f"\n{job}: pictures of {JOBS[job]} pixels and {statistics.mean(sizes) / 1000:.0f} KB, "
            f"{len(os.sched_getaffinity(0))} cores; pictures/s, median of {arguments.rounds}"
        )
        table = [[SIDES[side], *(row[side] and f"{row[side]:.1f}" for row in rates.values())] for side in SIDES]
        console.table(table, header=["", *(f"{latency} ms" for latency in rates)])
        console.table([[name, value and f"{value:.2f}"] for name, value in goals.items()])
        costs = {side: processor_ms(bench, side) for side in ("threads", "img2dataset", "lavic")}
        console.table([[f"processor ms a picture, {SIDES[side]}", ms and f"{ms:.2f}"] for side, ms in costs.items()])
        best = {f"{latency:g}": settings for latency, settings in bench.best.items()}
        for latency, (threads, processes) in best.items():
            console.print(f"img2dataset's best at {latency} ms: {threads} threads, {processes} processes")
        document[job] = {"pictures_per_s": rates, "rounds": rounds, "goals": goals, "processor_ms": costs, "best": best}
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
