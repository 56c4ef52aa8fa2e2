"""What ``tune.py`` and ``evaluate.py`` measure of both sides, the document and the tables."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from distill import device_name, timed_blocks
from measure import Alone, Rate, alone_in_subprocess, peak_flops_per_s, rate_of
from shapes import SHAPES, Shape, Shop
from sides import Side
from stage2 import ChoosingBench

from lavic.console import Console

PAIR = ("published", "lavic")
#: What is aimed at: of the arithmetic's bound, and of memory.
SHARE_GOAL, MEMORY_GOAL = 0.9, 0.5


@dataclass
class World:
    """Everything that a bench is built of.

    Attributes:
        child: further flags of a process that measures one side alone.
        switches: those of them that are on or off, which the bench takes too.
        make: the script's own kind of ``ChoosingBench``.
    """

    script: Path
    flags: argparse.Namespace
    device: torch.device
    precision: str
    folder: Path
    shop: Shop
    child: tuple[str, ...]
    switches: tuple[str, ...]
    make: Callable[..., Any]

    def bench(self, shape: Shape, precision: str, **more: Any) -> Any:
        """A model of a shape with the world's conversations; ``more`` is what ``ChoosingBench`` takes."""
        return self.make(
            shape,
            self.shop,
            self.folder,
            batch_size=self.flags.batch_size,
            precision=precision,
            device=self.device,
            seed=self.flags.seed,
            **{name: getattr(self.flags, name) for name in self.switches},
            **more,
        )

    def alone(self) -> dict[str, Alone]:
        """Each side in a process of its own."""
        flags = self.flags
        words = [word for name in self.child for word in (f"--{name}", str(getattr(flags, name)))]
        words += [f"--{name}" for name in self.switches if getattr(flags, name)]
        words += ["--device", self.device.type, "--precision", self.precision, "--shop_dir", str(self.folder)]
        return {name: alone_in_subprocess(self.script, words, name) for name in PAIR}

    def parity_shape(self) -> Shape:
        """The 7B's widths with two layers of each kind, which any card holds in fp32; others as they are."""
        shape = SHAPES[self.flags.shape]
        return shape.with_layers(2, 2) if shape.name == "7b" else shape


# -- measuring -----------------------------------------------------------------------------------------------


def compare(
    world: World, bench: ChoosingBench, agreement: dict[str, float], *, speed_goal: float, console: Console
) -> dict[str, Any]:
    """Both sides: memory alone, arithmetic, time in turn; as a JSON document.

    Args:
        agreement: how far the sides are apart in what they compute.
        speed_goal: how many times as fast lavic is to be on a GPU.
    """
    console.info("Measuring each side alone ...")
    alone = world.alone()
    with console.progress("Counting arithmetic", len(PAIR)) as bar:
        flops = {}
        for side in bench.sides:
            flops[side.name] = bench.count_flops(_as_counted(side))
            bar.advance()
    vision = bench.vision_flops()
    blocks = timed_blocks(bench, bench.sides, world.flags.rounds, console)
    rates = {name: rate_of(found) for name, found in blocks.items()}
    peak = peak_flops_per_s(world.device, world.precision)
    pairs = zip(blocks["lavic"], blocks["published"], strict=True)
    ratios = [ours.samples_per_s / theirs.samples_per_s for ours, theirs in pairs]
    document = _document(world, bench, rates, flops, alone, peak)
    document |= {"agreement": agreement, "vision_share": vision / flops["published"]}
    document["ratio_range"] = [min(ratios), max(ratios)]
    document["goals"] = goals(document, world.device, speed_goal)
    return document


def _as_counted(side: Side) -> Side:
    """Without ``compile``, behind which nothing can be counted."""
    if side.accelerations is None:
        return side
    return side.without(side.name, accelerations=replace(side.accelerations, compile=False))


def _document(
    world: World,
    bench: ChoosingBench,
    rates: dict[str, Rate],
    flops: dict[str, float],
    alone: dict[str, Alone],
    peak: float,
) -> dict[str, Any]:
    flags = world.flags
    ratio = rates["lavic"].samples_per_s / rates["published"].samples_per_s
    bound = flops["published"] / flops["lavic"]
    cpu = {name: rates[name].cpu_s_per_sample for name in PAIR}
    memory = {name: alone[name].peak_memory_bytes for name in PAIR}
    own = {name: alone[name].own_peak_bytes for name in PAIR}
    added = {name: alone[name].peak_memory_bytes - alone[name].before_bytes for name in PAIR}
    return {
        "device": device_name(world.device),
        "shape": flags.shape,
        "precision": world.precision,
        "threads": flags.threads,
        "batch_size": flags.batch_size,
        **{name: getattr(flags, name) for name in world.switches},
        "conversations": len(world.shop.conversations),
        "rounds": flags.rounds,
        "seed": flags.seed,
        "tokens_per_conversation": statistics.mean(bench.lengths()),
        "conversations_per_s": {name: rates[name].samples_per_s for name in PAIR},
        "ratio": ratio,
        "flop_bound": bound,
        "share_of_flop_bound": ratio / bound,
        "flops_per_conversation": flops,
        "cpu_s_per_conversation": cpu,
        "cpu_time_ratio": cpu["published"] / cpu["lavic"],
        "cpu_time_share_of_flop_bound": cpu["published"] / cpu["lavic"] / bound,
        "peak_flops_per_s": peak,
        "share_of_peak": {name: rates[name].samples_per_s * flops[name] / peak for name in PAIR},
        "peak_memory_bytes": memory,
        "peak_memory_share": own["lavic"] / own["published"],
        "libraries_bytes": {name: alone[name].libraries_bytes for name in PAIR},
        "process_memory_share": memory["lavic"] / memory["published"],
        "memory_before_bytes": {name: alone[name].before_bytes for name in PAIR},
        "added_memory_bytes": added,
        "added_memory_share": added["lavic"] / added["published"],
        "first_step_s": {name: alone[name].first_step_s for name in PAIR},
        "input_share": {name: rates[name].input_share for name in PAIR},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def goals(document: dict[str, Any], device: torch.device, speed_goal: float) -> dict[str, dict[str, Any]]:
    """What was aimed at, by name: the figure, and whether it is reached."""
    share, memory = document["share_of_flop_bound"], document["peak_memory_share"]
    found = {
        f"share of the arithmetic's bound, at least {SHARE_GOAL}": (share, share >= SHARE_GOAL),
        f"peak memory of the published side's, at most {MEMORY_GOAL}": (memory, memory <= MEMORY_GOAL),
    }
    if device.type == "cuda":
        ratio = document["ratio"]
        found[f"times as fast on a GPU, at least {speed_goal:g}"] = (ratio, ratio >= speed_goal)
    return {name: {"value": value, "reached": reached} for name, (value, reached) in found.items()}


# -- the report ----------------------------------------------------------------------------------------------


def show(result: dict[str, Any], console: Console) -> None:
    """The tables."""
    console.print(
        f"{result['shape']} on {result['device']}, {result['precision']}, {result['threads']} threads, "
        f"{result['conversations']} conversations a block, {result['tokens_per_conversation']:.0f} tokens each; "
        f"{100 * result['vision_share']:.0f} % of the published side's arithmetic is the tower's."
    )
    apart = ", ".join(f"{name.replace('_', ' ')} {value:.1e}" for name, value in result["agreement"].items())
    console.print(f"Both sides compute the same (fp32, no dropout): {apart}.")
    rows: list[list[str]] = []
    for name, key, scale, form in (
        ("conversations a second", "conversations_per_s", 1, ".3f"),
        ("GFLOP a conversation", "flops_per_conversation", 1e-9, ".1f"),
        ("share of the device's peak, %", "share_of_peak", 100, ".1f"),
        ("peak memory, MB", "peak_memory_bytes", 1e-6, ".0f"),
        ("of it Python and libraries, MB", "libraries_bytes", 1e-6, ".0f"),
        ("of it before the first step, MB", "memory_before_bytes", 1e-6, ".0f"),
        ("first step after, s", "first_step_s", 1, ".2f"),
        ("reading pictures, % of time", "input_share", 100, ".1f"),
        ("processor time a conversation, s", "cpu_s_per_conversation", 1, ".3f"),
    ):
        rows.append([name, *(format(result[key][side] * scale, form) for side in PAIR)])
    console.table(rows, header=["", *PAIR])
    low, high = result["ratio_range"]
    console.print(
        f"lavic is {result['ratio']:.3f} times as fast ({low:.3f} to {high:.3f} in single rounds; by processor time "
        f"{result['cpu_time_ratio']:.3f}). Its arithmetic is {result['flop_bound']:.3f} times less: "
        f"{100 * result['share_of_flop_bound']:.0f} % of what that allows is reached "
        f"({100 * result['cpu_time_share_of_flop_bound']:.0f} % by processor time)."
    )
    console.print(
        f"Peak memory of model and run is {100 * result['peak_memory_share']:.0f} % of the published side's, "
        f"{100 * result['added_memory_share']:.0f} % without what the loaded model takes on both; "
        f"{100 * result['process_memory_share']:.0f} % with Python and libraries."
    )
    reached = [
        [name, f"{goal['value']:.3f}", "yes" if goal["reached"] else "NO"] for name, goal in result["goals"].items()
    ]
    console.table(reached, header=["goal", "measured", "reached"])
