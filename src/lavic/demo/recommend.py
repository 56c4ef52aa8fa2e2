"""Stage 2 of the demo: an item store, a recommender that sees and one that does not, and how often each is right."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavic.console import Console
from lavic.distill.task import ADAPTER_FOLDER as VISION_ADAPTER
from lavic.embed.config import ALL, FIVE, EmbedSettings
from lavic.embed.run import make_store
from lavic.evaluate.config import EvaluateSettings
from lavic.evaluate.outputs import PAGE_FILE, RESULTS_FILE
from lavic.evaluate.run import run as run_evaluate
from lavic.evaluate.systems import FULL_TOKENS, LAVIC, TEXT_ONLY, UNDISTILLED
from lavic.files import read_json
from lavic.layout import data_paths
from lavic.model.load import TINY
from lavic.report import Bar, bars_svg
from lavic.tune.config import TuneSettings
from lavic.tune.run import run as run_tune
from lavic.tune.task import ADAPTER_FOLDER

BATCH_SIZE = 16
LEARNING_RATE = 3e-4
#: Folders of a recommender and of the item store that it sees, by the system's name.
FOLDERS: dict[str, tuple[str, str | None]] = {
    LAVIC: ("tuned", "item_store"),
    TEXT_ONLY: ("tuned_text_only", None),
    UNDISTILLED: ("tuned_undistilled", "undistilled_store"),
    FULL_TOKENS: ("tuned_full_tokens", "full_tokens_store"),
}
OUTPUTS = (*(name for pair in FOLDERS.values() for name in pair if name is not None), "evaluated")
_TUNED = {
    LAVIC: "with five tokens a picture",
    TEXT_ONLY: "without pictures",
    UNDISTILLED: "with the five tokens of the bare model",
    FULL_TOKENS: "with all image tokens",
}


@dataclass(frozen=True)
class Stage2:
    """How large the second half is.

    Attributes:
        steps: optimizer steps of each recommender.
        systems: those that are tuned, of ``FOLDERS``.
    """

    steps: int
    systems: tuple[str, ...]
    seed: int
    workers: int

    @property
    def conversations(self) -> int:
        """Training conversations: each is seen once."""
        return self.steps * BATCH_SIZE


def recommend(folder: Path, stage: Stage2, console: Console) -> dict[str, Any]:
    """Embed, tune and evaluate as a user would; what ``summary.json`` says of it."""
    started = time.monotonic()
    seconds = {}
    for system in stage.systems:
        _embed(folder, system, stage, console)
        begun = time.monotonic()
        _tune(folder, system, stage, console)
        seconds[FOLDERS[system][0]] = round(time.monotonic() - begun, 1)
    _evaluate(folder, stage, console)
    found = summary_of(read_json(folder / "evaluated" / RESULTS_FILE))
    return {**found, "tune_seconds": seconds, "recommend_seconds": round(time.monotonic() - started, 1)}


def _shared(folder: Path) -> dict[str, Any]:
    paths = data_paths(folder / "toyshop")
    return {"item_meta_path": paths["train_data"], "val_data": paths["val_data"]}


def _embed(folder: Path, system: str, stage: Stage2, console: Console) -> None:
    store, paths = FOLDERS[system][1], data_paths(folder / "toyshop")
    if store is None:
        return
    console.info("Embedding: every product's visual tokens, once")
    make_store(
        EmbedSettings(
            model=TINY,
            adapter=folder / "distilled" / VISION_ADAPTER if system == LAVIC else None,
            image_tokens=ALL if system == FULL_TOKENS else FIVE,
            **_shared(folder),
            train_images_dir=paths["train_images_dir"],
            val_images_dir=paths["val_images_dir"],
            output_dir=folder / store,
            batch_size=64,
            num_workers=stage.workers,
        ),
        console,
    )


def _tune(folder: Path, system: str, stage: Stage2, console: Console) -> None:
    """One recommender; all of them with the same conversations, steps and seed."""
    name, store = FOLDERS[system]
    console.info(f"Tuning {_TUNED[system]}")
    run_tune(
        TuneSettings(
            model=TINY,
            **_shared(folder),
            conversations=folder / "toyshop",
            item_store=None if store is None else folder / store,
            text_only=store is None,
            output_dir=folder / name,
            log_dir=folder / "logs",
            batch_size=BATCH_SIZE,
            lr=LEARNING_RATE,
            schedule="cosine",
            warmup=min(10, stage.steps - 1),
            max_steps=stage.steps,
            seed=stage.seed,
        ),
        console,
    )


def _evaluate(folder: Path, stage: Stage2, console: Console) -> None:
    compared: dict[str, Any] = {}
    paths = data_paths(folder / "toyshop")
    for system in stage.systems:
        name, store = FOLDERS[system]
        compared["adapter" if system == LAVIC else f"{system}_adapter"] = folder / name / ADAPTER_FOLDER
        if store is not None:
            compared["item_store" if system == LAVIC else f"{system}_store"] = folder / store
    run_evaluate(
        EvaluateSettings(
            model=TINY,
            **_shared(folder),
            conversations=folder / "toyshop",
            **compared,
            train_images_dir=paths["train_images_dir"],
            val_images_dir=paths["val_images_dir"],
            output_dir=folder / "evaluated",
            zero_shot=False,
            seed=stage.seed,
        ),
        console,
    )


def section(summary: Mapping[str, Any]) -> str:
    """What ``report.html`` says of it; "" where it was left out."""
    if "hr@1" not in summary:
        return ""
    hits, intervals = summary["hr@1"], summary["hr@1_interval"]
    bars = [Bar(name, hits[name], *intervals[name]) for name in FOLDERS if intervals.get(name)]
    return (
        "<h2>Recommending: the right one of ten look-alikes</h2>"
        f"{bars_svg(bars, low=hits['chance'], high=1.0)}"
        f"<p>HR@1 of {summary['test_conversations']:,} conversations about held-out products; dotted: chance. "
        f'<a href="evaluated/{PAGE_FILE}">Conversations with their candidates</a>.</p>'
    )


def summary_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """``hr@1`` by system, its intervals, and validity, of an evaluation's ``results.json``."""
    systems = results["systems"]

    def hit(name: str) -> Any:
        return systems[name]["values"]["hr@1"] if name in systems else None

    found = {system: hit(system) for system in (TEXT_ONLY, UNDISTILLED, LAVIC, FULL_TOKENS)}
    return {
        "hr@1": {"chance": systems[LAVIC]["chance"], **{key: each and each["value"] for key, each in found.items()}},
        "hr@1_interval": {key: each and [each["low"], each["high"]] for key, each in found.items()},
        "validity": {
            name: system["values"]["validity@1"]["value"] for name, system in systems.items() if name.startswith(LAVIC)
        },
        "test_conversations": systems[LAVIC]["rows"],
    }
