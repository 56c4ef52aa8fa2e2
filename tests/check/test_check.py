"""``lavic check`` as a user calls it: go, go with warnings, or no go, and what it names."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import check_document
import pytest
from check_document import rows, tree
from small_world import flags, make_folder, make_world, train_rows, write_train_rows

from lavic.cli.main import run_command_line
from lavic.files import FolderLock
from lavic.model.load import TINY_FOLDER
from lavic.training.picture_cache import PictureCache


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("pristine"), items=20)


@pytest.fixture
def world(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "world"))


def checked(capsys: pytest.CaptureFixture[str], words: list[str], *, code: int) -> dict[str, Any]:
    """The document of a check that ends with ``code``; ``words`` are those of the distill command."""
    return check_document.checked(capsys, words[1:], code=code)


def test_a_good_world_is_a_go_and_names_the_run(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = flags(world, tmp_path / "out", max_samples=10, prefix_cache=False)
    document = checked(capsys, words, code=0)
    assert rows(document, "warning") == rows(document, "no_go") == {}
    assert document["train"]["samples"] == 10
    assert document["valid"]["samples"] == 4
    assert document["steps"] == 3  # 10 samples in fours
    assert document["model"]["trainable_parameters"] == 59_136
    assert run_command_line(["check", *words[1:]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "GO." in lines
    assert lines[-1].startswith("Next: lavic distill --model tiny --train_data ")
    assert "--max_samples 10" in lines[-1]


def test_nothing_is_written_and_no_network_is_used(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    (world / "train_images" / f"{next(iter(train_rows(world)))}_0.jpg").unlink()
    before = tree(tmp_path)
    document = checked(capsys, flags(world, tmp_path / "out", model="nobody/nothing-of-this-name"), code=0)
    assert "it will be downloaded, size unknown" in rows(document, "warning")["model"]["found"]
    assert rows(document, "warning")["training pictures"]["found"].startswith("missing or empty: 1 of 16")
    checked(capsys, flags(world, tmp_path / "out"), code=0)
    assert tree(tmp_path) == before


def test_the_configuration_of_a_run_can_be_checked(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run_command_line(flags(world, output, max_steps=1)) == 0
    config = ["distill", "--config", str(output / "config.yaml")]
    document = checked(capsys, config, code=1)
    (row,) = rows(document, "no_go").values()
    assert row["name"] == "output folder"
    assert f"{output}: holds a run at step 1 (finished)" in row["found"]
    assert "--resume" in row["remedy"]
    assert "--overwrite" in row["remedy"]
    checked(capsys, [*config, "--overwrite"], code=0)
    found = rows(checked(capsys, [*config, "--resume", "--lr", "1e-4"], code=1), "no_go")["output folder"]["found"]
    assert "holds a run with other settings or data: --lr (was 0.002, is 0.0001)" in found
    assert "nothing to go on with" in json.dumps(checked(capsys, [*config, "--resume"], code=0)["checks"])
    next((world / "train_images").iterdir()).unlink()
    found = rows(checked(capsys, [*config, "--resume"], code=1), "no_go")["output folder"]["found"]
    assert re.search(r"data: number of pictures \(was (\d+), is (?!\1)\d+\), pictures that are there", found)


# -- data ----------------------------------------------------------------------------------------------------


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (Path.unlink, "the file does not exist"),
        (_truncated, "the file ends inside item"),
        (make_folder, "this is a folder, not a file"),
        (lambda path: path.write_text("[1]"), "object"),
        (lambda path: path.write_text("{}"), "0 described pictures"),
    ],
    ids=["missing", "truncated", "a folder", "a list", "empty"],
)
def test_metadata_that_stop_a_run_are_no_go_and_the_rest_is_checked(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], Any], words: str
) -> None:
    spoil(world / "item2meta_train.json")
    document = checked(capsys, flags(world, tmp_path / "out"), code=1)
    assert list(rows(document, "no_go")) == ["training metadata"]
    row = rows(document, "no_go")["training metadata"]
    assert words in row["found"]
    assert row["remedy"]
    assert document["valid"]["samples"] == 4
    assert rows(document, "ok").keys() >= {"model", "validation pictures", "disk", "output folder", "versions"}


def test_half_of_the_pictures_gone_is_no_go_unless_it_is_allowed(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted((world / "train_images").iterdir())[:8]:
        path.unlink()
    document = checked(capsys, flags(world, tmp_path / "out"), code=1)
    assert "8 samples; left out: 8 of 16 (50 %)" in rows(document, "no_go")["training samples"]["found"]
    assert document["train"]["pictures_missing"] == 8
    checked(capsys, flags(world, tmp_path / "out", max_left_out=0.5), code=0)
    # What is left out on the way to --max_samples does not matter.
    checked(capsys, flags(world, tmp_path / "out", max_samples=8), code=0)
    document = checked(capsys, flags(world, tmp_path / "out", max_samples=9, max_left_out=0.5), code=0)
    assert "asks for more than there are" in rows(document, "warning")["training samples"]["found"]


def test_what_is_no_sample_counts_towards_max_samples_as_it_does_in_the_run(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = train_rows(world)
    long = next(iter(metadata))
    metadata[long]["image_descriptions_llava_cleaned"] = {f"{long}_0.jpg": "word " * 5000}
    write_train_rows(world, metadata)
    document = checked(capsys, flags(world, tmp_path / "out", max_samples=4), code=0)
    assert "training samples" in rows(document, "ok")
    assert document["train"]["samples"] == 3


def test_no_folder_of_pictures_is_no_go(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(world / "valid_images")
    stops = rows(checked(capsys, flags(world, tmp_path / "out"), code=1), "no_go")
    assert stops["validation pictures"]["remedy"] == "Give --val_images_dir."
    assert "0 samples" in stops["validation samples"]["found"]


def test_every_kind_of_bad_row_and_picture_is_counted(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = train_rows(world)
    long, empty, untitled, cut, *_ = metadata
    metadata[long]["image_descriptions_llava_cleaned"] = {f"{long}_0.jpg": "word " * 5000}
    metadata[empty]["image_descriptions_llava_cleaned"] = {f"{empty}_0.jpg": "   "}
    metadata[untitled]["title"] = ""
    write_train_rows(world, metadata)
    picture = world / "train_images" / f"{cut}_0.jpg"
    picture.write_bytes(picture.read_bytes()[:1500])
    document = checked(capsys, flags(world, tmp_path / "out"), code=0)
    train, warned = document["train"], rows(document, "warning")
    assert (train["descriptions_empty"], train["titles_missing"], train["too_long"]) == (1, 1, 1)
    assert (train["pictures_broken"], train["pictures_missing"], train["samples"]) == (1, 0, 13)
    assert f"{cut}_0.jpg: the image is cut off" in warned["training pictures"]["found"]
    assert f"{long}_0.jpg: " in warned["training tokens"]["found"]
    assert "tokens, more than --max-length 2048" in warned["training tokens"]["found"]
    assert warned.keys() == {f"training {part}" for part in ("metadata", "texts", "pictures", "tokens")}


def test_a_picture_in_both_sets_is_a_leak(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{next(iter(train_rows(world)))}_0.jpg"
    shutil.copy(world / "train_images" / name, world / "valid_images" / name)
    path = world / "item2meta_valid.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    path.write_text(path.read_text() + json.dumps({**first, "image_name": name}) + "\n")
    row = rows(checked(capsys, flags(world, tmp_path / "out"), code=0), "warning")["training and validation"]
    assert row["found"] == f"picture names in both: 1 of 5 (20 %) of validation; for example {name}"


# -- model, device, output -----------------------------------------------------------------------------------


def test_models_that_cannot_be_loaded_are_no_go_and_pictures_are_checked_all_the_same(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(TINY_FOLDER, tmp_path / "broken"))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    expected = {
        str(tmp_path / "nothing"): "there is no such folder",
        str(broken): "the weights are damaged",
        "no such name": "neither a folder nor a possible hub name",
        "nobody/nothing": "the hub is switched off (HF_HUB_OFFLINE)",
    }
    for model, words in expected.items():
        document = checked(capsys, flags(world, tmp_path / "out", model=model), code=1)
        assert words in rows(document, "no_go")["model"]["found"]
        assert document["train"]["pictures_decoded"] == 16
        assert document["train"]["tokens"] == {}


def test_a_model_in_the_hubs_cache_is_found_there(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    snapshot = cache / "models--somebody--small" / "snapshots" / "abc"
    shutil.copytree(TINY_FOLDER, snapshot)
    (cache / "models--somebody--small" / "refs").mkdir()
    (cache / "models--somebody--small" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    words = flags(world, tmp_path / "out", model="somebody/small")
    assert "somebody/small: Llava" in rows(checked(capsys, words, code=0), "ok")["model"]["found"]
    (snapshot / "model.safetensors").unlink()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert "not whole in the local cache" in rows(checked(capsys, words, code=0), "warning")["model"]["found"]


def test_a_device_that_is_not_there_is_no_go(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    stops = rows(checked(capsys, flags(world, tmp_path / "out", device="cuda"), code=1), "no_go")
    assert stops["device"]["remedy"] == "Use --device cpu."


@pytest.mark.parametrize(
    ("free", "status", "word"), [(10**5, "no_go", "Free some space"), (5 * 10**6, "warning", "It is tight")]
)
def test_room_on_the_disk_is_compared_with_what_the_run_writes(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    free: int,
    status: str,
    word: str,
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr("lavic.check.output.shutil.disk_usage", lambda path: usage)
    words = flags(world, tmp_path / "out", num_workers=0)
    document = checked(capsys, words, code=1 if status == "no_go" else 0)
    assert word in rows(document, status)["disk"]["remedy"]
    # Twice the adapter and twice the checkpoint of 59,136 parameters, 4 steps, small files.
    assert document["disk"]["needed_bytes"] == 2 * 4 * 59_136 + 2 * 12 * 59_136 + 4 * 900 + 1_000_000


def test_want_of_memory_is_no_go(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lavic.check.machine.available_memory", lambda: 3e8)
    words = flags(world, tmp_path / "out", device="cpu")
    assert "300.0 MB are free" in rows(checked(capsys, words, code=1), "no_go")["memory (estimate)"]["found"]


def test_an_output_folder_that_a_run_would_refuse_is_no_go(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, full, busy = tmp_path / "file", tmp_path / "full", tmp_path / "busy"
    file.write_text("mine")
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    for output, words in ((file, "is a file, not a folder"), (file / "below", "is a file"), (full, "thesis.txt")):
        stops = rows(checked(capsys, flags(world, output), code=1), "no_go")
        assert words in stops["output folder"]["found"]
    with FolderLock(busy):
        stops = rows(checked(capsys, flags(world, busy), code=1), "no_go")
        assert f"another run (process {os.getpid()}) is writing there" in stops["output folder"]["found"]
    checked(capsys, flags(world, busy), code=0)


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_run_without_its_checkpoint_is_no_go(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], resume: bool
) -> None:
    output = tmp_path / "out"
    assert run_command_line(flags(world, output, max_steps=1)) == 0
    (output / "checkpoint.safetensors").unlink()
    row = rows(checked(capsys, flags(world, output, resume=resume), code=1), "no_go")["output folder"]
    assert "holds a finished run without its checkpoint.safetensors, which --resume needs" in row["found"]
    assert row["remedy"].startswith("Replace it with --overwrite.")
    checked(capsys, flags(world, output, overwrite=True), code=0)


@pytest.mark.parametrize("flag", ["output_dir", "log_dir", "picture_cache"])
@pytest.mark.parametrize("above", ["", "not/there/yet"])
def test_an_impossible_path_is_told_in_the_words_of_the_run(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, above: str
) -> None:
    path = tmp_path / above / ("x" * 300)
    words = flags(world, tmp_path / "out", **{flag: path})
    name = {"output_dir": "output folder", "log_dir": "log folder", "picture_cache": "picture cache"}[flag]
    stops = rows(checked(capsys, words, code=1), "no_go")
    assert {row: stops[row]["found"] for row in stops} == {
        name: f"{path}: the folder cannot be made (File name too long)"
    }


def test_a_disk_without_room_for_the_cut_pictures_that_are_not_there_is_no_go(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = flags(world, tmp_path / "out", picture_cache=tmp_path / "cut")
    room = 16 * (128 + 24_000)  # for the training pictures, not for the 4 of the validation
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(
            "lavic.check.output.shutil.disk_usage",
            lambda path: usage._replace(free=room) if Path(path) == tmp_path else usage,
        )
        row = rows(checked(capsys, words, code=1), "no_go")["picture cache"]
    assert "20 cut pictures take up to" in row["found"]
    assert row["remedy"] == "Give a folder on a larger disk, or leave --picture_cache away."
    # Those of the training set are cut by now.
    cache = PictureCache(tmp_path / "cut", 40, 5)
    for path in (world / "train_images").iterdir():
        cache.views_of(path)
    found = rows(checked(capsys, words, code=0), "ok")["picture cache"]["found"]
    assert f"4 cut pictures take up to {4 * (128 + 24_000) / 1e6:.1f} MB" in found


def test_what_the_short_cuts_need_is_looked_for(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lavic.model.quantization.importlib.util.find_spec", lambda name: None)
    words = flags(world, tmp_path / "out", quantize="nf4")
    assert "4-bit weights need bitsandbytes" in rows(checked(capsys, words, code=1), "no_go")["short cuts"]["found"]
    cache = rows(checked(capsys, flags(world, tmp_path / "out", picture_cache=tmp_path / "cut"), code=0), "ok")
    # 16 and 4 pictures of 5 views, 3 x 40 x 40, and a header.
    assert f"20 cut pictures take up to {20 * (128 + 24_000) / 1e6:.1f} MB" in cache["picture cache"]["found"]
    assert not (tmp_path / "cut").exists()


def test_too_old_a_library_is_no_go(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lavic.check.machine.metadata.requires", lambda name: ["peft>=99", "wandb; extra == 'wandb'"])
    row = rows(checked(capsys, flags(world, tmp_path / "out"), code=1), "no_go")["versions"]
    assert row["remedy"] == "pip install 'peft>=99'."


def test_a_check_that_fails_by_itself_hides_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("lavic.check.machine.library_versions", fail)
    stops = rows(checked(capsys, flags(world, tmp_path / "out"), code=1), "no_go")
    assert stops["versions"]["found"] == "this check could not be made (ZeroDivisionError: oh)"


def test_validating_only_needs_no_training_data(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(world / "train_images")
    words = flags(world, tmp_path / "out", validate_only=True, adapter=tmp_path / "none")
    stops = rows(checked(capsys, words, code=1), "no_go")
    assert list(stops) == ["adapter"]


def test_wrong_flags_are_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["check", "--batch_size", "0"]) == 2
    assert capsys.readouterr().err == "Error: --batch_size: 0 is too small; it must be at least 1.\n"


def test_real_products_are_checked(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert = ["--source_dir", str(shared_data / "catalogue"), "--output_dir", str(tmp_path / "data")]
    assert run_command_line(["data", "convert", *convert]) == 0
    capsys.readouterr()
    document = checked(capsys, flags(tmp_path / "data", tmp_path / "out"), code=0)
    assert document["train"]["pictures_broken"] == 0
    assert document["train"]["samples"] == document["train"]["described_pictures"] > 50
