"""``lavic demo``: both stages in miniature, on the very path that real data takes.

A catalogue is drawn, ``lavic distill`` trains on it twice (once with its pictures shuffled among the
descriptions: ``blind``, what can be learnt without seeing), and everything is measured on held-out pictures
whose combinations of kind, colour and pattern never occur in training. Then the pictures' five tokens are stored, and
a recommender is tuned on conversations about them (``recommend.py``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavic.console import Console, Outcome
from lavic.data.derange import write_deranged
from lavic.demo.config import DemoSettings
from lavic.demo.measure import HEADER, ROWS, HeldOut, Measured, table_cells
from lavic.demo.recommend import FOLDERS, OUTPUTS, Stage2, recommend
from lavic.demo.report import write_report
from lavic.distill.config import DistillSettings
from lavic.distill.run import run as run_distill
from lavic.distill.task import ADAPTER_FOLDER
from lavic.errors import ConfigError
from lavic.evaluate.systems import FULL_TOKENS, UNDISTILLED
from lavic.files import FolderLock, prepare_marked, write_json
from lavic.layout import BLIND_METADATA, TRAIN_METADATA, VALID_IMAGES, data_paths
from lavic.model.adapters import load_vision_adapter
from lavic.model.full_tokens import FullTokenModel
from lavic.model.load import TINY, BaseModel, load_base
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.catalogue import ToyItem, plan_catalogue, write_catalogue
from lavic.toyshop.conversations import check_look_alikes
from lavic.training.run_view import read_run

#: Its presence says that a folder holds a demo, which may be replaced.
MARKER = "demo.json"
KNOWN_OUTPUTS = (MARKER, "toyshop", "distilled", "blind", *OUTPUTS, "logs", "summary.json", "report.html", "report.png")
BATCH_SIZE = 32
LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Plan:
    """How large the demo is, and the items whose pictures are held out."""

    items: int
    steps: int
    held_out: tuple[ToyItem, ...]

    @property
    def train_items(self) -> int:
        """Items to train on."""
        return self.items - len(self.held_out)


def run(settings: DemoSettings, console: Console) -> Outcome:
    """Draw, distil, measure, recommend, and write ``summary.json`` and the picture sheet.

    Raises:
        ConfigError: too few items for conversations about look-alikes.
        OutputError: the folder holds what no demo made, is in use, or cannot be written.
    """
    train, held_out = plan_catalogue(settings.items, settings.seed)
    plan = Plan(settings.items, settings.steps, tuple(held_out))
    stage = Stage2(settings.tune_steps, _systems(settings), settings.seed, settings.workers)
    if stage.steps:
        _check_look_alikes(train, held_out, settings.seed)
    with FolderLock(settings.output_dir):
        prepare_marked(settings.output_dir, MARKER, KNOWN_OUTPUTS, "an earlier demo", overwrite=settings.overwrite)
        write_json(settings.output_dir / MARKER, settings.model_dump(mode="json"))
        return _run(settings, plan, stage, console)


def _run(settings: DemoSettings, plan: Plan, stage: Stage2, console: Console) -> Outcome:
    started, folder = time.monotonic(), settings.output_dir
    _draw(folder, plan, settings, stage, console)
    toyshop = folder / "toyshop"
    write_deranged(toyshop / TRAIN_METADATA, toyshop / BLIND_METADATA, settings.seed)
    seconds = {name: _distill(folder, name, plan, settings, console) for name in ("distilled", "blind")}
    rows = _measure(folder, plan, settings.workers, console)
    summary = _summary(rows, plan, seconds, time.monotonic() - started)
    if stage.steps:
        summary |= recommend(folder, stage, console)
    write_report(folder, plan.held_out, rows, summary, curve=read_run(folder / "distilled"))
    summary["seconds"] = round(time.monotonic() - started, 1)
    write_json(folder / "summary.json", summary)
    _print(rows, summary, console)
    return Outcome(summary=summary, printed=True, next_step=f"Open {folder}/report.html to see the pictures.")


def _check_look_alikes(train: Sequence[ToyItem], held_out: Sequence[ToyItem], seed: int) -> None:
    try:
        check_look_alikes(train, held_out, seed)
    except ConfigError as error:
        remedy = f"{error.remedy.removesuffix('.')}, or --tune_steps 0, which leaves recommending out."
        raise ConfigError(error.problem, where="--items", remedy=remedy) from None


def _systems(settings: DemoSettings) -> tuple[str, ...]:
    """The recommenders that are tuned."""
    wanted = {UNDISTILLED: settings.full or settings.undistilled, FULL_TOKENS: settings.full_tokens}
    return tuple(system for system in FOLDERS if wanted.get(system, True))


# -- steps ---------------------------------------------------------------------------------------------------


def _draw(folder: Path, plan: Plan, settings: DemoSettings, stage: Stage2, console: Console) -> None:
    with console.progress("Drawing the catalogue", plan.items) as bar:
        write_catalogue(
            folder / "toyshop",
            plan.items,
            settings.seed,
            workers=settings.workers,
            on_progress=lambda done, total: bar.advance(1),
            conversations=stage.conversations,
        )


def _distill(folder: Path, name: str, plan: Plan, settings: DemoSettings, console: Console) -> float:
    """Run ``lavic distill`` as a user would; returns its seconds."""
    started = time.monotonic()
    toyshop = folder / "toyshop"
    metadata = BLIND_METADATA if name == "blind" else TRAIN_METADATA
    console.info(f"Distilling {'without seeing (pictures shuffled)' if name == 'blind' else 'for real'}")
    run_distill(
        DistillSettings(
            model=TINY,
            **data_paths(toyshop, metadata),
            output_dir=folder / name,
            log_dir=folder / "logs",
            batch_size=BATCH_SIZE,
            lr=LEARNING_RATE,
            schedule="cosine",
            warmup=min(10, plan.steps - 1),
            max_steps=plan.steps,
            num_epochs=-(-plan.steps * BATCH_SIZE // max(1, plan.train_items - BATCH_SIZE)) + 1,
            num_workers=settings.workers,
            seed=settings.seed,
            val_every=str(10 * plan.steps),
        ),
        console,
    )
    return time.monotonic() - started


def _measure(folder: Path, plan: Plan, workers: int, console: Console) -> dict[str, Measured]:
    """All rows on the same held-out pictures and target tokens."""
    pictures = folder / "toyshop" / VALID_IMAGES
    measured: dict[str, Measured] = {}
    with console.progress("Measuring on held-out pictures", len(ROWS)) as bar:
        for name in ROWS:
            base = load_base(TINY)
            builder = SequenceBuilder(base.tokenizer, DEFAULT_PROMPTS, base.family.views)
            held_out = HeldOut(base, builder, plan.held_out, pictures)
            if name == "teacher":
                measured[name] = held_out.full_tokens(FullTokenModel(base), base.model.lm_head)
            else:
                measured[name] = held_out.five_tokens(_student(base, folder, name), workers=workers)
            bar.advance(1, row=name)
    return measured


def _student(base: BaseModel, folder: Path, name: str) -> FiveTokenModel:
    adapters = {"after": folder / "distilled" / ADAPTER_FOLDER, "blind": folder / "blind" / ADAPTER_FOLDER}
    if name in adapters:
        load_vision_adapter(base.model, adapters[name])
    return FiveTokenModel(base)


# -- what came out -------------------------------------------------------------------------------------------


def _summary(rows: dict[str, Measured], plan: Plan, seconds: dict[str, float], total: float) -> dict[str, Any]:
    loss = {name: rows[name].val_loss for name in ROWS}
    return {
        "val_loss": loss,
        "gap_closed": (loss["before"] - loss["after"]) / (loss["before"] - loss["teacher"]),
        "gap_over_blind": (loss["blind"] - loss["after"]) / (loss["blind"] - loss["teacher"]),
        "attribute_accuracy": {name: rows[name].accuracy for name in ROWS},
        "held_out_pictures": len(plan.held_out),
        "training_items": plan.train_items,
        "steps": plan.steps,
        "batch_size": BATCH_SIZE,
        "distill_seconds": round(seconds["distilled"], 1),
        "samples_per_s": round(plan.steps * BATCH_SIZE / seconds["distilled"], 1),
        "seconds": round(total, 1),
    }


def _print(rows: dict[str, Measured], summary: dict[str, Any], console: Console) -> None:
    console.table(
        [table_cells(name, row) for name, row in rows.items()],
        header=HEADER,
        title=f"{summary['held_out_pictures']} held-out pictures",
    )
    console.print(f"gap closed      {summary['gap_closed']:.1%}  (before to teacher)")
    console.print(f"gap over blind  {summary['gap_over_blind']:.1%}  (blind to teacher)")
    console.print(
        f"distillation    {summary['steps']} steps of {summary['batch_size']} in {summary['distill_seconds']:.0f} s, "
        f"{summary['samples_per_s']:.0f} samples/s; everything {summary['seconds']:.0f} s"
    )
    if "hr@1" in summary:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in summary["hr@1"].items() if share is not None)
        console.print(f"HR@1            {shares}  ({summary['test_conversations']} conversations)")
