"""``lavic distill`` on bad input: one sentence and exit code 2, or the row listed and the run goes on."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_world import (
    flags,
    make_empty,
    make_folder,
    make_world,
    refused,
    skipped,
    train_rows,
    write_train_rows,
)

from lavic.cli.main import run_command_line
from lavic.distill.task import ADAPTER_FOLDER
from lavic.model.load import TINY_FOLDER


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("pristine"), items=15)


@pytest.fixture
def world(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "world"))


# -- metadata ------------------------------------------------------------------------------------------------


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _invalid_utf8(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"The image", b"\xff\xfe image", 1))


def _deep(path: Path) -> None:
    path.write_text('{"A": ' + "[" * 100_000 + "]" * 100_000 + "}")


def _list(path: Path) -> None:
    path.write_text("[1, 2]")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (Path.unlink, "no such file"),
        (make_empty, "empty"),
        (make_folder, "folder"),
        (_truncated, "the file ends inside item"),
        (_invalid_utf8, "UTF-8"),
        (_deep, "nests deeper than"),
        (_list, "object"),
    ],
)
def test_metadata_that_cannot_be_read_stops_the_run(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], words: str
) -> None:
    path = world / "item2meta_train.json"
    spoil(path)
    sentence = refused(capsys, flags(world, tmp_path / "out"))
    assert str(path) in sentence
    assert words in sentence


@pytest.mark.parametrize(
    "line", [b'{"broken": ', b"\xff\xff", b"[1]", b'{"title": "x"}', b'{"image_name": 7}', b"null"]
)
def test_one_bad_validation_line_is_listed_and_left_out(world: Path, tmp_path: Path, line: bytes) -> None:
    path = world / "item2meta_valid.jsonl"
    path.write_bytes(line + b"\n" + path.read_bytes())
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1)) == 0
    (row,) = skipped(tmp_path / "out")
    assert row["where"] == "line 1"
    assert row["reason"]


@pytest.mark.parametrize(
    "item",
    [
        None,
        5,
        [],
        {"title": 3},
        {"image_descriptions_llava_cleaned": "text"},
        {"image_descriptions_llava_cleaned": None},
    ],
)
def test_a_bad_item_is_listed_and_left_out(world: Path, tmp_path: Path, item: object) -> None:
    write_train_rows(world, {"BAD": item, **train_rows(world)})
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1)) == 0
    assert [row["where"] for row in skipped(tmp_path / "out")] == ["item BAD"]


@pytest.mark.parametrize("text", ["", "   ", None, 5])
def test_a_description_that_is_none_is_never_trained_on(world: Path, tmp_path: Path, text: object) -> None:
    rows = train_rows(world)
    name = next(iter(rows))
    rows[name]["image_descriptions_llava_cleaned"] = {f"{name}_0.jpg": text}
    write_train_rows(world, rows)
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1)) == 0
    assert len(skipped(tmp_path / "out")) >= 1
    assert all(name in row["where"] for row in skipped(tmp_path / "out"))


def test_a_description_too_long_is_listed_with_its_tokens(world: Path, tmp_path: Path) -> None:
    rows = train_rows(world)
    name = next(iter(rows))
    rows[name]["image_descriptions_llava_cleaned"] = {f"{name}_0.jpg": "a red mug " * 100}
    write_train_rows(world, rows)
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1, max_length=256)) == 0
    (row,) = skipped(tmp_path / "out")
    assert row["key"] == f"{name}_0.jpg"
    assert "tokens, more than --max-length 256" in row["reason"]
    # 300 words and a prompt of some 80 tokens; the figure itself must be there.
    assert 300 < int(row["reason"].split()[0]) < 500


def test_nothing_left_is_an_error(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(world / "train_images")
    (world / "train_images").mkdir()
    sentence = refused(capsys, flags(world, tmp_path / "out"))
    assert "no sample is left; most frequent reason, 12 times: there is no such picture" in sentence
    assert len(skipped(tmp_path / "out")) == 12


def test_zipped_metadata_is_taken_as_it_is(world: Path, tmp_path: Path) -> None:
    packed = shutil.make_archive(str(world / "item2meta_train.json"), "zip", world, "item2meta_train.json")
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1, train_data=packed)) == 0


# -- pictures ------------------------------------------------------------------------------------------------


def _bomb(path: Path) -> None:
    """A PNG of a few bytes that claims 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)))


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.jpg")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "spoil",
    [
        Path.unlink,
        lambda path: path.write_bytes(path.read_bytes()[:1500]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"<html>not here</html>"),
        make_folder,
        _fifo,
        _dangling,
        _bomb,
    ],
    ids=["missing", "truncated", "zero bytes", "no picture", "folder", "fifo", "dangling link", "bomb"],
)
def test_a_picture_that_cannot_be_used_is_listed_and_left_out(
    world: Path, tmp_path: Path, spoil: Callable[[Path], Any]
) -> None:
    name = f"{next(iter(train_rows(world)))}_0.jpg"
    spoil(world / "train_images" / name)
    assert run_command_line(flags(world, tmp_path / "out")) == 0
    (row,) = skipped(tmp_path / "out")
    assert row["key"] == name
    assert row["reason"]
    steps = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    assert sum(1 for step in steps if step["kind"] == "step") == 3


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "P", "RGBA", "LA", "1"])
def test_pictures_of_every_mode_are_used(world: Path, tmp_path: Path, mode: str) -> None:
    name = f"{next(iter(train_rows(world)))}_0.jpg"
    kind = "JPEG" if mode == "CMYK" else "PNG"
    Image.new(mode, (60, 40), 1 if mode in ("1", "I;16", "P") else None).save(world / "train_images" / name, kind)
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1)) == 0
    assert skipped(tmp_path / "out") == []


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd", "a/b.jpg", "..", "x\0.jpg"])
def test_a_name_that_leaves_the_folder_is_refused(world: Path, tmp_path: Path, name: str) -> None:
    rows = train_rows(world)
    rows["BAD"] = {"title": "x", "image_descriptions_llava_cleaned": {name: "This is a mug."}}
    write_train_rows(world, rows)
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1)) == 0
    assert [row["where"] for row in skipped(tmp_path / "out")] == ["item BAD"]


# -- model, adapter, flags, output ---------------------------------------------------------------------------


def test_a_model_that_is_not_there(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capsys, flags(world, tmp_path / "out", model=tmp_path / "nothing"))
    assert f"{tmp_path / 'nothing'}: there is no such folder" in sentence


def test_a_truncated_checkpoint(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = Path(shutil.copytree(TINY_FOLDER, tmp_path / "broken"))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    assert "broken" in refused(capsys, flags(world, tmp_path / "out", model=broken))


def test_an_adapter_of_another_model(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1)) == 0
    adapter = tmp_path / "out" / ADAPTER_FOLDER
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": 4}))
    capsys.readouterr()
    sentence = refused(capsys, flags(world, tmp_path / "new", validate_only=True, adapter=adapter))
    assert "the adapter is of another model" in sentence


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("batch_size", 0),
        ("lr", -1),
        ("lora_dropout", 1.5),
        ("num_epochs", 0),
        ("val_every", "often"),
        ("device", "tpu"),
    ],
)
def test_a_flag_out_of_range_is_named(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: object
) -> None:
    assert run_command_line(flags(world, tmp_path / "out", **{flag: value})) == 2
    error = capsys.readouterr().err
    assert flag in error.replace("-", "_")
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_fp16_on_a_cpu_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capsys, flags(world, tmp_path / "out", device="cpu", precision="fp16"))
    assert "--precision fp16: fp16 needs a GPU. On a CPU take fp32 or bf16." in sentence


def test_bf16_on_a_cpu_trains(world: Path, tmp_path: Path) -> None:
    assert run_command_line(flags(world, tmp_path / "out", device="cpu", precision="bf16", max_steps=2)) == 0


def test_an_output_path_that_is_a_file(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    sentence = refused(capsys, flags(world, tmp_path / "out"))
    assert "is a file, not a folder" in sentence
    assert (tmp_path / "out").read_text() == "mine"


def test_an_unknown_configuration_key(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("batch_sise: 2\n")
    sentence = refused(capsys, [*flags(world, tmp_path / "out"), "--config", str(config)])
    assert f"{config}, line 1: unknown setting `batch_sise`. Did you mean `batch_size`?" in sentence
