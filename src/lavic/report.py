"""Parts of HTML reports: one self-contained page, pictures as data URLs, curves as SVG."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

#: Of a JPEG inside a page.
_QUALITY = 85
_COLOURS = ("#3465a4", "#c05000", "#4e9a06", "#75507b")
_BASE_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fafafa; max-width: 72em; margin: 2em auto;
  padding: 0 1em }
h1 { font-size: 1.7em } h2 { font-size: 1.2em; margin-top: 1.6em } table { border-collapse: collapse }
svg { background: #fff; border: 1px solid #ddd; border-radius: .4em; max-width: 100% }
"""


@dataclass(frozen=True)
class Curve:
    """A named line of (x, y) points."""

    name: str
    points: Rows[tuple[float, float]]


def escape(text: str) -> str:
    """Text from data, safe between tags and in attributes."""
    return html.escape(text, quote=True)


def page(title: str, body: str, *, style: str = "") -> str:
    """A whole HTML document that loads nothing from anywhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_BASE_STYLE}{style}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def image_data_url(path: Path) -> str:
    """A JPEG file inside the page."""
    return jpeg_data_url(path.read_bytes())


def jpeg_data_url(data: bytes) -> str:
    """A JPEG's bytes inside the page."""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def thumbnail_url(picture: Image.Image, side: int) -> str:
    """A picture inside the page, encoded anew as a JPEG of at most ``side`` pixels each way."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=_QUALITY)
    return jpeg_data_url(encoded.getvalue())


@dataclass(frozen=True)
class Bar:
    """A share with its interval, each from 0 to 1."""

    name: str
    value: float
    low: float
    high: float


def bars_svg(bars: Rows[Bar], *, low: float, high: float, width: int = 760) -> str:
    """A bar for each share, with its interval; dotted lines at ``low`` and ``high``."""
    left, right, step = 150, 190, 30
    height = step * len(bars) + 16

    def across(share: float) -> float:
        return round(left + share * (width - left - right), 1)

    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" font-size="13">']
    for at, bar in enumerate(bars):
        top, middle = 8 + step * at, 8 + step * at + step / 2
        colour = _COLOURS[0] if at == 0 else "#8fb3d9"
        ends = f"[{bar.low:.1%}, {bar.high:.1%}]"
        parts.append(f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end">{escape(bar.name)}</text>')
        length = across(bar.value) - left
        parts.append(f'<rect x="{left}" y="{top + 5}" width="{length:.1f}" height="{step - 10}" fill="{colour}"/>')
        for x1, x2, y1, y2 in (
            (bar.low, bar.high, middle, middle),
            (bar.low, bar.low, middle - 4, middle + 4),
            (bar.high, bar.high, middle - 4, middle + 4),
        ):
            parts.append(f'<line x1="{across(x1)}" x2="{across(x2)}" y1="{y1}" y2="{y2}" stroke="#222"/>')
        parts.append(f'<text x="{width - right + 12}" y="{middle + 4}">{bar.value:.1%} {ends}</text>')
    for share in (low, high):
        x = across(share)
        parts.append(f'<line x1="{x}" x2="{x}" y1="4" y2="{height - 4}" stroke="#666" stroke-dasharray="2 3"/>')
    return "".join([*parts, "</svg>"])


def curve_svg(curves: Rows[Curve], *, x: str, y: str, width: int = 760, height: int = 260) -> str:
    """Line chart of one or more curves; a curve of one point is a dot."""
    points = [point for curve in curves for point in curve.points]
    if not points:
        return "<p>No data.</p>"
    left, right, top, bottom = 56, 16, 14, 40
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    low, high = min(0.0, *ys), max(ys) or 1.0
    first, last = min(xs), max(max(xs), min(xs) + 1)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = left + (point[0] - first) / (last - first) * (width - left - right)
        up = height - bottom - (point[1] - low) / (high - low or 1) * (height - top - bottom)
        return round(across, 1), round(up, 1)

    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">']
    for tick in range(5):
        value = low + (high - low) * tick / 4
        _, up = place((first, value))
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{up}" y2="{up}" stroke="#eee"/>')
        parts.append(
            f'<text x="{left - 6}" y="{up + 4}" font-size="11" text-anchor="end" fill="#666">{value:.2f}</text>'
        )
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        placed = [place(point) for point in curve.points]
        if len(placed) > 1:
            line = " ".join(f"{across},{up}" for across, up in placed)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts += [f'<circle cx="{across}" cy="{up}" r="3" fill="{colour}"/>' for across, up in placed[-1:]]
        parts.append(
            f'<text x="{width - right}" y="{top + 14 * number + 8}" font-size="12" text-anchor="end" fill="{colour}">'
            f"{escape(curve.name)}</text>"
        )
    middle = (left + width - right) / 2
    parts.append(
        f'<text x="{middle}" y="{height - 8}" font-size="12" text-anchor="middle" fill="#666">{escape(x)}</text>'
    )
    parts.append(
        f'<text x="14" y="{height / 2}" font-size="12" text-anchor="middle" fill="#666" '
        f'transform="rotate(-90 14 {height / 2})">{escape(y)}</text></svg>'
    )
    return "".join(parts)
