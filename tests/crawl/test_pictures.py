"""What is stored of a download, and that a decoder's end costs one picture only."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from hostile_server import picture_bytes
from PIL import Image

from lavic.crawl.failures import CrawlFailure
from lavic.crawl.picture_pool import PicturePool
from lavic.crawl.pictures import Wanted, look, prepare, whole_jpeg
from lavic.errors import ImageError, OutputError
from lavic.images import decode_image

AS_IT_COMES = Wanted(None, 90, "when_needed", 10**6)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_a_whole_jpeg_within_limits_is_stored_as_it_came() -> None:
    data = picture_bytes(size=(60, 40))
    prepared = prepare(data, Wanted(60, 90, "when_needed", 10**6))
    assert prepared.as_it_came
    assert (prepared.data, prepared.width, prepared.height) == (data, 60, 40)
    assert not prepare(data, Wanted(None, 90, "always", 10**6)).as_it_came


def test_a_larger_one_is_shrunk_with_its_aspect_kept() -> None:
    prepared = prepare(picture_bytes(size=(301, 100)), Wanted(60, 90, "when_needed", 10**6))
    assert not prepared.as_it_came
    assert (prepared.width, prepared.height) == opened(prepared.data).size == (60, 20)


def test_a_line_does_not_shrink_to_nothing() -> None:
    assert opened(prepare(picture_bytes(size=(900, 1)), Wanted(60, 90, "when_needed", 10**6)).data).size == (60, 1)


def test_a_turned_picture_is_stored_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    data = picture_bytes(size=(60, 40), exif=exif)
    assert whole_jpeg(data, 10**6) is None
    image = opened(prepare(data, AS_IT_COMES).data)
    assert image.size == (40, 60)
    assert image.getexif().get(0x0112) is None


def test_cmyk_becomes_rgb_and_grey_stays() -> None:
    stream = io.BytesIO()
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(stream, "JPEG")
    image = opened(prepare(stream.getvalue(), AS_IT_COMES).data)
    assert image.mode == "RGB"
    grey = io.BytesIO()
    Image.new("L", (20, 20), 90).save(grey, "JPEG")
    assert prepare(grey.getvalue(), AS_IT_COMES).data == grey.getvalue()


def whole_by_decoding_all(data: bytes) -> bool:
    try:
        decode_image(data)
    except ImageError:
        return False
    return True


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_unpacking_all_coefficients_judges_as_decoding_all_pixels_does(mode: str, options: dict[str, Any]) -> None:
    stream = io.BytesIO()
    noise = Image.effect_noise((83, 61), 90).convert(mode)  # sides that are no multiples of a block
    noise.save(stream, "JPEG", **options)
    whole, lot = stream.getvalue(), random.Random(0)
    verdicts = []
    for _ in range(150):
        data, at = bytearray(whole), lot.randrange(2, len(whole) - 2)
        if lot.random() < 0.5:
            del data[at:-2]  # cut off, but with an end
        else:
            data[at] = lot.randrange(256)
        verdicts.append((whole_jpeg(bytes(data), 10**6) is not None, whole_by_decoding_all(bytes(data))))
    assert whole_jpeg(whole, 10**6) == (83, 61)
    assert {True, False} <= {judged for judged, _ in verdicts}
    assert [judged for judged, _ in verdicts] == [truth for _, truth in verdicts]


def test_a_stored_picture_of_another_kind_is_looked_at_as_a_whole() -> None:
    stream = io.BytesIO()
    Image.effect_noise((50, 40), 90).save(stream, "PNG")
    data = stream.getvalue()
    seen = look(data, AS_IT_COMES)
    assert (seen.data, seen.width, seen.height) == (data, 50, 40)
    with pytest.raises(ImageError):
        look(data[: len(data) // 2], AS_IT_COMES)


def test_half_a_jpeg_is_refused_though_pil_opens_it() -> None:
    data = picture_bytes(size=(200, 200))
    with pytest.raises(ImageError, match=r"cut off|damaged"):
        prepare(data[: len(data) // 2], AS_IT_COMES)


def test_pictures_at_a_process_that_dies_are_tried_again_alone(tmp_path: Path) -> None:
    data = picture_bytes()

    async def scenario() -> list[object]:
        async with PicturePool(AS_IT_COMES, 1) as pool:
            await pool.store(data, tmp_path / "first.jpg")
            process = pool._processes[0]._popen
            assert process is not None
            os.kill(process.pid, signal.SIGSTOP)  # so that all are owed when it dies
            jobs = [asyncio.create_task(pool.store(data, tmp_path / f"{i}.jpg")) for i in range(3)]
            await asyncio.sleep(0.1)
            os.kill(process.pid, signal.SIGKILL)
            return await asyncio.gather(*jobs, return_exceptions=True)

    # All three were there when it died; none of them kills a process that it has for itself.
    assert [isinstance(each, Exception) for each in asyncio.run(scenario())] == [False, False, False]
    assert {path.name for path in tmp_path.iterdir()} == {"first.jpg", "0.jpg", "1.jpg", "2.jpg"}


async def stopped_as_it_comes(process: Any) -> None:
    """Stop a process (SIGSTOP) once it is there."""
    while process._popen is None:
        await asyncio.sleep(0.01)
    os.kill(process._popen.pid, signal.SIGSTOP)


def test_a_picture_at_which_a_second_process_hangs_too_is_given_up() -> None:
    async def scenario() -> None:
        async with PicturePool(AS_IT_COMES, 1, decode_timeout_s=0.3) as pool:
            process = pool._processes[0]
            assert process._popen is not None
            os.kill(process._popen.pid, signal.SIGSTOP)
            alone = asyncio.create_task(stopped_as_it_comes(pool._alone))
            try:
                await pool.store(picture_bytes(), None)
            finally:
                await alone

    with pytest.raises(CrawlFailure) as caught:
        asyncio.run(scenario())
    assert caught.value.kind == "decoder_died"


def test_a_folder_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with PicturePool(AS_IT_COMES, 1) as pool:
            await pool.store(picture_bytes(), tmp_path / "no" / "a.jpg")

    with pytest.raises(OutputError, match="cannot be written"):
        asyncio.run(scenario())
