"""Stage 2, evaluation: lavic against the published algorithm, in one run, on random weights of the real classes.

    python benchmarks/evaluate.py --json build/evaluate.json
    python benchmarks/evaluate.py --device cuda --shape 7b --json build/evaluate-7b.json

The published side looks at ten pictures and generates an answer, one conversation at a time; lavic scores every
candidate. What is compared, and how to read the output: benchmarks/README.md. Exit code 2 if the two sides do not agree
in the log-likelihood of what lavic ranks first, or if the machine cannot run the shape; 0 without measuring if a GPU is
asked for and there is none.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from measure import LOSS_TOLERANCE
from shapes import CANDIDATE_TYPE
from sides import PUBLISHED, Block, Side, counted_flops, cpu_seconds
from stage2 import ChoosingBench
from stage2_run import World
from stage2_script import Script, run_script
from torch import Tensor

from lavic.errors import TrainingError
from lavic.evaluate.config import EvaluateSettings
from lavic.metrics import rank
from lavic.model.accelerations import Accelerations
from lavic.tune.samples import AskedRow, asked_rows
from lavic.tune.scoring import RowScores, score_rows

#: How many times as fast lavic is to be on a GPU.
SPEED_GOAL = 20.0
#: Conversations for which the sides must agree.
COMPARED = 2


class EvaluateBench(ChoosingBench):
    """Answers every conversation.

    Args:
        batch_size: conversations that lavic scores at a time; the published side takes one.
    """

    def __init__(self, *arguments: Any, batch_size: int, **more: Any) -> None:
        super().__init__(*arguments, accelerations=Accelerations(frozen_start=False), **more)
        self.batch_size = batch_size
        rows = ((each, each.candidates[CANDIDATE_TYPE]) for each in self.shop.conversations)
        path, skipped = Path("benchmark"), self.catalogue.skipped
        self.rows: list[AskedRow] = asked_rows(rows, self.catalogue, self.prompts, path=path, skipped=skipped)

    def lengths(self) -> list[int]:
        """Prompts alone."""
        return [len(self.prompts.sequence(row.context, row.candidates, None).input_ids) for row in self.rows]

    def answer(self, row: AskedRow, pixels: Tensor) -> Tensor:
        """The ids that the published side generates."""
        with self.fabric.autocast():
            return self.published.answer(pixels, self.prompts.sequence(row.context, row.candidates, None))

    def scores(self, rows: list[AskedRow]) -> list[RowScores]:
        """What lavic thinks of every candidate."""
        with self.fabric.autocast():
            return score_rows(self.student, rows, self.catalogue, self.prompts, batch_size=self.batch_size)

    @torch.no_grad()
    def published_log_prob(self, row: AskedRow, item_id: str) -> float:
        """Log-likelihood of an ID, EOS included, as the published side computes it: from pictures, all logits."""
        sequence = self.prompts.sequence(row.context, row.candidates, item_id)
        batch = self.published.builder.collate([sequence])
        return -float(self.published.loss_of(self.read([row.candidates]), batch)) * sequence.target_tokens

    def run_block(self, side: Side, *, steps: int | None = None) -> Block:
        """Answer every conversation once, or for some steps: conversations of the published side, batches of lavic."""
        self.arrange(side)
        self.wait_for_device()
        reading, first = 0.0, 0.0
        started, cpu_before = time.perf_counter(), cpu_seconds()
        if side.accelerations is not None:
            rows = self.rows if steps is None else self.rows[: steps * self.batch_size]
            self.scores(rows)
        else:
            rows = self.rows[:steps]
            for row in rows:
                asked = time.perf_counter()
                pixels = self.read([row.candidates])
                reading += time.perf_counter() - asked
                self.answer(row, pixels).tolist()
                first = first or time.perf_counter() - started
        seconds = time.perf_counter() - started
        return Block(len(rows), seconds, reading, first or seconds, cpu_seconds() - cpu_before)

    def count_flops(self, side: Side) -> float:
        """Forward only."""
        self.arrange(side)
        with counted_flops() as counter:
            if side.accelerations is not None:
                self.scores(self.rows)
            else:
                for row in self.rows:
                    self.answer(row, self.read([row.candidates]))
        return float(counter.get_total_flops() / len(self.rows))


def score_difference(bench: EvaluateBench, count: int) -> float:
    """How far the sides are apart, relative, in the log-likelihood of what lavic ranks first; the worst row's."""
    rows, apart = bench.rows[:count], []
    bench.arrange(bench.lavic)
    scores = bench.scores(rows)
    bench.arrange(PUBLISHED)
    for row, score in zip(rows, scores, strict=True):
        best = rank(score.log_probs, row.item_ids)[0]
        ours = score.log_probs[row.item_ids.index(best)]
        apart.append(abs(bench.published_log_prob(row, best) / ours - 1))
    return max(apart)


def require_agreement(difference: float) -> None:
    """Stop if the sides do not think the same of an answer.

    Raises:
        TrainingError: with the difference, a NaN included.
    """
    if not difference <= LOSS_TOLERANCE:
        raise TrainingError(
            f"the log-likelihood of what is ranked first differs by {difference:.2g} of its size, more than "
            f"{LOSS_TOLERANCE:g}",
            where="lavic and the published algorithm",
            remedy="Nothing was timed: sides that compute different things cannot be compared.",
        )


def agreement(world: World) -> dict[str, float]:
    """How far the sides are apart in what they think of an answer; the published side has no LoRA on ``lm_head`` here.

    Raises:
        TrainingError: too far.
    """
    difference = score_difference(world.bench(world.parity_shape(), "fp32", lm_head=False), COMPARED)
    require_agreement(difference)
    return {"score_difference": difference}


def main(words: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    batch_size = EvaluateSettings().batch_size
    script = Script(
        file=Path(__file__),
        description=__doc__,
        bench=EvaluateBench,
        amount=("conversations", 16, "of a block (default 16)"),
        batch_size=(batch_size, f"of lavic (default {batch_size})"),
        conversations=lambda flags: flags.conversations,
        # The published side takes one conversation a step, lavic a batch of them.
        alone_steps=lambda side, flags: 2 if side == PUBLISHED.name else 1,
        comparing="Comparing what both sides think of an answer ...",
        agreement=agreement,
        speed_goal=SPEED_GOAL,
    )
    return run_script(script, words)


if __name__ == "__main__":
    sys.exit(main())
