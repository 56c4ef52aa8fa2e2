"""Product pictures by code: a silhouette, painted with its materials, lit, set before a background."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lavic.toyshop import textures
from lavic.toyshop.kinds import Look
from lavic.toyshop.light import contour, light
from lavic.toyshop.outlines import Part, Silhouette
from lavic.toyshop.scene import Crop, Scene, arrange, crop, trace
from lavic.toyshop.silhouettes import silhouette
from lavic.toyshop.textures import Colour, Field, PatternPlan


def draw(look: Look, rng: random.Random, size: int = 224) -> Image.Image:
    """A picture of one product, RGB, ``size`` x ``size``; the same ``rng`` state gives the same pixels."""
    shape = silhouette(look.kind, look.detail)
    base = textures.jittered(look.colour, rng)
    colours = textures.material_colours(look.colour, base)
    plan = textures.plan_pattern(look.pattern, rng)
    scene = arrange(shape, rng, size)
    canvas = _background(look, shape, scene, rng)
    _cast_shadow(canvas, shape, scene)
    for part in shape.parts:
        place = crop(part, scene)
        if place is not None:
            _lay(canvas, place, _paint(part, place, shape, scene, colours, plan), part, scene)
    return _develop(canvas, scene, rng)


def _background(look: Look, shape: Silhouette, scene: Scene, rng: random.Random) -> Field:
    if look.background != "a wooden table":
        horizon = rng.uniform(0.58, 0.72)
    else:
        # A table seen from the side for what stands, nearly from above for what lies on it.
        horizon = rng.uniform(0.50, 0.62) if shape.stands else rng.uniform(0.12, 0.22)
    slope = 0.035 * scene.light * scene.strength
    return textures.backdrop(look.background, scene.size, horizon, slope, rng.randrange(64))


def _cast_shadow(canvas: Field, shape: Silhouette, scene: Scene) -> None:
    """Darkens the background where the product keeps the light away; worked out at a quarter of the size."""
    small = max(scene.size // 4, 1)
    solid = [part for part in shape.parts if part.alpha == 1.0]
    reach = scene.size * (0.02 if shape.stands else 0.03)
    shift = np.array([-scene.light * reach, 0.9 * reach])
    drop = Image.new("L", (small, small))
    for part in solid:
        trace(ImageDraw.Draw(drop), (scene.place(part.points) + shift) / 4, part, scene.scale / 4)
    shade = np.asarray(drop.filter(ImageFilter.GaussianBlur(small * 0.035)), np.float32) * (0.30 / 255)
    if shape.stands:
        placed = np.vstack([scene.place(part.points) for part in solid]) / 4
        foot = placed[placed[:, 1] > placed[:, 1].max() - 0.10 * small]
        left, right, ground = float(foot[:, 0].min()), float(foot[:, 0].max()), float(foot[:, 1].max())
        thick = max(1.5, (right - left) * 0.10)
        aside = -scene.light * (right - left) * 0.10
        contact = Image.new("L", (small, small))
        box = (left + min(aside, 0), ground - 1.2 * thick, right + max(aside, 0), ground + 0.7 * thick)
        ImageDraw.Draw(contact).ellipse(box, fill=255)
        blurred = contact.filter(ImageFilter.GaussianBlur(small * 0.022))
        shade = np.maximum(shade, np.asarray(blurred, np.float32) * (0.50 / 255))
    full = np.asarray(Image.fromarray(shade).resize((scene.size, scene.size), Image.Resampling.BICUBIC))
    canvas *= (1 - full * (0.69 + 0.2 * scene.strength))[:, :, None]


def _paint(
    part: Part, place: Crop, shape: Silhouette, scene: Scene, colours: dict[str, Colour], plan: PatternPlan
) -> Field:
    """[H, W, 3] or [3]: the part's colour before light."""
    if part.material == "wood":
        rings = np.sin(place.y * (90 / scene.size) + 0.9 * np.sin(place.x * (11 / scene.size)))
        grained: Field = np.array(colours["wood"], np.float32) * (1 + 0.10 * rings)[:, :, None]
        return grained
    if part.material != "body":
        return np.array(colours[part.material], np.float32)
    base, second = np.array(colours["colour"], np.float32), np.array(colours["contrast"], np.float32)
    if plan.pattern == "plain":
        return base
    left, top, right, bottom = scene.bounds(part)
    x, y = place.x - (left + right) / 2, place.y - (top + bottom) / 2
    if shape.wraps:
        half = (right - left) / 2
        across = np.clip(x * (1 / (1.04 * half)), -1, 1)
        x = np.arcsin(across) * (0.9 * half)
        y = y - (0.14 * half) * np.sqrt(1 - across * across)
    # A small body gets a pattern as coarse as a larger one's, so that it survives in an 80 px picture.
    extent = max(math.sqrt((right - left) * (bottom - top)), 0.45 * scene.size)
    share = textures.second_tone(plan, x, y, extent, place.alpha)
    mixed: Field = base + share[:, :, None] * (second - base)
    return mixed


def _lay(canvas: Field, place: Crop, paint: Field, part: Part, scene: Scene) -> None:
    """Lights a part and lays it over the canvas."""
    target = canvas[place.rows, place.columns]
    alpha = place.alpha * part.alpha
    if part.material == "line":
        target += alpha[:, :, None] * (paint - target)
        return
    shade, gleam = light(part, place, scene)
    # Two [H, W] factors make the lit colour paint * factor + white: cheaper than working on three channels.
    factor = shade if gleam is None else shade * (1 - gleam)
    dark = 1 - (0.8 * part.edge) * contour(place.mask, scene.size) if part.edge else np.ones_like(alpha)
    lit = paint * (factor * dark)[:, :, None]
    if gleam is not None:
        lit += (gleam * dark * 255)[:, :, None]
    target += alpha[:, :, None] * (lit - target)


def _develop(canvas: Field, scene: Scene, rng: random.Random) -> Image.Image:
    """Exposure and a little sensor noise."""
    noise = np.random.default_rng(rng.getrandbits(64))
    grain = noise.standard_normal((scene.size, scene.size), dtype=np.float32) * 1.3 + 0.5
    canvas *= scene.brightness
    canvas += grain[:, :, None]
    return Image.fromarray(np.clip(canvas, 0, 255, out=canvas).astype(np.uint8))
