"""Settings of ``lavic embed``: which pictures, which model, and where the item store goes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final, Literal, Self

from pydantic import model_validator

from lavic.config import Settings, setting
from lavic.errors import ConfigError
from lavic.training.settings import Device, Precision

DATA, OUTPUT, MACHINE = "Data", "Output", "Machine"
#: ``image_tokens``: a [CLS] a view (five for LLaVA-NeXT), or all image tokens as the teacher has them.
FIVE: Final = "five"
ALL: Final = "all"


class EmbedSettings(Settings):
    """Which items get visual tokens, what computes them, and how they are stored."""

    panels: ClassVar[tuple[str, ...]] = (DATA, OUTPUT, MACHINE)

    model: str = setting(
        "llava-hf/llava-v1.6-mistral-7b-hf",
        "LLaVA checkpoint: a folder, a name on the hub, or `tiny` for the small one that comes with lavic.",
        panel=DATA,
        aliases=["model_name"],
        min_length=1,
    )
    adapter: Path | None = setting(
        None,
        "Folder of the stage-1 adapter, such as out_distilled/vision_lora_adapter_best; unset or `none` takes the "
        "tokens of the bare model.",
        panel=DATA,
    )
    item_meta_path: Path | None = setting(
        Path("data/item2meta_train.json"),
        "Items (one JSON object, plain, .zip or .gz); `none` leaves them out.",
        panel=DATA,
        aliases=["train_data"],
    )
    val_data: Path | None = setting(
        None,
        "Validation pictures (JSON lines), whose items are taken too; unset or `none` leaves them out.",
        panel=DATA,
    )
    train_images_dir: Path = setting(
        Path("data/train_images"), "Folder with the items' pictures.", panel=DATA, aliases=["image_dir"]
    )
    val_images_dir: Path = setting(
        Path("data/valid_images"), "Folder with the pictures of the items of --val_data.", panel=DATA
    )
    image_tokens: Literal["five", "all"] = setting(
        FIVE,
        "five are a [CLS] a view, which stage 1 trains; all are those of the checkpoint as published (up to 2,885, of "
        "the 7B 24 MB a picture), for comparison.",
        panel=DATA,
    )
    images_per_item: int = setting(
        1, "Take up to this many pictures of an item: ID_0.jpg, ID_1.jpg and so on.", panel=DATA, ge=1, le=1000
    )
    max_items: int | None = setting(None, "Only the first N items, in file order.", panel=DATA, ge=1)

    output_dir: Path = setting(
        Path("item_store"), "Folder of the store; what it holds already is kept and added to.", panel=OUTPUT
    )
    store_dtype: Literal["bf16", "fp16", "fp32"] = setting(
        "bf16", "Number format of the stored tokens; the 7B's take 40 KB a picture, 80 KB in fp32.", panel=OUTPUT
    )
    overwrite: bool = setting(
        False, "Throw away the store in --output_dir and compute every token anew.", panel=OUTPUT, saved=False
    )

    batch_size: int = setting(
        8,
        "Pictures in a forward pass; another number may change the last bits of what is computed.",
        panel=MACHINE,
        ge=1,
        le=4096,
    )
    num_workers: int = setting(
        2, "Processes that read and decode pictures; 0 reads in the main one.", panel=MACHINE, ge=0, le=256
    )
    device: Device = setting("auto", "Where to compute; auto takes a GPU if there is one.", panel=MACHINE)
    precision: Precision | None = setting(
        None, "Number format of the computation; unset takes bf16 (or fp16) on a GPU and fp32 on a CPU.", panel=MACHINE
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.item_meta_path is None and self.val_data is None:
            raise ConfigError(
                "both are none, so there are no items",
                where="--item_meta_path and --val_data",
                remedy="Give at least one of them.",
            )
        if self.image_tokens == ALL and self.adapter is not None:
            raise ConfigError(
                "a stage-1 adapter is trained for five tokens",
                where="--adapter with --image_tokens all",
                remedy="Leave it out: all image tokens are the bare model's.",
            )
        return self
