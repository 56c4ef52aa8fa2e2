"""Stage 2 of the demo: an item store, a recommender that sees and one that does not, and how often each is right."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavic.console import Console
from lavic.distill.task import ADAPTER_FOLDER as VISION_ADAPTER
from lavic.embed.config import EmbedSettings
from lavic.embed.run import make_store
from lavic.evaluate.config import EvaluateSettings
from lavic.evaluate.run import RESULTS_FILE
from lavic.evaluate.run import run as run_evaluate
from lavic.evaluate.systems import LAVIC, TEXT_ONLY, UNDISTILLED
from lavic.files import read_json
from lavic.layout import data_paths
from lavic.model.load import TINY
from lavic.tune.config import TuneSettings
from lavic.tune.run import run as run_tune
from lavic.tune.task import ADAPTER_FOLDER

BATCH_SIZE = 16
LEARNING_RATE = 3e-3
OUTPUTS = ("item_store", "undistilled_store", "tuned", "tuned_text_only", "tuned_undistilled", "evaluated")


@dataclass(frozen=True)
class Stage2:
    """How large the second half is.

    Attributes:
        steps: optimizer steps of each recommender.
        undistilled: whether one is tuned on the tokens of the bare model too.
    """

    steps: int
    undistilled: bool
    seed: int
    workers: int

    @property
    def conversations(self) -> int:
        """Training conversations: each is seen once."""
        return self.steps * BATCH_SIZE


def recommend(folder: Path, stage: Stage2, console: Console) -> dict[str, Any]:
    """Embed, tune and evaluate as a user would; what ``summary.json`` says of it."""
    started = time.monotonic()
    console.info("Embedding: every product's five visual tokens, once")
    _embed(folder, "item_store", folder / "distilled" / VISION_ADAPTER, stage, console)
    if stage.undistilled:
        _embed(folder, "undistilled_store", None, stage, console)
    seconds = {}
    for name in ("tuned", "tuned_text_only", *(["tuned_undistilled"] if stage.undistilled else [])):
        begun = time.monotonic()
        _tune(folder, name, stage, console)
        seconds[name] = round(time.monotonic() - begun, 1)
    _evaluate(folder, stage, console)
    found = summary_of(read_json(folder / "evaluated" / RESULTS_FILE))
    return {**found, "tune_seconds": seconds, "recommend_seconds": round(time.monotonic() - started, 1)}


def _shared(folder: Path) -> dict[str, Any]:
    paths = data_paths(folder / "toyshop")
    return {"item_meta_path": paths["train_data"], "val_data": paths["val_data"]}


def _embed(folder: Path, name: str, adapter: Path | None, stage: Stage2, console: Console) -> None:
    paths = data_paths(folder / "toyshop")
    make_store(
        EmbedSettings(
            model=TINY,
            adapter=adapter,
            **_shared(folder),
            train_images_dir=paths["train_images_dir"],
            val_images_dir=paths["val_images_dir"],
            output_dir=folder / name,
            batch_size=64,
            num_workers=stage.workers,
        ),
        console,
    )


def _tune(folder: Path, name: str, stage: Stage2, console: Console) -> None:
    """One recommender; all of them with the same conversations, steps and seed."""
    text_only = name == "tuned_text_only"
    kind = {"tuned": "with five tokens a picture", "tuned_text_only": "without pictures"}
    console.info(f"Tuning {kind.get(name, 'with the five tokens of the bare model')}")
    run_tune(
        TuneSettings(
            model=TINY,
            **_shared(folder),
            conversations=folder / "toyshop",
            item_store=None if text_only else folder / _store_of(name),
            text_only=text_only,
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


def _store_of(name: str) -> str:
    return "undistilled_store" if name == "tuned_undistilled" else "item_store"


def _evaluate(folder: Path, stage: Stage2, console: Console) -> None:
    undistilled: dict[str, Any] = {}
    if stage.undistilled:
        undistilled = {
            "undistilled_adapter": folder / "tuned_undistilled" / ADAPTER_FOLDER,
            "undistilled_store": folder / "undistilled_store",
        }
    run_evaluate(
        EvaluateSettings(
            model=TINY,
            **_shared(folder),
            conversations=folder / "toyshop",
            item_store=folder / "item_store",
            adapter=folder / "tuned" / ADAPTER_FOLDER,
            text_only_adapter=folder / "tuned_text_only" / ADAPTER_FOLDER,
            **undistilled,
            output_dir=folder / "evaluated",
            seed=stage.seed,
        ),
        console,
    )


def summary_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """``hr@1`` by system, its intervals, and validity, of an evaluation's ``results.json``."""
    systems = results["systems"]

    def hit(name: str) -> Any:
        return systems[name]["values"]["hr@1"] if name in systems else None

    named = {"text_only": TEXT_ONLY, "undistilled": UNDISTILLED, "lavic": LAVIC, "full_tokens": "full_tokens"}
    found = {key: hit(name) for key, name in named.items()}
    return {
        "hr@1": {"chance": systems[LAVIC]["chance"], **{key: each and each["value"] for key, each in found.items()}},
        "hr@1_interval": {key: each and [each["low"], each["high"]] for key, each in found.items()},
        "validity": {
            name: system["values"]["validity@1"]["value"] for name, system in systems.items() if name.startswith(LAVIC)
        },
        "test_conversations": systems[LAVIC]["rows"],
    }
