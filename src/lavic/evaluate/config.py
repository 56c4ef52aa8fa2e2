"""Settings of ``lavic evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from lavic.config import setting
from lavic.errors import ConfigError
from lavic.training.settings import DATA, MACHINE, OUTPUT, Device, Precision
from lavic.tune.config import ConversationSettings

COMPARED = "What is compared"


class EvaluateSettings(ConversationSettings):
    """Everything that decides an evaluation."""

    panels: ClassVar[tuple[str, ...]] = (COMPARED, DATA, OUTPUT, MACHINE)

    model: str = setting(
        "llava-hf/llava-v1.6-mistral-7b-hf",
        "LLaVA checkpoint: a folder, a name on the hub, or `tiny` for the small one that comes with lavic.",
        panel=COMPARED,
        aliases=["model_name"],
        min_length=1,
    )
    adapter: Path | None = setting(
        None,
        "Folder of the language adapter that lavic tune wrote (trained_lora_adapter); unset judges the bare model.",
        panel=COMPARED,
    )
    text_only_adapter: Path | None = setting(
        None, "An adapter tuned with --text_only, judged without pictures on the same rows.", panel=COMPARED
    )
    undistilled_adapter: Path | None = setting(
        None, "An adapter tuned on the visual tokens of --undistilled_store.", panel=COMPARED
    )
    undistilled_store: Path | None = setting(None, "An item store made without a stage-1 adapter.", panel=COMPARED)
    full_tokens_adapter: Path | None = setting(
        None, "An adapter tuned on all image tokens, those of --full_tokens_store.", panel=COMPARED
    )
    full_tokens_store: Path | None = setting(
        None, "An item store made with --image_tokens all; its prompts are long: see --max_length.", panel=COMPARED
    )
    zero_shot: bool = setting(True, "Judge the bare model on the text alone too.", panel=COMPARED)
    greedy: bool = setting(
        True,
        "Let the adapter generate its answer too, as published, which need not name a candidate.",
        panel=COMPARED,
    )
    max_new_tokens: int = setting(10, "Longest generated answer in tokens.", panel=COMPARED, ge=1, le=256)

    split: Literal["test", "valid", "train"] = setting("test", "Which file of the category is answered.", panel=DATA)
    max_rows: int | None = setting(None, "Answer the first N conversations only.", panel=DATA, ge=1)

    output_dir: Path = setting(
        Path("out_evaluated"),
        "Folder for results.json, results_summary.csv and the answers; one for each category.",
        panel=OUTPUT,
        aliases=["finetune_output_dir"],
    )
    sample: int = setting(
        8, "Conversations that report.html shows with their candidates' pictures.", panel=OUTPUT, ge=0, le=200
    )
    overwrite: bool = setting(False, "Replace the evaluation that --output_dir holds.", panel=OUTPUT, saved=False)
    seed: int = setting(0, "Seed of the random answers and of the intervals.", panel=OUTPUT, ge=0, lt=2**32)
    resamples: int = setting(
        10_000, "How often the rows are drawn again for the 95 % intervals.", panel=OUTPUT, ge=100, le=1_000_000
    )

    batch_size: int = setting(4, "Conversations per forward pass.", panel=MACHINE, ge=1)
    device: Device = setting("auto", "Where to compute; auto takes a GPU if there is one.", panel=MACHINE)
    precision: Precision | None = setting(
        None, "Number format; unset takes bf16 (or fp16) on a GPU and fp32 on a CPU.", panel=MACHINE
    )
    quantize: Literal["none", "nf4"] = setting(
        "none", "The language model's weights in 4 bits: 15 GB of a 7B become 5; needs bitsandbytes.", panel=MACHINE
    )

    @model_validator(mode="after")
    def _check_systems(self) -> Self:
        for pair in (("undistilled_adapter", "undistilled_store"), ("full_tokens_adapter", "full_tokens_store")):
            missing = [name for name in pair if getattr(self, name) is None]
            if len(missing) == 1:
                raise ConfigError("the two belong together", where=f"--{missing[0]}", remedy="Give both or none.")
        if self.text_only and self.adapter is not None:
            raise ConfigError(
                "no picture is shown, so an adapter without pictures is --text_only_adapter",
                where="--adapter with --text_only",
            )
        if not self.text_only and self.item_store is None:
            raise ConfigError("it is needed", where="--item_store", remedy="Give one, or --text_only.")
        return self
