"""Is it the pictures that decide? HR@1 among ten look-alikes of the toy shop, over several seeds.

    python benchmarks/effectiveness.py --seeds 0 1 2 --json build/effectiveness.json

Each seed is a world of its own: ``lavic demo`` draws it, distils the tiny model on its training pictures, and tunes
three recommenders with the same conversations, steps and seed: on the five distilled tokens (lavic), on the five tokens
of the bare model (undistilled), and without pictures (text_only); with ``--full_tokens`` a fourth on all image tokens,
which takes some times as long. All answer the same test conversations, whose products combine kind, colour and pattern
as no training picture does. A seed that is done is not run again.

Exit code 0 if lavic is clearly ahead in every world: its 95 % interval above those of the others, and chance within the
interval of text_only; else 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from lavic.console import Console
from lavic.demo.config import DemoSettings
from lavic.demo.run import run
from lavic.files import read_json, sha256_file, write_json
from lavic.model.load import TINY_FOLDER

SYSTEMS = ("text_only", "undistilled", "lavic", "full_tokens")


def world(work: Path, seed: int, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """What the demo found in one world; kept from an earlier run of the same settings."""
    folder = work / f"seed-{seed}"
    names = ("items", "steps", "tune_steps", "full_tokens")
    wanted = {"seed": seed, **{name: getattr(arguments, name) for name in names}}
    asked = {**wanted, "model": sha256_file(TINY_FOLDER / "model.safetensors")}
    kept = folder.with_suffix(".json")
    if kept.exists():
        found: dict[str, Any] = read_json(kept)
        if found["asked"] == asked:
            return found
    run(DemoSettings(output_dir=folder, undistilled=True, workers=arguments.workers, **wanted), console)
    summary = read_json(folder / "summary.json")
    found = {"asked": asked, **{key: summary[key] for key in ("hr@1", "hr@1_interval", "test_conversations")}}
    write_json(kept, found)
    return found


def clearly_ahead(found: dict[str, Any]) -> bool:
    """Whether lavic's interval is above the others', and chance within that of text_only."""
    intervals, chance = found["hr@1_interval"], found["hr@1"]["chance"]
    low, high = intervals["text_only"]
    others = max(intervals[name][1] for name in ("text_only", "undistilled"))
    return bool(intervals["lavic"][0] > others and low <= chance <= high)


def _systems(worlds: list[dict[str, Any]]) -> list[str]:
    return [name for name in SYSTEMS if worlds[0]["hr@1"].get(name) is not None]


def lines_of(worlds: list[dict[str, Any]]) -> list[list[str]]:
    """A line per world, and their mean."""
    lines = []
    for found in worlds:
        cells = [str(found["asked"]["seed"])]
        for name in _systems(worlds):
            low, high = found["hr@1_interval"][name]
            cells.append(f"{found['hr@1'][name]:.1%} [{low:.1%}, {high:.1%}]")
        lines.append([*cells, "yes" if clearly_ahead(found) else "no"])
    means = [f"{mean(found['hr@1'][name] for found in worlds):.1%}" for name in _systems(worlds)]
    return [*lines, ["mean", *means, ""]]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    usual = DemoSettings()
    parser.add_argument("--items", type=int, default=usual.items)
    parser.add_argument("--steps", type=int, default=usual.steps, help="optimizer steps of the distillation")
    parser.add_argument("--tune_steps", type=int, default=usual.tune_steps, help="optimizer steps of each recommender")
    parser.add_argument("--full_tokens", action="store_true", help="a recommender that sees all image tokens too")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("build/effectiveness"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    console = Console()
    arguments.work.mkdir(parents=True, exist_ok=True)
    worlds = [world(arguments.work, seed, arguments, console) for seed in arguments.seeds]
    console.table(lines_of(worlds), header=["seed", *_systems(worlds), "lavic ahead"])
    if arguments.json:
        write_json(arguments.json, {"worlds": worlds, "ahead": [clearly_ahead(found) for found in worlds]})
    sys.exit(0 if all(map(clearly_ahead, worlds)) else 1)


if __name__ == "__main__":
    main()
