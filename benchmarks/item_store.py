"""What does an item store of a whole catalogue cost to open and to read at random?

    python benchmarks/item_store.py [--entries N] [--dim D] [--batch_size N] [--folder DIR] [--json FILE]

A store of the 7B's shape (81,000 pictures, five views, D = 4096, bf16: 3.3 GB) is written with lavic's own writer into
a temporary folder, and deleted afterwards. Another process, which has imported what it needs, opens it, reads every
item once in random order in batches of ten (a prompt's candidates), checks what it read, and then times batches of ten
drawn at random, whose pages are in the system's cache by then. Memory is the growth of ``RssAnon`` from before opening
to its highest value: what the process itself takes; mapped pages are the system's, which takes them back when it must.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from measure import resident_bytes

from lavic.embed.store import FORMAT, KIND, TOKENS_FILE, ItemStore, row_bytes
from lavic.embed.writer import Entry, StoreWriter

VIEWS = 5
#: Written at a time, and counted by the first number of every row: bf16 holds whole numbers up to 256.
CHUNK = 250


def about(dim: int) -> dict[str, Any]:
    """``store.json`` of a store that no model made."""
    return {
        **{"kind": KIND, "format": FORMAT, "views": VIEWS, "dim": dim, "dtype": "bf16", "precision": "fp32"},
        **{"view_size": 336, "pixel_mean": [0.5] * 3, "pixel_std": [0.5] * 3},
        **{"model": {"name": "drawn", "mark": "drawn"}, "adapter": None, "versions": {}},
    }


def item_id(number: int) -> str:
    """As long as the published ones."""
    return f"B{number:09d}"


def write_store(folder: Path, entries: int, dim: int) -> float:
    """Drawn tokens through the real writer; returns the seconds that it took without drawing them."""
    tokens = torch.randn(CHUNK, VIEWS, dim, generator=torch.Generator().manual_seed(0)).bfloat16()
    tokens[:, 0, 0] = torch.arange(CHUNK)
    begun = time.perf_counter()
    with StoreWriter(folder, about(dim)) as writer:
        writer.begin({"batch_size": CHUNK})
        for start in range(0, entries, CHUNK):
            numbers = range(start, min(start + CHUNK, entries))
            rows = [Entry(item_id(number), 0, 100_000, f"{number:016x}") for number in numbers]
            writer.append(rows, tokens[: len(rows)])
        writer.finish({})
    return time.perf_counter() - begun


def measure(folder: Path, batch_size: int, timed: int) -> dict[str, Any]:
    """Open and read a store in this process, which must not have done anything else."""
    before = resident_bytes("RssAnon")
    begun = time.perf_counter()
    store = ItemStore(folder)
    opened = time.perf_counter() - begun
    after_open = resident_bytes("RssAnon")
    ids, rng, highest = list(store), random.Random(0), after_open
    rng.shuffle(ids)
    begun = time.perf_counter()
    for number, batch in enumerate(_batches(ids, batch_size)):
        first = store.tokens(batch)[:, 0, 0].tolist()
        assert first == [int(each[1:]) % CHUNK for each in batch], "another item's tokens"
        if number % 100 == 0:
            highest = max(highest, resident_bytes("RssAnon"))
    all_read = time.perf_counter() - begun
    seconds = []
    for _ in range(timed):
        batch = rng.sample(ids, min(batch_size, len(ids)))
        begun = time.perf_counter()
        store.tokens(batch)
        seconds.append(time.perf_counter() - begun)
    seconds.sort()
    return {
        "open_ms": round(opened * 1e3, 1),
        "rss_anon_open_mb": round((after_open - before) / 1e6, 1),
        "rss_anon_growth_mb": round((max(highest, resident_bytes("RssAnon")) - before) / 1e6, 1),
        "read_all_s": round(all_read, 2),
        "batch_ms": round(statistics.median(seconds) * 1e3, 4),
        "batch_99th_percentile_ms": round(seconds[int(len(seconds) * 0.99)] * 1e3, 4),
    }


def _batches(ids: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--entries", type=int, default=81_000)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--batch_size", type=int, default=10)
    parser.add_argument("--timed", type=int, default=2000, help="Batches that are timed.")
    parser.add_argument("--folder", type=Path, default=None, help="Where the temporary folder is made.")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--only", type=Path, default=None, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> int:
    """Write, measure in another process, print; 2 if there is no room."""
    flags = parse()
    torch.set_num_threads(1)
    if flags.only is not None:
        print(json.dumps(measure(flags.only, flags.batch_size, flags.timed)))
        return 0
    needed = flags.entries * row_bytes(about(flags.dim))
    with tempfile.TemporaryDirectory(prefix="item_store_", dir=flags.folder) as name:
        free = shutil.disk_usage(name).free
        if free < needed * 1.1:
            print(f"{name} has {free / 1e9:.1f} GB left, {needed * 1.1 / 1e9:.1f} are needed: give --folder.")
            return 2
        written = write_store(Path(name), flags.entries, flags.dim)
        size = (Path(name) / TOKENS_FILE).stat().st_size
        command = [sys.executable, __file__, "--only", name]
        command += ["--batch_size", str(flags.batch_size), "--timed", str(flags.timed)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = {
        "entries": flags.entries,
        "dim": flags.dim,
        "batch_size": flags.batch_size,
        "tokens_gb": round(size / 1e9, 3),
        "write_s": round(written, 2),
        **json.loads(done.stdout),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
    }
    for key, value in found.items():
        print(f"{key.replace('_', ' '):26} {value}")
    if flags.json is not None:
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        flags.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
