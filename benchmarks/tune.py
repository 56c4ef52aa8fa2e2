"""Stage 2, training: lavic against the published algorithm, in one run, on random weights of the real classes.

    python benchmarks/tune.py --json build/tune.json
    python benchmarks/tune.py --device cuda --shape 7b --json build/tune-7b.json

What is compared, and how to read the output: benchmarks/README.md. Exit code 2 if the two sides do not agree in loss
and gradients, or if the machine cannot run the shape; 0 without measuring if a GPU is asked for and there is none.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from measure import parity
from shapes import CANDIDATE_TYPE
from sides import Block, Side, counted_flops, cpu_seconds
from stage2 import ChoosingBench
from stage2_run import World
from stage2_script import Script, run_script
from torch import Tensor

from lavic.console import Console, Progress
from lavic.training.loop import seed_dropout
from lavic.training.run_log import RunLog
from lavic.tune.card import Recommender
from lavic.tune.config import TuneSettings
from lavic.tune.samples import TuneSample, tune_samples
from lavic.tune.setup import make_accelerations
from lavic.tune.task import TuneMicroStep, TuneTask

#: How many times as fast lavic is to be on a GPU.
SPEED_GOAL = 6.0


class TuneBench(ChoosingBench):
    """Trains on every conversation. The micro-batches of both sides are those of lavic's own task.

    Args:
        batch_size: conversations of a step.
        activation_checkpointing: on lavic's side.
    """

    def __init__(self, *arguments: Any, batch_size: int, activation_checkpointing: bool = False, **more: Any) -> None:
        settings = TuneSettings(activation_checkpointing=activation_checkpointing)
        super().__init__(*arguments, accelerations=make_accelerations(settings), **more)
        self.clip = settings.gradient_clip
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay)
        rows = ((each, each.candidates[CANDIDATE_TYPE]) for each in self.shop.conversations)
        self.samples: list[TuneSample] = tune_samples(
            rows, self.catalogue, self.prompts, path=Path("benchmark"), skipped=self.catalogue.skipped, seed=self.seed
        )
        self.task = TuneTask(
            fabric=self.fabric,
            wrapped=self.wrapped,
            lora=self.lora,
            parameters=self.parameters,
            optimizer=self.optimizer,
            batch_size=batch_size,
            accumulation=1,
            seed=self.seed,
            group_by_length=True,
            output_dir=Path(),
            base_name=self.base.name,
            skipped=self.catalogue.skipped,
            # Its steps and their losses use neither.
            log=cast(RunLog, None),
            bar=cast(Progress, None),
            console=Console(),
            model=self.student,
            prompts=self.prompts,
            catalogue=self.catalogue,
            train=self.samples,
            valid=[],
            shuffle=settings.shuffle_candidates,
            eos=settings.teach_eos,
            keep_last=False,
            recommender=Recommender(False, {}, CANDIDATE_TYPE, settings.lr, settings.weight_decay, 1),
        )

    def steps(self, side: Side) -> Iterator[TuneMicroStep]:
        """The micro-batches of an epoch, made as they are asked for; dropout is switched on."""
        self.task.group_by_length = side.by_length
        for step in self.task.steps(0, 0):
            yield cast(TuneMicroStep, step[0])

    def batches(self, side: Side) -> list[TuneMicroStep]:
        """All of them."""
        return list(self.steps(side))

    def loss(self, side: Side, batch: TuneMicroStep, pixels: Tensor | None = None) -> Tensor:
        """Mean loss of a micro-batch's answers, in nats a token.

        Args:
            pixels: of all its candidates, for the published side; read here if None.
        """
        if side.accelerations is not None:
            return batch.nats() / batch.tokens
        pixels = self.read(batch.candidates) if pixels is None else pixels
        with self.fabric.autocast():
            return self.published.loss_of(pixels, batch.batch)

    def lengths(self) -> list[int]:
        """Prompt and answer."""
        return [sample.length for sample in self.samples]

    def run_block(self, side: Side, *, steps: int | None = None) -> Block:
        """Train on every conversation once (or for some steps) and time it."""
        self.arrange(side)
        samples, reading, first = 0, 0.0, 0.0
        self.wait_for_device()
        started, cpu_before = time.perf_counter(), cpu_seconds()
        for number, batch in enumerate(self.steps(side)):
            if number == steps:
                break
            asked = time.perf_counter()
            pixels = self.read(batch.candidates) if side.accelerations is None else None
            reading += time.perf_counter() - asked
            seed_dropout(self.seed, number, 0)
            self.fabric.backward(self.loss(side, batch, pixels))
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            # Every step is waited for, on both sides: the loop reads each step's loss for its log.
            self.wait_for_device()
            samples += len(batch.samples)
            first = first or time.perf_counter() - started
        return Block(samples, time.perf_counter() - started, reading, first, cpu_seconds() - cpu_before)

    def count_flops(self, side: Side) -> float:
        """Forward and backward."""
        self.arrange(side)
        total: float = 0
        for batch in self.steps(side):
            with counted_flops() as counter:
                self.loss(side, batch).backward()  # type: ignore[no-untyped-call]
            total += counter.get_total_flops()
            self.optimizer.zero_grad(set_to_none=True)
        return total / len(self.samples)


def agreement(world: World) -> dict[str, float]:
    """How far loss and gradients are apart, in fp32, without dropout and without LoRA on the published ``lm_head``.

    Raises:
        TrainingError: too far.
    """
    bench = world.bench(world.parity_shape(), "fp32", dropout=0.0, lm_head=False)
    found = parity(bench, bench.lavic)
    found.require()
    return {"loss_difference": found.loss_difference, "gradient_difference": found.gradient_difference}


def main(words: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    script = Script(
        file=Path(__file__),
        description=__doc__,
        bench=TuneBench,
        amount=("steps", 6, "optimizer steps of a block (default 6)"),
        batch_size=(TuneSettings().batch_size, None),
        conversations=lambda flags: flags.steps * flags.batch_size,
        alone_steps=lambda side, flags: min(flags.steps, 2),
        comparing="Comparing loss and gradients of both sides ...",
        agreement=agreement,
        speed_goal=SPEED_GOAL,
        switches=(("activation_checkpointing", "on lavic's side: less memory, more arithmetic"),),
    )
    return run_script(script, words)


if __name__ == "__main__":
    sys.exit(main())
