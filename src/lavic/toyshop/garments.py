"""Silhouettes of the toy shop's fashion: t-shirt, dress, handbag, cap, sneaker, each with its details."""

from __future__ import annotations

import numpy as np

from lavic.toyshop.outlines import Part, Silhouette, box, curve, ellipse, mirrored, points, rounded


def t_shirt(detail: str) -> Silhouette:
    """Lies flat; crew neck and short sleeves unless the detail says otherwise."""
    long = detail == "long sleeves"
    cuff = [(1.02, 0.52), (0.76, 0.60)] if long else [(0.98, -0.22), (0.72, -0.02)]
    right = [(0.24, -0.84), (0.56, -0.70), *cuff, (0.52, -0.26), (0.52, 0.84), (0.0, 0.86)]
    outline = rounded(*mirrored(*right), radius=0.09)
    parts = [Part(outline, "body", "soft")]
    parts += [Part(points((0.53 * s, -0.26), (0.50 * s, -0.62)), "line", width=0.025, alpha=0.35) for s in (-1, 1)]
    if long:
        for side in (-1, 1):
            band = [(1.02, 0.52), (0.76, 0.60), (0.735, 0.48), (0.99, 0.40)]
            parts.append(Part(rounded(*[(x * side, y) for x, y in band], radius=0.02), "deep"))
    if detail == "a v-neck":
        trim = points((-0.26, -0.85), (0.0, -0.28), (0.26, -0.85))
        parts.append(Part(points((-0.25, -0.87), (0.25, -0.87), (0.0, -0.34)), "inside", edge=0.2))
        parts.append(Part(trim, "deep", width=0.11))
    else:
        front, back = ellipse(0, -0.84, 0.25, 0.20, 0, 180), ellipse(0, -0.84, 0.25, 0.05, 180, 360)
        parts.append(Part(np.vstack([front, back]), "inside", edge=0.2))
        parts.append(Part(back, "deep", width=0.06))
        parts.append(Part(front, "deep", width=0.085))
    if detail == "a chest pocket":
        pocket = rounded((0.06, -0.38), (0.46, -0.38), (0.46, -0.04), (0.26, 0.08), (0.06, -0.04), radius=0.05)
        parts.append(Part(pocket, "deep", "soft", edge=0.9))
        parts.append(Part(points((0.05, -0.33), (0.47, -0.33)), "contrast", width=0.07, edge=0.3))
    return Silhouette(tuple(parts), stands=False, wraps=False)


def dress(detail: str) -> Silhouette:
    """Hangs free; short sleeves unless it has thin straps."""
    hem = 0.66 if detail == "a ruffled hem" else 0.96
    wide = 0.52 if detail == "a ruffled hem" else 0.66
    skirt = [(0.27, -0.22), (0.40, 0.20), (wide, hem - 0.02), (0.0, hem + 0.05)]
    if detail == "thin straps":
        right = [(0.0, -0.62), (0.16, -0.60), (0.30, -0.66), (0.33, -0.45), *skirt]
    else:
        right = [(0.14, -0.92), (0.34, -0.86), (0.52, -0.56), (0.36, -0.48), (0.32, -0.56), *skirt]
    parts: list[Part] = []
    if detail == "thin straps":
        parts += [Part(points((s * 0.29, -0.62), (s * 0.20, -1.0)), "deep", width=0.055) for s in (-1, 1)]
    if detail == "a ruffled hem":
        waves = [(0.50, 0.60)] + [
            (x, 0.90 + (0.09 if i % 2 else 0.0)) for i, x in enumerate(np.linspace(0.76, -0.76, 11))
        ]
        parts.append(Part(curve(*waves, (-0.50, 0.60), (0.0, 0.66)), "deep", "soft", edge=0.8))
        for x in np.linspace(-0.60, 0.60, 6):
            fold = points((x * 0.80, 0.70), (x * 1.02, 0.90))
            parts.append(Part(fold, "line", width=0.035, alpha=0.55))
    parts.append(Part(rounded(*mirrored(*right), radius=0.07), "body", "soft"))
    if detail == "a ruffled hem":
        seam = curve((0.53, 0.63), (0.0, 0.70), (-0.53, 0.63), closed=False)
        parts.append(Part(seam, "contrast", width=0.06, edge=0.3))
    for x in (-0.30, 0.0, 0.30):
        parts.append(Part(points((x * 0.5, -0.08), (x * 1.25, hem - 0.05)), "line", width=0.03, alpha=0.16))
    if detail != "thin straps":
        parts.append(Part(ellipse(0, -0.92, 0.16, 0.17, 0, 180), "inside", edge=0.4))
    if detail == "a belt":
        parts.append(Part(box(-0.33, -0.31, 0.33, -0.11, 0.03), "leather", "round", edge=0.8))
        parts.append(Part(box(-0.12, -0.34, 0.12, -0.08, 0.03), "gold", "flat", edge=0.9))
        parts.append(Part(box(-0.055, -0.27, 0.055, -0.15, 0.01), "leather"))
    return Silhouette(tuple(parts), stands=False, wraps=False)


def handbag(detail: str) -> Silhouette:
    """Stands; a low flap and one of two carrying handles, or a short grip with the clasp."""
    parts: list[Part] = []
    if detail == "a long strap":
        loop = curve((-0.66, -0.02), (-0.62, -0.62), (0.0, -1.12), (0.62, -0.62), (0.66, -0.02), closed=False)
        parts.append(Part(loop, "deep", "soft", width=0.11, edge=0.8))
    elif detail == "a round handle":
        parts.append(Part(ellipse(0, -0.36, 0.38, 0.38), "tan", "soft", width=0.13, closed=True, edge=0.9))
    else:
        grip = rounded((-0.36, 0.05), (-0.32, -0.26), (0.32, -0.26), (0.36, 0.05), radius=0.14)
        parts.append(Part(grip, "deep", "soft", width=0.10, edge=0.8))
    parts.append(Part(rounded((-0.68, -0.12), (0.68, -0.12), (0.84, 0.86), (-0.84, 0.86), radius=0.14), "body", "soft"))
    flap = curve((-0.70, 0.02), (-0.4, 0.30), (0.0, 0.37), (0.4, 0.30), (0.70, 0.02), closed=False)
    parts.append(Part(flap, "line", width=0.035, alpha=0.5))
    if detail == "a gold clasp":
        parts.append(Part(box(-0.21, 0.16, 0.21, 0.56, 0.07), "gold", "flat", edge=1.0))
        parts.append(Part(ellipse(0, 0.36, 0.09, 0.09), "dark", "ball"))
    if detail == "a long strap":
        parts += [Part(ellipse(s * 0.62, 0.0, 0.08, 0.08), "silver", "ball", edge=0.8) for s in (-1, 1)]
    return Silhouette(tuple(parts), wraps=False)


def cap(detail: str) -> Silhouette:
    """Seen from the side; the brim points to the right."""
    reach, drop, thick = (1.72, 0.56, 0.22) if detail == "a wide brim" else (1.06, 0.46, 0.12)
    dome = curve(
        (-0.72, 0.42),
        (-0.76, 0.05),
        (-0.58, -0.42),
        (-0.10, -0.66),
        (0.38, -0.50),
        (0.62, -0.08),
        (0.68, 0.36),
    )
    dome = np.vstack([dome[: 6 * 8 + 1], curve((0.68, 0.36), (0.0, 0.47), (-0.72, 0.42), closed=False)])
    brim = curve(
        (0.30, 0.30),
        (0.72, 0.24),
        (reach - 0.22, drop - 0.14),
        (reach, drop + 0.03),
        (reach - 0.12, drop + thick),
        (0.62, 0.40 + thick),
        (0.05, 0.46),
    )
    parts = [Part(dome, "body", "ball")]
    seams = (
        curve((-0.12, -0.64), (-0.30, -0.2), (-0.30, 0.44), closed=False),
        curve((-0.08, -0.64), (0.20, -0.25), (0.28, 0.40), closed=False),
    )
    parts += [Part(seam, "line", width=0.025, alpha=0.35) for seam in seams]
    parts.append(Part(brim, "deep", "soft", edge=0.9))
    if detail == "a wide brim":
        stitch = curve((0.5, 0.37), (1.0, 0.39), (reach - 0.18, drop + 0.02), closed=False)
        parts.append(Part(stitch, "line", width=0.03, alpha=0.4))
    if detail == "a top button":
        parts.append(Part(ellipse(-0.10, -0.68, 0.19, 0.12), "accent", "ball", edge=1.0))
    if detail == "a front badge":
        parts.append(Part(ellipse(0.28, -0.06, 0.27, 0.29), "label", "flat", edge=1.0))
        star = [(0.28 + r * np.sin(a), -0.06 - r * np.cos(a)) for a, r in _star(5, 0.19, 0.085)]
        parts.append(Part(points(*star), "gold", "flat", edge=0.8))
    return Silhouette(tuple(parts), wraps=False)


def _star(tips: int, outer: float, inner: float) -> list[tuple[float, float]]:
    return [(np.pi * i / tips, outer if i % 2 == 0 else inner) for i in range(2 * tips)]


def sneaker(detail: str) -> Silhouette:
    """Seen from the side; the toe points to the right."""
    sole = 0.40 if detail == "a thick sole" else 0.17
    top = [(-0.90, 0.10), (-0.92, -0.40), (-0.70, -0.36), (-0.40, -0.34), (-0.14, -0.44)]
    if detail == "a high ankle":
        top = [(-0.90, 0.10), (-0.93, -0.50), (-0.95, -1.02), (-0.62, -0.98), (-0.24, -1.02), (-0.16, -0.52)]
    upper = [*top, (0.16, -0.18), (0.48, -0.04), (0.82, 0.06), (0.98, 0.26), (0.94, 0.46)]
    outline = np.vstack([curve(*upper, closed=False), points((0.94, 0.46), (-0.90, 0.46))])
    upside = [(-0.96, 0.40), (0.6, 0.42), (1.03, 0.34)]
    underside = [(1.06, 0.40 + 0.5 * sole), (0.95, 0.42 + sole), (-0.92, 0.42 + sole)]
    tread = rounded(*upside, *underside, radius=0.09)
    parts = []
    laces = detail == "dark laces"
    tongue = curve((-0.24, -0.40), (-0.20, -0.60), (0.02, -0.52), (0.30, -0.16), (0.10, -0.10))
    if detail != "a high ankle":
        parts.append(Part(tongue, "cloth" if laces else "deep", "soft"))
    parts.append(Part(outline, "body", "soft"))
    collar = [(top[1][0] + 0.03, top[1][1] + 0.02), *top[2:-1], (top[-1][0] - 0.02, top[-1][1])]
    parts.append(Part(curve(*collar[: len(collar) - (detail == "a high ankle")], closed=False), "deep", width=0.08))
    toe = curve((0.55, 0.46), (0.58, 0.18), (0.78, 0.05), (0.98, 0.24), (0.98, 0.46))
    parts.append(Part(toe, "deep", "soft", edge=0.6))
    if laces:
        panel = rounded((-0.26, -0.46), (-0.02, -0.52), (0.50, -0.06), (0.22, 0.22), radius=0.06)
        parts.append(Part(panel, "cloth", "soft", edge=0.9))
        for i in range(4):
            x, y = -0.19 + 0.155 * i, -0.40 + 0.125 * i
            parts.append(Part(points((x - 0.04, y + 0.17), (x + 0.19, y - 0.09)), "ink", width=0.085, edge=0))
    else:
        for i in range(3):
            x, y = -0.16 + 0.17 * i, -0.25 + 0.125 * i
            parts.append(Part(points((x - 0.03, y + 0.10), (x + 0.14, y - 0.10)), "cloth", width=0.07, edge=0.35))
    parts.append(Part(tread, "rubber", "flat", edge=0.9))
    line = points((-0.94, 0.42 + sole * 0.62), (1.02, 0.42 + sole * 0.58))
    parts.append(Part(line, "line", width=0.03, alpha=0.35))
    return Silhouette(tuple(parts), wraps=False)
