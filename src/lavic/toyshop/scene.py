"""Where a product stands in its picture: scale, turn, light, and the rectangle of pixels of each part."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from lavic.toyshop.outlines import Part, Points, Silhouette
from lavic.toyshop.textures import Field

#: Masks are drawn this many times larger, then averaged.
_SUPERSAMPLE = 2
#: Turn of a product that lies or hangs, and of one that stands, at most, in degrees.
_TURN_LYING, _TURN_STANDING = 12.0, 5.0


@dataclass(frozen=True)
class Scene:
    """All of one drawing's chances but those of the pattern.

    ``centre`` is the product's middle in its own coordinates (x already stretched and mirrored), ``middle``
    the pixel where that comes to lie; ``angle`` is in radians, ``light`` -1 (from the left) to 1.
    """

    size: int
    scale: float
    stretch: float
    mirror: float
    angle: float
    centre: tuple[float, float]
    middle: tuple[float, float]
    light: float
    strength: float
    brightness: float

    def upright(self, points: Points) -> Points:
        """In pixels from the product's middle, before the turn."""
        x = points[:, 0] * self.mirror * self.stretch - self.centre[0]
        return np.stack([x * self.scale, (points[:, 1] - self.centre[1]) * self.scale], axis=1)

    def place(self, points: Points) -> Points:
        """In pixels of the picture."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turned: Points = self.upright(points) @ np.array([[cos, sin], [-sin, cos]]) + np.array(self.middle)
        return turned

    def bounds(self, part: Part) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of a part, upright."""
        points = self.upright(part.points)
        pad = part.width * self.scale / 2
        left, top = points.min(axis=0).tolist()
        right, bottom = points.max(axis=0).tolist()
        return left - pad, top - pad, right + pad, bottom + pad


@dataclass(frozen=True, eq=False)
class Crop:
    """The rectangle of the picture that holds one part.

    ``mask`` and ``alpha`` [H, W] say how much of each pixel the part covers; ``x`` and ``y`` [H, W] are the
    upright places of the pixels.
    """

    rows: slice
    columns: slice
    mask: Image.Image
    alpha: Field
    x: Field
    y: Field


def arrange(shape: Silhouette, rng: random.Random, size: int) -> Scene:
    """Draws a place, a turn and a light, so that the whole product stays inside the picture."""
    mirror = -1.0 if shape.mirrors and rng.random() < 0.5 else 1.0
    stretch = rng.uniform(0.95, 1.05)
    limit = _TURN_STANDING if shape.stands else _TURN_LYING
    angle = math.radians(rng.uniform(-limit, limit))
    left, top, right, bottom = shape.bounds
    centre = ((left + right) / 2 * stretch * mirror, (top + bottom) / 2)
    wide, high = (right - left) * stretch, bottom - top
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    across, down = wide * cos + high * sin, wide * sin + high * cos
    scale = rng.uniform(0.78, 0.90) * size / max(across, down)
    free_x = min((0.95 * size - across * scale) / 2, 0.18 * size)
    free_y = (0.95 * size - down * scale) / 2
    middle = (
        size / 2 + rng.uniform(-0.8, 0.8) * free_x,
        # What stands should stand on the floor, not against the wall.
        size / 2 + rng.uniform(-0.1 if shape.stands else -0.8, 0.8) * free_y,
    )
    light = rng.choice((-1.0, 1.0)) * rng.uniform(0.45, 1.0)
    strength, brightness = rng.uniform(0.8, 1.15), rng.uniform(0.96, 1.03)
    return Scene(size, scale, stretch, mirror, angle, centre, middle, light, strength, brightness)


def trace(pen: ImageDraw.ImageDraw, points: Points, part: Part, scale: float) -> None:
    """Draws a part in white; ``points`` and ``scale`` are in the pen's pixels."""
    line: list[tuple[float, float]] = [(x, y) for x, y in points.tolist()]
    if not part.width:
        pen.polygon(line, fill=255)
        return
    width = max(1, round(part.width * scale))
    if part.closed:
        line += line[:2]
    pen.line(line, fill=255, width=width, joint="curve")
    if not part.closed:
        for x, y in (line[0], line[-1]):
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)


def crop(part: Part, scene: Scene) -> Crop | None:
    """The part's rectangle; None if it lies outside the picture."""
    placed = scene.place(part.points)
    margin = part.width * scene.scale / 2 + 3
    left, top = (max(math.floor(edge), 0) for edge in (placed.min(axis=0) - margin).tolist())
    right, bottom = (min(math.ceil(edge), scene.size) for edge in (placed.max(axis=0) + margin).tolist())
    if right <= left or bottom <= top:
        return None
    large = Image.new("L", ((right - left) * _SUPERSAMPLE, (bottom - top) * _SUPERSAMPLE))
    local = (placed - [left, top]) * _SUPERSAMPLE
    trace(ImageDraw.Draw(large), local, part, scene.scale * _SUPERSAMPLE)
    mask = large.reduce(_SUPERSAMPLE)
    columns = np.arange(left, right, dtype=np.float32) + (0.5 - scene.middle[0])
    rows = (np.arange(top, bottom, dtype=np.float32) + (0.5 - scene.middle[1]))[:, None]
    cos, sin = math.cos(scene.angle), math.sin(scene.angle)
    x, y = columns * cos + rows * sin, rows * cos - columns * sin
    alpha: Field = np.asarray(mask, np.float32) * (1 / 255)
    return Crop(slice(top, bottom), slice(left, right), mask, alpha, x, y)
