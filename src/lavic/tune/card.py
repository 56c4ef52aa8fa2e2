"""What lies beside a recommender's adapter: its card, and ``recommender.json``, which says how it is to be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import lavic
from lavic.embed.config import ALL
from lavic.embed.identity import VIEW_FACTS
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
        images_per_item: up to how many pictures of an item it was shown.
    """

    text_only: bool
    visual_tokens: Mapping[str, Any]
    candidate_type: str
    lr: float
    weight_decay: float
    num_epochs: int
    images_per_item: int = 1


def made_by(about: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a store's visual tokens what they are, of what ``store.json`` says."""
    return {name: about[name] for name in ("model", "adapter", *VIEW_FACTS) if name in about}


def write_recommender(folder: Path, recommender: Recommender) -> None:
    """Write ``recommender.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RECOMMENDER_FILE, asdict(recommender))


def read_recommender(folder: Path) -> Recommender:
    """What ``write_recommender`` wrote.

    Raises:
        AdapterError: it is not there, or not what it should be.
    """
    names = {field.name for field in fields(Recommender)}
    required = {field.name for field in fields(Recommender) if field.default is MISSING}
    try:
        found = read_json(folder / RECOMMENDER_FILE)
    except InputError:
        raise AdapterError(
            f"{RECOMMENDER_FILE} is missing",
            where=str(folder),
            remedy="Give the trained_lora_adapter folder that lavic tune wrote.",
        ) from None
    if not isinstance(found, dict) or not required <= found.keys() <= names:
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
    seen = "IDs and titles alone" if recommender.text_only else f"IDs, titles and {_tokens(recommender)}"
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


def _tokens(recommender: Recommender) -> str:
    """What a picture is shown as."""
    all_of_them = recommender.visual_tokens.get("image_tokens") == ALL
    number = "all" if all_of_them else {5: "five"}.get(recommender.visual_tokens["views"], "its")
    return f"{number} visual tokens a picture" + (
        f", up to {recommender.images_per_item} pictures" if recommender.images_per_item > 1 else ""
    )
