"""What makes visual tokens of pictures: a [CLS] a view, or all image tokens of the checkpoint as published."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lavic.embed.items import Picture
from lavic.embed.pictures import Cut, PictureBatch, PictureBatches, ProcessedBatch, ProcessedBatches
from lavic.model.adapters import VISION_PARTS, load_vision_adapter, merge
from lavic.model.full_tokens import FullTokenModel
from lavic.model.load import BaseModel
from lavic.model.visual_tokens import FiveTokenModel


class CutPictures(Protocol):
    """A batch: what became of each picture that was wanted."""

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """In the order of the wanted ones."""


Batch = TypeVar("Batch", bound=CutPictures)


class Tower(Protocol[Batch]):
    """A model's vision side on a device.

    The rest of the model stays where it is: of the 7B's 15 GB only 0.7 are needed on a GPU.
    """

    device: torch.device

    def batches(self, pictures: Rows[Picture], batch_size: int) -> Dataset[Batch]:
        """Makes what ``tokens`` takes, in worker processes."""

    def tokens(self, batch: Batch) -> Rows[Tensor]:
        """By slot, a picture's rows of the store: [rows, V, D] on the CPU."""


class FiveTokenTower:
    """One row a picture, with the stage-1 adapter merged in.

    Raises:
        AdapterError: the adapter does not fit.
    """

    def __init__(self, base: BaseModel, adapter: Path | None, device: torch.device) -> None:
        if adapter is not None:
            merge(load_vision_adapter(base.model, adapter))
        self.device = device
        self._view_size, self._views = base.view_size, base.family.views
        self._model = FiveTokenModel(base).eval()
        _move_vision_side(base, device)
        self._model.pixel_norm.to(device)

    def batches(self, pictures: Rows[Picture], batch_size: int) -> Dataset[PictureBatch]:
        """See ``Tower``."""
        return PictureBatches(pictures, batch_size, view_size=self._view_size, views=self._views)

    @torch.inference_mode()
    def tokens(self, batch: PictureBatch) -> Rows[Tensor]:
        """See ``Tower``."""
        tokens = self._model.visual_tokens(batch.views.to(self.device, non_blocking=True)).cpu()
        return list(tokens[:, None])


class FullTokenTower:
    """A row an image token. Each picture goes through by itself, for their numbers of views differ."""

    def __init__(self, base: BaseModel, device: torch.device) -> None:
        self.device = device
        self._model = FullTokenModel(base)
        _move_vision_side(base, device)
        newline = getattr(base.model.model, "image_newline", None)
        if newline is not None:
            newline.data = newline.data.to(device)

    def batches(self, pictures: Rows[Picture], batch_size: int) -> Dataset[ProcessedBatch]:
        """See ``Tower``."""
        return ProcessedBatches(pictures, self._model.processor)

    @torch.inference_mode()
    def tokens(self, batch: ProcessedBatch) -> Rows[Tensor]:
        """See ``Tower``."""
        return [self._model.tokens_of(pixels)[0].cpu()[:, None] for pixels in batch.pixels]


def _move_vision_side(base: BaseModel, device: torch.device) -> None:
    for part in VISION_PARTS:
        base.model.get_submodule(f"model.{part}").to(device)
