"""Silhouettes of the toy shop's home and beauty products, each with its details."""

from __future__ import annotations

import numpy as np

from lavic.toyshop.outlines import Part, Silhouette, box, curve, ellipse, points, rounded, turned


def mug(detail: str) -> Silhouette:
    """Stands; the handle is on the right."""
    if detail == "a large handle":
        ear = curve(
            (0.55, -0.62),
            (0.98, -0.72),
            (1.32, -0.30),
            (1.28, 0.34),
            (0.92, 0.70),
            (0.52, 0.62),
            closed=False,
        )
        thick = 0.19
    else:
        ear = curve((0.58, -0.28), (0.84, -0.30), (0.95, -0.02), (0.82, 0.26), (0.56, 0.28), closed=False)
        thick = 0.12
    parts = [Part(ear, "colour", "soft", width=thick, edge=0.8)]
    parts.append(Part(turned((-0.78, 0.66), (0.0, 0.66), (0.62, 0.63), (0.80, 0.54), bend=0.16), "body", "round"))
    parts.append(Part(ellipse(0, -0.78, 0.66, 0.15), "colour", "flat", edge=0.6))
    parts.append(Part(ellipse(0, -0.77, 0.58, 0.11), "inside", "flat", edge=0.3))
    if detail == "a golden rim":
        parts.append(Part(turned((-0.78, 0.665), (-0.56, 0.665), bend=0.20), "gold", "round", edge=0.7))
        parts.append(Part(ellipse(0, -0.78, 0.63, 0.13), "gold", "flat", width=0.09, closed=True, edge=0.6))
    if detail == "a lid":
        parts.append(
            Part(
                turned((-1.00, 0.34), (-0.92, 0.58), (-0.78, 0.72), (-0.68, 0.72), bend=0.16, closed_top=True),
                "deep",
                "round",
                edge=0.9,
            )
        )
        parts.append(Part(ellipse(0, -1.10, 0.17, 0.14), "accent", "ball", edge=0.9))
    return Silhouette(tuple(parts))


def cushion(detail: str) -> Silhouette:
    """Lies flat; a square with pointed corners."""
    side = [(-0.87, -0.80), (-0.80, -0.87), (-0.40, -0.79), (0.0, -0.76), (0.40, -0.79)]
    around = list(side)
    for _ in range(3):
        side = [(-y, x) for x, y in side]
        around += side
    outline = curve(*around)
    parts: list[Part] = []
    if detail == "corner tassels":
        for sx in (-1, 1):
            for sy in (-1, 1):
                skirt = [(0.84, 0.92), (0.92, 0.84), (1.24, 1.02), (1.18, 1.18), (1.02, 1.24)]
                parts.append(Part(points(*[(sx * x, sy * y) for x, y in skirt]), "accent", "soft", edge=0.8))
                for x, y in ((1.20, 1.04), (1.14, 1.14), (1.04, 1.20)):
                    line = points((sx * 0.92, sy * 0.92), (sx * x, sy * y))
                    parts.append(Part(line, "line", width=0.02, alpha=0.4))
    parts.append(Part(outline, "body", "soft"))
    if detail == "corner tassels":
        parts += [
            Part(ellipse(sx * 0.87, sy * 0.87, 0.12, 0.12), "accent", "ball", edge=0.9)
            for sx in (-1, 1)
            for sy in (-1, 1)
        ]
    if detail == "a piped edge":
        parts.append(Part(outline, "accent", "soft", width=0.13, closed=True, edge=0.8))
    if detail == "a centre button":
        for a in np.arange(8) * np.pi / 4 + 0.3:
            fold = points((0.16 * np.cos(a), 0.16 * np.sin(a)), (0.46 * np.cos(a), 0.46 * np.sin(a)))
            parts.append(Part(fold, "line", width=0.05, alpha=0.22))
        parts.append(Part(ellipse(0, 0, 0.22, 0.22), "accent", "ball", edge=1.0))
        parts += [Part(ellipse(s * 0.06, 0, 0.03, 0.03), "ink", edge=0) for s in (-1, 1)]
    return Silhouette(tuple(parts), stands=False, wraps=False)


def lamp(detail: str) -> Silhouette:
    """Stands; the shade carries colour and pattern."""
    shade = turned((-0.98, 0.40), (-0.02, 0.74), bend=0.16, smooth=False)
    stem = box(-0.05, -0.05, 0.05, 0.80, 0.01)
    parts: list[Part] = []
    if detail == "three legs":
        for x in (0.08, -0.56, 0.56):
            parts.append(Part(points((x * 0.12, -0.02), (x, 0.98)), "dark", "soft", width=0.095, edge=0.8))
        parts.append(Part(box(-0.13, 0.04, 0.13, 0.16, 0.03), "dark", "round"))
    elif detail == "a wooden base":
        parts.append(Part(stem, "dark", "round"))
        parts.append(
            Part(
                turned((0.30, 0.15), (0.62, 0.26), (0.96, 0.44), bend=0.16, smooth=False),
                "wood",
                "round",
                edge=0.9,
            )
        )
    else:
        parts.append(Part(stem, "dark", "round"))
        parts.append(Part(ellipse(0, 0.60, 0.40, 0.38), "colour", "ball", edge=0.8))
        parts.append(Part(box(-0.24, 0.92, 0.24, 1.0, 0.03), "dark", "round"))
    parts.append(Part(shade, "body", "round"))
    parts.append(Part(ellipse(0, -0.98, 0.40, 0.07), "glow", "flat", edge=0.6))
    return Silhouette(tuple(parts))


def vase(detail: str) -> Silhouette:
    """Stands; a belly under a neck."""
    parts: list[Part] = []
    rows = [
        (-0.72, 0.36),
        (-0.58, 0.27),
        (-0.40, 0.28),
        (-0.10, 0.52),
        (0.22, 0.62),
        (0.60, 0.48),
        (0.88, 0.32),
    ]
    if detail == "a narrow neck":
        rows = [
            (-1.02, 0.17),
            (-0.92, 0.11),
            (-0.50, 0.09),
            (-0.16, 0.20),
            (0.10, 0.54),
            (0.40, 0.64),
            (0.70, 0.50),
            (0.90, 0.34),
        ]
    if detail == "two handles":
        for side in (-1, 1):
            ear = [(0.28, -0.52), (0.62, -0.66), (0.88, -0.34), (0.80, 0.02), (0.54, 0.16)]
            parts.append(
                Part(
                    curve(*[(side * x, y) for x, y in ear], closed=False),
                    "colour",
                    "soft",
                    width=0.15,
                    edge=0.9,
                )
            )
    if detail == "a dried branch":
        rows = [
            (-0.40, 0.34),
            (-0.28, 0.26),
            (-0.14, 0.28),
            (0.08, 0.50),
            (0.34, 0.60),
            (0.66, 0.48),
            (0.90, 0.32),
        ]
        parts += _branch()
    parts.append(Part(turned(*rows, bend=0.16), "body", "round"))
    mouth_y, mouth = rows[0]
    parts.append(Part(ellipse(0, mouth_y, mouth, mouth * 0.22), "colour", "flat", edge=0.7))
    parts.append(Part(ellipse(0, mouth_y, mouth * 0.78, mouth * 0.13), "inside", "flat", edge=0.3))
    if detail == "a dried branch":
        parts.append(Part(points((0.02, -0.37), (0.02, -0.52)), "twig", width=0.06, edge=0))
    return Silhouette(tuple(parts))


def _branch() -> list[Part]:
    stem = curve((0.02, -0.36), (0.0, -0.75), (0.10, -1.15), (0.02, -1.48), closed=False)
    twigs = [
        ((0.0, -0.72), (-0.42, -1.12)),
        ((0.07, -0.98), (0.46, -1.30)),
        ((0.02, -0.62), (0.40, -0.86)),
        ((0.08, -1.12), (-0.26, -1.44)),
    ]
    parts = [Part(stem, "twig", width=0.06, edge=0)]
    parts += [Part(points(*twig), "twig", width=0.045, edge=0) for twig in twigs]
    tips = [tip for _, tip in twigs] + [(0.02, -1.50)]
    for x, y in tips:
        parts.append(Part(ellipse(x, y, 0.10, 0.10), "straw", "ball", edge=0.6))
    for (ax, ay), (bx, by) in twigs:
        parts.append(Part(ellipse((ax + bx) / 2, (ay + by) / 2 - 0.05, 0.07, 0.07), "straw", "ball", edge=0.6))
    return parts


def lotion_bottle(detail: str) -> Silhouette:
    """Stands; what closes it, or its label, is the detail."""
    parts: list[Part] = []
    if detail == "a pump":
        parts.append(Part(box(-0.06, -0.80, 0.06, -0.42, 0.01), "silver", "round"))
        spout = [(-0.20, -0.98), (0.24, -0.98), (0.56, -0.90), (0.56, -0.78), (0.20, -0.80), (-0.20, -0.80)]
        parts.append(Part(rounded(*spout, radius=0.05), "dark", "soft", edge=0.6))
        parts.append(
            Part(
                turned((-0.58, 0.20), (-0.40, 0.20), bend=0.14, closed_top=True, smooth=False),
                "dark",
                "round",
            )
        )
    elif detail == "a flip cap":
        parts.append(
            Part(
                turned((-0.84, 0.36), (-0.78, 0.41), (-0.36, 0.43), bend=0.14, closed_top=True),
                "pale",
                "round",
                edge=0.9,
            )
        )
        parts.append(
            Part(
                curve((-0.41, -0.62), (0.0, -0.56), (0.41, -0.62), closed=False),
                "ink",
                width=0.035,
                alpha=0.7,
            )
        )
        parts.append(Part(ellipse(0, -0.60, 0.13, 0.09), "dark", edge=0.4))
    else:
        parts.append(
            Part(
                turned((-0.64, 0.22), (-0.38, 0.22), bend=0.14, closed_top=True, smooth=False),
                "dark",
                "round",
            )
        )
    body = turned((-0.42, 0.22), (-0.34, 0.42), (-0.20, 0.50), (0.0, 0.51), (0.80, 0.51), (0.95, 0.45), bend=0.12)
    parts.append(Part(body, "body", "round"))
    if detail == "a square label":
        parts.append(Part(box(-0.31, 0.10, 0.31, 0.68, 0.03), "label", "round", edge=1.0))
        for y, half in ((0.24, 0.19), (0.39, 0.19), (0.54, 0.12)):
            parts.append(Part(points((-half, y), (half, y)), "ink", width=0.06, alpha=0.75, edge=0))
    return Silhouette(tuple(parts))


def lipstick(detail: str) -> Silhouette:
    """Stands open; the case carries the pattern, the stick only the colour."""
    if detail == "a slanted tip":
        stick = rounded((-0.23, -0.20), (-0.23, -0.66), (0.20, -1.22), (0.23, -1.08), (0.23, -0.20), radius=0.07)
        face = curve((-0.20, -0.66), (-0.04, -0.95), (0.19, -1.16), (0.11, -0.86))
        parts = [Part(stick, "colour", "round", edge=0.8), Part(face, "glow", alpha=0.38, edge=0)]
    else:
        stick = turned((-0.92, 0.10), (-0.88, 0.18), (-0.76, 0.23), (-0.20, 0.23), bend=0.1, closed_top=True)
        parts = [Part(stick, "colour", "round", edge=0.8)]
    parts.append(Part(turned((-0.08, 0.38), (0.94, 0.38), bend=0.14, closed_top=True, smooth=False), "body", "round"))
    parts.append(Part(ellipse(0, -0.08, 0.38, 0.055), "deep", "flat", edge=0.5))
    parts.append(Part(turned((-0.42, 0.28), (-0.07, 0.28), bend=0.12, smooth=False), "silver", "round", edge=0.8))
    if detail == "a golden band":
        band = turned((0.44, 0.395), (0.72, 0.395), bend=0.14, smooth=False)
        parts.append(Part(band, "gold", "round", edge=1.0))
    if detail == "a cap beside it":
        aside = np.array([0.90, 0.0])
        shell = turned((0.02, 0.36), (0.94, 0.36), bend=0.14, closed_top=True, smooth=False)
        parts.append(Part(shell + aside, "body", "round", edge=0.8))
        parts.append(Part(ellipse(0.90, 0.02, 0.36, 0.055), "deep", "flat", edge=0.5))
        foot = turned((0.84, 0.365), (0.945, 0.365), bend=0.14, smooth=False)
        parts.append(Part(foot + aside, "silver", "round"))
    return Silhouette(tuple(parts))


def cream_jar(detail: str) -> Silhouette:
    """Stands; wide and low, the lid in its own material."""
    lid = {"a silver lid": "silver", "a wooden lid": "wood"}.get(detail, "deep")
    parts = [Part(turned((-0.26, 0.74), (-0.14, 0.86), (0.45, 0.86), (0.64, 0.74), bend=0.14), "body", "round")]
    parts.append(Part(turned((-0.66, 0.80), (-0.20, 0.80), bend=0.14, smooth=False), lid, "round", edge=0.9))
    parts.append(Part(ellipse(0, -0.66, 0.80, 0.13), lid, "flat", edge=0.5))
    if detail == "a round label":
        parts.append(Part(ellipse(0, 0.30, 0.33, 0.33), "label", "flat", edge=1.0))
        for y, half in ((0.19, 0.13), (0.30, 0.19), (0.41, 0.13)):
            parts.append(Part(points((-half, y), (half, y)), "ink", width=0.045, edge=0, alpha=0.7))
    return Silhouette(tuple(parts))
