"""What tells one store from another, in words."""

from __future__ import annotations

from typing import Any

import pytest

from lavic.embed.identity import what_differs

KNOWN: dict[str, Any] = {
    "model": {"name": "tiny", "mark": "1"},
    "image_tokens": "all",
    "views": 1,
    "dim": 128,
    "view_size": 40,
    "pixel_mean": [0.5],
    "pixel_std": [0.2],
    "grids": [[80, 80]],
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"grids": [[80, 40]]}, "other grids of tiles"),
        ({"pixel_mean": [0.4]}, "pictures normalised in another way"),
        ({"view_size": 48, "grids": [[96, 96]]}, "other views (1 of 40 pixels, not 1 of 48 pixels)"),
        ({"model": {"name": "tiny", "mark": "2"}}, "other weights of the model tiny"),
    ],
)
def test_each_difference_has_its_own_words(changes: dict[str, Any], said: str) -> None:
    assert what_differs(KNOWN, {**KNOWN, **changes}) == said
