"""Lines of a file that another process writes: each is read once, however often one asks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from lavic.errors import InputError
from lavic.files import open_regular

_BLOCK = 1 << 20
# Longer lines are none of lavic's (its longest, the start row, has a few thousand bytes): they are passed over.
MAX_LINE_BYTES = 4 << 20
# So many bytes before the place reached must still be there, else it is another file under the old name.
_REMEMBERED = 256


@dataclass(frozen=True)
class Growth:
    """What came since the last look.

    Attributes:
        restarted: the file was replaced, shortened or deleted; what was read before holds no more.
        lines: the whole lines that are new, without their ends, decoded with replacements.
    """

    restarted: bool
    lines: list[str]


class GrowingFile:
    """Remembers how far a file was read; nothing stays open between two looks.

    A line counts when its end is there, so half a line never does. A replaced file is told by its number and,
    since a deleted file's number may be given to the next one, by the bytes before the place reached.

    Args:
        path: a file that need not exist (yet, or any more).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self._number: tuple[int, int] | None = None
        self._offset = 0
        self._before = b""
        self._half = b""
        self._too_long = False

    def read(self) -> Growth:
        """The lines that came since the last call.

        Raises:
            InputError: there is something of this name, but it cannot be read.
        """
        try:
            stream = open_regular(self.path)
        except InputError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            gone = self._number is not None
            self._forget()
            return Growth(gone, [])
        with stream:
            try:
                return self._read(stream)
            except OSError as error:
                raise InputError(f"cannot be read ({error.strerror})", where=str(self.path)) from error

    def _read(self, stream: BufferedReader) -> Growth:
        restarted = self._number is not None and not self._goes_on(stream)
        if restarted:
            self._forget()
        self._number = _number(stream)
        stream.seek(self._offset)
        lines: list[str] = []
        while block := stream.read(_BLOCK):
            self._offset += len(block)
            self._before = (self._before + block)[-_REMEMBERED:]
            lines += self._whole_lines(block)
        return Growth(restarted, lines)

    def _goes_on(self, stream: BufferedReader) -> bool:
        if _number(stream) != self._number:
            return False
        stream.seek(self._offset - len(self._before))
        return stream.read(len(self._before)) == self._before

    def _whole_lines(self, block: bytes) -> list[str]:
        *whole, half = (self._half + block).split(b"\n")
        if whole and self._too_long:
            whole, self._too_long = whole[1:], False
        if len(half) > MAX_LINE_BYTES:
            half, self._too_long = b"", True
        self._half = half
        return [line.decode("utf-8", "replace") for line in whole]


def _number(stream: BufferedReader) -> tuple[int, int]:
    """Device and number of the file itself, whatever its name."""
    facts = os.fstat(stream.fileno())
    return facts.st_dev, facts.st_ino
