"""What drawings are painted with: the colours of materials, the six patterns, the four backgrounds."""

from __future__ import annotations

import colorsys
import math
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lavic.toyshop.kinds import COLOURS

#: float32 throughout; the stubs say float64 of float32 times a Python float.
Field = npt.NDArray[np.floating[Any]]
Colour = tuple[float, float, float]

#: Share of the body that the second tone of a two-tone product covers.
TWO_TONE_SHARE = 0.38

_OFF_WHITE: Colour = (251, 246, 234)
#: The second tone of patterns, where it is not off-white.
_SECOND: dict[str, Colour] = {
    "yellow": (98, 92, 88),
    "pink": (255, 252, 250),
    "black": (222, 222, 226),
    "white": (132, 136, 146),
    "brown": (240, 226, 200),
}
#: Whether dark accents stand out from a colour better than light ones.
_LIGHT = frozenset({"yellow", "pink", "white", "orange"})

#: Darker shades for trimmings, where a mere darkening would look like another colour.
_DEEP: dict[str, Colour] = {
    "orange": (222, 106, 22),
    "yellow": (224, 172, 36),
    "pink": (222, 108, 154),
    "black": (88, 88, 96),
    "white": (198, 200, 206),
}
_INSIDE: dict[str, Colour] = {
    "orange": (160, 72, 18),
    "yellow": (164, 122, 30),
    "pink": (164, 78, 112),
    "black": (20, 20, 24),
    "white": (162, 164, 172),
}

_FIXED: dict[str, Colour] = {
    "gold": (214, 164, 56),
    "silver": (196, 200, 206),
    "wood": (192, 142, 88),
    "ink": (34, 32, 38),
    "cloth": (248, 246, 240),
    "glow": (255, 247, 218),
    "twig": (104, 74, 50),
    "straw": (216, 180, 122),
}
METALS = frozenset({"gold", "silver"})


def material_colours(colour: str, base: Colour) -> dict[str, Colour]:
    """The colour of every material on a product whose base colour, after jitter, is ``base``."""
    light = colour in _LIGHT

    def times(factor: float) -> Colour:
        return (base[0] * factor, base[1] * factor, base[2] * factor)

    deep, inside = _DEEP.get(colour, times(0.72)), _INSIDE.get(colour, times(0.5))
    return {
        **_FIXED,
        "colour": base,
        "deep": deep,
        "inside": inside,
        "contrast": _SECOND.get(colour, _OFF_WHITE),
        "accent": (66, 62, 70) if light else (250, 243, 226),
        "leather": (214, 180, 134) if colour in ("black", "brown", "purple", "red") else (88, 54, 36),
        "tan": (88, 58, 40) if colour in ("orange", "yellow", "white", "pink") else (206, 164, 114),
        "dark": (126, 128, 136) if colour == "black" else (58, 57, 64),
        "pale": (104, 108, 118) if colour == "white" else (238, 237, 233),
        "label": (250, 248, 242),
        "rubber": (168, 171, 178) if colour == "white" else (243, 241, 235),
        "line": times(0.3) if colour != "black" else (8, 8, 10),
    }


def jittered(colour: str, rng: random.Random) -> Colour:
    """The exact shade of one product: near enough to its name never to be taken for another."""
    red, green, blue = (part / 255 for part in COLOURS[colour])
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    hue = (hue + rng.uniform(-0.008, 0.008)) % 1.0
    saturation = min(1.0, saturation * rng.uniform(0.95, 1.04))
    value = min(1.0, value * rng.uniform(0.95, 1.04))
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return (red * 255, green * 255, blue * 255)


@dataclass(frozen=True)
class PatternPlan:
    """One drawing's choices for a pattern; lengths are shares of the body's mean extent."""

    pattern: str
    repeats: float
    angle: float
    phase_x: float
    phase_y: float


def plan_pattern(pattern: str, rng: random.Random) -> PatternPlan:
    """Draws how often a pattern repeats over the body, its angle (radians) and where it begins."""
    repeats = {"striped": (4.2, 5.4), "dotted": (3.8, 4.6), "checked": (2.9, 3.5), "zigzag": (3.1, 3.8)}
    count = rng.uniform(*repeats.get(pattern, (1.0, 1.0)))
    tilt = 0.05 if pattern == "two-tone" else 0.10
    return PatternPlan(pattern, count, rng.uniform(-tilt, tilt), rng.random(), rng.random())


def second_tone(plan: PatternPlan, x: Field, y: Field, extent: float, body: Field) -> Field:
    """How much of the second tone each pixel takes, 0 to 1.

    Args:
        plan: the pattern and its choices.
        x: [H, W], places on the body from its centre, in pixels; y likewise.
        extent: the body's mean extent in pixels.
        body: [H, W], the body's mask, 0 to 1.
    """
    cos, sin = math.cos(plan.angle), math.sin(plan.angle)
    across, along = x * cos - y * sin, x * sin + y * cos
    if plan.pattern == "two-tone":
        return _lower_share(along, body)
    step = extent / plan.repeats
    p, q = across * (1 / step) + plan.phase_x, along * (1 / step) + plan.phase_y
    if plan.pattern == "striped":
        return _within(_from_middle(q), 0.18, step)
    if plan.pattern == "zigzag":
        # The slope of the wave, 1.2, makes a band steeper and its border sharper by the root of 1 + 1.2².
        return _within(_from_middle(q + 1.5 * _from_middle(0.8 * p)), 0.19, 0.64 * step)
    if plan.pattern == "dotted":
        return _within(np.hypot(_from_middle(p), _from_middle(q)), 0.31, step)
    if plan.pattern == "checked":
        squares = np.maximum(_from_middle(p), _from_middle(q))
        between = np.maximum(_from_middle(p + 0.5), _from_middle(q + 0.5))
        return _within(np.minimum(squares, between), 0.2175, step)
    return np.zeros_like(x)


def _lower_share(along: Field, body: Field) -> Field:
    """The lower part of the body, cut where it holds TWO_TONE_SHARE of the pixels."""
    inside = along[body > 0.5]
    if inside.size == 0:
        return np.zeros_like(along)
    rank = int((1 - TWO_TONE_SHARE) * (inside.size - 1))
    lower: Field = np.clip(along - np.partition(inside, rank)[rank] + 0.5, 0, 1)
    return lower


def _from_middle(x: Field) -> Field:
    """Distance from the middle of the period, 0 to 0.5."""
    distance: Field = np.abs(x - np.floor(x) - 0.5)
    return distance


def _within(distance: Field, limit: float, step: float) -> Field:
    """1 where a distance is below a limit, both in periods of ``step`` pixels, with a border a pixel wide."""
    inside: Field = np.clip((limit - distance) * step + 0.5, 0, 1)
    return inside


_BACKDROPS: dict[str, tuple[Colour, Colour]] = {
    "a pale grey backdrop": ((226, 228, 231), (205, 208, 212)),
    "a warm beige backdrop": ((238, 226, 207), (221, 205, 181)),
    "a mint backdrop": ((206, 231, 219), (178, 212, 197)),
    "a wooden table": ((236, 233, 228), (186, 150, 112)),
}


def backdrop(background: str, size: int, horizon: float, slope: float, shift: int) -> Field:
    """[size, size, 3]: a background with its horizon at a share of the height.

    Args:
        background: one of kinds.BACKGROUNDS.
        size: in pixels.
        horizon: where wall and floor meet, 0 (top) to 1.
        slope: how much brighter the right side is than the left one.
        shift: which part of the wood is seen.
    """
    wall, floor = _BACKDROPS[background]
    down = np.linspace(0, 1, size, dtype=np.float32)
    if background == "a wooden table":
        row = int(horizon * size)
        top = np.array(wall, np.float32) * (1.0 - 0.08 * down[:row, None, None])
        rise = np.linspace(0.86, 1.06, size - row, dtype=np.float32)[:, None, None]
        start = shift % 64
        grain = _wood(size)[start : start + size - row, :, None]
        table = np.array(floor, np.float32) * rise * grain
        table[:2] *= np.float32(0.86)
        picture = np.concatenate([np.broadcast_to(top, (row, size, 3)), table])
    else:
        blend = 1 / (1 + np.exp((horizon - down) * 14))
        bright = 1.03 - 0.06 * np.abs(down - horizon)
        column = (np.outer(1 - blend, wall) + np.outer(blend, floor)) * bright[:, None]
        picture = np.broadcast_to(column[:, None, :].astype(np.float32), (size, size, 3))
    lit: Field = picture * (_vignette(size) + slope * _ramp(size))[:, :, None]
    return lit


@lru_cache(maxsize=4)
def _ramp(size: int) -> Field:
    return np.broadcast_to(np.linspace(-1, 1, size, dtype=np.float32), (size, size))


@lru_cache(maxsize=4)
def _vignette(size: int) -> Field:
    away = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    falloff: Field = 1.02 - 0.045 * (away[:, None] + away[None, :])
    return falloff


@lru_cache(maxsize=4)
def _wood(size: int) -> Field:
    """[size + 64, size]: the grain of a light table, planks running from left to right."""
    noise = np.random.default_rng(20240)
    rows, columns = size + 64, size
    down = np.arange(rows, dtype=np.float32)[:, None] * (224 / size)
    right = np.arange(columns, dtype=np.float32)[None, :] * (224 / size)
    wander = 3.0 * np.sin(right / 47 + down / 90) + 1.6 * np.sin(right / 19 + down / 31)
    grain = 0.030 * np.sin((down + wander) * 0.62) + 0.022 * np.sin((down + wander * 1.4) * 1.9)
    streaks = noise.normal(0, 0.022, rows).astype(np.float32)[:, None]
    fibre = np.repeat(noise.normal(0, 0.020, (rows, columns // 8 + 1)), 8, axis=1)[:, :columns]
    planks = 1 - 0.16 * ((down % 74) < 1.6)
    tone = 1 + 0.05 * np.sin(np.floor(down / 74) * 2.4)
    result: Field = ((1 + grain + streaks + fibre) * planks * tone).astype(np.float32)
    return result
