"""Untrusted bytes -> RGB image, or the reason why not.

A picture either comes out whole, upright and opaque, or it is an ImageError; nothing is repaired or replaced.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

from lavic.errors import ImageError, InputError
from lavic.files import open_regular


class ImageLimits(NamedTuple):
    """How large a picture may be.

    Attributes:
        max_bytes: of the file. Product pictures have some 100 KB; 64 MiB also take an uncompressed TIFF.
        max_pixels: width times height, looked at before anything is decoded. 64 million pixels are 192 MB
            once decoded; PIL itself would only warn at 89 million and refuse at 179 million.
    """

    max_bytes: int
    max_pixels: int


IMAGE_LIMITS = ImageLimits(max_bytes=64 * 2**20, max_pixels=64_000_000)

# What shops deliver and browsers show. PIL knows dozens more; EPS, for one, starts another program.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_ORIENTATION = 0x0112  # the tag's number in EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = (5, 6, 7, 8)


def read_image(
    path: Path, *, max_bytes: int = IMAGE_LIMITS.max_bytes, max_pixels: int = IMAGE_LIMITS.max_pixels
) -> Image.Image:
    """Read and fully decode a picture file; a pipe or a device in its place cannot hang the reader.

    Returns:
        Mode RGB, upright, transparent parts on white, the first frame of an animation.

    Raises:
        ImageError: ``problem`` is a short reason, fit for ``skipped.jsonl``.
    """
    data = picture_bytes(path, max_bytes=max_bytes)
    try:
        return decode_image(data, max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(error.problem, where=str(path)) from error


def picture_bytes(path: Path, *, max_bytes: int = IMAGE_LIMITS.max_bytes) -> bytes:
    """The bytes of a picture file, for ``decode_image``.

    Raises:
        ImageError: no ordinary file, not readable, or too large.
    """
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            # One byte more than allowed: the file may grow while it is read.
            data = stream.read(max_bytes + 1) if size <= max_bytes else b""
    except InputError as error:
        raise ImageError(error.problem, where=str(path)) from error
    except OSError as error:
        raise ImageError(f"the file cannot be read ({error.strerror})", where=str(path)) from error
    if max(size, len(data)) > max_bytes:
        raise ImageError(f"the file is larger than {max_bytes:,} bytes", where=str(path))
    return data


def decode_image(
    data: bytes, *, max_pixels: int = IMAGE_LIMITS.max_pixels, longest_side: int | None = None
) -> Image.Image:
    """Fully decode a picture's bytes, as ``read_image`` does a file's.

    Args:
        longest_side: shrink a picture with a longer side to it. Of a JPEG that is at least twice as large all data are
            read, but no more pixels are made than a half, quarter or eighth of its sides has: two to three times as
            fast for 1500 pixels to 672.

    Raises:
        ImageError: ``problem`` is a short reason.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        with opened_image(io.BytesIO(data)) as image:
            width, height = whole = image.size
            if width * height > max_pixels:
                raise ImageError(_too_many_pixels(max_pixels))
            size = whole if longest_side is None else _within(whole, longest_side)
            if size != whole:
                image.draft(None, size)  # other kinds than JPEG know no such thing, and do nothing
            image.load()
            upright = _upright(_true_inks(image))
            if upright.size != image.size:
                size = size[::-1]
            # About as sharp as bicubic when shrinking, at the cost of bilinear; behind a halving there is little left
            # to shrink, and bicubic keeps what the halving left.
            way = Image.Resampling.HAMMING if image.size == whole else Image.Resampling.BICUBIC
            rgb = _to_rgb(upright)
            return rgb if rgb.size == size else rgb.resize(size, way, reducing_gap=3.0)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(_too_many_pixels(max_pixels)) from error
    except UnidentifiedImageError as error:
        raise ImageError(_what_else(data)) from error
    except MemoryError as error:
        raise ImageError("the image needs more memory than there is") from error
    except Exception as error:
        # A border: decoders raise whatever they meet (OSError, SyntaxError, struct.error, KeyError, ...).
        cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
        raise ImageError("the image is cut off" if cut else "the image is damaged") from error


@contextmanager
def opened_image(stream: IO[bytes]) -> Iterator[Image.Image]:
    """A picture of an allowed kind of which only the first bytes are read, as stored: not turned, not decoded.

    Raises:
        Exception: decoders raise whatever they meet, RuntimeError and MemoryError too.
    """
    with _without_pil_warnings(), Image.open(stream, formats=_formats()) as image:
        yield image


def picture_size(path: Path) -> tuple[int, int] | None:
    """(width, height) from a file's first bytes, upright; None where they say nothing (reading it will tell why)."""
    try:
        with open_regular(path) as stream:
            if os.fstat(stream.fileno()).st_size > IMAGE_LIMITS.max_bytes:
                return None  # PIL reads some kinds whole before it tells their size
            with opened_image(stream) as image:
                width, height = image.size
                turned = image.format == "JPEG" and image.getexif().get(_ORIENTATION) in _QUARTER_TURNS
    except Exception:  # a border, as in decode_image
        return None
    if not (width and height):
        return None
    return (height, width) if turned else (width, height)


def _within(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """Width and height that fit, in the same proportion."""
    scale = min(1.0, longest_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _too_many_pixels(max_pixels: int) -> str:
    return f"the image has more than {max_pixels:,} pixels"


def _what_else(data: bytes) -> str:
    head = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")):
        # What shops answer where a picture is gone, under the name of a picture.
        return "the file is an HTML page, not an image"
    accepts = [Image.OPEN[name][1] for name in _formats()]
    if any(accept is not None and accept(data[:16]) is True for accept in accepts):
        return "the image is damaged"  # it begins like one; some decoders give up on the rest without a word
    return "the file is not an image of a known kind"


@cache
def _formats() -> tuple[str, ...]:
    """The formats that this build of PIL can open; AVIF came with 11.3."""
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_saved: warnings.catch_warnings[None] | None = None


@contextmanager
def _without_pil_warnings() -> Iterator[None]:
    """Silence PIL's own warnings (broken EXIF, malformed APNG): what matters to us, we raise.

    The filters are the process's, so decoding threads share one change: the first in makes it, the last out
    takes it back. It names PIL only; a warning from elsewhere is heard meanwhile.
    """
    global _quiet_depth, _quiet_saved
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_saved = warnings.catch_warnings()
            _quiet_saved.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _quiet_saved is not None:
                _quiet_saved.__exit__(None, None, None)
                _quiet_saved = None


def _true_inks(image: Image.Image) -> Image.Image:
    """PIL takes every CMYK JPEG for Adobe's, which are stored inverted; those without its mark are not."""
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        return ImageChops.invert(image)
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:
        return image  # unreadable EXIF says nothing about the pixels
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    # What copy() does, but with the same pixels: copying them costs a fifth of decoding them.
    image = image._new(image.im) if image.mode == "RGB" else image.convert("RGB")
    image.info.clear()  # or a later reader would turn it a second time
    return image


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey; PIL's own conversion cuts everything above 255 to white."""
    values = np.asarray(image)
    # Older PILs open 16-bit PNGs as 32-bit integers. Beyond 16 bits, white has no fixed value.
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ImageError("the image has 32-bit pixel values")
    # 65535 / 255 = 257
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))
