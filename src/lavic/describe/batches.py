"""Pictures to describe in batches of alike length, read in threads while the teacher speaks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from collections.abc import Sequence as Rows
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from PIL import Image

from lavic.describe.sides import Picture
from lavic.errors import ImageError
from lavic.images import picture_size, read_image
from lavic.skipped import SkipLog

#: Batches that are sorted by length together: a run that is killed has described about what stood first.
POOL = 32


class Located(Protocol):
    """What has a picture: where it lies, and how the metadata name it."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def where(self) -> str:
        """ "file, item ID" or "file, line N"."""

    @property
    def image_name(self) -> str:
        """Its name in the metadata."""


P = TypeVar("P", bound=Located)
Read = tuple[P, Image.Image | ImageError]


def plan_batches(
    pictures: Rows[Picture], batch_size: int, length: Callable[[tuple[int, int]], int] | None
) -> Iterator[list[Picture]]:
    """Batches of neighbours in length, longest first within a pool; with ``length`` None, in file order."""
    rest = iter(pictures)
    while pool := list(islice(rest, batch_size * POOL)):
        if length is not None:
            # The longest first: what does not fit into memory is told at once. The sort is stable.
            pool.sort(key=lambda picture: -_length(picture, length))
        yield from in_batches(pool, batch_size)


def in_batches(pictures: Rows[P], size: int) -> Iterator[list[P]]:
    """Some at a time, in their order."""
    for at in range(0, len(pictures), size):
        yield list(pictures[at : at + size])


def _length(picture: Picture, length: Callable[[tuple[int, int]], int]) -> int:
    size = picture_size(picture.path)
    return 0 if size is None else length(size)


def read_ahead(batches: Iterator[list[P]], threads: int) -> Generator[list[Read[P]], None, None]:
    """Each batch with its decoded pictures, or why one cannot be used; the next batch is read meanwhile."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Future[Read[P]]] | None = None
        try:
            for batch in batches:
                following = [pool.submit(_read, picture) for picture in batch]
                if waiting is not None:
                    yield [future.result() for future in waiting]
                waiting = following
            if waiting is not None:
                yield [future.result() for future in waiting]
        finally:
            pool.shutdown(cancel_futures=True)


def readable(batch: list[Read[P]], skipped: SkipLog) -> list[tuple[P, Image.Image]]:
    """Those of a batch that could be decoded; the others are listed."""
    found = []
    for picture, image in batch:
        if isinstance(image, ImageError):
            skipped.add(file=picture.path, where=picture.where, key=picture.image_name, reason=image.problem)
        else:
            found.append((picture, image))
    return found


def _read(picture: P) -> Read[P]:
    try:
        return picture, read_image(picture.path)
    except ImageError as error:
        return picture, error
