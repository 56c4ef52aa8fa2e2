"""Geometry of the toy shop's drawings: parts of a product, and the curves that they are made of.

Coordinates are a product's own: x to the right, y down, about -1 to 1; drawing.py scales and places them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Pair = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Part:
    """One painted piece of a product; later parts lie over earlier ones.

    ``material`` is a name that textures.py knows (``body`` carries the pattern). ``form`` says how light
    falls: ``round`` on an upright cylinder, ``ball``, ``soft`` as on cloth, ``flat``. With ``width`` the
    points are a path drawn that thick (``closed`` joins its ends), else a filled outline. ``edge`` is the
    strength of the thin dark contour.
    """

    points: Points
    material: str
    form: str = "flat"
    width: float = 0.0
    alpha: float = 1.0
    edge: float = 0.45
    closed: bool = False


@dataclass(frozen=True, eq=False)
class Silhouette:
    """All parts of a product, back to front, and how it is placed.

    ``stands`` products have a ground shadow and hardly tilt; the others lie or hang. ``wraps`` says that the
    pattern goes round a cylinder. ``mirrors`` allows the mirror image.
    """

    parts: tuple[Part, ...]
    stands: bool = True
    wraps: bool = True
    mirrors: bool = True

    @property
    def body(self) -> Part:
        """The first part with the pattern: it sets the pattern's scale."""
        return next(part for part in self.parts if part.material == "body")

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of everything that is drawn."""
        low = np.min([part.points.min(axis=0) - part.width / 2 for part in self.parts], axis=0)
        high = np.max([part.points.max(axis=0) + part.width / 2 for part in self.parts], axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def points(*pairs: Pair) -> Points:
    """Straight lines between the given places."""
    return np.array(pairs, dtype=np.float64)


def mirrored(*pairs: Pair) -> list[Pair]:
    """A right half, top to bottom, closed by its mirror image on the left."""
    return [*pairs, *[(-x, y) for x, y in reversed(pairs) if x != 0.0]]


def curve(*pairs: Pair, closed: bool = True, steps: int = 8) -> Points:
    """A smooth line through all given places (Catmull-Rom)."""
    knots = np.array(pairs, dtype=np.float64)
    if closed:
        around = np.vstack([knots[-1:], knots, knots[:2]])
    else:
        around = np.vstack([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    before, start, end, after = around[:-3], around[1:-2], around[2:-1], around[3:]
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    line = start + 0.5 * t * (
        end - before + t * (2 * before - 5 * start + 4 * end - after + t * (3 * (start - end) + after - before))
    )
    flat = line.transpose(1, 0, 2).reshape(-1, 2)
    return flat if closed else np.vstack([flat, knots[-1:]])


def rounded(*pairs: Pair, radius: float = 0.08, steps: int = 5) -> Points:
    """A polygon whose corners are rounded off."""
    corners = np.array(pairs, dtype=np.float64)
    line: list[Points] = []
    for index, corner in enumerate(corners):
        before, after = corners[index - 1], corners[(index + 1) % len(corners)]
        cut = min(radius, float(np.hypot(*(before - corner))) / 2, float(np.hypot(*(after - corner))) / 2)
        enter = corner + (before - corner) * cut / max(float(np.hypot(*(before - corner))), 1e-9)
        leave = corner + (after - corner) * cut / max(float(np.hypot(*(after - corner))), 1e-9)
        t = np.linspace(0, 1, steps)[:, None]
        line.append((1 - t) ** 2 * enter + 2 * t * (1 - t) * corner + t**2 * leave)
    return np.vstack(line)


def box(left: float, top: float, right: float, bottom: float, radius: float = 0.05) -> Points:
    """A rectangle with rounded corners."""
    return rounded((left, top), (right, top), (right, bottom), (left, bottom), radius=radius)


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> Points:
    """An ellipse, or the arc of it between two angles in degrees (0 right, 90 down)."""
    whole = stop - start >= 360
    angles = np.radians(np.linspace(start, stop, 40, endpoint=not whole))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def turned(*rows: Pair, bend: float = 0.08, closed_top: bool = False, smooth: bool = True) -> Points:
    """The outline of something turned on a wheel.

    Args:
        rows: (y, half width) from top to bottom.
        bend: how far top and bottom edge bulge down at half width 1, as seen from a little above.
        closed_top: whether the top edge bulges up instead: its far side is seen.
        smooth: whether the side is a curve through the rows or straight between them.
    """
    side = [(half, y) for y, half in rows]
    right = curve(*side, closed=False) if smooth else np.array(side, dtype=np.float64)
    top, bottom = right[0], right[-1]
    t = np.radians(np.linspace(0, 180, 16))
    below = np.stack([bottom[0] * np.cos(t), bottom[1] + bend * bottom[0] * np.sin(t)], axis=1)
    above = np.stack([-top[0] * np.cos(t), top[1] + (-bend if closed_top else bend) * top[0] * np.sin(t)], axis=1)
    return np.vstack([right, below, right[::-1] * [-1, 1], above])
