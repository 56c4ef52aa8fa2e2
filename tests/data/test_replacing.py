"""``lavic data ... --overwrite``: an earlier result goes only when nothing can be refused any more."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

import pytest
from data.public_world import conversation, flags, lines, make_public
from data.test_build import meta
from small_world import refused

from lavic.cli.main import run_command_line
from lavic.errors import InputError
from lavic.files import open_regular

Words = list[str]


def build(world: Path) -> Words:
    items = [f"H{number}" for number in range(6)]
    lines(world / "meta_Home.jsonl", [meta(item_id) for item_id in items])
    lines(world / "home.jsonl", [conversation(f"post {item_id}", [item_id], []) for item_id in items])
    return ["data", "build", "--meta", str(world / "meta_Home.jsonl"), "--conversations", str(world / "home.jsonl")]


def convert(world: Path) -> Words:
    (world / "images").mkdir(parents=True)
    for item_id in "ABC":
        (world / "images" / f"{item_id}.jpg").write_bytes(item_id.encode())
    lines(world / "products.jsonl", [{"id": item, "description": "x", "images": [f"{item}.jpg"]} for item in "ABC"])
    return ["data", "convert", "--source_dir", str(world)]


def subset(world: Path) -> Words:
    make_public(world)
    return ["data", "subset", *flags(world, "--conversations", world, "--category", "toys")]


def to_parquet(world: Path) -> Words:
    make_public(world)
    return ["data", "convert", "--to", "parquet", "--source_dir", str(world)]


def from_parquet(world: Path) -> Words:
    words = [*to_parquet(world / "before"), "--output_dir", str(world / "parquet")]
    assert run_command_line(words) == 0
    return ["data", "convert", "--from", "parquet", "--source_dir", str(world / "parquet")]


#: A command, and the source that is spoilt.
COMMANDS = [
    (build, "home.jsonl"),
    (build, "meta_Home.jsonl"),
    (convert, "products.jsonl"),
    (subset, "toys/valid.jsonl"),
    (subset, "item2meta_train.json"),
    (to_parquet, "item2meta_train.json"),
    (from_parquet, "parquet/data/train-00000.parquet"),
]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lavic.lock"
    }


@pytest.mark.parametrize(("make", "source"), COMMANDS)
def test_what_is_refused_leaves_the_earlier_result(
    make: Callable[[Path], Words], source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if make in (to_parquet, from_parquet):
        pytest.importorskip("pyarrow", reason='Parquet needs pyarrow: pip install "lavic[parquet]"')
    world, out = tmp_path / "world", tmp_path / "out"
    words = [*make(world), "--output_dir", str(out)]
    assert run_command_line(words) == 0
    before = contents(out)
    (world / source).write_bytes(b"")
    refused(capsys, [*words, "--overwrite"])
    assert contents(out) == before
    assert "that is not complete" not in refused(capsys, words)


def test_a_damaged_page_of_parquet_leaves_the_earlier_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow", reason='Parquet needs pyarrow: pip install "lavic[parquet]"')
    words = [*from_parquet(tmp_path / "world"), "--output_dir", str(tmp_path / "out")]
    assert run_command_line(words) == 0
    before = contents(tmp_path / "out")
    path = tmp_path / "world" / "parquet" / "data" / "train-00000.parquet"
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)  # the first page; the list of columns at the end is whole
    path.write_bytes(content)
    assert "half-copied" in refused(capsys, [*words, "--overwrite"])
    assert contents(tmp_path / "out") == before


def test_links_are_tried_before_the_earlier_subset_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*subset(tmp_path / "world"), "--output_dir", str(tmp_path / "out")]
    assert run_command_line(words) == 0
    before = contents(tmp_path / "out")

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert "a hard link cannot be made" in refused(capsys, [*words, "--overwrite", "--link"])
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(("make", "module"), [(subset, "subset"), (to_parquet, "parquet")])
def test_a_picture_that_may_not_be_read_costs_no_more_than_itself(
    make: Callable[[Path], Words], module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if make is to_parquet:
        pytest.importorskip("pyarrow", reason='Parquet needs pyarrow: pip install "lavic[parquet]"')
    words = [*make(tmp_path / "world"), "--output_dir", str(tmp_path / "out")]

    def denied(path: Path) -> BufferedReader:
        if path.name == "T0_0.jpg":
            raise InputError("the file cannot be read (Permission denied)", where=str(path))
        return open_regular(path)

    monkeypatch.setattr(f"lavic.data.{module}.open_regular", denied)
    assert run_command_line(words) == 0
    assert not (tmp_path / "out" / "train_images" / "T0_0.jpg").exists()


def test_a_refused_first_run_leaves_nothing_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*build(tmp_path / "world"), "--output_dir", str(tmp_path / "out")]
    refused(capsys, [*words, "--meta", str(tmp_path / "none.jsonl")])
    assert run_command_line(words) == 0


def test_an_unfinished_result_is_named_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = [*subset(tmp_path / "world"), "--output_dir", str(out)]
    assert run_command_line(words) == 0
    (out / "subset.json").write_text(json.dumps({"complete": False}))
    assert refused(capsys, words) == (
        f"{out}/ holds a subset that is not complete. Replace it with --overwrite, or choose another --output-dir."
    )
    assert run_command_line([*words, "--overwrite"]) == 0
