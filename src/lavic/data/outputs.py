"""Output folders of ``lavic data``: replaced only where a marker says that the command itself made them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lavic.errors import InputError, OutputError
from lavic.files import prepare_marked, read_json
from lavic.layout import TRAIN_IMAGES, TRAIN_METADATA, VALID_IMAGES, VALID_METADATA
from lavic.rows import name_problem

#: Names the settings of a conversion; its presence says that a folder was made by one, and may be replaced.
CONVERTED_MARKER = "converted.json"
CONVERTED = (CONVERTED_MARKER, TRAIN_METADATA, VALID_METADATA, TRAIN_IMAGES, VALID_IMAGES, "skipped.jsonl")


def prepare_conversion(folder: Path, *, overwrite: bool) -> None:
    """Make the output folder of a conversion to the public format ready; see ``prepare_marked``."""
    prepare_marked(folder, CONVERTED_MARKER, CONVERTED, "an earlier conversion", overwrite=overwrite)


def marked_category(folder: Path, marker: str) -> tuple[str, ...]:
    """The folder of conversations that an earlier result has, which may be another one: it goes with the rest."""
    try:
        noted = read_json(folder / marker)
    except InputError:
        return ()
    category = noted.get("category") if isinstance(noted, dict) else None
    # A marker that was changed must not name what lies elsewhere.
    return () if not isinstance(category, str) or name_problem(category) else (category,)


def refuse_sources_inside(output_dir: Path, sources: Iterable[Path]) -> None:
    """Refuse an output folder that holds what is read: ``--overwrite`` would delete it first.

    Raises:
        OutputError: a source is the folder itself or lies in it.
    """
    for source in sources:
        if source.resolve().is_relative_to(output_dir.resolve()):
            problem = f"the output folder holds a source, {source}"
            raise OutputError(problem, where=str(output_dir), remedy="Choose another --output-dir.")
