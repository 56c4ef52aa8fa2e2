"""What opening a picture at both ends finds, against the run's own decoding."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lavic.check.pictures import look_at_pictures

NOTHING_DECODED = "lavic.check.pictures.DECODED_SAMPLE"


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sample: only what looks odd is decoded."""
    monkeypatch.setattr(NOTHING_DECODED, 0)


def save(path: Path, kind: str) -> Path:
    Image.effect_noise((80, 60), 50).convert("RGB").save(path, kind)
    return path


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_a_download_that_broke_off_is_found_without_a_sample(tmp_path: Path, kind: str) -> None:
    whole, cut = save(tmp_path / "whole", kind), save(tmp_path / "cut", kind)
    cut.write_bytes(cut.read_bytes()[:-900])
    report = look_at_pictures([whole, cut], seed=0, thorough=False)
    assert list(report.broken) == [cut]
    # A BMP's end says nothing, so it is decoded to be sure.
    assert (report.opened, report.decoded) == (2, 2 if kind == "BMP" else 1)


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"<html>gone</html>", "the file is an HTML page, not an image"),
        (b"x" * 2000, "the file is not an image of a known kind"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 500, "the image is damaged"),
    ],
)
def test_what_is_no_picture_gets_the_runs_own_reason(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert look_at_pictures([path], seed=0, thorough=False).broken == {path: problem}


@pytest.mark.usefixtures("undecoded")
def test_zeros_behind_the_end_are_harmless(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", "JPEG")
    path.write_bytes(path.read_bytes() + b"\0\0\r\n")
    report = look_at_pictures([path], seed=0, thorough=False)
    assert (report.decoded, report.broken) == (0, {})


def test_damage_in_the_middle_is_found_by_decoding_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", "PNG")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    assert look_at_pictures([path], seed=0, thorough=True).broken.keys() == {path}
    monkeypatch.setattr(NOTHING_DECODED, 0)
    assert look_at_pictures([path], seed=0, thorough=False).broken == {}


def test_the_sample_is_a_function_of_the_seed_and_processes_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for number in range(40):
        path = save(tmp_path / f"{number}.png", "PNG")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(bytes(data))
        paths.append(path)
    monkeypatch.setattr(NOTHING_DECODED, 10)
    alone = look_at_pictures(paths, seed=1, thorough=False)
    assert len(alone.broken) == alone.decoded == 10
    assert look_at_pictures(paths, seed=2, thorough=False).broken.keys() != alone.broken.keys()
    monkeypatch.setattr("lavic.check.pictures._ALONE", 0)
    counted: list[int] = []
    assert look_at_pictures(paths, seed=1, thorough=False, advance=counted.append) == alone
    assert sum(counted) == 40
