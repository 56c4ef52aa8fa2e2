"""Does learning the teacher's probabilities (kl) need fewer steps than learning its text (nll)?

    python benchmarks/objectives.py [--steps N] [--items N] [--seeds 0 1 2] [--work FOLDER] [--json FILE]

A toy shop is drawn, ``lavic describe --top_logits`` stores the tiny teacher's probabilities, and ``lavic distill``
trains each objective with each seed: runs of 25, 50 and 100 % of the steps, each with a schedule of its own length, so
that half of the steps means a run that was planned for half of them. Loss and described attributes are measured on
held-out pictures, by the code of the demo. A run that is done is not done again: after a stop the same command goes on,
and several at once, each with its own seeds, can share a folder once the catalogue is described.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Sequence as Rows
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lavic.console import Console
from lavic.demo.measure import ATTRIBUTES, HeldOut, Measured
from lavic.demo.run import BATCH_SIZE, LEARNING_RATE
from lavic.describe.config import DescribeSettings
from lavic.describe.run import run as run_describe
from lavic.distill.config import DistillSettings
from lavic.distill.run import run as run_distill
from lavic.distill.task import ADAPTER_FOLDER
from lavic.files import read_json, sha256_file, write_json
from lavic.layout import VALID_IMAGES, data_paths
from lavic.model.adapters import load_vision_adapter
from lavic.model.full_tokens import FullTokenModel
from lavic.model.load import TINY, TINY_FOLDER, load_base
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.catalogue import ToyItem, plan_catalogue, write_catalogue
from lavic.training.run_log import EVENTS_FILE, read_events

OBJECTIVES = ("nll", "kl", "nll+kl")
SHARES = (25, 50, 100)
#: Validations inside the longest run, from which the steps to a loss are read off.
VALIDATIONS = 8
HEADER = ("objective", "steps", "val loss", "attributes right", "all four right")


@dataclass(frozen=True)
class Found:
    """What one run came to.

    Attributes:
        val_loss: nats per token of the held-out pictures, EOS included.
        accuracy: share of texts that name each attribute right, and ``all`` four.
        curve: (step, val_loss) of its validations.
    """

    objective: str
    share: int
    seed: int
    val_loss: float
    accuracy: dict[str, float]
    seconds: float
    curve: tuple[tuple[int, float], ...] = ()

    @property
    def attributes(self) -> float:
        """Mean share over the four attributes."""
        return statistics.fmean(self.accuracy[name] for name in ATTRIBUTES)


@dataclass
class Bench:
    """The world and the settings that all runs share."""

    work: Path
    steps: int
    items: int
    k: int
    kl_weight: float
    temperature: float
    console: Console
    held_out: tuple[ToyItem, ...] = field(default=())

    def prepare(self) -> None:
        """Draw the catalogue and store the teacher's probabilities, unless that is done."""
        self.held_out = tuple(plan_catalogue(self.items, 0)[1])
        self.work.mkdir(parents=True, exist_ok=True)
        asked = {"items": self.items, "k": self.k, "model": sha256_file(TINY_FOLDER / "model.safetensors")}
        if kept(self.work / "world.json", asked) is not None:
            return
        write_catalogue(self.work / "toyshop", self.items, 0, overwrite=True)
        run_describe(
            DescribeSettings(
                model=TINY,
                **data_paths(self.work / "toyshop"),
                train_only=True,
                top_logits=self.k,
                batch_size=32,
                overwrite=True,
            ),
            self.console,
        )
        write_json(self.work / "world.json", {"asked": asked})

    def settings(self, objective: str, share: int, seed: int) -> DistillSettings:
        """One run, as a user would start it; the whole one is validated in between."""
        steps = max(1, self.steps * share // 100)
        learnt: dict[str, Any] = {"objective": objective}
        if objective == "nll+kl":
            learnt["kl_weight"] = self.kl_weight
        if objective != "nll":
            learnt["temperature"] = self.temperature
        return DistillSettings(
            model=TINY,
            **data_paths(self.work / "toyshop"),
            output_dir=self.work / f"{objective}-{share}-{seed}",
            log_dir=self.work / "logs",
            **learnt,
            batch_size=BATCH_SIZE,
            lr=LEARNING_RATE,
            schedule="cosine",
            warmup=min(10, steps - 1),
            max_steps=steps,
            num_epochs=-(-steps * BATCH_SIZE // max(1, self.items - len(self.held_out) - BATCH_SIZE)) + 1,
            num_workers=0,
            seed=seed,
            val_every=str(max(1, steps // VALIDATIONS)) if share == max(SHARES) else str(steps + 1),
            overwrite=True,
        )

    def train(self, objective: str, share: int, seed: int) -> Found:
        """Train and measure the adapter that the run leaves; what it came to, where that is done."""
        settings = self.settings(objective, share, seed)
        path = settings.output_dir.with_suffix(".json")
        asked = {**settings.model_dump(mode="json"), "world": read_json(self.work / "world.json")["asked"]}
        earlier = kept(path, asked)
        if earlier is not None:
            return Found(**{**earlier, "curve": tuple((step, loss) for step, loss in earlier["curve"])})
        found = self._train(settings, objective, share, seed)
        write_json(path, {"asked": asked, "found": asdict(found)})
        return found

    def _train(self, settings: DistillSettings, objective: str, share: int, seed: int) -> Found:
        begun = time.monotonic()
        run_distill(settings, self.console)
        seconds = time.monotonic() - begun
        curve = tuple(
            (int(row["step"]), float(row["val_loss_with_eos"]))
            for row in read_events(settings.output_dir / EVENTS_FILE)
            if row["kind"] == "validation"
        )
        measured = self.measure(settings.output_dir / ADAPTER_FOLDER)
        return Found(objective, share, seed, measured.val_loss, measured.accuracy, round(seconds, 1), curve)

    def measure(self, adapter: Path | None, *, teacher: bool = False) -> Measured:
        """Held-out pictures by five tokens with an adapter or bare, or by all tokens."""
        base = load_base(TINY)
        builder = SequenceBuilder(base.tokenizer, DEFAULT_PROMPTS, base.family.views)
        held_out = HeldOut(base, builder, self.held_out, self.work / "toyshop" / VALID_IMAGES)
        if teacher:
            return held_out.full_tokens(FullTokenModel(base), base.model.lm_head)
        if adapter is not None:
            load_vision_adapter(base.model, adapter)
        return held_out.five_tokens(FiveTokenModel(base), workers=0)


def kept(path: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier run left that was asked the same; None if there is none."""
    earlier = read_json(path) if path.exists() else {}
    return earlier.get("found", {}) if earlier.get("asked") == asked else None


def steps_to(curve: Rows[tuple[int, float]], loss: float) -> float | None:
    """The step at which a curve first comes down to a loss, between two validations by a straight line; None: never."""
    before: tuple[int, float] | None = None
    for step, value in curve:
        if value <= loss:
            if before is None:
                return float(step)
            return before[0] + (step - before[0]) * (before[1] - loss) / (before[1] - value)
        before = (step, value)
    return None


def spread(values: Rows[float], form: str) -> str:
    """Mean and standard deviation; of one value, itself."""
    mean = format(statistics.fmean(values), form)
    return mean if len(values) < 2 else f"{mean} ± {format(statistics.stdev(values), form)}"


def table(found: Rows[Found], steps: int) -> list[list[str]]:
    """A row for each objective and length, over its seeds."""
    rows = []
    for objective in OBJECTIVES:
        for share in SHARES:
            runs = [run for run in found if (run.objective, run.share) == (objective, share)]
            if runs:
                rows.append(
                    [
                        objective,
                        f"{steps * share // 100} ({share} %)",
                        spread([run.val_loss for run in runs], ".4f"),
                        spread([run.attributes for run in runs], ".1%"),
                        spread([run.accuracy["all"] for run in runs], ".1%"),
                    ]
                )
    return rows


def verdict(found: Rows[Found], steps: int) -> dict[str, Any]:
    """Where each objective comes to nll's final loss: in runs of half the steps, and on the way of whole runs."""
    finals = [run.val_loss for run in found if (run.objective, run.share) == ("nll", 100)]
    if not finals:
        return {}
    goal = statistics.fmean(finals)
    answer: dict[str, Any] = {"nll_final_loss": goal}
    for objective in OBJECTIVES:
        halves = [run.val_loss for run in found if (run.objective, run.share) == (objective, 50)]
        whole = [run for run in found if (run.objective, run.share) == (objective, 100)]
        needed = [steps_to(run.curve, goal) for run in whole]
        answer[objective] = {
            "loss_in_half_of_the_steps": statistics.fmean(halves) if halves else None,
            "reached_in_half": bool(halves) and statistics.fmean(halves) <= goal,
            "seeds_that_reach_it_in_half": sum(loss <= goal for loss in halves),
            "steps_to_it_by_seed": [None if step is None else round(step, 1) for step in needed],
            "share_of_steps": [None if step is None else round(step / steps, 3) for step in needed],
        }
    return answer


def report(bench: Bench, found: Rows[Found], ends: dict[str, Measured]) -> dict[str, Any]:
    """All figures."""
    return {
        "steps": bench.steps,
        "items": bench.items,
        "held_out_pictures": len(bench.held_out),
        "batch_size": BATCH_SIZE,
        "k": bench.k,
        "kl_weight": bench.kl_weight,
        "temperature": bench.temperature,
        "threads": torch.get_num_threads(),
        "machine": platform.platform(),
        "torch": torch.__version__,
        **{name: {"val_loss": row.val_loss, "accuracy": row.accuracy} for name, row in ends.items()},
        "verdict": verdict(found, bench.steps),
        "runs": [
            {
                "objective": run.objective,
                "share": run.share,
                "seed": run.seed,
                "val_loss": run.val_loss,
                "accuracy": run.accuracy,
                "seconds": run.seconds,
                "curve": [list(point) for point in run.curve],
            }
            for run in found
        ],
    }


def measure(bench: Bench, seeds: Rows[int], path: Path | None) -> dict[str, Any]:
    """All runs, seed by seed, so that what is there after a stop can be compared; the file is written after each."""
    bench.prepare()
    ends = {"teacher": bench.measure(None, teacher=True), "before": bench.measure(None)}
    found: list[Found] = []
    for seed in seeds:
        for share in sorted(SHARES, reverse=True):
            for objective in OBJECTIVES:
                run = bench.train(objective, share, seed)
                found.append(run)
                print(f"{objective} {share} % seed {seed}: {run.val_loss:.4f} {run.seconds:.0f} s", file=sys.stderr)
                if path is not None:
                    write_json(path, report(bench, found, ends))
    show(bench, found, ends)
    return report(bench, found, ends)


def show(bench: Bench, found: Rows[Found], ends: dict[str, Measured]) -> None:
    """The table and the verdict."""
    console = Console()
    rows = table(found, bench.steps)
    for name, row in ends.items():
        mean = statistics.fmean(row.accuracy[each] for each in ATTRIBUTES)
        rows.append([name, "", f"{row.val_loss:.4f}", f"{mean:.1%}", f"{row.accuracy['all']:.1%}"])
    title = f"{len(bench.held_out)} held-out pictures; mean and standard deviation over seeds; k {bench.k}"
    console.table(rows, header=HEADER, title=title)
    answer = verdict(found, bench.steps)
    console.print(f"nll's final loss: {answer['nll_final_loss']:.4f}")
    for objective in OBJECTIVES:
        each = answer[objective]
        steps = ", ".join("never" if step is None else f"{step:.0f}" for step in each["steps_to_it_by_seed"])
        console.print(
            f"{objective}: in runs of half the steps {each['loss_in_half_of_the_steps']:.4f} "
            f"({'reached' if each['reached_in_half'] else 'not reached'}); on the way of whole runs after {steps} steps"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--kl_weight", type=float, default=1.0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--work", type=Path, default=Path("build/objectives"), help="folder of the runs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=1, help="more than one slow down a machine that does more")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    bench = Bench(
        given.work,
        given.steps,
        given.items,
        given.k,
        given.kl_weight,
        given.temperature,
        Console(json=True, stderr=sys.stderr),
    )
    measure(bench, given.seeds, given.json)


if __name__ == "__main__":
    main()
