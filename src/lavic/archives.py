"""Data files taken as they are, plain or zipped: one text file inside, unpacked as it is read."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lavic.errors import InputError
from lavic.files import open_regular

# JSON packs 5 to 20 times smaller; deflate can reach 1,032, and a file that does is made to fill memory.
MAX_RATIO = 200
# Below this size no ratio does harm: a short file of spaces is no attack.
RATIO_FREE_BYTES = 16 * 2**20

_TEXT_ENDINGS = (".json", ".jsonl")
_ENCRYPTED = 0x1
_UNPACK_ERRORS = (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, OSError)


@contextmanager
def open_text_maybe_zipped(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a JSON or JSONL file, which may be packed as ``.zip`` or ``.gz``.

    Which of the three it is, its first bytes say, not its name. A zip holds one member that ends in ``.json``
    or ``.jsonl``; other members are passed over, and so is what macOS adds.

    Raises:
        InputError: no readable file, an empty one, or an archive that is damaged, encrypted, with none or
            several such members, or that unpacks to absurdly more than it holds; also while reading.
    """
    with open_regular(path) as stream:
        head = stream.peek(4)[:4]
        packed_bytes = os.fstat(stream.fileno()).st_size
        if packed_bytes == 0:
            raise InputError("the file is empty", where=str(path))
        if head in (b"PK\x03\x04", b"PK\x05\x06"):
            with _zip_member(stream, path) as member:
                yield _unpacked(member, path, packed_bytes)
        elif head[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=stream) as member:
                yield _unpacked(member, path, packed_bytes)
        else:
            yield stream


@contextmanager
def _zip_member(stream: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    try:
        archive = zipfile.ZipFile(stream)
    except _UNPACK_ERRORS as error:
        raise _damaged(path) from error
    with archive:
        infos = [
            info
            for info in archive.infolist()
            if info.filename.lower().endswith(_TEXT_ENDINGS) and not info.filename.startswith("__MACOSX/")
        ]
        if len(infos) != 1:
            found = f"{len(infos)} JSON files" if infos else "no JSON file"
            remedy = "Unpack it and name the one that is meant." if infos else ""
            raise InputError(f"the archive holds {found}; one is expected", where=str(path), remedy=remedy)
        if infos[0].flag_bits & _ENCRYPTED:
            raise InputError("the archive is encrypted", where=str(path), remedy="Unpack it first.")
        try:
            member = archive.open(infos[0])
        except _UNPACK_ERRORS as error:
            raise _damaged(path) from error
        with member:
            yield member


def _unpacked(member: IO[bytes] | gzip.GzipFile, path: Path, packed_bytes: int) -> io.BufferedReader:
    reader: io.BufferedReader = io.BufferedReader(_Unpacking(member, path, packed_bytes), 64 * 1024)
    if not reader.peek(1):
        raise InputError("the file in the archive is empty", where=str(path))
    return reader


class _Unpacking(io.RawIOBase):
    """Counts what comes out of an archive, and turns its errors into one sentence."""

    def __init__(self, member: IO[bytes] | gzip.GzipFile, path: Path, packed_bytes: int) -> None:
        self._member = member
        self._path = path
        self._limit = max(RATIO_FREE_BYTES, MAX_RATIO * packed_bytes)
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._member.read(len(buffer))
        except _UNPACK_ERRORS as error:
            raise _damaged(self._path) from error
        self._count += len(data)
        if self._count > self._limit:
            # The sizes written in an archive may lie, so it is what came out that is counted.
            problem = f"the archive unpacks to more than {MAX_RATIO} times its size"
            raise InputError(problem, where=str(self._path), remedy="Unpack it yourself if you trust it.")
        buffer[: len(data)] = data
        return len(data)


def _damaged(path: Path) -> InputError:
    remedy = "It looks half-copied or of another kind: copy it again, or unpack it first."
    return InputError("the archive cannot be unpacked", where=str(path), remedy=remedy)
