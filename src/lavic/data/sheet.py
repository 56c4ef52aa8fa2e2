"""The contact sheet: some products drawn by lot, picture beside words, as one HTML page and as one PNG."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lavic.errors import ImageError
from lavic.files import atomic_path, write_atomic
from lavic.images import read_image
from lavic.rendering import printable
from lavic.report import escape, jpeg_data_url, page

NO_DESCRIPTION = "(no description)"
#: Side of a picture: HTML shows it smaller, for sharp screens.
_HTML_SIDE, _PNG_SIDE = 400, 220
_COLUMNS = 4
_TEXT_WIDTH, _TEXT_LINES, _LINE = 44, 12, 15
_MARGIN, _CELL = 14, 330
_INK, _GREY, _PAPER = "#222222", "#777777", "#fafafa"
_TITLE_CHARS, _HTML_CHARS = 90, 2000

_STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(21em, 1fr)); gap: 1em; margin-top: 1em }
.card { display: flex; gap: .9em; border: 1px solid #ddd; border-radius: .6em; padding: .8em; background: #fff }
.card .picture { width: 10em; flex: none; color: #b00 }
.card img { max-width: 10em; max-height: 12em; border-radius: .3em }
.card p { margin: 0 0 .5em; font-size: .9em; line-height: 1.35; overflow-wrap: anywhere; white-space: pre-line }
.who { color: #666; font-size: .75em; overflow-wrap: anywhere }
"""


@dataclass(frozen=True)
class Card:
    """A product on the sheet; ``description`` is "" where it has none yet."""

    part: str
    item_id: str
    title: str
    description: str
    path: Path


def write_sheet(folder: Path, cards: Rows[Card], seed: int) -> None:
    """Write ``sheet.html`` (no scripts, nothing from outside) and ``sheet.png``."""
    pictures = [_decoded(card.path) for card in cards]
    write_atomic(folder / "sheet.html", _html(cards, pictures, seed))
    with atomic_path(folder / "sheet.png") as part:
        _png(cards, pictures).save(part, format="PNG", optimize=True)


def _decoded(path: Path) -> Image.Image | str:
    """The picture, small; or why training would leave it out."""
    try:
        image = read_image(path)
    except ImageError as error:
        return error.problem
    image.thumbnail((_HTML_SIDE, _HTML_SIDE))
    return image


def _html(cards: Rows[Card], pictures: Rows[Image.Image | str], seed: int) -> str:
    count = f"{len(cards)} product{'' if len(cards) == 1 else 's'}"
    body = "".join(_card(card, picture) for card, picture in zip(cards, pictures, strict=True))
    return page(
        "Contact sheet",
        f'<p>{count} drawn by lot (seed {seed}).</p><div class="cards">{body}</div>',
        style=_STYLE,
    )


def _card(card: Card, picture: Image.Image | str) -> str:
    if isinstance(picture, str):
        shown = escape(picture)
    else:
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=85)
        shown = f'<img src="{jpeg_data_url(encoded.getvalue())}" alt="{escape(printable(card.title))}">'
    description = card.description or NO_DESCRIPTION
    return (
        f'<div class="card"><div class="picture">{shown}</div><div>'
        f'<div class="who">{escape(card.part)} · {escape(card.path.name)}</div>'
        f"<p><b>{escape(printable(card.title[:_HTML_CHARS]))}</b></p>"
        f"<p>{escape(printable(description[:_HTML_CHARS]))}</p></div></div>"
    )


def _png(cards: Rows[Card], pictures: Rows[Image.Image | str]) -> Image.Image:
    """The same as one picture: four columns, long texts cut."""
    height = _PNG_SIDE + (_TEXT_LINES + 4) * _LINE + _MARGIN
    rows = max(1, -(-len(cards) // _COLUMNS))
    sheet = Image.new("RGB", (_COLUMNS * _CELL + _MARGIN, rows * height + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    normal, bold = _font("DejaVuSans.ttf"), _font("DejaVuSans-Bold.ttf")
    for index, (card, picture) in enumerate(zip(cards, pictures, strict=True)):
        left, top = _MARGIN + index % _COLUMNS * _CELL, _MARGIN + index // _COLUMNS * height
        if isinstance(picture, str):
            draw.text((left, top), "\n".join(textwrap.wrap(picture, _TEXT_WIDTH)), fill="#bb0000", font=normal)
        else:
            small = picture.copy()
            small.thumbnail((_CELL - _MARGIN, _PNG_SIDE))
            sheet.paste(small, (left, top))
        below = top + _PNG_SIDE + 4
        draw.text((left, below), _one_line(f"{card.part} · {card.path.name}", 44), fill=_GREY, font=normal)
        title = textwrap.wrap(_one_line(card.title, _TITLE_CHARS), 40)[:2]
        draw.text((left, below + _LINE), "\n".join(title), fill=_INK, font=bold, spacing=3)
        words = _wrapped(card.description or NO_DESCRIPTION)
        draw.text((left, below + (1 + len(title)) * _LINE + 4), words, fill=_INK, font=normal, spacing=3)
    return sheet


def _wrapped(text: str) -> str:
    flat = _one_line(text, _TEXT_WIDTH * _TEXT_LINES * 2)
    return "\n".join(textwrap.wrap(flat, _TEXT_WIDTH, max_lines=_TEXT_LINES, placeholder=" ..."))


def _one_line(text: str, characters: int) -> str:
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= characters else flat[: characters - 4] + " ..."


def _font(name: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """matplotlib brings fonts that know far more letters than Pillow's own, on every machine the same."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), 11)
