"""``lavic data convert``: a folder of product photographs in the public data set's format."""

from __future__ import annotations

from dataclasses import asdict

from lavic.console import Console, Outcome
from lavic.data.config import ConvertSettings
from lavic.layout import distill_command


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
    return Outcome({**asdict(result), "output_dir": str(folder)}, next_step=f"Next: {distill_command(folder)}")
