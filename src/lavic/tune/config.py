"""Settings of ``lavic tune``: the authors' flags under their names, and lavic's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import field_validator, model_validator

from lavic.config import Settings, says_yes, setting
from lavic.errors import ConfigError
from lavic.training.settings import DATA, OUTPUT, SPEED, TRAINING, TrainingSettings

#: What --published sets: each departure from the published code, taken back.
PUBLISHED = {
    "lm_head": True,
    "teach_eos": False,
    "shuffle_candidates": False,
    "repeat_right_items": True,
    "keep_last": True,
}


class ConversationSettings(Settings):
    """Which conversations, candidates, titles and visual tokens; of ``lavic tune`` and ``lavic evaluate``."""

    conversations: Path = setting(
        Path("data"),
        "Folder with a folder per category, each with train.jsonl, valid.jsonl and test.jsonl; or one of these.",
        panel=DATA,
    )
    category: str | None = setting(
        None, "The category, such as all_beauty; may be left away where there is only one.", panel=DATA
    )
    candidate_type: str = setting(
        "candidates_st",
        "Which list of candidates: candidates_st, candidates_gpt_large or another.",
        panel=DATA,
        validate_default=True,
    )
    item_meta_path: Path | None = setting(
        Path("data/item2meta_train.json"),
        "Titles of the items: the training metadata, or none.",
        panel=DATA,
        aliases=["train_data"],
    )
    val_data: Path | None = setting(
        None, "More titles: metadata of the validation pictures (item2meta_valid.jsonl).", panel=DATA
    )
    item_store: Path | None = setting(
        Path("item_store"), "The items' visual tokens, as lavic embed wrote them.", panel=DATA
    )
    images_per_item: int = setting(
        1, "Show up to this many of an item's stored pictures, one behind another.", panel=DATA, ge=1, le=1000
    )
    vision_adapter: Path | None = setting(
        None,
        "Folder of the stage-1 adapter: the item store must have been made with it; where there is no store, it is "
        "made.",
        panel=DATA,
        aliases=["model_dir"],
    )
    text_only: bool = setting(
        False, "Show no pictures: every candidate is its ID and title, for comparison.", panel=DATA
    )
    train_images_dir: Path = setting(
        Path("data/train_images"),
        "Folder with the pictures, should the item store have to be made.",
        panel=DATA,
        aliases=["image_dir"],
    )
    val_images_dir: Path = setting(Path("data/valid_images"), "The same for the pictures of --val_data.", panel=DATA)
    max_length: int = setting(
        2048,
        "Longest prompt and answer in tokens; a longer conversation loses its middle, never a candidate.",
        panel=DATA,
        ge=64,
    )
    prompts: Path | None = setting(None, "YAML file with another wording of the prompt.", panel=DATA)

    @field_validator("candidate_type")
    @classmethod
    def _without_prefix(cls, value: str) -> str:
        # The published scripts say `candidates_st`, the keys of the files too; the list's own name is `st`.
        name = value.removeprefix("candidates_")
        if not name:
            raise ValueError("it names no list; write candidates_st")
        return name

    @model_validator(mode="after")
    def _check_vision_adapter(self) -> Self:
        if self.text_only and self.vision_adapter is not None:
            raise ConfigError("no picture is shown, so it would do nothing", where="--vision_adapter with --text_only")
        return self


class TuneSettings(ConversationSettings, TrainingSettings):
    """Everything that decides a tuning run."""

    max_samples: int | None = setting(
        None, "Train on the first N samples only; unset or `none` takes all.", panel=DATA, ge=1
    )
    lm_head: bool = setting(False, "LoRA on the output layer too, as published.", panel=TRAINING)
    teach_eos: bool = setting(True, "Teach the end of the answer too.", panel=TRAINING)
    shuffle_candidates: bool = setting(
        True, "Put the candidates in another order in every epoch, so that position says nothing.", panel=TRAINING
    )
    repeat_right_items: bool = setting(
        False, "An item that is listed as right twice makes two samples, as published.", panel=TRAINING
    )
    keep_last: bool = setting(
        False, "Keep the weights of the last validation, not the best ones, as published.", panel=TRAINING
    )
    published: bool = setting(
        False,
        "Train as the published code does: --lm_head --no_teach_eos --no_shuffle_candidates --repeat_right_items "
        "--keep_last.",
        panel=TRAINING,
    )
    output_dir: Path = setting(
        Path("out_tuned"),
        "Folder for the adapter, checkpoints and metrics.",
        panel=OUTPUT,
        aliases=["finetune_output_dir"],
    )
    answer_states: bool = setting(
        True, "Compute the language model's last layer where the answer is predicted only.", panel=SPEED
    )
    lean_lora: bool = setting(
        True, "Compute LoRA layers in one go, and keep less of them for the backward pass.", panel=SPEED
    )

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not says_yes(values.get("published", False)):
            return values
        against = [name for name, value in PUBLISHED.items() if values.get(name, value) != value]
        if against:
            raise ConfigError(f"it is at odds with --{against[0]}", where="--published")
        return {**values, **PUBLISHED}

    @model_validator(mode="after")
    def _check_pictures(self) -> Self:
        if not self.text_only and self.item_store is None:
            raise ConfigError(
                "it is needed", where="--item_store", remedy="Give one, or --text_only to tune without pictures."
            )
        return self
