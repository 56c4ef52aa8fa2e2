"""Settings of ``lavic data``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from lavic.config import Settings, setting
from lavic.layout import TRAIN_IMAGES, TRAIN_METADATA, VALID_IMAGES, VALID_METADATA, served_address

DATA, CHOICE, OUTPUT = "Data", "What is taken", "Output"
SOURCE = Path("data")


def _path(default: str, description: str) -> Any:
    return setting(SOURCE / default, f"{description} `none` leaves it out.", panel=DATA)


class SourceSettings(Settings):
    """The four parts of a data set, under the names that ``lavic distill`` gives them."""

    train_data: Path | None = _path(TRAIN_METADATA, "Training items (one JSON object, plain, .zip or .gz).")
    val_data: Path | None = _path(VALID_METADATA, "Validation pictures (JSON lines).")
    train_images_dir: Path | None = _path(TRAIN_IMAGES, "Folder with the training pictures.")
    val_images_dir: Path | None = _path(VALID_IMAGES, "Folder with the validation pictures.")


class StatsSettings(SourceSettings):
    """What to count, and where the contact sheet goes."""

    conversations: Path | None = setting(
        None, "Folder of a category (train.jsonl, valid.jsonl, test.jsonl), or one that holds several.", panel=DATA
    )
    model: str = setting(
        "tiny",
        "Whose tokenizer counts the tokens: a checkpoint's folder, a name on the hub, or `tiny`.",
        panel=DATA,
        aliases=["model_name"],
        min_length=1,
    )
    output_dir: Path | None = setting(
        Path("data_stats"),
        "Folder for the contact sheet (sheet.html, sheet.png) and the lists; `none` writes nothing.",
        panel=OUTPUT,
    )
    sheet_items: int = setting(24, "Products on the contact sheet.", panel=OUTPUT, ge=1, le=400)
    seed: int = setting(0, "Seed of the lot that chooses them.", panel=OUTPUT, ge=0, lt=2**32)
    overwrite: bool = setting(False, "Replace the figures that --output_dir holds.", panel=OUTPUT, saved=False)


class SubsetSettings(SourceSettings):
    """Which part of a data set to take."""

    conversations: Path = setting(
        SOURCE, "Folder that holds the categories' folders, each with train.jsonl, valid.jsonl, test.jsonl.", panel=DATA
    )
    category: str = setting(
        ..., "Category to take: all_beauty, amazon_fashion, amazon_home, or what you have.", panel=CHOICE, min_length=1
    )
    images_per_item: int = setting(2, "Pictures to take of an item, lowest numbers first.", panel=CHOICE, ge=1)
    max_items: int | None = setting(
        None, "Take at most this many items; unset or `none` takes all that fit together.", panel=CHOICE, ge=1
    )
    seed: int = setting(0, "Seed of the lot that chooses conversations.", panel=CHOICE, ge=0, lt=2**32)
    output_dir: Path = setting(..., "Folder for the subset, laid out like the data set itself.", panel=OUTPUT)
    link: bool = setting(False, "Hard-link the pictures instead of copying them: no further room.", panel=OUTPUT)
    overwrite: bool = setting(False, "Replace the subset that --output_dir holds.", panel=OUTPUT, saved=False)


class BuildSettings(Settings):
    """From the public sources' own files to a data set that can be crawled."""

    meta: Path = setting(..., "Item metadata of Amazon-Reviews-2023: meta_<Category>.jsonl, plain or .gz.", panel=DATA)
    conversations: Path = setting(
        ...,
        "Conversations: one JSON lines file, which is split here, or a folder with train.jsonl, valid.jsonl, "
        "test.jsonl, which stay as they are split.",
        panel=DATA,
    )
    category: str | None = setting(
        None,
        "Name of the conversations' folder; by default from the metadata: meta_All_Beauty is all_beauty.",
        panel=CHOICE,
    )
    images_per_item: int = setting(5, "Pictures to name of an item, in the source's order.", panel=CHOICE, ge=1)
    extra_items: int = setting(
        0,
        "Further items, drawn by lot, that no conversation mentions: a larger catalogue to search.",
        panel=CHOICE,
        ge=0,
    )
    valid_share: float = setting(
        0.1,
        "Share of the items, and of conversations that are split here, for validation (0 to 1).",
        panel=CHOICE,
        gt=0,
        lt=1,
    )
    test_share: float = setting(
        0.1, "Share of conversations that are split here, for the test (0 to 1).", panel=CHOICE, gt=0, lt=1
    )
    seed: int = setting(0, "Seed of all that is drawn by lot.", panel=CHOICE, ge=0, lt=2**32)
    output_dir: Path = setting(
        ..., "Folder for item2meta_train.json, item2meta_valid.jsonl and the conversations.", panel=OUTPUT
    )
    overwrite: bool = setting(False, "Replace the data set built in --output_dir.", panel=OUTPUT, saved=False)


class ConvertSettings(Settings):
    """From one form of a data set to another: a catalogue, the public format, Parquet."""

    source_dir: Path = setting(
        ...,
        "Folder to read: a catalogue (products.jsonl, images/, captions.jsonl), a data set in the public format, "
        "or Parquet files.",
    )
    output_dir: Path = setting(..., "Folder for item2meta_*.json(l), train_images/ and valid_images/, or for Parquet.")
    source_format: Literal["catalogue", "public", "parquet"] | None = setting(
        None,
        "What --source_dir holds; by default a catalogue, with `--to parquet` the public format.",
        aliases=["from"],
    )
    output_format: Literal["public", "parquet"] = setting(
        "public",
        "What to write: the public format, or Parquet with the pictures in it (Hugging Face datasets).",
        aliases=["to"],
    )
    seed: int = setting(0, "Seed of the division of a catalogue into training and validation.", ge=0, lt=2**32)
    valid_share: float = setting(
        0.25, "Share of a catalogue's products that go to validation, from 0 to 1.", gt=0, lt=1
    )
    text: Literal["descriptions", "captions", "both"] = setting(
        "both",
        "A catalogue's text to learn from: the seller's descriptions, the captions, or both (captions first).",
    )
    keep_without_text: bool = setting(
        False,
        "Keep a catalogue's pictures without a text too, with an empty description, which lavic describe fills in.",
    )
    served_at: str | None = setting(
        None,
        "Address from which you will serve a catalogue's pictures (http://127.0.0.1:8000): they come to pictures/, and "
        "the metadata hold their addresses, for lavic crawl.",
    )
    overwrite: bool = setting(False, "Replace the data that --output_dir holds.", saved=False)

    _check_address = field_validator("served_at")(served_address)
