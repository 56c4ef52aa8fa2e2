"""Tensors that the backward pass makes again instead of keeping them.

A LoRA layer needs its input a second time, for the gradient of A. Where that input comes from a norm or an activation,
which keep their own inputs anyway, a pass over those makes it again: cheap beside a matrix product, and as large as
what a layer hands on. So what computes such a tensor says with it how it is made (a recipe), and who would keep it
keeps the recipe's tensors. Where no recipe is known, the tensor itself is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_RECIPE = "lavic_recipe"


@dataclass(frozen=True)
class Recipe:
    """How a tensor is made again, bit for bit.

    Attributes:
        make: of ``tensors``, in their order.
        tensors: for ``save_for_backward``, so that recomputed layers and other hooks know of them.
        version: of the tensor when it was made; one that was changed in place since is another.
    """

    make: Callable[..., Tensor]
    tensors: tuple[Tensor | None, ...]
    version: int = 0


def with_recipe(made: Tensor, make: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
    """The tensor, with how it was made: ``make(*tensors)``, of tensors that are kept anyway.

    Nothing is said where nothing is kept, or to a compiler, which finds by itself what is cheap to make again.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        constants = tuple(None if one is None else one.detach() for one in tensors)
        setattr(made, _RECIPE, Recipe(make, constants, made._version))
    return made


def recipe_of(tensor: Tensor) -> Recipe:
    """What to keep of a tensor: its recipe, or else itself."""
    recipe = None if torch.compiler.is_compiling() else getattr(tensor, _RECIPE, None)
    if isinstance(recipe, Recipe) and recipe.version == tensor._version:
        return recipe
    return Recipe(_as_it_is, (tensor,))


def _as_it_is(tensor: Any) -> Any:
    return tensor
