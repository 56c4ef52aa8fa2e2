"""What an evaluation leaves: answers per conversation, a line in the summary, all figures as JSON, the table.

File names, keys and columns of the first two are those of LaViC's published evaluation.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lavic.conversations import Conversation
from lavic.errors import OutputError
from lavic.evaluate.bootstrap import CONFIDENCE, RESAMPLES
from lavic.evaluate.metrics import KS, Interval, Measures, RankedRow, differences
from lavic.files import atomic_path, json_line, open_regular, output_error, write_atomic, write_json
from lavic.rows import CANDIDATES_PREFIX

SUMMARY_COLUMNS = (
    "model_dir",
    "candidate_type",
    "lr",
    "weight_decay",
    "num_epochs",
    "recall@1",
    "validity@1",
    "output_file",
)

TABLE_HEADER = ("figure", "system", "value", "95 % interval", "chance", "ceiling")
#: Figures of the table by their names in ``results.json``, which has more.
_TABLE_FIGURES = {
    "hr@1": "HR@1",
    "recall@1": "Recall@1",
    "hr@3": "HR@3",
    "hr@5": "HR@5",
    "hr@10": "HR@10",
    "mrr": "MRR",
    "ndcg@10": "NDCG@10",
    "validity@1": "validity",
}
_OF_THE_TOP = ("hr@1", "recall@1", "validity@1")


# -- answers per conversation --------------------------------------------------------------------------------


def write_test_results(
    path: Path,
    conversations: Sequence[Conversation],
    candidates_key: str,
    rows: Sequence[RankedRow],
    responses: Sequence[str],
) -> None:
    """``test_results_<candidates>.jsonl``: each conversation as read, with the answer behind it.

    UTF-8, not escaped, as published (the conversation files themselves are escaped). Added are ``recommended_st`` (an
    ID, or null where the answer named no candidate) and ``response_st`` (the answer's text) for the candidates ``st``.

    Args:
        candidates_key: ``st`` or ``candidates_st``.
        rows: the answers, in the order of the conversations.
        responses: their texts.

    Raises:
        ValueError: numbers that differ, or a row that belongs to another conversation.
        OutputError: the file cannot be written.
    """
    name = candidates_key.removeprefix(CANDIDATES_PREFIX)
    with atomic_path(path) as part, part.open("wb") as stream:
        for conversation, ranked, response in zip(conversations, rows, responses, strict=True):
            if ranked.gt_items != conversation.gt_items:
                raise ValueError(f"{conversation.where}: the answer belongs to another conversation")
            line = conversation.row()
            # As read; only a list that was made since, by retrieval, is not there yet.
            line[CANDIDATES_PREFIX + name] = list(conversation.candidates.get(name, ranked.candidates))
            line[f"recommended_{name}"] = ranked.recommended
            line[f"response_{name}"] = response
            stream.write(json_line(line))


# -- the summary ---------------------------------------------------------------------------------------------


def append_summary(path: Path, row: Mapping[str, object]) -> None:
    """Add a row to ``results_summary.csv``, unless it is there already; the header goes before the first.

    The file is replaced as a whole, so a kill never leaves half a row. Half a row or half a header that another program
    left at the end is cut off; a whole row without a line end gets one. Other bytes stay as they are. Two processes may
    add at the same time.

    Args:
        row: a value for each of ``SUMMARY_COLUMNS``; None leaves the cell empty.

    Raises:
        ValueError: other columns.
        InputError: what is there is not a file that can be read.
        OutputError: the file has another header, or cannot be written.
    """
    if set(row) != set(SUMMARY_COLUMNS):
        raise ValueError(f"columns {', '.join(sorted(set(row) ^ set(SUMMARY_COLUMNS)))}: too many or missing")
    with _others_wait(path):
        there = b""
        if path.is_symlink() or path.exists():
            with open_regular(path) as stream:
                there = _mended_summary(path, stream.read())
        there, line = there or _csv_line(SUMMARY_COLUMNS), _csv_line([row[name] for name in SUMMARY_COLUMNS])
        if b"\n" + line not in there:
            write_atomic(path, there + line)


def _csv_line(cells: Sequence[object]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)  # ends in CR LF, as in the published file
    # surrogateescape: a folder's name may hold bytes that are no UTF-8.
    return text.getvalue().encode("utf-8", "surrogateescape")


def _mended_summary(path: Path, data: bytes) -> bytes:
    """The bytes of a summary, ending in a line end; nothing where not even the header is whole."""
    header = _csv_line(SUMMARY_COLUMNS)
    if header.startswith(data):  # empty, or half a header; the whole one is made anew as well
        return b""
    # A spreadsheet may have put a byte order mark there.
    first = data.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].rstrip(b"\r")
    if tuple(_cells(first)) != SUMMARY_COLUMNS:
        problem = f"the file starts with {_quoted(first)}, not with the columns {','.join(SUMMARY_COLUMNS)}"
        raise OutputError(problem, where=str(path), remedy="Move it away, or choose another --output-dir.")
    end = data.rfind(b"\n") + 1
    tail = data[end:].rstrip(b"\r")
    if not tail:
        return data[:end]
    cells = _cells(tail)
    whole = len(cells) == len(SUMMARY_COLUMNS) and cells[-1] != ""
    return data[:end] + tail + b"\r\n" if whole else data[:end]


def _cells(line: bytes) -> list[str]:
    """The cells of one line; none where a quotation mark stays open."""
    try:
        return next(csv.reader([line.decode("utf-8", "surrogateescape")], strict=True), [])
    except csv.Error:
        return []


def _quoted(line: bytes) -> str:
    text = line.decode("utf-8", "replace")
    return repr(text if len(text) <= 80 else text[:77] + "...")


@contextmanager
def _others_wait(path: Path) -> Iterator[None]:
    """Lock the file's folder: another process that adds a row meanwhile would be overwritten."""
    try:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise output_error(path, error) from error
    try:
        # Some network file systems lock no folders; then only the rename protects the file.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# -- all figures ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SystemResult:
    """One system on the test set.

    Attributes:
        name: distinct among the systems, for example ``lavic`` or ``random``.
        rows: its answers; all systems answer the same conversations in the same order.
        measures: of these rows.
        seconds: how long answering took.
        looks: whether it answers with the model, which may look at pictures; drawing lots looks at nothing.
    """

    name: str
    rows: Sequence[RankedRow]
    measures: Measures
    seconds: float = 0.0
    looks: bool = True

    @property
    def picture_share(self) -> float | None:
        """Share of candidates that it was shown with a picture; None where it looks at none anyway."""
        return self.measures.picture_share if self.looks else None


def results_document(
    systems: Sequence[SystemResult],
    *,
    about: Mapping[str, Any] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    ks: Sequence[int] = KS,
) -> dict[str, Any]:
    """``results.json``: each system's figures, and how far each is from the first system.

    Args:
        about: what else a reader should know (test file, model, settings), as JSON can hold it.
        seed, resamples, ks: as given to ``measure``.

    Raises:
        ValueError: no system, a name that stands twice, or systems that answered other rows.
    """
    names = [system.name for system in systems]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"systems need different names, at least one: {', '.join(names)}")
    first, *others = systems
    return {
        "format": 1,
        "about": dict(about or {}),
        "bootstrap": {"confidence": CONFIDENCE, "resamples": resamples, "seed": seed},
        "systems": {system.name: _system(system) for system in systems},
        "differences": {
            "from": first.name,
            "systems": {
                other.name: _intervals(differences(other.rows, first.rows, seed=seed, resamples=resamples, ks=ks))
                for other in others
            },
        },
    }


def write_results(
    path: Path,
    systems: Sequence[SystemResult],
    *,
    about: Mapping[str, Any] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    ks: Sequence[int] = KS,
) -> dict[str, Any]:
    """Write ``results_document`` and give it back."""
    document = results_document(systems, about=about, seed=seed, resamples=resamples, ks=ks)
    write_json(path, document)
    return document


def _system(system: SystemResult) -> dict[str, Any]:
    found = system.measures
    return {
        "rows": found.rows,
        "rows_without_right_item": found.without_right_item,
        "ceiling": found.ceiling,
        "chance": found.chance,
        "picture_share": system.picture_share,
        "seconds": round(system.seconds, 3),
        "values": {
            name: {**figures, "chance": found.chances[name], "ceiling": found.ceilings[name]}
            for name, figures in _intervals(found.values).items()
        },
    }


def _intervals(values: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: asdict(interval) for name, interval in values.items()}


# -- the table -----------------------------------------------------------------------------------------------


def measures_table(systems: Sequence[SystemResult]) -> list[list[object]]:
    """Rows for ``Console.table`` under ``TABLE_HEADER``: figure by figure, a line per system; 80 columns suffice.

    What a system's answers cannot tell has no line: greedy generation names one item, so it has no HR@3. The last
    lines are the shares of candidates that were shown with a picture.
    """
    table = [_table_row(name, system) for name in _TABLE_FIGURES for system in systems if _tells(system.measures, name)]
    for system in systems:
        table.append(["pictures", system.name, system.picture_share, None, None, None])
    return table


def _tells(found: Measures, name: str) -> bool:
    """Whether the answers reach deep enough for a figure."""
    return name in found.values and (found.depth > 1 or name in _OF_THE_TOP)


def _table_row(name: str, system: SystemResult) -> list[object]:
    found = system.measures
    figure = found.values[name]
    interval = f"[{figure.low:.4f}, {figure.high:.4f}]"
    return [_TABLE_FIGURES[name], system.name, figure.value, interval, found.chances[name], found.ceilings[name]]
