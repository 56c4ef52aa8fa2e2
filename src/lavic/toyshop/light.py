"""How light falls on a part of a product: shade, gleam, contour."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from lavic.toyshop import textures
from lavic.toyshop.outlines import Part
from lavic.toyshop.scene import Crop, Scene
from lavic.toyshop.textures import Field


def light(part: Part, crop: Crop, scene: Scene) -> tuple[Field, Field | None]:
    """Shade (a factor) and gleam (a share of white, None for none) of each pixel."""
    left, top, right, bottom = scene.bounds(part)
    u = (crop.x - left) * (2 / max(right - left, 1)) - 1
    v = (crop.y - top) * (2 / max(bottom - top, 1)) - 1
    if part.material in textures.METALS:
        return _on_metal(u + 0.25 * v, scene)
    if part.form == "round":
        return _on_cylinder(u, v, scene)
    if part.form == "ball":
        return _on_ball(u, v, scene)
    if part.form == "soft":
        return _on_cloth(part, crop, scene) - 0.05 * v, None
    return 1.0 + (0.05 * scene.strength) * (scene.light * u - v), None


def contour(mask: Image.Image, size: int) -> Field:
    """1 at a part's border, 0 from about two pixels inwards."""
    blurred = np.asarray(mask.filter(ImageFilter.BoxBlur(size / 120)), np.float32)
    line: Field = np.clip(2 - blurred * (2 / 255), 0, 1)
    return line


def _bump(x: Field, width: float) -> Field:
    bump: Field = np.exp(-((x * (1 / width)) ** 2))
    return bump


def _on_metal(u: Field, scene: Scene) -> tuple[Field, Field]:
    shade = 0.74 + 0.42 * _bump(u - 0.40 * scene.light, 0.26) + 0.22 * _bump(u + 0.62 * scene.light, 0.16)
    return shade, 0.45 * _bump(u - 0.42 * scene.light, 0.12)


def _on_cylinder(u: Field, v: Field, scene: Scene) -> tuple[Field, Field]:
    across = np.clip(u, -1, 1)
    front = np.sqrt(1 - across * across)
    shade = 0.74 + 0.29 * front + (0.12 * scene.strength * scene.light) * across - 0.03 * v
    return shade, (0.20 * scene.strength) * _bump(across - 0.48 * scene.light, 0.15)


def _on_ball(u: Field, v: Field, scene: Scene) -> tuple[Field, Field]:
    front = np.sqrt(np.clip(1 - 0.8 * (u * u + v * v), 0, 1))
    shade = 0.76 + 0.28 * front + (0.10 * scene.strength) * (scene.light * u - v)
    spot = _bump(u - 0.42 * scene.light, 0.28) * _bump(v + 0.48, 0.24)
    return shade, (0.26 * scene.strength) * spot


def _on_cloth(part: Part, crop: Crop, scene: Scene) -> Field:
    """Shade of something stuffed: from the slope of the blurred mask, worked out at half size."""
    height, width = crop.alpha.shape
    small = crop.mask.resize((max(width // 2, 1), max(height // 2, 1)), Image.Resampling.BILINEAR)
    radius = max(scene.size * 0.014, 1.0)
    if part.width:
        radius = max(part.width * scene.scale * 0.10, 0.7)
    blurred = small.filter(ImageFilter.BoxBlur(radius)).filter(ImageFilter.BoxBlur(radius))
    hill = np.asarray(blurred, np.float32) * (1 / 255)
    slope_x, slope_y = np.zeros_like(hill), np.zeros_like(hill)
    slope_x[:, 1:-1] = hill[:, 2:] - hill[:, :-2]
    slope_y[1:-1] = hill[2:] - hill[:-2]
    facing = (0.75 * slope_y - scene.light * slope_x) * (radius * 0.42 * scene.strength)
    shade = 1.0 + facing - 0.16 * (1 - hill)
    large: Field = np.asarray(Image.fromarray(shade).resize((width, height), Image.Resampling.BILINEAR))
    return large
