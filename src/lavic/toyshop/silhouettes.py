"""The silhouette of every kind of product with every detail."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from lavic.toyshop import garments, household
from lavic.toyshop.outlines import Silhouette

_MAKERS: dict[str, Callable[[str], Silhouette]] = {
    "t-shirt": garments.t_shirt,
    "dress": garments.dress,
    "handbag": garments.handbag,
    "cap": garments.cap,
    "sneaker": garments.sneaker,
    "mug": household.mug,
    "cushion": household.cushion,
    "lamp": household.lamp,
    "vase": household.vase,
    "lotion bottle": household.lotion_bottle,
    "lipstick": household.lipstick,
    "cream jar": household.cream_jar,
}


@lru_cache(maxsize=64)
def silhouette(kind: str, detail: str) -> Silhouette:
    """The parts of a kind of product with one of its details; the same object at every call."""
    return _MAKERS[kind](detail)
