"""What an item store holds, line by line: a JSONL file that is only ever added to.

=======================================================  ======================================================
line                                                     says
=======================================================  ======================================================
``{"item", "image", "row", "bytes", "mark"}``            picture ``image`` of an item has its tokens in ``row``;
                                                         with ``"rows"`` in so many from there on
``{"item", "image", "missing"}``                         that picture cannot be used, and why; of an item with
                                                         no picture at all, the first one
``{"run": "begun", "batch_size", "threads", "device"}``  a run began to add rows, with batches of that size
``{"run": "finished"}``                                  it has added all of them
=======================================================  ======================================================

Later lines count for more. Rows are numbered as they come, so the ledger tells how many the tokens' file has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lavic.errors import InputError
from lavic.files import open_regular

LEDGER_FILE = "ledger.jsonl"


class Stored(NamedTuple):
    """Where a picture's tokens are, and which bytes they were made of."""

    row: int
    size: int
    mark: str
    rows: int = 1


@dataclass
class Ledger:
    """The whole lines of a ledger; half a line that a kill left behind them does not count.

    Attributes:
        pictures: (item ID, number of the picture) -> its newest row, in the order in which they first came.
        bad: (item ID, number of the picture) -> why it cannot be used, of pictures without a row.
        rows: how many there are, superseded ones included.
        length: bytes of the whole lines.
        run: what the last run began with, if it did not finish; else None.
        run_start: the first row that it could have added.
    """

    pictures: dict[tuple[str, int], Stored] = field(default_factory=dict)
    bad: dict[tuple[str, int], str] = field(default_factory=dict)
    rows: int = 0
    length: int = 0
    run: Mapping[str, Any] | None = None
    run_start: int = 0

    def take(self, line: Mapping[str, Any]) -> None:
        """Let a line count.

        Raises:
            KeyError, TypeError, ValueError: it is none of the ledger's.
        """
        if "row" in line:
            item_id, number, row, rows = line["item"], line["image"], line["row"], line.get("rows", 1)
            if row != self.rows or rows < 1 or not isinstance(item_id, str) or not isinstance(number, int):
                raise ValueError(row)
            self.pictures[item_id, number] = Stored(row, line["bytes"], line["mark"], rows)
            self.rows += rows
            if self.bad:
                self.bad.pop((item_id, number), None)
        elif "missing" in line:
            self.bad[line["item"], line["image"]] = line["missing"]
        elif line["run"] == "begun":
            self.run, self.run_start = line, self.rows
        else:
            self.run = None

    def items(self) -> set[str]:
        """IDs that have a row."""
        return {item_id for item_id, _ in self.pictures}

    def stored_by_this_run(self, key: tuple[str, int]) -> bool:
        """Whether a picture's row was added by the run that has not finished."""
        stored = self.pictures.get(key)
        return stored is not None and self.run is not None and stored.row >= self.run_start


def read_ledger(folder: Path) -> Ledger:
    """The ledger of a store; an empty one where there is none yet.

    Raises:
        InputError: it cannot be read, or a line in it is damaged.
    """
    path = folder / LEDGER_FILE
    try:
        with open_regular(path) as stream:
            data = stream.read()
    except InputError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return Ledger()
        raise
    ledger = Ledger(length=data.rfind(b"\n") + 1)
    data = data[: ledger.length]
    for number, line in enumerate(_parsed(data, path), 1):
        try:
            ledger.take(line)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, number) from error
    return ledger


def _parsed(data: bytes, path: Path) -> list[Any]:
    """The values of all lines; one list is parsed five times as fast as 81,000 lines."""
    try:
        text = data.decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise _damaged(path, data.count(b"\n", 0, error.start) + 1) from error
    try:
        parsed: list[Any] = json.loads("[" + text.replace("\n", ",") + "]")
    except json.JSONDecodeError as error:
        raise _damaged(path, text.count("\n", 0, error.pos - 1) + 1) from error
    except (ValueError, RecursionError) as error:  # integers of 4,300 digits, brackets by the thousand
        raise _damaged(path, 0) from error
    return parsed


def _damaged(path: Path, number: int) -> InputError:
    return InputError(
        "this line of the ledger is damaged",
        where=f"{path}, line {number}",
        remedy="Copy the store again, or make it anew with lavic embed --overwrite.",
    )
