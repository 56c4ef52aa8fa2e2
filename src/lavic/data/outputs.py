"""Output folders of ``lavic data``: replaced only where a marker says that the command itself made them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavic.errors import InputError, OutputError
from lavic.files import FolderLock, read_json, write_json
from lavic.folders import check_marked, clear_marked
from lavic.layout import TRAIN_IMAGES, TRAIN_METADATA, VALID_IMAGES, VALID_METADATA
from lavic.rows import name_problem
from lavic.skipped import SkipLog, most_frequent

#: Names the settings of a conversion; its presence says that a folder was made by one, and may be replaced.
CONVERTED_MARKER = "converted.json"
_CONVERTED = (CONVERTED_MARKER, TRAIN_METADATA, VALID_METADATA, "skipped.jsonl")
EARLIER_CONVERSION = "an earlier conversion"
#: The pictures of a conversion whose addresses lead to a server.
SERVED = "pictures"


def converted(served: bool) -> tuple[str, ...]:
    """What a conversion writes; beside ``served`` pictures crawled ones may lie, which are not its own."""
    return (*_CONVERTED, SERVED) if served else (*_CONVERTED, TRAIN_IMAGES, VALID_IMAGES)


@dataclass
class Output:
    """A locked output folder, whose earlier result stays whole until ``begin``.

    Attributes:
        outputs: names of all that the command writes; the first is its mark.
        skipped: what is left out; its list comes into the folder with ``begin``.
    """

    folder: Path
    outputs: tuple[str, ...]
    skipped: SkipLog
    overwrite: bool
    settings: dict[str, Any] = field(default_factory=dict)

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Delete the earlier result: from here on nothing may be refused. ``settings`` go into the mark."""
        self.settings = dict(settings)
        clear_marked(self.folder, self.outputs, overwrite=self.overwrite)
        self.skipped.keep_at(self.folder / "skipped.jsonl")
        write_json(self.folder / self.outputs[0], {"complete": False, **self.settings})

    def finish(self, figures: Mapping[str, Any]) -> None:
        """Mark the result as whole."""
        write_json(self.folder / self.outputs[0], {"complete": True, **self.settings, **figures})


@contextmanager
def output_of(folder: Path, outputs: tuple[str, ...], holds: str, *, overwrite: bool) -> Iterator[Output]:
    """Lock an output folder and see that it may be written; nothing is deleted yet.

    Args:
        outputs: see ``Output``.
        holds: what to call the earlier result.
        overwrite: it may be replaced.

    Raises:
        OutputError: the folder holds something, and it is not to be replaced or was not made by the command.
    """
    with FolderLock(folder), SkipLog(aside=True) as skipped:
        marked = _marked(folder / outputs[0])
        if marked.get("complete") is False:
            holds += " that is not complete"
        check_marked(folder, outputs[0], outputs, holds, overwrite=overwrite)
        yield Output(folder, outputs + _made_earlier(outputs[0], marked), skipped, overwrite)


def because_of(skipped: SkipLog) -> str:
    """The end of a sentence that says that nothing is left: why most of it was left out."""
    return f"; {most_frequent(skipped.by_reason)}" if skipped.by_reason else ""


def _marked(path: Path) -> dict[str, Any]:
    try:
        noted = read_json(path)
    except InputError:
        return {}
    return noted if isinstance(noted, dict) else {}


def _made_earlier(marker: str, marked: Mapping[str, Any]) -> tuple[str, ...]:
    """What an earlier run wrote under names that depend on its settings: it goes with the rest."""
    if marker == CONVERTED_MARKER:
        return converted(bool(marked.get("served_at"))) if marked else ()
    category = marked.get("category")
    # A marker that was changed must not name what lies elsewhere.
    return () if not isinstance(category, str) or name_problem(category) else (category,)


def refuse_sources_inside(output_dir: Path, sources: Iterable[Path]) -> None:
    """Refuse an output folder that holds what is read: ``--overwrite`` would delete it.

    Raises:
        OutputError: a source is the folder itself or lies in it.
    """
    for source in sources:
        if source.resolve().is_relative_to(output_dir.resolve()):
            problem = f"the output folder holds a source, {source}"
            raise OutputError(problem, where=str(output_dir), remedy="Choose another --output-dir.")
