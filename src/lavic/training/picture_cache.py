"""Cut pictures kept on disk, so that later epochs decode no JPEG; asked for with ``--picture_cache``.

One file per picture, named after what its content depends on: the picture's path, size and time of change, and how
views are cut. Behind the pixels stands their checksum: a file that is damaged, or half-written by a machine that lost
power, is cut again.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavic.errors import ConfigError, OutputError
from lavic.folders import output_error, part_of, prepare_output
from lavic.images import read_image
from lavic.model.views import cut_views

#: Goes up whenever the same picture would be cut into other pixels, or its file be laid out otherwise.
_VERSION = 2
_HEADER_BYTES, _CHECKSUM_BYTES = 128, 4


class PictureCache:
    """Views of pictures, read from a folder where they are there, cut and put there where not.

    Args:
        folder: made if it is not there; any number of runs and processes may share it.
        view_size: side of a view in pixels.
        views: V.
        make: False makes and changes nothing, for those who only ask what is there.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: Path, view_size: int, views: int, *, make: bool = True) -> None:
        self.folder = folder
        self.view_size = view_size
        self.views = views
        #: Why nothing more is put there (a full disk); pictures are cut as without a cache then.
        self.trouble = ""
        if make:
            self._open()

    def _open(self) -> None:
        """Make the folder, and clear away halves that killed readers left in it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(self.folder, error) from error
        # One that may only be read serves all the same.
        with contextlib.suppress(OSError, OutputError):
            for folder in {half.parent for half in self.folder.glob("*/.*.npy.*.part")}:
                prepare_output(folder, resume=True, overwrite=False, known=["*.npy"])

    @property
    def picture_bytes(self) -> int:
        """What one picture takes on disk: 1.7 MB for the 7B."""
        return _HEADER_BYTES + self.views * 3 * self.view_size**2 + _CHECKSUM_BYTES

    def missing(self, paths: Iterable[Path]) -> int:
        """How many of these pictures are not there yet."""
        return sum(1 for place in {self._place(path) for path in paths} if not place.exists())

    def check_space(self, paths: Iterable[Path]) -> None:
        """See that the disk holds what these pictures will take.

        Raises:
            ConfigError: it does not.
        """
        missing = self.missing(paths)
        needed, free = missing * self.picture_bytes, shutil.disk_usage(self.folder).free
        if needed > free:
            raise ConfigError(
                f"{missing:,} cut pictures take {needed / 1e9:.1f} GB, and {self.folder} has {free / 1e9:.1f} GB left",
                where="--picture_cache",
                remedy="Give a folder on a larger disk, or leave the flag away.",
            )

    def views_of(self, path: Path) -> NDArray[np.uint8]:
        """[V, 3, s, s] uint8 of one picture.

        Raises:
            ImageError: it cannot be read; nothing is kept of it.
        """
        place = self._place(path)
        stored = self._load(place)
        if stored is None:
            stored = cut_views(read_image(path), self.view_size, self.views)
            self._keep(place, stored)
        return stored

    def _place(self, path: Path) -> Path:
        try:
            status = path.stat()
        except (OSError, ValueError):
            return self.folder / "missing"
        facts = (_VERSION, path.resolve(), status.st_size, status.st_mtime_ns, self.view_size, self.views)
        name = hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / name[:2] / f"{name[2:34]}.npy"

    def _load(self, place: Path) -> NDArray[np.uint8] | None:
        try:
            with place.open("rb") as stream:
                stored = np.load(stream, allow_pickle=False)
                checksum = stream.read()
        except (OSError, ValueError, EOFError):
            return None
        side = self.view_size
        whole = stored.shape == (self.views, 3, side, side) and stored.dtype == np.uint8
        return stored if whole and checksum == _checksum(stored) else None

    def _keep(self, place: Path, views: NDArray[np.uint8]) -> None:
        if self.trouble:
            return
        part = part_of(place)
        try:
            place.parent.mkdir(exist_ok=True)
            with part.open("wb") as stream:
                np.save(stream, views, allow_pickle=False)
                stream.write(_checksum(views))
            # Gone if a run on another machine, where this process is none, took it for a dead one's.
            with contextlib.suppress(FileNotFoundError):
                part.replace(place)  # not synced: what a power cut damages is cut again
        except OSError as error:
            self.trouble = f"cut pictures are no longer kept in {self.folder} ({error.strerror or error})"
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def _checksum(views: NDArray[np.uint8]) -> bytes:
    return zlib.crc32(np.ascontiguousarray(views).data).to_bytes(_CHECKSUM_BYTES, "little")
