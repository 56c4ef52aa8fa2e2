"""Settings of ``lavic describe``: the files and folders of ``lavic distill``, and how the teacher speaks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from lavic.config import Settings, setting
from lavic.errors import ConfigError

DATA, TEXT, LOGITS, PAGE, MACHINE = "Data", "Descriptions", "Teacher's probabilities", "Comparison page", "Machine"


class DescribeSettings(Settings):
    """Which pictures, how they are described, and what else of the teacher is kept."""

    model: str = setting(
        "llava-hf/llava-v1.6-mistral-7b-hf",
        "The teacher: folder or hub name of a LLaVA checkpoint, or `tiny`, which comes with lavic.",
        panel=DATA,
        aliases=["model_name"],
        min_length=1,
    )
    train_data: Path = setting(
        Path("data/item2meta_train.json"),
        "Training items (one JSON object, plain, .zip or .gz); gets image_descriptions_llava_cleaned.",
        panel=DATA,
    )
    val_data: Path = setting(
        Path("data/item2meta_valid.jsonl"),
        "Validation pictures, one a line; gets image_description_llava_cleaned.",
        panel=DATA,
    )
    train_images_dir: Path = setting(Path("data/train_images"), "Folder of the training pictures.", panel=DATA)
    val_images_dir: Path = setting(Path("data/valid_images"), "Folder of the validation pictures.", panel=DATA)
    train_only: bool = setting(False, "Only the training pictures.", panel=DATA)
    valid_only: bool = setting(False, "Only the validation pictures.", panel=DATA, aliases=["val_only"])
    max_samples: int | None = setting(
        None, "Describe only the first N pictures, in file order, that have no description.", panel=DATA, ge=1
    )
    overwrite: bool = setting(
        False,
        "Throw away the journal of an unfinished run; descriptions that the metadata hold already stay.",
        panel=DATA,
        saved=False,
    )

    prompts: Path | None = setting(None, "YAML file with other prompts; `describe` is the teacher's.", panel=TEXT)
    max_new_tokens: int = setting(
        256, "Most tokens of a description; a sentence that this cuts off is removed.", panel=TEXT, ge=1, le=4096
    )
    temperature: float = setting(0.0, "0 takes the likeliest token; above 0 draws.", panel=TEXT, ge=0, le=5)
    top_p: float = setting(
        1.0, "Draw among the likeliest tokens that together have this probability.", panel=TEXT, gt=0, le=1
    )
    seed: int = setting(42, "Seed of drawing and of --sample; each picture has its own.", panel=TEXT, ge=0, lt=2**32)
    keep_title: bool = setting(
        False,
        "Leave mentions of the title in. Otherwise a title of three words or more is taken out wherever it stands word "
        "for word, a shorter one in quotation marks or brackets only.",
        panel=TEXT,
    )

    top_logits: int | None = setting(
        None,
        "Also store the teacher's K largest log-probabilities at every token of every training description.",
        panel=LOGITS,
        ge=1,
        le=1024,
    )
    logits_dir: Path | None = setting(
        None, "Folder for them; unset: item2meta_train.top_logits beside the training metadata.", panel=LOGITS
    )
    shard_size: int = setting(256, "Descriptions in one file of them.", panel=LOGITS, ge=1, le=100_000)

    adapter: Path | None = setting(
        None,
        "Describe nothing; write a page with what this vision adapter says from five tokens, the teacher's text and "
        "the picture.",
        panel=PAGE,
    )
    sample: int = setting(20, "Pictures on the page, drawn by lot.", panel=PAGE, ge=1, le=1000)
    page: Path = setting(
        Path("descriptions.html"), "The page's file; an earlier page is replaced, no other file.", panel=PAGE
    )

    engine: Literal["transformers", "vllm"] = setting(
        "transformers", "What runs the teacher; vllm needs a GPU and the extra lavic[vllm].", panel=MACHINE
    )
    batch_size: int = setting(8, "Pictures that are described at a time.", panel=MACHINE, ge=1, le=4096)
    group_by_length: bool = setting(
        True, "Put pictures with alike numbers of image tokens in a batch, so that little is padding.", panel=MACHINE
    )
    num_workers: int = setting(2, "Threads that read and decode pictures.", panel=MACHINE, ge=1, le=256)
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "Where to compute; auto takes a GPU if there is one.", panel=MACHINE
    )
    precision: Literal["bf16", "fp16", "fp32"] | None = setting(
        None, "Number format; unset takes bf16 (or fp16) on a GPU and fp32 on a CPU.", panel=MACHINE
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.train_only and self.valid_only:
            raise ConfigError("they exclude each other", where="--train_only and --valid_only")
        if self.top_p < 1 and self.temperature == 0:
            raise ConfigError(
                "it needs a temperature above 0", where="--top_p", remedy="With 0 the likeliest token is taken."
            )
        if self.top_logits is not None and self.valid_only:
            raise ConfigError("they are stored for training pictures", where="--top_logits with --valid_only")
        if self.top_logits is not None and self.engine == "vllm":
            raise ConfigError(
                "vLLM cannot give them reliably",
                where="--top_logits with --engine vllm",
                remedy="Describe with vLLM first; then run again with --top_logits and without --engine vllm.",
            )
        for flag in ("top_logits", "max_samples"):
            if self.adapter is not None and getattr(self, flag) is not None:
                raise ConfigError("they exclude each other", where=f"--adapter and --{flag}")
        for leader, followers in {"adapter": ("sample", "page"), "top_logits": ("logits_dir", "shard_size")}.items():
            for flag in self.model_fields_set.intersection(followers) if getattr(self, leader) is None else ():
                raise ConfigError(f"it says nothing without --{leader}", where=f"--{flag}")
        return self

    @property
    def sides(self) -> tuple[str, ...]:
        """``train``, ``valid``, or both."""
        return tuple(name for name, other in (("train", self.valid_only), ("valid", self.train_only)) if not other)
