"""Settings of ``lavic toyshop``."""

from __future__ import annotations

from pathlib import Path

from lavic.config import Settings, setting


class ToyshopSettings(Settings):
    """A catalogue of drawn products."""

    output_dir: Path = setting(..., "Folder for the catalogue: item2meta_*.json(l), train_images/, valid_images/.")
    items: int = setting(1200, "Number of items, training and validation together.", ge=12, le=1_000_000)
    seed: int = setting(0, "The same seed draws the same catalogue.", ge=0, lt=2**32)
    workers: int = setting(2, "Processes that draw; 0 draws in the main one.", ge=0, le=256)
    overwrite: bool = setting(False, "Replace the catalogue that --output_dir holds.", saved=False)
