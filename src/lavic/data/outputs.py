"""Output folders of ``lavic data``: replaced only where a marker says that the command itself made them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lavic.errors import InputError, OutputError
from lavic.files import prepare_output, read_json
from lavic.rows import name_problem


def prepare_marked(folder: Path, marker: str, outputs: tuple[str, ...], holds: str, *, overwrite: bool) -> None:
    """Make an output folder ready.

    Args:
        marker: a file of the command's own that says what it did; the first of ``outputs``, so that it goes first.
        outputs: names of all that the command writes in the folder.
        holds: what to call its earlier result.
        overwrite: replace it.

    Raises:
        OutputError: the folder holds something, and it is not to be replaced or was not made by the command.
    """
    assert outputs[0] == marker, outputs
    made = (folder / marker).exists()
    if overwrite and not made and any((folder / name).exists() for name in outputs):
        # train_images/ may be days of crawling.
        problem = "the folder holds data that this command did not make, so it is not replaced"
        raise OutputError(problem, where=str(folder), remedy="Choose another --output-dir.")
    prepare_output(
        folder, resume=False, overwrite=overwrite, known=outputs, holds=holds if made else "", can_resume=False
    )


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
