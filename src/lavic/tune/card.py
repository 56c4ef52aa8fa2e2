"""What lies beside a recommender's adapter: its card, and ``recommender.json``, which says how it is to be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import lavic
from lavic.errors import AdapterError, InputError
from lavic.files import read_json, write_json
from lavic.model.adapters import LoraSettings
from lavic.tune.scoring import ChoiceQuality

RECOMMENDER_FILE = "recommender.json"


@dataclass(frozen=True)
class Recommender:
    """How an adapter was trained, as far as those who use it must know.

    Attributes:
        text_only: it never saw a visual token.
        visual_tokens: what made those that it learnt from (model, stage-1 adapter, views); empty if text_only.
        candidate_type: the list it was trained on.
    """

    text_only: bool
    visual_tokens: Mapping[str, Any]
    candidate_type: str
    lr: float
    weight_decay: float
    num_epochs: int


def made_by(about: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a store's visual tokens what they are, of what ``store.json`` says."""
    return {name: about[name] for name in ("model", "adapter", "views", "dim", "view_size", "pixel_mean", "pixel_std")}


def write_recommender(folder: Path, recommender: Recommender) -> None:
    """Write ``recommender.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RECOMMENDER_FILE, asdict(recommender))


def read_recommender(folder: Path) -> Recommender:
    """What ``write_recommender`` wrote.

    Raises:
        AdapterError: it is not there, or not what it should be.
    """
    names = [field.name for field in fields(Recommender)]
    try:
        found = read_json(folder / RECOMMENDER_FILE)
    except InputError:
        raise AdapterError(
            f"{RECOMMENDER_FILE} is missing",
            where=str(folder),
            remedy="Give the trained_lora_adapter folder that lavic tune wrote.",
        ) from None
    if not isinstance(found, dict) or sorted(found) != sorted(names):
        raise AdapterError("is not what lavic tune writes", where=str(folder / RECOMMENDER_FILE))
    return Recommender(**found)


def recommender_card(
    recommender: Recommender,
    *,
    base_name: str,
    lora: LoraSettings,
    train_samples: int,
    step: int,
    trainable_parameters: int,
    result: ChoiceQuality,
) -> str:
    """README.md of the adapter's folder; no paths of this machine, no times."""
    settings = f"r {lora.r}, alpha {lora.alpha}, dropout {lora.dropout}"
    seen = "IDs and titles alone" if recommender.text_only else "IDs, titles and five visual tokens a picture"
    return f"""---
base_model: {base_name}
library_name: peft
tags: [lavic, lora, recommendation]
---

# Language adapter: which of the candidates fits the conversation

LoRA weights for the language model of `{base_name}`, trained by recommendation prompt tuning (LaViC, KDD 2025): the
model reads a conversation and candidates ({seen}) and answers with an ID.

| | |
| --- | --- |
| trained parameters | {trainable_parameters:,} ({settings}) |
| training samples | {train_samples:,}, candidates_{recommender.candidate_type} |
| optimizer steps | {step:,} |
| validation HR@1 | {result.hr_at_1:.4f}, of at most {result.with_right / result.rows:.4f} |
| validation loss | {result.loss:.4f} nats a token of the right IDs, EOS included |
| validation rows | {result.rows:,} |

Use it: `lavic evaluate --adapter THIS_FOLDER --model {base_name}`.

Made with lavic {lavic.__version__}.
"""
