"""``lavic demo``: stage 1 in miniature, on the very path that real data takes.

A catalogue is drawn, ``lavic distill`` trains on it twice (once with its pictures shuffled among the
descriptions: ``blind``, what can be learnt without seeing), and everything is measured on held-out pictures
whose combinations of kind, colour and pattern never occur in training.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavic.console import Console, Outcome
from lavic.data.derange import write_deranged
from lavic.demo.config import DemoSettings
from lavic.demo.measure import ATTRIBUTES, HeldOut, Measured
from lavic.demo.report import write_report
from lavic.distill.config import DistillSettings
from lavic.distill.run import run as run_distill
from lavic.distill.task import ADAPTER_FOLDER
from lavic.files import prepare_output, write_json
from lavic.model.adapters import load_vision_adapter, set_lora_dropout
from lavic.model.full_tokens import FullTokenModel
from lavic.model.load import TINY, BaseModel, load_base
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.catalogue import plan_catalogue, write_catalogue
from lavic.training.run_view import read_run

#: Rows of the table, in its order; also the keys of summary.json.
ROWS = ("teacher", "blind", "before", "after")
KNOWN_OUTPUTS = ("toyshop", "distilled", "blind", "logs", "summary.json", "report.html", "report.png")
BLIND_METADATA = "item2meta_train_blind.json"
BATCH_SIZE = 32
LEARNING_RATE = 3e-3
FULL_STEPS, FULL_ITEMS = 600, 5_000


@dataclass(frozen=True)
class Plan:
    """How large the demo is."""

    items: int
    steps: int


def run(settings: DemoSettings, console: Console) -> Outcome:
    """Draw, distil, measure, and write ``summary.json`` and the picture sheet."""
    started = time.monotonic()
    folder = settings.output_dir
    plan = Plan(FULL_ITEMS, FULL_STEPS) if settings.full else Plan(settings.items, settings.steps)
    prepare_output(folder, resume=False, overwrite=settings.overwrite, known=KNOWN_OUTPUTS, can_resume=False)
    _draw(folder, plan, settings, console)
    toyshop = folder / "toyshop"
    write_deranged(toyshop / "item2meta_train.json", toyshop / BLIND_METADATA, settings.seed)
    seconds = {name: _distill(folder, name, plan, settings, console) for name in ("distilled", "blind")}
    rows = _measure(folder, plan, settings, console)
    summary = _summary(rows, plan, seconds, time.monotonic() - started)
    items = plan_catalogue(plan.items, settings.seed)[1]
    write_report(folder, items, rows, summary, curve=read_run(folder / "distilled"))
    summary["seconds"] = round(time.monotonic() - started, 1)
    write_json(folder / "summary.json", summary)
    _print(rows, summary, console)
    return Outcome(summary=summary, printed=True, next_step=f"Open {folder}/report.html to see the pictures.")


# -- steps ---------------------------------------------------------------------------------------------------


def _draw(folder: Path, plan: Plan, settings: DemoSettings, console: Console) -> None:
    with console.progress("Drawing the catalogue", plan.items) as bar:
        write_catalogue(
            folder / "toyshop",
            plan.items,
            settings.seed,
            workers=settings.workers,
            on_progress=lambda done, total: bar.advance(1),
        )


def _distill(folder: Path, name: str, plan: Plan, settings: DemoSettings, console: Console) -> float:
    """Run ``lavic distill`` as a user would; returns its seconds."""
    started = time.monotonic()
    toyshop = folder / "toyshop"
    metadata = BLIND_METADATA if name == "blind" else "item2meta_train.json"
    train_items = plan.items - len(plan_catalogue(plan.items, settings.seed)[1])
    console.info(f"Distilling {'without seeing (pictures shuffled)' if name == 'blind' else 'for real'}")
    run_distill(
        DistillSettings(
            model=TINY,
            train_data=toyshop / metadata,
            val_data=toyshop / "item2meta_valid.jsonl",
            train_images_dir=toyshop / "train_images",
            val_images_dir=toyshop / "valid_images",
            output_dir=folder / name,
            log_dir=folder / "logs",
            batch_size=BATCH_SIZE,
            lr=LEARNING_RATE,
            schedule="cosine",
            warmup=min(10, plan.steps - 1),
            max_steps=plan.steps,
            num_epochs=-(-plan.steps * BATCH_SIZE // max(1, train_items - BATCH_SIZE)) + 1,
            num_workers=settings.workers,
            seed=settings.seed,
            val_every=str(10 * plan.steps),
        ),
        console,
    )
    return time.monotonic() - started


def _measure(folder: Path, plan: Plan, settings: DemoSettings, console: Console) -> dict[str, Measured]:
    """All rows on the same held-out pictures and target tokens."""
    items = plan_catalogue(plan.items, settings.seed)[1]
    pictures = folder / "toyshop" / "valid_images"
    measured: dict[str, Measured] = {}
    with console.progress("Measuring on held-out pictures", len(ROWS)) as bar:
        for name in ROWS:
            base = load_base(TINY)
            builder = SequenceBuilder(base.tokenizer, DEFAULT_PROMPTS, base.family.views)
            held_out = HeldOut(base, builder, items, pictures)
            if name == "teacher":
                measured[name] = held_out.full_tokens(FullTokenModel(base), base.model.lm_head)
            else:
                measured[name] = held_out.five_tokens(_student(base, folder, name), workers=settings.workers)
            bar.advance(1, row=name)
    return measured


def _student(base: BaseModel, folder: Path, name: str) -> FiveTokenModel:
    adapters = {"after": folder / "distilled" / ADAPTER_FOLDER, "blind": folder / "blind" / ADAPTER_FOLDER}
    if name in adapters:
        set_lora_dropout(load_vision_adapter(base.model, adapters[name]), False)
    return FiveTokenModel(base)


# -- what came out -------------------------------------------------------------------------------------------


def _summary(rows: dict[str, Measured], plan: Plan, seconds: dict[str, float], total: float) -> dict[str, Any]:
    loss = {name: rows[name].val_loss for name in ROWS}
    return {
        "val_loss": loss,
        "gap_closed": (loss["before"] - loss["after"]) / (loss["before"] - loss["teacher"]),
        "gap_over_blind": (loss["blind"] - loss["after"]) / (loss["blind"] - loss["teacher"]),
        "attribute_accuracy": {name: rows[name].accuracy for name in ROWS},
        "held_out_pictures": len(rows["after"].descriptions),
        "training_items": plan.items - len(rows["after"].descriptions),
        "steps": plan.steps,
        "batch_size": BATCH_SIZE,
        "distill_seconds": round(seconds["distilled"], 1),
        "samples_per_s": round(plan.steps * BATCH_SIZE / seconds["distilled"], 1),
        "seconds": round(total, 1),
    }


def _print(rows: dict[str, Measured], summary: dict[str, Any], console: Console) -> None:
    titles = {
        "teacher": "teacher, all image tokens",
        "blind": "5 tokens, trained blind",
        "before": "5 tokens, before distillation",
        "after": "5 tokens, after distillation",
    }
    console.table(
        [
            [titles[name], f"{row.val_loss:.3f}", *(f"{row.accuracy[key]:.1%}" for key in (*ATTRIBUTES, "all"))]
            for name, row in rows.items()
        ],
        header=["what is seen", "val loss", *ATTRIBUTES, "all four"],
        title=f"{summary['held_out_pictures']} held-out pictures",
    )
    console.print(f"gap closed      {summary['gap_closed']:.1%}  (before to teacher)")
    console.print(f"gap over blind  {summary['gap_over_blind']:.1%}  (blind to teacher)")
    console.print(
        f"distillation    {summary['steps']} steps of {summary['batch_size']} in {summary['distill_seconds']:.0f} s, "
        f"{summary['samples_per_s']:.0f} samples/s; everything {summary['seconds']:.0f} s"
    )
