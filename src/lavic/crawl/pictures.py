"""Downloaded bytes -> what is stored: the same bytes where they are a whole JPEG within limits, else a new JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from lavic.errors import ImageError
from lavic.images import decode_image, opened_image

_ORIENTATION = 0x0112  # the tag's number in EXIF
_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
# A block has 8 x 8 coefficients; at this scale the decoder makes one pixel of it.
_LEAST = 8


@dataclass(frozen=True)
class Wanted:
    """How pictures are to be stored; see the settings of the same names."""

    longest_side: int | None
    quality: int
    reencode: Literal["when_needed", "always"]
    max_pixels: int


@dataclass(frozen=True)
class Prepared:
    """A picture ready to be stored.

    Attributes:
        data: a JPEG.
        as_it_came: whether ``data`` is what was downloaded.
    """

    data: bytes
    width: int
    height: int
    as_it_came: bool


def prepare(data: bytes, wanted: Wanted) -> Prepared:
    """Decode all of a picture, and encode it anew where that is needed.

    Raises:
        ImageError: it cannot be decoded, or only in part.
    """
    if wanted.reencode == "when_needed" and (size := whole_jpeg(data, wanted.max_pixels, wanted.longest_side)):
        return Prepared(data, *size, as_it_came=True)
    image = decode_image(data, max_pixels=wanted.max_pixels, longest_side=wanted.longest_side)
    stream = io.BytesIO()
    try:
        image.save(stream, "JPEG", quality=wanted.quality)
    except OSError as error:
        # JPEG ends at 65,500 pixels a side.
        raise ImageError("the image is too long to be a JPEG; --longest_side shrinks it") from error
    return Prepared(stream.getvalue(), image.width, image.height, as_it_came=False)


def look(data: bytes, wanted: Wanted) -> Prepared:
    """Decode all of a picture that is stored already; it stays as it is.

    Raises:
        ImageError: it cannot be decoded, or only in part.
    """
    size = whole_jpeg(data, wanted.max_pixels) or decode_image(data, max_pixels=wanted.max_pixels).size
    return Prepared(data, *size, as_it_came=True)


def whole_jpeg(data: bytes, max_pixels: int, longest_side: int | None = None) -> tuple[int, int] | None:
    """Width and height of bytes that are one whole JPEG from the first to the last, grey or RGB, that no EXIF turns.

    All other bytes would look different to a reader that knows less than ours, hide something behind the picture, or
    are larger than allowed: ``decode_image`` says what is wrong with them, if anything is.

    To see that a JPEG is whole, each of its coefficients is unpacked, but only the first of 64 makes a pixel, a grey
    one: the rest of decoding cannot fail, and takes as long again.
    """
    if not data.startswith(_START) or not data.rstrip(b"\0").endswith(_END):
        return None
    try:
        with opened_image(io.BytesIO(data)) as image:
            width, height = image.size
            too_large = width * height > max_pixels or (longest_side is not None and max(width, height) > longest_side)
            if too_large or image.format != "JPEG" or image.mode not in ("RGB", "L") or _is_turned(image):
                return None
            image.draft("L", (max(1, width // _LEAST), max(1, height // _LEAST)))
            image.load()
    except Exception:  # a border, as in decode_image, which tells the reason
        return None
    return width, height


def _is_turned(image: Image.Image) -> bool:
    try:
        return bool(image.getexif().get(_ORIENTATION, 1) != 1)
    except Exception:
        return False  # unreadable EXIF says nothing about the pixels
