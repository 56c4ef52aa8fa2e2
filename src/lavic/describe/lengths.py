"""How many image tokens a picture makes, known from its size alone: what is alike goes into one batch."""

from __future__ import annotations

from typing import Any

from transformers.image_processing_utils import select_best_resolution


def image_token_count(config: Any, size: tuple[int, int]) -> int:
    """Base view, tiles without their padding, and a line break for each row of patches.

    Args:
        config: of a LLaVA checkpoint; one without a list of grids has one view.
        size: (width, height) of the picture.
    """
    vision = config.vision_config
    side = int(vision.image_size) // int(vision.patch_size)
    base = side * side + (config.vision_feature_select_strategy == "full")
    grids = getattr(config, "image_grid_pinpoints", None)
    if not grids:
        return int(base)
    width, height = size
    best_height, best_width = select_best_resolution((height, width), [tuple(grid) for grid in grids])
    rows = best_height // int(vision.image_size) * side
    columns = best_width // int(vision.image_size) * side
    # The tiles hold the whole picture, centred; rows or columns of padding are left out on both sides.
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    return int(base + rows * columns + rows)
