"""A file that grows is read on from where one was; one that was exchanged is read anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavic.errors import InputError
from lavic.training import growing_file
from lavic.training.growing_file import GrowingFile, Growth


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def test_each_line_is_read_once_and_half_a_line_not_yet(path: Path) -> None:
    file = GrowingFile(path)
    assert file.read() == Growth(False, [])
    append(path, "one\ntwo\nthr")
    assert file.read() == Growth(False, ["one", "two"])
    assert file.read() == Growth(False, [])
    append(path, "ee\nfour\n")
    assert file.read() == Growth(False, ["three", "four"])


def test_a_letter_that_is_cut_in_two_is_put_together(path: Path) -> None:
    file = GrowingFile(path)
    path.write_bytes(b"caf\xc3")
    assert file.read().lines == []
    with path.open("ab") as stream:
        stream.write(b"\xa9\n")
    assert file.read().lines == ["café"]


def test_a_file_that_was_replaced_is_read_anew_however_long_it_is(path: Path, tmp_path: Path) -> None:
    append(path, "old 1\nold 2\n")
    file = GrowingFile(path)
    file.read()
    (tmp_path / "new").write_text("new 1\nnew 2\nnew 3\n", encoding="utf-8")
    (tmp_path / "new").replace(path)
    assert file.read() == Growth(True, ["new 1", "new 2", "new 3"])


def test_a_file_that_was_written_over_in_place_is_read_anew(path: Path) -> None:
    append(path, "old 1\nold 2\n")
    file = GrowingFile(path)
    file.read()
    with path.open("r+", encoding="utf-8") as stream:  # the same file by its number, and longer than before
        stream.write("new 1\nnew 2\nnew 3\n")
    assert file.read() == Growth(True, ["new 1", "new 2", "new 3"])


def test_a_file_that_was_cut_is_read_anew(path: Path) -> None:
    append(path, "a line\nanother\n")
    file = GrowingFile(path)
    file.read()
    path.write_text("a line\n", encoding="utf-8")
    assert file.read() == Growth(True, ["a line"])


def test_a_file_may_go_and_come_back(path: Path) -> None:
    append(path, "one\n")
    file = GrowingFile(path)
    file.read()
    path.unlink()
    assert file.read() == Growth(True, [])
    assert file.read() == Growth(False, [])
    append(path, "two\n")
    assert file.read() == Growth(False, ["two"])


def test_only_what_is_new_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{number:08d}" for number in range(100_000)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    file = GrowingFile(path)
    assert file.read().lines == lines
    taken: list[int] = []
    whole_lines = GrowingFile._whole_lines

    def counted(self: GrowingFile, block: bytes) -> list[str]:
        taken.append(len(block))
        return whole_lines(self, block)

    monkeypatch.setattr(GrowingFile, "_whole_lines", counted)
    append(path, "new\n")
    assert file.read().lines == ["new"]
    assert taken == [4]


def test_a_line_without_end_is_not_kept_in_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_file, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(growing_file, "_BLOCK", 64)
    append(path, "first\n" + "x" * 1000)
    file = GrowingFile(path)
    assert file.read().lines == ["first"]
    assert len(file._half) <= 164
    append(path, "x" * 1000 + "\nlast\n")
    assert file.read().lines == ["last"]


def test_what_is_no_file_is_an_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(InputError, match="this is a folder, not a file"):
        GrowingFile(path).read()
