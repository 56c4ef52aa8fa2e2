"""Pictures of every kind come out RGB, upright and opaque, or with a short reason why not."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from lavic.errors import ImageError
from lavic.images import IMAGE_FORMATS, IMAGE_LIMITS, decode_image, picture_size, read_image

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 64, height: int = 48) -> Image.Image:
    rows = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    columns = np.linspace(0, 255, width, dtype=np.uint8)[None, :]
    return Image.fromarray(np.stack(np.broadcast_arrays(rows, columns, 255 - columns), axis=-1))


def noise(width: int = 200, height: int = 200) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def refused(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    return caught.value.problem


# What is taken


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    image = decode_image(saved(gradient(), kind, lossless=True))
    assert (image.mode, image.size, image.info) == ("RGB", (64, 48), {})
    assert np.array_equal(np.asarray(image), np.asarray(gradient()))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "GIF"])
def test_lossy_formats_come_close(kind: str) -> None:
    if kind == "AVIF" and "AVIF" not in Image.SAVE:
        pytest.skip("this build of PIL has no AVIF")
    image = decode_image(saved(gradient(), kind, quality=95))
    assert (image.mode, image.size) == ("RGB", (64, 48))
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(gradient(), dtype=int)).mean() < 12


def test_the_real_photographs_can_all_be_read(shared_data: Path) -> None:
    paths = sorted((shared_data / "catalogue" / "images").glob("*.jpg"))
    sizes = [read_image(path).size for path in paths[::10]]
    assert len(paths) == 304
    assert max(max(size) for size in sizes) <= 640


# The letter F, as two pixels by three: each of the eight turns gives another picture.
UPRIGHT = np.array([[RED, GREEN], [BLUE, BLACK], [WHITE, RED]], dtype=np.uint8)
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT, 1),
    7: np.rot90(UPRIGHT, 2).transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures_come_out_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    image = decode_image(saved(stored, kind, exif=exif, lossless=True))
    assert np.array_equal(np.asarray(image), UPRIGHT)
    assert image.getexif().get(0x0112) is None


def test_a_turned_photograph_comes_out_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # as telephones write it: turn clockwise to see it upright
    data = saved(gradient().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    image = decode_image(data)
    assert image.size == (64, 48)
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(gradient(), dtype=int)).max() < 40


def test_broken_exif_is_no_reason_to_lose_a_picture() -> None:
    data = saved(gradient(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(data).size == (64, 48)


def test_transparency_is_shown_on_white() -> None:
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)])
    image = decode_image(saved(rgba))
    # 51/255 of black over white: 255 * 0.8 = 204
    assert list(np.asarray(image)[0].tolist()) == [[255, 0, 0], [255, 255, 255], [204, 204, 204]]


def test_grey_with_alpha_is_shown_on_white() -> None:
    grey = Image.new("LA", (2, 1))
    grey.putdata([(10, 255), (10, 0)])
    assert np.asarray(decode_image(saved(grey)))[0].tolist() == [[10, 10, 10], [255, 255, 255]]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\xff"])
def test_a_palette_with_transparency_is_shown_on_white(transparency: int | bytes) -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([*RED, *GREEN, *BLUE])
    palette.putdata([0, 1, 2])
    image = decode_image(saved(palette, transparency=transparency))
    assert np.asarray(image)[0].tolist() == [list(RED), list(WHITE), list(BLUE)]


@pytest.mark.parametrize(("mode", "colour"), [("L", 7), ("RGB", (7, 7, 7))])
def test_a_transparent_colour_is_shown_on_white(mode: str, colour: int | tuple[int, ...]) -> None:
    image = decode_image(saved(Image.new(mode, (2, 2), colour), transparency=colour))
    assert np.asarray(image).min() == 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_cut_off(kind: str) -> None:
    values = np.array([[0, 257, 12_850, 32_896, 65_535]], dtype=np.uint16)
    image = decode_image(saved(Image.fromarray(values), kind))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 50, 128, 255]


def test_16_bit_colour_is_scaled() -> None:
    # PIL writes no such file: one pixel of 16-bit red 0x8000, green 0xFFFF, blue 0.
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0" + b"\x80\x00\xff\xff\x00\x00")
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    assert np.asarray(decode_image(data))[0, 0].tolist() == [128, 255, 0]


def test_32_bit_pixels_are_refused() -> None:
    for dtype in (np.float32, np.int32):
        image = Image.fromarray(np.full((2, 2), 70_000, dtype=dtype))
        assert refused(saved(image, "TIFF")) == "the image has 32-bit pixel values"


def cmyk_jpeg(*, adobe: bool) -> bytes:
    """Cyan: full ink of the first, none of the others; 4:4:4, so that the colour is not smeared."""
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    data = saved(cyan, "JPEG", quality=100)  # PIL writes Adobe's mark and inverts
    if adobe:
        return data
    start = data.index(b"\xff\xee")
    length = struct.unpack(">H", data[start + 2 : start + 4])[0]
    plain = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 255)), "JPEG", quality=100)
    assert plain[start : start + 2 + length] == data[start : start + 2 + length]
    return plain[:start] + plain[start + 2 + length :]


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_is_converted_with_and_without_adobes_inversion(adobe: bool) -> None:
    pixel = np.asarray(decode_image(cmyk_jpeg(adobe=adobe)))[8, 8]
    assert np.abs(pixel.astype(int) - (0, 255, 255)).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "LAB"])
def test_other_modes_become_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "YCbCr" else "TIFF"
    image = gradient()
    if mode == "LAB":
        profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
        transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
        image = ImageCms.applyTransform(image, transform)
    else:
        image = image.convert(mode)
    assert decode_image(saved(image, kind)).mode == "RGB"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert np.asarray(decode_image(data))[4, 4].tolist() == list(RED)


# What is refused


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_half_a_picture_is_no_picture(kind: str, share: float) -> None:
    if kind not in Image.SAVE:
        pytest.skip(f"this build of PIL has no {kind}")
    data = saved(noise(), kind)
    assert refused(data[: int(len(data) * share)]) in ("the image is cut off", "the image is damaged")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "the file is empty"),
        (b"\0" * 5000, "the file is not an image of a known kind"),
        (b"hello", "the file is not an image of a known kind"),
        (b"\n<!DOCTYPE html><html>gone", "the file is an HTML page, not an image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "the file is not an image of a known kind"),
        (b"\xff\xd8\xff", "the image is damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "the file is not an image of a known kind"),
    ],
)
def test_what_is_not_a_picture(data: bytes, problem: str) -> None:
    assert refused(data) == problem


def test_formats_beyond_the_list_are_not_opened() -> None:
    for kind in ("PPM", "ICO", "TGA", "PCX"):
        assert refused(saved(gradient(), kind)) == "the file is not an image of a known kind"


@pytest.mark.parametrize(("width", "height"), [(8001, 8001), (10_000, 10_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    # 10,000 squared is where PIL would warn, 60,000 squared where it would refuse, 8,001 neither.
    data = bytearray(saved(Image.new("1", (8, 8))))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refused(bytes(data)) == "the image has more than 64,000,000 pixels"
    assert Image.MAX_IMAGE_PIXELS == 89_478_485


def test_a_damaged_picture_is_refused() -> None:
    data = bytearray(saved(noise()))
    data[len(data) // 2] ^= 0xFF
    assert refused(bytes(data)) in ("the image is damaged", "the image is cut off")


def test_bytes_changed_at_random_never_escape_as_another_error() -> None:
    rng = np.random.default_rng(1)
    for kind in IMAGE_FORMATS:
        if kind not in Image.SAVE:
            continue
        data = np.frombuffer(saved(gradient(), kind), dtype=np.uint8)
        for _ in range(60):
            spoilt = data.copy()
            spoilt[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            with contextlib.suppress(ImageError):
                assert decode_image(spoilt.tobytes()).mode == "RGB"


# Files


def test_a_file_is_read_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "B1_0.jpg"
    path.write_bytes(saved(gradient()))  # a PNG under another ending is still a picture
    assert read_image(path).size == (64, 48)
    path.write_bytes(b"hello")
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.sentence == f"{path}: the file is not an image of a known kind."


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("missing", "the file does not exist"),
        ("link", "this is a link to a file that does not exist"),
        ("folder", "this is a folder, not a file"),
        ("pipe", "this is a pipe, not a file"),
        ("device", "this is a device, not a file"),
        ("empty", "the file is empty"),
    ],
)
def test_what_is_not_a_file_is_refused_without_waiting(tmp_path: Path, kind: str, problem: str) -> None:
    path = tmp_path / "B1_0.jpg"
    match kind:
        case "link":
            path.symlink_to("gone.jpg")
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case "empty":
            path.touch()
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.sentence == f"{path}: {problem}."


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "B1_0.jpg"
    path.write_bytes(b"")
    os.truncate(path, IMAGE_LIMITS.max_bytes + 1)  # a hole: takes no space
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.problem == "the file is larger than 67,108,864 bytes"


def test_limits_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "B1_0.png"
    path.write_bytes(saved(gradient()))
    for limits, problem in (
        ({"max_bytes": 50}, "the file is larger than 50 bytes"),
        ({"max_pixels": 64 * 48 - 1}, "the image has more than 3,071 pixels"),
    ):
        with pytest.raises(ImageError) as caught:
            read_image(path, **limits)
        assert caught.value.problem == problem
    assert read_image(path, max_bytes=path.stat().st_size, max_pixels=64 * 48).size == (64, 48)


# Sizes


def test_the_size_of_a_file_is_that_of_its_upright_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path.write_bytes(saved(gradient(), "JPEG", exif=exif))
    assert picture_size(path) == read_image(path).size == (48, 64)


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_the_size_of_a_damaged_picture_is_told_or_none(tmp_path: Path, kind: str) -> None:
    if kind not in Image.SAVE:
        pytest.skip(f"this build of PIL has no {kind}")
    data, path = saved(gradient(), kind), tmp_path / "a.jpg"
    sizes = set()
    for at in range(min(len(data), 300)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        sizes.add(picture_size(path))  # PIL raises RuntimeError for an AVIF that is damaged at byte 81, say
    assert {None, (64, 48)} <= sizes


def test_what_no_picture_is_read_from_has_no_size(tmp_path: Path) -> None:
    for kind in ("DDS", "JPEG2000"):  # nothing beyond the list is opened
        (tmp_path / kind).write_bytes(saved(gradient(), kind))
        assert picture_size(tmp_path / kind) is None
    os.mkfifo(tmp_path / "pipe")
    assert picture_size(tmp_path / "pipe") is None  # nobody writes into it: reading would wait for ever
    assert picture_size(tmp_path / "missing") is None
    (tmp_path / "bytes").write_bytes(b"no picture")
    assert picture_size(tmp_path / "bytes") is None


def test_threads_leave_the_warning_filters_as_they_were() -> None:
    data = saved(gradient(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0")
    before = list(warnings.filters)
    problems: list[Exception] = []

    def decode_many() -> None:
        try:
            for _ in range(40):
                decode_image(data)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=decode_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert list(warnings.filters) == before


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("side", [400, 201, 150, 31])
def test_a_picture_is_shrunk_to_a_longest_side_as_a_whole(kind: str, side: int) -> None:
    x, y = np.meshgrid(np.arange(501), np.arange(333))
    waves = np.stack([127 + 90 * np.sin(x / 40), 127 + 90 * np.sin(y / 30), x / 501 * 255], -1).astype(np.uint8)
    image = Image.fromarray(waves)
    data = saved(image, kind)
    shrunk = decode_image(data, longest_side=side)
    assert shrunk.size == (side, round(333 * side / 501))
    expected = image.resize(shrunk.size, Image.Resampling.LANCZOS)
    difference = np.abs(np.asarray(shrunk, dtype=int) - np.asarray(expected, dtype=int))
    assert difference.mean() < 2.5


def test_a_turned_picture_is_shrunk_in_its_upright_proportion() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (500, 301), "red").save(stream, "JPEG", exif=exif)
    assert decode_image(stream.getvalue(), longest_side=100).size == (60, 100)


def test_a_smaller_picture_is_not_made_larger() -> None:
    assert decode_image(saved(Image.new("RGB", (50, 30)), "JPEG"), longest_side=100).size == (50, 30)
