"""Settings of ``lavic data``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lavic.config import Settings, setting


class ConvertSettings(Settings):
    """From a folder of product photographs to the public data set's format."""

    source_dir: Path = setting(..., "Folder of the catalogue, with products.jsonl, images/ and captions.jsonl.")
    output_dir: Path = setting(..., "Folder for item2meta_*.json(l), train_images/ and valid_images/.")
    seed: int = setting(0, "Seed of the division into training and validation products.", ge=0, lt=2**32)
    valid_share: float = setting(0.25, "Share of the products that go to validation, from 0 to 1.", gt=0, lt=1)
    text: Literal["descriptions", "captions", "both"] = setting(
        "both",
        "The text to learn from: the seller's descriptions, the captions, or both (captions first).",
    )
    overwrite: bool = setting(False, "Replace the data that --output_dir holds.", saved=False)
