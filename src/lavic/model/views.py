"""A picture becomes V square views: the whole picture, then the tiles of its 2x2 grid.

Pixels stay uint8 until they are on the device. Equal, bit for bit, to what the processor of
transformers cuts with the one grid ``[[2 s, 2 s]]`` (design: the student's grid is fixed).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def _fitted_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) of the picture scaled to fit a square of ``side``, its aspect kept, rounded up."""
    if side / width < side / height:
        return side, min(math.ceil(height * (side / width)), side)
    return min(math.ceil(width * (side / height)), side), side


def cut_views(image: Image.Image, view_size: int, views: int = 5) -> NDArray[np.uint8]:
    """Cut the views of one picture.

    Args:
        image: an RGB picture of any size.
        view_size: side of a view in pixels (336 for the 7B).
        views: 5 (global view and four tiles, row by row) or 1 (global view only).

    Returns:
        [V, 3, view_size, view_size] uint8.
    """
    crops = [image.resize((view_size, view_size), Image.Resampling.BICUBIC)]
    if views == 5:
        side = 2 * view_size
        width, height = _fitted_size(*image.size, side)
        canvas = Image.new("RGB", (side, side))
        fitted = image.resize((width, height), Image.Resampling.BICUBIC)
        canvas.paste(fitted, ((side - width) // 2, (side - height) // 2))
        for top in (0, view_size):
            for left in (0, view_size):
                crops.append(canvas.crop((left, top, left + view_size, top + view_size)))
    elif views != 1:
        raise ValueError(f"views must be 1 or 5, not {views}")
    return np.stack([np.asarray(crop).transpose(2, 0, 1) for crop in crops])


class PixelNorm(torch.nn.Module):
    """uint8 views to the numbers that the vision tower was trained on; runs on the device."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, views: Tensor, dtype: torch.dtype) -> Tensor:
        """[..., 3, s, s] uint8 to the same shape in ``dtype``; the arithmetic is float32."""
        return ((views.float() / 255 - self.mean) / self.std).to(dtype)
