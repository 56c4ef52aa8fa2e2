"""``crawl_report.jsonl``: a row per picture that says what became of it; over several runs the last row counts.

Rows are added as pictures are done and survive a kill. When a run ends, rows that later ones replaced are taken
out. Of the rows only a number and a place each are kept in memory (16 bytes a picture).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from lavic.crawl.plan import mark_of
from lavic.errors import InputError, OutputError
from lavic.files import atomic_path, json_line, open_regular, output_error

OK, PRESENT, UNCHANGED, FAILED = "ok", "present", "unchanged", "failed"
#: What is there after the run.
THERE = (OK, PRESENT, UNCHANGED)
#: How each row begins.
_BEGINNING = b'{"split": "'


def row_key(row: dict[str, Any]) -> str:
    """The picture that a row is about, as ``Target.key`` has it."""
    return f"{row.get('split')}/{row.get('image_name')}"


class Report:
    """The report's file, open for one run; use as a context.

    Raises:
        OutputError: another run has it open, or it cannot be written.
        InputError: the file is there and is not such a report.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise output_error(path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            remedy = "Wait until it ends, or name another --report."
            raise OutputError("another run is writing here", where=str(path), remedy=remedy) from error
        try:
            self._marks, self._places = self._read_index()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._compact()
        finally:
            os.close(self._file)

    def _read_index(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Marks in order, and where the last row of each begins; half a row at the end is cut off."""
        marks, places = array("Q"), array("Q")
        place = 0
        with open_regular(self.path) as stream:
            for number, line in enumerate(stream, 1):
                whole = line.endswith(b"\n")
                row = _row_of(line) if whole else None
                # Of half a row too it must be certain that it is one: the file is cut there.
                foreign = bool(line.strip()) if whole else line[: len(_BEGINNING)] != _BEGINNING[: len(line)]
                if row is None and foreign:
                    remedy = "Name another --report, or move this file away."
                    where = f"{self.path}, line {number}"
                    raise InputError("the line is not a row of a crawl's report", where=where, remedy=remedy)
                if row is not None:
                    marks.append(mark_of(row_key(row)))
                    places.append(place)
                if whole:
                    place += len(line)
        os.ftruncate(self._file, place)
        values = np.frombuffer(marks, dtype=np.uint64) if marks else np.empty(0, np.uint64)
        order = np.argsort(values, kind="stable")
        values, sorted_places = values[order], np.frombuffer(places, dtype=np.uint64)[order] if marks else values
        last = np.append(values[1:] != values[:-1], True) if len(values) else np.empty(0, bool)
        return values[last], sorted_places[last]

    def earlier(self, key: str) -> dict[str, Any] | None:
        """The row that an earlier run wrote for a picture."""
        if not len(self._marks):
            return None
        mark = np.uint64(mark_of(key))
        at = int(np.searchsorted(self._marks, mark))
        if at >= len(self._marks) or self._marks[at] != mark:
            return None
        place, line = int(self._places[at]), b""
        while not line.endswith(b"\n"):
            block = os.pread(self._file, 4096, place + len(line))
            if not block:
                return None
            line += block[: block.find(b"\n") + 1] if b"\n" in block else block
        row = _row_of(line)
        return row if row is not None and row_key(row) == key else None

    def add(self, row: dict[str, Any]) -> None:
        """Write a row at once: what is on disk is whole, whenever the run is killed.

        Raises:
            OutputError: the disk is full, for example.
        """
        data = json_line(row)
        try:
            written = os.write(self._file, data)
            if written < len(data):
                os.write(self._file, data[written:])
        except OSError as error:
            raise output_error(self.path, error) from error

    def _compact(self) -> None:
        """Leave one row per picture, the last; where there is no room for that, it stays as it is."""
        _, places = self._read_index()
        keep = np.sort(places)
        if not len(keep):
            self.path.unlink(missing_ok=True)
            return
        with contextlib.suppress(OutputError), open_regular(self.path) as old:
            rows = sum(1 for _ in old)
            if rows == len(keep):
                return
            with atomic_path(self.path) as part, part.open("wb") as new:
                for place in keep:
                    old.seek(int(place))
                    new.write(old.readline())


def _row_of(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and {"split", "image_name", "status"} <= row.keys() else None
