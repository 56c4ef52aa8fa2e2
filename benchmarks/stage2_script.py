"""The command line of ``tune.py`` and ``evaluate.py``: their flags, what they do in which order, the exit code."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import libraries_bytes, measure_alone, print_alone
from shapes import SHAPES, make_shop
from sides import PUBLISHED, usable_cores
from stage2_run import PAIR, World, compare, show

from lavic.console import Console
from lavic.errors import ConfigError, LavicError
from lavic.files import write_atomic
from lavic.training.devices import choose_device, choose_precision


@dataclass(frozen=True)
class Script:
    """What the two scripts differ in.

    Attributes:
        file: the script, which the processes that measure one side alone run.
        description: what ``--help`` begins with.
        bench: the class of what trains or answers, a ``ChoosingBench``.
        amount: name, default and help of the flag that says how long a block is.
        batch_size: default and help of that flag.
        conversations: of a block, by the flags.
        alone_steps: of a side that is measured alone, by its name and the flags.
        comparing: said before ``agreement`` is asked.
        agreement: how far the sides are apart in what they compute; raises a TrainingError where that is too far.
        speed_goal: how many times as fast lavic is to be on a GPU.
        switches: names and help of further flags, which the bench takes by these names.
    """

    file: Path
    description: str | None
    bench: Callable[..., Any]
    amount: tuple[str, int, str]
    batch_size: tuple[int, str | None]
    conversations: Callable[[argparse.Namespace], int]
    alone_steps: Callable[[str, argparse.Namespace], int]
    comparing: str
    agreement: Callable[[World], dict[str, float]]
    speed_goal: float
    switches: tuple[tuple[str, str], ...] = ()


def run_script(script: Script, words: list[str] | None) -> int:
    """Measure, print and write; returns the exit code."""
    flags, console = parse(script, words), Console()
    if flags.device == "cuda" and not torch.cuda.is_available():
        console.info("Skipped: no NVIDIA GPU can be used on this machine, so there is nothing to measure on one.")
        return 0
    try:
        with tempfile.TemporaryDirectory() as temporary:
            result = _measure(script, flags, flags.shop_dir or Path(temporary), console)
        if result is None:
            return 0
        show(result, console)
        if flags.json is not None:
            flags.json.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(flags.json, json.dumps(result, indent=2) + "\n")
    except LavicError as error:
        console.error(error.sentence)
        return error.exit_code
    return 0


def parse(script: Script, words: list[str] | None) -> argparse.Namespace:
    """The flags; numbers below 1 are refused."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=script.description, formatter_class=form)
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="without a GPU, cuda is skipped with a sentence")
    add("--shape", choices=("small", "7b", "tiny"), default="small", help="tiny is for tests")
    add("--json", type=Path, help="write the figures to this file")
    add("--rounds", type=int, default=3, help="blocks of each side, in turn (default 3)")
    add("--threads", type=int, default=usable_cores(), help="of the processor, on both sides (default: all cores)")
    add("--precision", choices=("fp32", "bf16", "fp16"), help="on both sides (default: lavic's for the device)")
    add("--seed", type=int, default=0)
    add("--only", choices=PAIR, help=argparse.SUPPRESS)
    add("--shop_dir", type=Path, help=argparse.SUPPRESS)
    amount, usual, told = script.amount
    add(f"--{amount}", type=int, default=usual, help=told)
    add("--batch_size", "--batch-size", type=int, default=script.batch_size[0], help=script.batch_size[1])
    for name, told in script.switches:
        add(f"--{name}", action="store_true", help=told)
    flags = parser.parse_args(words)
    for name in ("rounds", "threads", amount, "batch_size"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return flags


def _measure(script: Script, flags: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any] | None:
    """The run, with a folder for pictures and item store; None where one side was measured alone."""
    world, shape = _make_world(script, flags, folder), SHAPES[flags.shape]
    if flags.only:
        libraries = libraries_bytes(world.device)
        published = flags.only == PUBLISHED.name
        bench = world.bench(shape, world.precision, lm_head=published)
        side = PUBLISHED if published else bench.lavic
        steps = script.alone_steps(side.name, flags)
        print_alone(measure_alone(bench, side, steps=steps, libraries=libraries))
        return None
    console.info(script.comparing)
    agreement = script.agreement(world)
    bench = world.bench(shape, world.precision)
    return compare(world, bench, agreement, speed_goal=script.speed_goal, console=console)


def _make_world(script: Script, flags: argparse.Namespace, folder: Path) -> World:
    """See that the machine can run what is asked for, and draw the pictures.

    Raises:
        ConfigError: the 7B on a processor, or a precision that cannot be had.
    """
    if flags.shape == "7b" and flags.device == "cpu":
        raise ConfigError(
            "a model of the 7B's size is timed on a GPU only",
            where="--shape 7b",
            remedy=f"On a machine with one: python benchmarks/{script.file.name} --device cuda --shape 7b",
        )
    device = choose_device(flags.device)
    precision = choose_precision(flags.precision, device)
    torch.set_num_threads(flags.threads)
    return World(
        script=script.file,
        flags=flags,
        device=device,
        precision=precision,
        folder=folder,
        shop=make_shop(folder, script.conversations(flags), flags.seed),
        child=("shape", "threads", "seed", script.amount[0], "batch_size"),
        switches=tuple(name for name, _ in script.switches),
        make=script.bench,
    )
