"""What a picture's file tells without decoding it: width, height, bytes, SHA-256; and which files are the same."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from lavic.data.spread import Spread
from lavic.errors import ImageError, InputError
from lavic.files import open_regular
from lavic.images import IMAGE_LIMITS, opened_image, read_image

_COMMON_SIZES = 3
EXAMPLES = 3


@dataclass(frozen=True)
class PictureFacts:
    """One file.

    Attributes:
        size: in bytes.
        width, height: in pixels, as stored (EXIF may turn the picture by a quarter); 0 with a problem.
        sha256: of all bytes of the file.
        problem: why training would leave it out, as far as the first bytes tell; else "".
    """

    size: int
    width: int
    height: int
    sha256: bytes
    problem: str = ""


def picture_facts(path: Path) -> PictureFacts:
    """Look at one file.

    Raises:
        InputError: there is none that can be read.
    """
    try:
        with open_regular(path) as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
            size = os.fstat(stream.fileno()).st_size
            stream.seek(0)
            width, height, problem = _dimensions(path, stream, size)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from error
    return PictureFacts(size, width, height, digest, problem)


def _dimensions(path: Path, stream: BinaryIO, size: int) -> tuple[int, int, str]:
    if size <= IMAGE_LIMITS.max_bytes:
        try:
            with opened_image(stream) as image:
                if image.width * image.height <= IMAGE_LIMITS.max_pixels:
                    return image.width, image.height, ""
        except Exception:  # a border: the run's own function, below, says what is wrong
            pass
    try:
        whole = read_image(path)
    except ImageError as error:
        return 0, 0, error.problem
    return whole.width, whole.height, ""


@dataclass
class PictureSizes:
    """The sizes of many pictures.

    Attributes:
        problems: reason -> pictures.
    """

    sizes: Spread = field(default_factory=Spread)
    width: Spread = field(default_factory=Spread)
    height: Spread = field(default_factory=Spread)
    pixels: Counter[tuple[int, int]] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)

    def add(self, facts: PictureFacts) -> None:
        """Count one picture."""
        self.sizes.add(facts.size)
        if facts.problem:
            self.problems[facts.problem] += 1
            return
        self.width.add(facts.width)
        self.height.add(facts.height)
        self.pixels[facts.width, facts.height] += 1

    def summary(self) -> dict[str, object]:
        """Distributions, the most frequent sizes, and what cannot be used."""
        return {
            "bytes": self.sizes.summary(),
            "width": self.width.summary(),
            "height": self.height.summary(),
            "different_sizes": len(self.pixels),
            "common_sizes": {f"{w}x{h}": count for (w, h), count in self.pixels.most_common(_COMMON_SIZES)},
            "unusable": self.problems.total(),
            "unusable_reasons": dict(self.problems.most_common()),
        }


class Duplicates:
    """Files with the same bytes, by their SHA-256."""

    def __init__(self) -> None:
        self._first: dict[bytes, str] = {}
        self._groups: dict[bytes, list[str]] = {}

    def add(self, sha256: bytes, part: str, image_name: str) -> None:
        """Count a file; ``part`` is ``train`` or ``valid``."""
        place = f"{part}/{image_name}"
        first = self._first.setdefault(sha256, place)
        if first is not place:
            self._groups.setdefault(sha256, [first]).append(place)

    def groups(self) -> Iterator[tuple[str, list[str], bool]]:
        """SHA-256, the files ("part/name") that have it, and whether they stand on both sides: a leak."""
        for sha256, places in self._groups.items():
            yield sha256.hex(), places, len({place.partition("/")[0] for place in places}) > 1

    def summary(self) -> dict[str, object]:
        """How many files repeat an earlier one; leaks with examples."""
        leaks = [places for _, places, leak in self.groups() if leak]
        in_valid = sum(place.startswith("valid/") for places in leaks for place in places)
        return {
            "groups": len(self._groups),
            "repeated_files": sum(len(places) - 1 for places in self._groups.values()),
            "leaks": len(leaks),
            "leaked_valid_pictures": in_valid,
            "leak_examples": [" = ".join(places[:EXAMPLES]) for places in leaks[:EXAMPLES]],
        }
