"""Adds rows to an item store, so that a kill at any moment costs at most the batch that was under way."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Rows
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from lavic.embed.ledger import LEDGER_FILE, Ledger, read_ledger
from lavic.embed.store import DTYPES, HEADER_BYTES, STORE_FILE, TOKENS_FILE, header_bytes, row_bytes
from lavic.errors import OutputError
from lavic.files import json_line, output_error, sync, write_json


@dataclass(frozen=True)
class Entry:
    """A picture whose tokens are to be stored; size and mark are of the bytes that they were made of.

    Attributes:
        rows: how many its tokens take.
    """

    item_id: str
    number: int
    size: int
    mark: str
    rows: int = 1


class StoreWriter:
    """A store that is being written; the caller holds the folder's lock.

    A batch is written in this order: tokens, wait for the disk, lines of the ledger. Opening cuts off what stands
    behind the ledger's last whole line, in both files; closing does the same and writes the header, so that between
    runs, however they ended in order, any program that reads safetensors can open the file.

    Args:
        about: what goes into ``store.json``; must be what stands there, if the store is there.

    Attributes:
        dtype: that tokens are stored in.
        ledger: what is stored, kept up to date.

    Raises:
        OutputError: a file cannot be written, or holds less than the ledger says.
        InputError: the ledger is damaged.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder, self.about = folder, about
        self.dtype, self.row_bytes = DTYPES[about["dtype"]], row_bytes(about)
        if not (folder / STORE_FILE).exists():
            write_json(folder / STORE_FILE, dict(about))
        self.ledger: Ledger = read_ledger(folder)
        tokens = folder / TOKENS_FILE
        if self.ledger.rows and (not tokens.exists() or tokens.stat().st_size < self._end):
            raise OutputError(
                f"holds fewer than the {self.ledger.rows:,} rows of the ledger",
                where=str(tokens),
                remedy="Copy the store again, or make it anew with --overwrite.",
            )
        self._tokens = _open(tokens)
        self._lines = _open(folder / LEDGER_FILE)
        self._settle()

    @property
    def _end(self) -> int:
        """Where the next row begins."""
        return HEADER_BYTES + self.ledger.rows * self.row_bytes

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Note that a run adds rows, unless it goes on with one that was not finished."""
        if self.ledger.run is None:
            self._add_lines([{"run": "begun", **facts}])

    def append(self, entries: Rows[Entry], tokens: Tensor) -> None:
        """Store the tokens of some pictures; when this returns they stay, whatever happens.

        Args:
            tokens: [n, V, D], any float type and device; n is the sum of the entries' rows.

        Raises:
            OutputError: they cannot be written; nothing of them counts then.
        """
        rows = sum(entry.rows for entry in entries)
        assert tuple(tokens.shape) == (rows, self.about["views"], self.about["dim"]), tokens.shape
        data = tokens.detach().to("cpu", self.dtype).contiguous()
        with _writing(self.folder / TOKENS_FILE):
            _write(self._tokens, self._end, data.view(torch.uint8).numpy().data)
            sync(self._tokens.fileno())
        lines, row = [], self.ledger.rows
        for entry in entries:
            place = {"row": row} if entry.rows == 1 else {"row": row, "rows": entry.rows}
            lines.append(
                {"item": entry.item_id, "image": entry.number, **place, "bytes": entry.size, "mark": entry.mark}
            )
            row += entry.rows
        self._add_lines(lines)

    def finish(self, bad: Mapping[tuple[str, int], str]) -> None:
        """Note which pictures cannot be used, and why, in their order; and that the run has come to its end."""
        lines: list[dict[str, Any]] = [
            {"item": item_id, "image": number, "missing": reason}
            for (item_id, number), reason in bad.items()
            if self.ledger.bad.get((item_id, number)) != reason
        ]
        if self.ledger.run is not None:
            lines.append({"run": "finished"})
        if lines:
            self._add_lines(lines)

    def _add_lines(self, lines: Rows[Mapping[str, Any]]) -> None:
        data = b"".join(map(json_line, lines))
        with _writing(self.folder / LEDGER_FILE):
            _write(self._lines, self.ledger.length, memoryview(data))
        for line in lines:
            self.ledger.take(line)
        self.ledger.length += len(data)

    def _settle(self) -> None:
        """Cut both files off behind what counts, and write the header of what is left."""
        with _writing(self.folder / LEDGER_FILE):
            _cut_off(self._lines, self.ledger.length)
            sync(self._lines.fileno())
        with _writing(self.folder / TOKENS_FILE):
            header = header_bytes(self.about, self.ledger.rows)
            self._tokens.seek(0)
            if self._tokens.read(HEADER_BYTES) != header:
                _write(self._tokens, 0, memoryview(header))
            _cut_off(self._tokens, self._end)
            sync(self._tokens.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._settle()
            else:
                with suppress(OutputError):  # the disk is full, perhaps; the first error is the one to tell
                    self._settle()
        finally:
            self._tokens.close()
            self._lines.close()


def _open(path: Path) -> FileIO:
    """For reading and writing, made if it is not there, without a buffer: what is written is with the system."""
    with _writing(path):
        return path.open("r+b" if path.exists() else "x+b", buffering=0)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


def _write(stream: FileIO, at: int, data: memoryview) -> None:
    """All of the bytes: one call takes at most 2 GB of them, or what the disk has room for."""
    stream.seek(at)
    data = data.cast("B")
    while data:
        data = data[stream.write(data) :]


def _cut_off(stream: FileIO, size: int) -> None:
    """What is right already stays untouched, and so does its time of change."""
    if os.fstat(stream.fileno()).st_size != size:
        stream.truncate(size)
