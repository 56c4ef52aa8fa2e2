"""``lavic data convert``: a folder of product photographs in the public data set's format."""

from __future__ import annotations

from dataclasses import asdict

from lavic.console import Console, Outcome
from lavic.data.config import ConvertSettings


def run_convert(settings: ConvertSettings, console: Console) -> Outcome:
    """Convert the catalogue and count what came of it."""
    # pydantic rows, pictures: `lavic data convert --help` must not wait for them.
    from lavic.data.convert import convert_catalogue

    result = convert_catalogue(
        settings.source_dir,
        settings.output_dir,
        settings.seed,
        settings.valid_share,
        settings.text,
        overwrite=settings.overwrite,
    )
    if result.skipped:
        console.warn(f"{result.skipped} rows or pictures were left out; {result.output_dir}/skipped.jsonl lists them.")
    folder = result.output_dir
    command = (
        f"lavic distill --model tiny --train_data {folder}/item2meta_train.json "
        f"--val_data {folder}/item2meta_valid.jsonl "
        f"--train_images_dir {folder}/train_images --val_images_dir {folder}/valid_images"
    )
    return Outcome({**asdict(result), "output_dir": str(folder)}, next_step=f"Next: {command}")
