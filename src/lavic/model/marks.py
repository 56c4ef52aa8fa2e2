"""What marks of weights are made from: enough to tell two checkpoints apart without reading 15 GB twice.

Marks are kept in item stores and checkpoints, and those made before must still be known again: which values are looked
at, and as which bytes, stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Values looked at in each tensor, about: every n-th one.
SAMPLED_VALUES = 64


def sampled_values(tensor: Tensor, rounded_to: torch.dtype | None = None) -> bytes:
    """Some values of a tensor, evenly spread, as float64.

    Args:
        tensor: of any shape and device.
        rounded_to: a number format that they are rounded to first; None takes them as they are.
    """
    values = tensor.detach().flatten()[:: max(1, tensor.numel() // SAMPLED_VALUES)]
    if rounded_to is not None:
        values = values.to(rounded_to)
    return bytes(values.double().cpu().numpy().tobytes())
