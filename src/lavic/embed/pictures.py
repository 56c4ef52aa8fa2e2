"""Pictures as the vision tower takes them, made in worker processes; and what tells a picture from another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BaseImageProcessor

from lavic.embed.items import Picture
from lavic.errors import ImageError
from lavic.images import decode_image, picture_bytes
from lavic.model.full_tokens import PixelInputs, pixel_inputs
from lavic.model.views import cut_views

_MARK_BYTES = 8

Made = TypeVar("Made")


def bytes_mark(data: bytes) -> str:
    """What tells a picture's bytes from others, with their number: 16 hex digits."""
    return hashlib.blake2b(data, digest_size=_MARK_BYTES).hexdigest()


@dataclass(frozen=True)
class Cut:
    """What became of a picture.

    Attributes:
        index: in the list of pictures.
        slot: where its views stand in the batch.
        size: of the file, in bytes.
        mark: of its bytes.
        problem: why it cannot be used, else "".
    """

    index: int
    slot: int
    size: int = 0
    mark: str = ""
    problem: str = ""


@dataclass(frozen=True)
class PictureBatch:
    """What one forward pass gets.

    Attributes:
        cuts: of the pictures that were wanted.
        views: [P, V, 3, s, s] uint8, zeros where no picture is wanted or usable; [0] if there is none at all.
    """

    cuts: tuple[Cut, ...]
    views: Tensor

    def pin_memory(self) -> PictureBatch:
        """The same with page-locked views, which the loader asks for where there is a GPU."""
        return replace(self, views=self.views.pin_memory())


class PictureBatches(Dataset[PictureBatch]):
    """Makes a batch from indices of pictures that belong to the same P of the list; runs in worker processes.

    A picture stands at its place among those P, whatever else is wanted with it: its numbers must not depend on what
    an earlier run had done, and on a CPU the place in a batch can decide the last bit.
    """

    def __init__(self, pictures: Rows[Picture], batch_size: int, *, view_size: int, views: int) -> None:
        self.pictures = pictures
        self.batch_size = batch_size
        self.shape = (views, 3, view_size, view_size)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, indices: list[int]) -> PictureBatch:
        views = torch.zeros((self.batch_size, *self.shape), dtype=torch.uint8)
        cuts = tuple(self._cut(index, views) for index in indices)
        usable = any(not cut.problem for cut in cuts)
        return PictureBatch(cuts, views if usable else torch.empty(0, dtype=torch.uint8))

    def _cut(self, index: int, views: Tensor) -> Cut:
        slot, views_of_one, size = index % self.batch_size, self.shape[0], self.shape[-1]
        cut, made = _read(self.pictures[index], index, slot, lambda image: cut_views(image, size, views_of_one))
        if made is not None:
            views[slot] = torch.from_numpy(made)
        return cut


def _read(picture: Picture, index: int, slot: int, make: Callable[[Image.Image], Made]) -> tuple[Cut, Made | None]:
    """What is made of a picture, or why it cannot be used."""
    try:
        data = picture_bytes(picture.path)
        made = make(decode_image(data))
    except ImageError as error:
        return Cut(index, slot, problem=error.problem), None
    except Exception as error:  # one picture never ends a run, whatever a decoder raises
        return Cut(index, slot, problem=f"cannot be decoded ({type(error).__name__})"), None
    return Cut(index, slot, len(data), bytes_mark(data)), made


@dataclass(frozen=True)
class ProcessedBatch:
    """Pictures as the checkpoint's own image processor cuts them, each by itself: their shapes differ.

    Attributes:
        cuts: of the pictures that were wanted; a slot is a place in ``pixels``.
        pixels: of those that can be used.
    """

    cuts: tuple[Cut, ...]
    pixels: tuple[PixelInputs, ...]

    def pin_memory(self) -> ProcessedBatch:
        """The same in page-locked memory."""
        return replace(self, pixels=tuple(each.pin_memory() for each in self.pixels))


class ProcessedBatches(Dataset[ProcessedBatch]):
    """Makes a batch from indices of pictures; runs in worker processes."""

    def __init__(self, pictures: Rows[Picture], processor: BaseImageProcessor) -> None:
        self.pictures = pictures
        self.processor = processor

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, indices: list[int]) -> ProcessedBatch:
        cuts: list[Cut] = []
        pixels: list[PixelInputs] = []
        for index in indices:
            cut, made = _read(
                self.pictures[index], index, len(pixels), lambda image: pixel_inputs(self.processor, [image])
            )
            cuts.append(cut)
            pixels += [] if made is None else [made]
        return ProcessedBatch(tuple(cuts), tuple(pixels))
