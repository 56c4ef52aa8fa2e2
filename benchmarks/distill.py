"""Stage 1: lavic against the published algorithm, in one run, on random weights of the real classes.

    python benchmarks/distill.py --json build/bench.json
    python benchmarks/distill.py --device cuda --shape 7b --json build/bench-7b.json
    python benchmarks/distill.py --memory

What is compared, and how to read the output: benchmarks/README.md. Exit code 2 if the two sides do not agree in loss
and gradients, or if the machine cannot run the shape.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from measure import (
    Alone,
    Parity,
    Rate,
    alone_in_subprocess,
    measure_alone,
    parity,
    peak_flops_per_s,
    print_alone,
    rate_of,
)
from shapes import SHAPES, Shape, make_samples, toy_tokenizer
from sides import PUBLISHED, Bench, Block, Side, lavic_side, switched, usable_cores
from tables import show

from lavic.console import Console
from lavic.distill.config import DistillSettings
from lavic.errors import ConfigError, LavicError
from lavic.files import write_atomic
from lavic.model.sequences import SequenceBuilder
from lavic.prompts import DEFAULT_PROMPTS
from lavic.training.devices import choose_device, choose_precision
from lavic.training.loaders import Sample

GPU_COMMAND = "python benchmarks/distill.py --device cuda --shape 7b --json build/bench-7b.json"


@dataclass
class World:
    """The samples on disk and all flags: enough to build a bench."""

    flags: argparse.Namespace
    device: torch.device
    precision: str
    builder: SequenceBuilder
    samples: list[Sample]

    def bench(self, shape: Shape, precision: str, *, dropout: float = 0.1) -> Bench:
        """A model of a shape, with these samples."""
        return Bench(
            shape,
            self.samples,
            self.builder,
            batch_size=self.flags.batch_size,
            precision=precision,
            device=self.device,
            seed=self.flags.seed,
            dropout=dropout,
        )

    def child_flags(self, folder: Path) -> list[str]:
        """Command line of a process that measures one side alone."""
        names = ("shape", "batch_size", "steps", "threads", "workers", "seed")
        words = [word for name in names for word in (f"--{name}", str(getattr(self.flags, name)))]
        return [*words, "--device", self.device.type, "--precision", self.precision, "--samples_dir", str(folder)]


def parse(words: list[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = DistillSettings()
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--shape", choices=("small", "7b", "tiny"), default="small", help="tiny is for tests")
    add("--json", type=Path, help="write the figures to this file")
    add("--steps", type=int, default=6, help="optimizer steps of a block (default 6)")
    add("--rounds", type=int, default=5, help="blocks of each side, in turn (default 5); switches get every second")
    add("--batch_size", "--batch-size", type=int, default=4)
    add("--threads", type=int, default=usable_cores(), help="of the processor, on both sides (default: all cores)")
    add("--workers", type=int, help=f"lavic's readers (default: none on a processor, {defaults.num_workers} on a GPU)")
    add("--precision", choices=("fp32", "bf16", "fp16"), help="on both sides (default: lavic's for the device)")
    add("--seed", type=int, default=0)
    add("--memory", action="store_true", help="estimate what the 7B needs to train, and stop")
    add("--only", choices=("lavic", "published"), help=argparse.SUPPRESS)
    add("--samples_dir", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args(words)
    for name in ("steps", "rounds", "batch_size", "threads"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if flags.workers is None:
        # Readers would be more processes on the cores that both sides compute on; beside a GPU those are free.
        flags.workers = defaults.num_workers if flags.device == "cuda" else 0
    if flags.workers < 0:
        parser.error("--workers must not be negative")
    return flags


def make_world(flags: argparse.Namespace, folder: Path) -> World:
    """See that the machine can run what is asked for, and draw the pictures.

    Raises:
        ConfigError: the 7B without a GPU, or a device or precision that cannot be had.
    """
    if flags.shape == "7b" and (flags.device == "cpu" or not torch.cuda.is_available()):
        raise ConfigError(
            "a model of the 7B's size is timed on a GPU only",
            where="--shape 7b",
            remedy=f"On a machine with one: {GPU_COMMAND}",
        )
    device = choose_device(flags.device)
    precision = choose_precision(flags.precision, device)
    torch.set_num_threads(flags.threads)
    builder = SequenceBuilder(toy_tokenizer(), DEFAULT_PROMPTS, 5)
    samples = make_samples(folder, builder, flags.steps * flags.batch_size, flags.seed)
    return World(flags, device, precision, builder, samples)


# -- the run -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """Everything that was measured."""

    parity: Parity
    alone: dict[str, Alone]
    rates: dict[str, Rate]
    flops: dict[str, float]
    ratios: list[float]
    switches: list[tuple[Side, bool]]
    own: dict[str, Any]
    peak: float
    vision_share: float


def check_parity(world: World) -> Parity:
    """Both sides in fp32 without dropout; the 7B's widths with two layers each, which any card holds."""
    shape = SHAPES[world.flags.shape]
    bench = world.bench(shape.with_layers(2, 2) if shape.name == "7b" else shape, "fp32", dropout=0.0)
    found = parity(bench, lavic_side(world.flags.workers))
    found.require()
    return found


def compare(world: World, folder: Path, console: Console) -> Found:
    """Measure everything.

    Raises:
        TrainingError: the sides do not agree.
    """
    console.info("Comparing loss and gradients of both sides ...")
    agreement = check_parity(world)
    console.info("Measuring each side alone ...")
    flags = world.child_flags(folder)
    alone = {name: alone_in_subprocess(Path(__file__), flags, name) for name in ("published", "lavic")}
    shape, lavic = SHAPES[world.flags.shape], lavic_side(world.flags.workers)
    bench = world.bench(shape, world.precision)
    switches = switched(lavic, world.device)
    sides = [PUBLISHED, lavic, *(side for side, _ in switches)]
    with console.progress("Counting arithmetic", len(sides)) as bar:
        flops = {}
        for side in sides:
            flops[side.name] = bench.count_flops(side)
            bar.advance()
    share = bench.vision_share()
    blocks = timed_blocks(bench, sides, world.flags.rounds, console)
    peak = peak_flops_per_s(world.device, world.precision)
    pairs = zip(blocks["lavic"], blocks["published"], strict=True)
    return Found(
        parity=agreement,
        alone=alone,
        rates={name: rate_of(found) for name, found in blocks.items()},
        flops=flops,
        ratios=[ours.samples_per_s / theirs.samples_per_s for ours, theirs in pairs],
        switches=switches,
        own=own_defaults(world, bench, rate_of(blocks["lavic"]), console),
        peak=peak,
        vision_share=share,
    )


def timed_blocks(bench: Bench, sides: list[Side], rounds: int, console: Console) -> dict[str, list[Block]]:
    """Blocks of each side in turn, so that what else the machine does meets all of them.

    The first two sides run in every round, the others in every second one.
    """
    blocks: dict[str, list[Block]] = {side.name: [] for side in sides}
    plan = [side for number in range(rounds) for side in (sides[:2] if number % 2 else sides)]
    for side in sides:
        bench.run_block(side, steps=1)  # warm: memory is taken, kernels are chosen
    with console.progress("Timing", len(plan)) as bar:
        for side in plan:
            blocks[side.name].append(bench.run_block(side))
            bar.advance(side=side.name, samples_per_s=f"{blocks[side.name][-1].samples_per_s:.3g}")
    return blocks


def own_defaults(world: World, bench: Bench, lavic: Rate, console: Console) -> dict[str, Any]:
    """lavic with the precision and the workers that it takes when none are asked for."""
    precision, workers = choose_precision(None, world.device), DistillSettings().num_workers
    if (precision, workers) != (world.precision, world.flags.workers):
        console.info("Timing lavic with its own defaults ...")
        if precision != bench.precision:
            bench = world.bench(SHAPES[world.flags.shape], precision)
        side = lavic_side(workers).without("own_defaults")
        bench.run_block(side, steps=1)
        lavic = rate_of([bench.run_block(side) for _ in range(world.flags.rounds)])
    return {"precision": precision, "workers": workers, **asdict(lavic)}


# -- the report ----------------------------------------------------------------------------------------------


def document(world: World, found: Found) -> dict[str, Any]:
    """The JSON document."""
    flags, pair = world.flags, ("lavic", "published")
    lengths = [len(sample.sequence.input_ids) for sample in world.samples]
    targets = [sample.sequence.target_tokens for sample in world.samples]
    ratio = found.rates["lavic"].samples_per_s / found.rates["published"].samples_per_s
    bound = found.flops["published"] / found.flops["lavic"]
    achieved = {name: found.rates[name].samples_per_s * found.flops[name] / found.peak for name in pair}
    cpu = {name: found.rates[name].cpu_s_per_sample for name in pair}
    return {
        "device": device_name(world.device),
        "shape": flags.shape,
        "precision": world.precision,
        "threads": flags.threads,
        "workers": flags.workers,
        "batch_size": flags.batch_size,
        "steps": flags.steps,
        "rounds": flags.rounds,
        "seed": flags.seed,
        "tokens_per_sample": statistics.mean(lengths),
        "target_tokens_per_sample": statistics.mean(targets),
        "vision_share": found.vision_share,
        "parity": asdict(found.parity),
        "samples_per_s": {name: found.rates[name].samples_per_s for name in pair},
        "ratio": ratio,
        "ratio_range": [min(found.ratios), max(found.ratios)],
        "flop_bound": bound,
        "share_of_flop_bound": ratio / bound,
        "flops_per_sample": {name: found.flops[name] for name in pair},
        "cpu_s_per_sample": cpu,
        "cpu_time_ratio": cpu["published"] / cpu["lavic"],
        "peak_flops_per_s": found.peak,
        "share_of_peak": achieved,
        "peak_memory_bytes": {name: found.alone[name].peak_memory_bytes for name in pair},
        "memory_before_bytes": {name: found.alone[name].before_bytes for name in pair},
        "first_step_s": {name: found.alone[name].first_step_s for name in pair},
        "input_share": {name: found.rates[name].input_share for name in pair},
        "own_defaults": found.own,
        "switches": [switch_effect(side.name, on, found) for side, on in found.switches],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def switch_effect(name: str, on: bool, found: Found) -> dict[str, Any]:
    """What a switch alone does: speed with it over speed without, arithmetic without it over with."""
    with_it, without = (name, "lavic") if on else ("lavic", name)
    rates, flops = found.rates, found.flops
    return {
        "name": name,
        "default": "off" if on else "on",
        "speed": rates[with_it].samples_per_s / rates[without].samples_per_s,
        "cpu_time": rates[without].cpu_s_per_sample / rates[with_it].cpu_s_per_sample,
        "flops": flops[without] / flops[with_it],
    }


def device_name(device: torch.device) -> str:
    """The card, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def run(flags: argparse.Namespace, console: Console) -> None:
    """One run of the script."""
    if flags.memory:
        from memory import estimate, show_estimate

        torch.set_num_threads(flags.threads)
        result = estimate(console)
        show_estimate(result, console)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = flags.samples_dir or Path(temporary)
            world = make_world(flags, folder)
            if flags.only:
                bench = world.bench(SHAPES[flags.shape], world.precision)
                side = PUBLISHED if flags.only == "published" else lavic_side(flags.workers)
                print_alone(measure_alone(bench, side, steps=min(flags.steps, 2)))
                return
            result = document(world, compare(world, folder, console))
        show(result, console)
    if flags.json is not None:
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(flags.json, json.dumps(result, indent=2) + "\n")


def main(words: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    console = Console()
    try:
        run(parse(words), console)
    except LavicError as error:
        console.error(error.sentence)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
