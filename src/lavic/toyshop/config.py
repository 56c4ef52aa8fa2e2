"""Settings of ``lavic toyshop``."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator

from lavic.config import Settings, setting
from lavic.layout import served_address


class ToyshopSettings(Settings):
    """A catalogue of drawn products."""

    output_dir: Path = setting(
        ...,
        "Folder for the catalogue: item2meta_*.json(l), train_images/, valid_images/, and toy_shop/.",
    )
    items: int = setting(1200, "Number of items, training and validation together.", ge=12, le=1_000_000)
    seed: int = setting(0, "The same seed draws the same catalogue.", ge=0, lt=2**32)
    conversations: int = setting(
        0,
        "Training conversations that ask for one of the products; a tenth as many, at least 20, are for validation. "
        "0 writes none.",
        ge=0,
        le=10_000_000,
    )
    test_conversations: int = setting(1000, "Conversations for testing, if there are any.", ge=1, le=10_000_000)
    candidates: int = setting(10, "Look-alikes to choose from in each conversation.", ge=2, le=100)
    served_at: str | None = setting(
        None,
        "Address from which you will serve the pictures (http://127.0.0.1:8000): write what a data set begins with, "
        "metadata without descriptions and pictures/ to be served there.",
    )
    workers: int = setting(2, "Processes that draw; 0 draws in the main one.", ge=0, le=256)
    overwrite: bool = setting(False, "Replace the catalogue that --output_dir holds.", saved=False)

    _check_address = field_validator("served_at")(served_address)
