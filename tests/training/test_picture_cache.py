"""Cut pictures kept on disk are the pictures, and never in a run's way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavic.errors import ConfigError, ImageError, OutputError
from lavic.images import read_image
from lavic.model.views import cut_views
from lavic.training import picture_cache
from lavic.training.picture_cache import PictureCache


def draw(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_views_are_those_of_the_picture_and_the_second_time_nothing_is_decoded(tmp_path, monkeypatch):
    picture, cache = draw(tmp_path / "a.png", 1), PictureCache(tmp_path / "cache", 24, 5)
    wanted = cut_views(read_image(picture), 24, 5)
    np.testing.assert_array_equal(cache.views_of(picture), wanted)
    (stored,) = (tmp_path / "cache").rglob("*.npy")
    assert stored.stat().st_size == cache.picture_bytes

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} is decoded again")

    monkeypatch.setattr(picture_cache, "read_image", refuse)
    np.testing.assert_array_equal(PictureCache(tmp_path / "cache", 24, 5).views_of(picture), wanted)


def test_a_changed_picture_or_another_view_size_is_cut_anew(tmp_path):
    picture = draw(tmp_path / "a.png", 1)
    cache = PictureCache(tmp_path / "cache", 24, 5)
    first = cache.views_of(picture)
    draw(picture, 2)
    os.utime(picture, ns=(1, 1))  # a clock too coarse to tell must not matter
    assert not np.array_equal(cache.views_of(picture), first)
    assert PictureCache(tmp_path / "cache", 16, 5).views_of(picture).shape == (5, 3, 16, 16)
    assert PictureCache(tmp_path / "cache", 24, 1).views_of(picture).shape == (1, 3, 24, 24)


@pytest.mark.parametrize(
    "damaged",
    [
        lambda whole: b"",
        lambda whole: b"\x93NUMPY",
        lambda whole: b"not numpy at all",
        lambda whole: whole[:-1],
        lambda whole: whole[:128] + bytes(len(whole) - 128),  # of its right size, as a power cut may leave it
        lambda whole: whole[:200] + bytes([whole[200] ^ 1]) + whole[201:],
    ],
)
def test_a_damaged_file_is_cut_again(tmp_path, damaged):
    picture, cache = draw(tmp_path / "a.png", 1), PictureCache(tmp_path / "cache", 24, 5)
    wanted = cache.views_of(picture)
    (stored,) = (tmp_path / "cache").rglob("*.npy")
    stored.write_bytes(damaged(stored.read_bytes()))
    np.testing.assert_array_equal(cache.views_of(picture), wanted)
    assert stored.stat().st_size == cache.picture_bytes


def test_a_pickle_in_the_folder_is_never_loaded(tmp_path):
    picture, cache = draw(tmp_path / "a.png", 1), PictureCache(tmp_path / "cache", 24, 5)
    wanted = cache.views_of(picture)
    (stored,) = (tmp_path / "cache").rglob("*.npy")
    with stored.open("wb") as stream:
        np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.testing.assert_array_equal(cache.views_of(picture), wanted)


def test_nothing_is_kept_of_a_picture_that_cannot_be_read(tmp_path):
    cache = PictureCache(tmp_path / "cache", 24, 5)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    for path in (broken, tmp_path / "missing.jpg"):
        with pytest.raises(ImageError):
            cache.views_of(path)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_full_disk_ends_the_keeping_not_the_reading(tmp_path, monkeypatch):
    cache = PictureCache(tmp_path / "cache", 24, 5)
    pictures = [draw(tmp_path / f"{number}.png", number) for number in range(2)]

    def full(stream, array, *, allow_pickle):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(picture_cache.np, "save", full)
    for picture in pictures:
        np.testing.assert_array_equal(cache.views_of(picture), cut_views(read_image(picture), 24, 5))
    assert "No space left on device" in cache.trouble
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()], "no half-written file stays"


def test_halves_that_killed_readers_left_are_cleared_when_it_is_opened_and_those_of_living_ones_stay(tmp_path):
    picture, cache = draw(tmp_path / "a.png", 1), PictureCache(tmp_path / "cache", 24, 5)
    cache.views_of(picture)
    (stored,) = (tmp_path / "cache").rglob("*.npy")
    dead, living = (stored.with_name(f".{stored.name}.{pid}.part") for pid in (999_999_999, os.getpid()))
    for half in (dead, living):
        half.write_bytes(b"half")
    PictureCache(tmp_path / "cache", 24, 5, make=False)
    assert dead.exists()
    PictureCache(tmp_path / "cache", 24, 5)
    assert sorted(stored.parent.iterdir()) == sorted([stored, living])


def test_a_half_that_another_machine_clears_away_ends_no_keeping(tmp_path, monkeypatch):
    cache = PictureCache(tmp_path / "cache", 24, 5)
    first, second = (draw(tmp_path / f"{number}.png", number) for number in range(2))
    with monkeypatch.context() as patched:
        replace = Path.replace
        patched.setattr(Path, "replace", lambda self, target: (self.unlink(), replace(self, target)))
        cache.views_of(first)
    cache.views_of(second)
    assert cache.trouble == ""
    assert (cache.missing([first]), cache.missing([second])) == (1, 0)


def test_space_is_asked_for_before_anything_is_written(tmp_path, monkeypatch):
    cache = PictureCache(tmp_path / "cache", 24, 5)
    pictures = [draw(tmp_path / f"{number}.png", number) for number in range(3)]
    cache.views_of(pictures[0])
    free = 2 * cache.picture_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free))
    cache.check_space([*pictures, *pictures])  # one of the three is there already, and each is kept once
    free -= 1
    with pytest.raises(ConfigError, match="2 cut pictures take"):
        cache.check_space(pictures)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        PictureCache(tmp_path / "file" / "cache", 24, 5)
