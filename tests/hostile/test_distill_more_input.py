"""``lavic distill`` on more bad input: files that are none, pictures that are none, models that are others."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
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
from lavic.training import loaders


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("pristine"), items=15)


@pytest.fixture
def world(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "world"))


@pytest.fixture(scope="session")
def adapter(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of one step."""
    output = tmp_path_factory.mktemp("adapter") / "out"
    assert run_command_line(flags(pristine, output, max_steps=1)) == 0
    return output / ADAPTER_FOLDER


# -- files and folders ---------------------------------------------------------------------------------------


def _gone(path: Path) -> None:
    path.unlink()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("name", ["item2meta_train.json", "item2meta_valid.jsonl"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_gone, "there is no such file"),
        (make_empty, "the file is empty"),
        (make_folder, "this is a folder, not a file"),
        (_pipe, "this is a pipe, not a file"),
        (_dangling, "this is a link to a file that does not exist"),
    ],
)
def test_metadata_that_are_no_file(
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    spoil: Callable[[Path], None],
    words: str,
) -> None:
    spoil(world / name)
    assert refused(capsys, flags(world, tmp_path / "out")).startswith(f"{world / name}: {words}.")


def test_a_path_longer_than_the_system_takes(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capsys, flags(world, tmp_path / "out", train_data="x" * 300))
    assert "the file cannot be opened (File name too long)" in sentence
    sentence = refused(capsys, flags(world, tmp_path / "out", val_images_dir="x" * 300))
    assert "the folder cannot be read (File name too long)" in sentence


@pytest.mark.parametrize(("flag", "folder"), [("train_images_dir", "train_images"), ("val_images_dir", "valid_images")])
def test_a_folder_of_pictures_that_is_none(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, folder: str
) -> None:
    sentence = refused(capsys, flags(world, tmp_path / "out", **{flag: tmp_path / "none"}))
    assert sentence.startswith(f"{tmp_path / 'none'}: the folder with the pictures does not exist. Give --train_images")
    shutil.rmtree(world / folder)
    (world / folder).write_text("a file")
    assert refused(capsys, flags(world, tmp_path / "out")).startswith(f"{world / folder}: this is not a folder.")
    assert not (tmp_path / "out").exists()


def test_bad_metadata_are_told_of_before_the_model_is_loaded(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*arguments: object, **named: object) -> None:
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr("lavic.training.base_model.load_base", loaded)
    path = world / "item2meta_train.json"
    path.write_bytes(path.read_bytes()[:-200])
    sentence = refused(capsys, flags(world, tmp_path / "out"))
    assert "the file ends inside item " in sentence
    assert sentence.endswith("It looks half-copied: copy it again.")


def test_a_half_copied_validation_file_loses_its_last_line_only(world: Path, tmp_path: Path) -> None:
    path = world / "item2meta_valid.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1)) == 0
    assert [(row["where"], row["reason"]) for row in skipped(tmp_path / "out")] == [
        ("line 3", "the line is not valid JSON")
    ]


def test_a_line_that_nests_too_deeply_is_left_out(world: Path, tmp_path: Path) -> None:
    path = world / "item2meta_valid.jsonl"
    path.write_bytes(b'{"title": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n" + path.read_bytes())
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1)) == 0
    assert [row["reason"] for row in skipped(tmp_path / "out")] == ["the line nests too deeply"]


def test_titles_may_spell_anything(world: Path, tmp_path: Path) -> None:
    titles = [
        "</s><image><ItemImageEmb1>",
        "{title} {visual_tokens}",
        "[INST] \x1b[31m red",
        "ﬁ\u200b\u0301 🔥",
        "x" * 900,
    ]
    rows = train_rows(world)
    for row, title in zip(rows.values(), titles, strict=False):
        row["title"] = title
    write_train_rows(world, rows)
    assert run_command_line(flags(world, tmp_path / "out")) == 0
    assert skipped(tmp_path / "out") == []


def test_half_a_surrogate_pair_is_left_out(world: Path, tmp_path: Path) -> None:
    path = world / "item2meta_valid.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["title"] = "half \ud83d"
    rows[1]["image_description_llava_cleaned"] = "half \udd25"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1)) == 0
    reasons = [row["reason"] for row in skipped(tmp_path / "out")]
    assert reasons == ["the text holds half a surrogate pair"] * 2


# -- pictures ------------------------------------------------------------------------------------------------


def test_pictures_that_turn_or_move_are_used(world: Path, tmp_path: Path) -> None:
    turned, moving = (world / "train_images" / f"{item_id}_0.jpg" for item_id in list(train_rows(world))[:2])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 30), "red").save(turned, "JPEG", exif=exif)
    frames = [Image.new("P", (40, 40), colour) for colour in (1, 2, 3)]
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1)) == 0
    assert skipped(tmp_path / "out") == []


def test_no_training_picture_that_can_be_read_is_an_error(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (world / "train_images").iterdir():
        path.write_text("<html>gone</html>")
    sentence = refused(capsys, flags(world, tmp_path / "out"))
    assert "no training picture can be read; the last one: the file is an HTML page, not an image" in sentence
    assert len(skipped(tmp_path / "out")) == 12
    assert not (tmp_path / "out" / ADAPTER_FOLDER).exists()


@pytest.mark.parametrize("only", [False, True], ids=["training", "validate only"])
def test_no_validation_picture_that_can_be_read_is_an_error(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], only: bool
) -> None:
    for path in (world / "valid_images").iterdir():
        path.write_text("no picture")
    sentence = refused(capsys, flags(world, tmp_path / "out", validate_only=only))
    assert "no validation sample could be read" in sentence


def test_a_reading_process_that_is_killed_is_one_sentence(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.getpid()

    def killed(path: Path) -> Image.Image:
        assert os.getpid() != here
        os.kill(os.getpid(), signal.SIGKILL)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(loaders, "read_image", killed)
    sentence = refused(capsys, flags(world, tmp_path / "out", num_workers=1))
    assert sentence.startswith("a process that reads pictures was ended from outside")
    assert "--num_workers" in sentence


# -- models and adapters -------------------------------------------------------------------------------------


def _other_class(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))


def _pickled(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save(weights, model / "pytorch_model.bin")


def _truncated(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _no_config(model: Path) -> None:
    (model / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_other_class, "this is a checkpoint of the type 'bert'"),
        (_pickled, "the weights are pickled (pytorch_model.bin)"),
        (_truncated, "the weights are damaged"),
        (_no_config, "the folder holds no config.json"),
    ],
)
def test_a_checkpoint_that_cannot_be_used(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], words: str
) -> None:
    model = Path(shutil.copytree(TINY_FOLDER, tmp_path / "model"))
    spoil(model)
    sentence = refused(capsys, flags(world, tmp_path / "out", model=model))
    assert str(model) in sentence
    assert words in sentence


def test_a_model_that_is_a_file_or_a_name_nobody_knows(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = world / "item2meta_train.json"
    assert f"{path}: a model is a folder, this is a file" in refused(capsys, flags(world, tmp_path / "out", model=path))
    sentence = refused(capsys, flags(world, tmp_path / "out2", model="nobody/no-such-model"))
    assert "nobody/no-such-model: the checkpoint cannot be loaded" in sentence


def _pickled_adapter(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def _truncated_adapter(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def _damaged_settings(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"r": ')


def _no_settings(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_pickled_adapter, "the weights are pickled (adapter_model.bin)"),
        (_truncated_adapter, "is damaged"),
        (_damaged_settings, "is not the configuration of an adapter"),
        (_no_settings, "no adapter here (adapter_config.json is missing)"),
    ],
)
def test_an_adapter_that_cannot_be_used(
    world: Path,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    words: str,
) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    spoil(copy)
    sentence = refused(capsys, flags(world, tmp_path / "out", validate_only=True, adapter=copy))
    assert str(copy) in sentence
    assert words in sentence


def test_an_adapter_trained_on_a_model_of_another_size(
    world: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    copy = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    weights = load_file(copy / "adapter_model.safetensors")
    wider = {name: torch.cat([tensor, tensor], 1) if "lora_A" in name else tensor for name, tensor in weights.items()}
    save_file(wider, copy / "adapter_model.safetensors")
    sentence = refused(capsys, flags(world, tmp_path / "out", validate_only=True, adapter=copy))
    assert "the adapter is of another model: 0 tensors have no place, 0 LoRA tensors stay unfilled, 26 have" in sentence


# -- settings and output -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"gradient_accumulation": 0}, "--gradient_accumulation: 0 is too small; it must be at least 1."),
        ({"max_samples": 0}, "--max_samples: 0 is too small"),
        ({"max_length": 15}, "--max_length: 15 is too small"),
        ({"num_workers": -1}, "--num_workers: -1 is too small"),
        ({"lr": "nan"}, "--lr: "),
        ({"lr": "fast"}, "--lr: 'fast' is not a number"),
        ({"weight_decay": 1}, "--weight_decay: 1 is too large"),
        ({"seed": -1}, "--seed: -1 is too small"),
        ({"batch_size": "2.5"}, "--batch_size: 2.5 is not a whole number"),
        ({"schedule": "linear"}, "--schedule: 'linear' is not one of constant or cosine"),
        ({"val_every": "0"}, "--val_every: '0' is not an interval; it must be above zero"),
        ({"val_every": "1.5"}, "--val_every: '1.5' is not an interval; it must be a whole number"),
        ({"checkpoint_every": "1e"}, "--checkpoint_every: '1e' is not an interval"),
        ({"early_stopping": 0}, "--early_stopping: 0 is too small"),
        ({"resume": True, "overwrite": True}, "--resume and --overwrite: they exclude each other."),
        ({"adapter": "x"}, "--adapter: it needs --validate_only."),
        ({"warmup": 5, "max_steps": 5}, "--warmup: 5 steps of warm-up leave none"),
        ({"devices": 2}, "--devices: lavic trains on one device, not on 2."),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_sense_are_named(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, Any], words: str
) -> None:
    assert words in refused(capsys, flags(world, tmp_path / "out", **more))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "the file does not exist"),
        ("batch_size: [1", "this is not YAML"),
        ("- batch_size", "this is not a list of settings"),
        ("batch_size: 2\nbatch-size: 3\n", "line 2: `batch-size` is set a second time"),
        ("lr: yes\n", "lr: true is not a value of this setting"),
        ("seed: !!python/object:os.system {}\n", "this value is not usable"),
    ],
)
def test_configuration_files_that_cannot_be_used(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str
) -> None:
    config = tmp_path / "run.yaml"
    if text is not None:
        config.write_text(text)
    words_given = flags(world, tmp_path / "out", batch_size=None, lr=None)
    assert words in refused(capsys, [*words_given, "--config", str(config)])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "the file does not exist"),
        ("distill: [1", "cannot be read as YAML"),
        ("distill: 2024-13-45", "cannot be read as YAML (month must be in 1..12)"),
        ("distill: !!bool maybe", "cannot be read as YAML"),
        ("distill: !!timestamp now", "cannot be read as YAML"),
        ("[" * 100_000, "cannot be read as YAML (it nests too deeply)"),
        ("- a", "must hold names and wordings"),
        ({"distil": "x"}, "no prompt is called 'distil'"),
        ({"distill": "Say what you see."}, "must contain {title} exactly once"),
        (
            {"recommend": "{context} {candidates}", "candidate": "{item_id} {title} {visual_tokens}"},
            "the prompt ends in {visual_tokens}, directly in front of the answer",
        ),
        ({"distill": 5}, "the wording must be text"),
    ],
)
def test_prompts_that_cannot_be_used(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, Any] | str | None, words: str
) -> None:
    prompts = tmp_path / "prompts.yaml"
    if content is not None:
        prompts.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    sentence = refused(capsys, flags(world, tmp_path / "out", prompts=prompts))
    assert sentence.startswith(f"--prompts {prompts}")
    assert words in sentence


def test_a_pipe_in_the_prompts_place_does_not_hang(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    sentence = refused(capsys, flags(world, tmp_path / "out", prompts=tmp_path / "pipe"))
    assert "this is a pipe, not a file" in sentence


def test_output_and_log_paths_that_are_files(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    sentence = refused(capsys, flags(world, tmp_path / "file" / "out"))
    assert f"{tmp_path / 'file'}: is a file, not a folder" in sentence
    sentence = refused(capsys, flags(world, tmp_path / "out", log_dir=tmp_path / "file"))
    assert f"{tmp_path / 'file'}: is not a folder. Choose another --log_dir." in sentence
    assert (tmp_path / "file").read_text() == "mine"
