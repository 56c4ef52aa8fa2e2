"""``lavic data convert``, ``subset`` and ``build``: what each makes, and what to call next."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lavic.console import Console, Outcome
from lavic.data.config import BuildSettings, ConvertSettings, SubsetSettings
from lavic.errors import ConfigError
from lavic.layout import data_flags, distill_command


def run_convert(settings: ConvertSettings, console: Console) -> Outcome:
    """Convert, and count what came of it."""
    source = settings.source_format or ("public" if settings.output_format == "parquet" else "catalogue")
    if source != "catalogue" and (settings.keep_without_text or settings.served_at is not None):
        raise ConfigError(
            "they are for a catalogue", where="--keep_without_text and --served_at", remedy="Leave them out."
        )
    if settings.output_format == "parquet":
        if source != "public":
            remedy = "Bring a catalogue into the public format first: lavic data convert without --to."
            raise ConfigError(f"{source} is not brought to Parquet directly", where="--from", remedy=remedy)
        return _to_parquet(settings, console)
    if source == "public":
        problem = "both are the public format"
        raise ConfigError(problem, where="--from and --to", remedy="Give `--to parquet`, or another --from.")
    return _from_parquet(settings, console) if source == "parquet" else _from_catalogue(settings, console)


def _from_catalogue(settings: ConvertSettings, console: Console) -> Outcome:
    # pydantic rows, pictures: `lavic data convert --help` must not wait for them.
    from lavic.data.convert import convert_catalogue
    from lavic.data.outputs import SERVED

    result = convert_catalogue(
        settings.source_dir,
        settings.output_dir,
        settings.seed,
        settings.valid_share,
        settings.text,
        keep_without_text=settings.keep_without_text,
        served_at=settings.served_at,
        overwrite=settings.overwrite,
    )
    folder = result.output_dir
    following = distill_command(folder)
    if settings.keep_without_text and result.without_text:
        following = f"lavic describe --model tiny {data_flags(folder)}"
    if settings.served_at is not None:
        console.info(f"Serve {folder / SERVED} at {settings.served_at} first.")
        # It loads aiohttp, which converting alone does not need.
        from lavic.crawl.addresses import crawl_command

        following = crawl_command(folder, settings.served_at)
    return _done(asdict(result), folder, console, f"Next: {following}")


def _to_parquet(settings: ConvertSettings, console: Console) -> Outcome:
    from lavic.data.parquet import write_parquet

    with console.progress("Writing Parquet", None):
        counts = write_parquet(settings.source_dir, settings.output_dir, overwrite=settings.overwrite)
    if not counts.same_bytes_back:
        console.warn(
            "the metadata are not written as the public files are (spacing, line ends, rows left out): the way back "
            "gives the same content in other bytes."
        )
    folder = counts.output_dir
    back = f"lavic data convert --from parquet --source_dir {folder} --output_dir {folder}-again"
    return _done(asdict(counts), folder, console, f"The way back: {back}")


def _from_parquet(settings: ConvertSettings, console: Console) -> Outcome:
    from lavic.data.parquet_back import read_parquet

    with console.progress("Reading Parquet", None):
        counts = read_parquet(settings.source_dir, settings.output_dir, overwrite=settings.overwrite)
    if any(counts.edited.values()):
        console.warn(
            f"{counts.edited['titles']} titles and {counts.edited['descriptions']} descriptions are not those of "
            "row_json: the columns were taken."
        )
    parts = [part for part, name in (("train", "train"), ("val", "valid")) if counts.entries[name]]
    return _done(asdict(counts), counts.output_dir, console, f"Next: {distill_command(counts.output_dir, parts)}")


def run_subset(settings: SubsetSettings, console: Console) -> Outcome:
    """Take the subset."""
    from lavic.data.listing import require_file, require_folder
    from lavic.data.subset import SubsetPlan, make_subset

    given = {
        "train": (settings.train_data, "--train_data", settings.train_images_dir, "--train_images_dir"),
        "valid": (settings.val_data, "--val_data", settings.val_images_dir, "--val_images_dir"),
    }
    metadata: dict[str, Path] = {}
    images_dirs: dict[str, Path] = {}
    for part, (path, flag, folder, images_flag) in given.items():
        require_file(path, flag)
        require_folder(folder, images_flag)
        if (path is None) != (folder is None):
            raise ConfigError("one is given without the other", where=f"{flag} and {images_flag}")
        if path is not None and folder is not None:
            metadata[part], images_dirs[part] = path, folder
    if not metadata:
        raise ConfigError("there is nothing to take from", remedy="Give --train_data or --val_data.")
    plan = SubsetPlan(
        settings.conversations,
        settings.category,
        metadata,
        images_dirs,
        settings.images_per_item,
        settings.max_items,
        settings.seed,
        settings.link,
    )
    with console.progress("Taking a subset", None):
        counts = make_subset(plan, settings.output_dir, overwrite=settings.overwrite)
    left_out = sum(counts["conversations_left_out"].values())
    if left_out:
        console.warn(f"{left_out} conversations were left out; {settings.output_dir}/subset.json counts them.")
    if not counts["valid_pictures"]:
        console.warn("no validation picture belongs to the items that were taken: stage 1 needs others to validate on.")
    folder = settings.output_dir
    # A part without pictures has no metadata file either.
    parts = [part for part, key in (("train", "train_pictures"), ("val", "valid_pictures")) if counts[key]]
    return _done({"output_dir": folder, **counts}, folder, console, f"Next: {distill_command(folder, parts)}")


def run_build(settings: BuildSettings, console: Console) -> Outcome:
    """Build the data set."""
    from lavic.data.build import build_dataset

    with console.progress("Reading metadata", None) as bar:
        counts = build_dataset(settings, advance=bar.advance)
    folder = settings.output_dir
    return _done({"output_dir": folder, **counts}, folder, console, f"Next: lavic crawl {data_flags(folder)}")


def _done(counts: dict[str, Any], folder: Path, console: Console, next_step: str) -> Outcome:
    if counts["skipped"]:
        console.warn(f"{counts['skipped']} rows or pictures were left out; {folder}/skipped.jsonl lists them.")
    return Outcome({**counts, "output_dir": str(folder)}, next_step=next_step)
