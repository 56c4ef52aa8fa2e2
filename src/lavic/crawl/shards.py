"""WebDataset shards: plain tar files of ``KEY.jpg`` and ``KEY.json`` for each picture.

A shard that is being filled has a hidden name; it is renamed when it is full or the run ends. After a kill the
next run takes it up: what is whole stays, half a picture at its end is cut off.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lavic.crawl.plan import mark_of
from lavic.errors import InputError
from lavic.files import output_error, sync

_SHARD = re.compile(r"shard-(\d{6})\.tar")
_OPEN = re.compile(r"\.shard-(\d{6})\.tar\.open")
_END = b"\0" * 1024  # two empty blocks end a tar


def sample_key(image_name: str) -> str:
    """A key for a file name, different for different names, in letters, digits, ``_``, ``-`` and ``%``.

    WebDataset takes what stands before the first dot for the key, and some tools take others for patterns. A ``%``
    at the end says that the name did not end in ``.jpg``.
    """
    stem = image_name.removesuffix(".jpg")
    coded = re.sub(r"[^A-Za-z0-9_-]", lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), stem)
    return coded if stem != image_name else f"{coded}%"


class Shards:
    """The shards of one folder, which only this process writes to; use as a context.

    Raises:
        InputError: a shard that is there is not a tar, or none of lavic's.
        OutputError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, shard_size: int) -> None:
        self._folder = folder
        self._shard_size = shard_size
        self._marks: set[int] = set()
        self._number = -1
        self._count = 0
        self._stream: BinaryIO | None = None

    def __enter__(self) -> Shards:
        names = sorted(path.name for path in self._folder.iterdir())
        for name in names:
            if _SHARD.fullmatch(name):
                self._number = max(self._number, int(name[6:12]))
                for facts, _, _ in _samples(self._folder / name):
                    self._marks.add(mark_of(str(facts["image_name"])))
        for name in names:
            match = _OPEN.fullmatch(name)
            if match:
                self._take_up(self._folder / name, int(match[1]))
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()

    def __contains__(self, image_name: str) -> bool:
        return mark_of(image_name) in self._marks

    @property
    def current(self) -> str:
        """The file name of the shard that the last picture went to."""
        return f"shard-{self._number:06d}.tar"

    def add(self, image_name: str, data: bytes, facts: dict[str, Any]) -> str:
        """Add a picture; gives the name of its shard.

        Raises:
            OutputError: the disk is full, for example.
        """
        if self._stream is None:
            self._number += 1
            self._count = 0
            self._stream = self._open(self._open_path)
        key = sample_key(image_name)
        text = json.dumps({"image_name": image_name, **facts}).encode("ascii")
        # The JSON last: a picture counts when its JSON, with its SHA-256, is whole.
        block = _member(f"{key}.jpg", data) + _member(f"{key}.json", text)
        try:
            self._stream.write(block)
            self._stream.flush()
        except OSError as error:
            raise output_error(self._open_path, error) from error
        self._marks.add(mark_of(image_name))
        self._count += 1
        name = self.current
        if self._count >= self._shard_size:
            self._finish()
        return name

    @property
    def _open_path(self) -> Path:
        return self._folder / f".{self.current}.open"

    def _open(self, path: Path) -> BinaryIO:
        try:
            return path.open("ab", buffering=0)
        except OSError as error:
            raise output_error(path, error) from error

    def _take_up(self, path: Path, number: int) -> None:
        """Go on with a shard that a killed run left, or finish it if another is open already."""
        end, count = 0, 0
        for facts, data, end_of_sample in _samples(path, whole=False):
            if hashlib.sha256(data).hexdigest() != facts.get("sha256"):
                break
            self._marks.add(mark_of(str(facts["image_name"])))
            end, count = end_of_sample, count + 1
        if self._stream is not None:
            self._finish()
        try:
            os.truncate(path, end)
            if (self._folder / path.name[1:-5]).exists():  # its number was given away
                self._number += 1
                path = path.rename(self._folder / f".{self.current}.open")
            else:
                self._number = max(self._number, number)
        except OSError as error:
            raise output_error(path, error) from error
        self._count = count
        self._stream = self._open(path)
        if self._count >= self._shard_size:
            self._finish()

    def _finish(self) -> None:
        if self._stream is None:
            return
        stream, self._stream = self._stream, None
        try:
            with stream:
                # A disk that fills up here leaves an open shard, which the next run takes up.
                if self._count:
                    stream.write(_END)
                    sync(stream.fileno())
            if self._count:
                self._open_path.rename(self._folder / self.current)
            else:
                self._open_path.unlink()
                self._number -= 1
        except OSError as error:
            raise output_error(self._open_path, error) from error


def _member(name: str, data: bytes) -> bytes:
    """A file as it stands in a tar: header, bytes, and zeros up to the next block of 512."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    return info.tobuf(tarfile.PAX_FORMAT) + data + b"\0" * (-len(data) % 512)


def _samples(path: Path, *, whole: bool = True) -> Iterator[tuple[dict[str, Any], bytes, int]]:
    """Facts, picture (empty of a finished shard, where nobody needs it) and place behind each sample.

    Args:
        whole: whether the file must be a whole tar; else half a sample at its end is passed over.

    Raises:
        InputError: it is not, or a sample is none of lavic's.
    """
    data = b""
    try:
        with path.open("rb") as stream, contextlib.closing(tarfile.open(fileobj=stream, mode="r:")) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is None:
                    continue
                if member.name.endswith(".json"):
                    text = content.read()
                    if len(text) < member.size:
                        return
                    end = member.offset_data + member.size + (-member.size % 512)
                    if not whole and end > path.stat().st_size:
                        return
                    facts = json.loads(text)
                    if not isinstance(facts, dict) or "image_name" not in facts:
                        raise _not_ours(path)  # in an open shard too: no kill leaves this
                    yield facts, data, end
                elif not whole:
                    data = content.read()
    except (tarfile.TarError, ValueError, KeyError, EOFError, OSError, RecursionError) as error:
        if whole:  # half a shard ends in some such way, and what came before it is good
            raise _not_ours(path) from error


def _not_ours(path: Path) -> InputError:
    remedy = "It is damaged or no shard of lavic: move it away and run again."
    return InputError("the shard cannot be read", where=str(path), remedy=remedy)
