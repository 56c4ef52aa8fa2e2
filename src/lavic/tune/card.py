"""What lies beside a recommender's adapter: its card, and ``recommender.json``, which says how it is to be used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

import lavic
from lavic.embed.config import ALL
from lavic.embed.identity import VIEW_FACTS
from lavic.errors import AdapterError, InputError
from lavic.files import open_regular, write_json
from lavic.model.adapters import LoraSettings
from lavic.prompts import Prompts
from lavic.tune.scoring import ChoiceQuality

RECOMMENDER_FILE = "recommender.json"


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Recommender:
    """How an adapter was trained, as far as those who use it must know.

    Attributes:
        text_only: it never saw a visual token.
        visual_tokens: what made those that it learnt from (model, stage-1 adapter, views); empty if text_only.
        candidate_type: the list it was trained on.
        images_per_item: up to how many pictures of an item it was shown.
        base: what its base model says of itself, as ``lavic.embed.identity.base_marks`` has it.
        steps: optimizer steps of the whole run.
        prompts: ``prompts_mark`` of the wordings it learnt. None and empty: an older file, which does not say.
        samples_per_step, train_samples: how many an optimizer step takes, and how many there were.
        lora_r, lora_alpha: rank and scale of its LoRA.
    """

    text_only: bool
    visual_tokens: Mapping[str, Any]
    candidate_type: str
    lr: float
    weight_decay: float
    num_epochs: int
    images_per_item: int = 1
    base: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    seed: int | None = None
    prompts: str | None = None
    samples_per_step: int | None = None
    train_samples: int | None = None
    lora_r: int | None = None
    lora_alpha: int | None = None


_RECOMMENDER = TypeAdapter(Recommender)
_ANOTHER = "Give another adapter, or tune it again."


def made_by(about: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a store's visual tokens what they are, of what ``store.json`` says."""
    return {name: about[name] for name in ("model", "adapter", *VIEW_FACTS) if name in about}


def prompts_mark(prompts: Prompts) -> str:
    """16 hex digits for the wordings of stage 2."""
    text = json.dumps([prompts.recommend, prompts.candidate])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def write_recommender(folder: Path, recommender: Recommender) -> None:
    """Write ``recommender.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RECOMMENDER_FILE, asdict(recommender))


def read_recommender(folder: Path) -> Recommender:
    """What ``write_recommender`` wrote.

    Raises:
        AdapterError: it is not there, or not what it should be.
    """
    path = folder / RECOMMENDER_FILE
    if not path.exists():
        raise AdapterError(
            f"{RECOMMENDER_FILE} is missing",
            where=str(folder),
            remedy="Give the trained_lora_adapter folder that lavic tune wrote.",
        )
    try:
        with open_regular(path) as stream:
            return _RECOMMENDER.validate_json(stream.read(), strict=True)
    except InputError as error:
        raise AdapterError(error.problem, where=error.where, remedy=_ANOTHER) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        problem = "is not what lavic tune writes" + (f" (at {key})" if key else "")
        raise AdapterError(problem, where=str(path), remedy=_ANOTHER) from None


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
