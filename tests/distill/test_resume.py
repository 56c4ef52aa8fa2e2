"""What a run may go on from, and what it must refuse to go on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_world import flags, make_world, skipped, train_rows, write_train_rows

from lavic.cli.main import run_command_line
from lavic.distill.task import ADAPTER_FOLDER, DistillTask
from lavic.files import sha256_file
from lavic.model.load import TINY_FOLDER
from lavic.prompts import DEFAULT_PROMPTS
from lavic.training.checkpoints import CHECKPOINT_FILE, read_state
from lavic.training.run_log import EVENTS_FILE, TIMING_FIELDS

FEW = {"batch_size": 4, "checkpoint_every": "1"}


class StruckError(RuntimeError):
    """Stands for the end of the process."""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return make_world(tmp_path / "world", items=15)


def stopped(arguments: list[str], monkeypatch: pytest.MonkeyPatch, step: int = 2) -> None:
    """Run until ``step`` steps are logged; checkpoints up to the one before are there."""
    original = DistillTask.step_done

    def struck(self: DistillTask, report: Any) -> None:
        original(self, report)
        if report.step == step:
            raise StruckError

    with monkeypatch.context() as patched:
        patched.setattr(DistillTask, "step_done", struck)
        assert run_command_line(arguments) == 70


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run_command_line(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    return lines[0]


def events(output: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (output / EVENTS_FILE).read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in {*TIMING_FIELDS, "settings"}} for row in rows]


def test_other_training_data_are_named(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    stopped(flags(world, output, **FEW), monkeypatch)
    before = {path.name: sha256_file(path) for path in output.iterdir() if path.is_file()}
    rows = train_rows(world)
    rows[next(iter(rows))]["title"] = "Another title"
    write_train_rows(world, rows)
    sentence = refusal(flags(world, output, **FEW, resume=True), capsys)
    assert sentence == (
        f"Error: {output}/ holds a run with other settings or data: content of --train_data. "
        "Resume with the same ones, or start again with --overwrite."
    )
    assert {path.name: sha256_file(path) for path in output.iterdir() if path.is_file()} == before


def test_other_pictures_are_named(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(flags(world, tmp_path / "out", **FEW), monkeypatch)
    again = flags(world, tmp_path / "out", **FEW, resume=True)
    picture = next((world / "train_images").iterdir())
    original = picture.read_bytes()
    picture.write_bytes(original + b"more")
    assert "data: pictures that are there." in refusal(again, capsys)
    picture.unlink()
    assert "data: number of pictures (was 15, is 14), pictures that are there." in refusal(again, capsys)
    picture.write_bytes(original)
    assert run_command_line(again) == 0


def test_other_weights_under_the_models_name_are_named(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    model = Path(shutil.copytree(TINY_FOLDER, tmp_path / "model"))
    stopped(flags(world, tmp_path / "out", **FEW, model=model), monkeypatch)
    weights = load_file(model / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, model / "model.safetensors", {"format": "pt"})
    sentence = refusal(flags(world, tmp_path / "out", **FEW, model=model, resume=True), capsys)
    assert "data: content of --model." in sentence


def test_other_prompts_under_the_same_name_are_named(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(yaml.safe_dump({"distill": DEFAULT_PROMPTS.distill}))
    stopped(flags(world, tmp_path / "out", **FEW, prompts=prompts), monkeypatch)
    prompts.write_text(yaml.safe_dump({"distill": "Say. " + DEFAULT_PROMPTS.distill}))
    sentence = refusal(flags(world, tmp_path / "out", **FEW, prompts=prompts, resume=True), capsys)
    assert "data: content of --prompts." in sentence


def test_another_number_format_is_named(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(flags(world, tmp_path / "out", **FEW, device="cpu"), monkeypatch)
    again = flags(world, tmp_path / "out", **FEW, device="cpu", precision="bf16", resume=True)
    assert "--precision (was fp32, is bf16)" in refusal(again, capsys)


def test_a_finished_run_with_other_settings_is_refused_too(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(flags(world, tmp_path / "out", **FEW)) == 0
    sentence = refusal(flags(world, tmp_path / "out", **FEW, num_epochs=2, resume=True), capsys)
    assert "--num_epochs (was 1, is 2)" in sentence


def test_data_that_were_moved_are_the_same_data(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, output = tmp_path / "whole" / "out", tmp_path / "out"
    assert run_command_line(flags(world, whole, **FEW)) == 0
    stopped(flags(world, output, **FEW), monkeypatch)
    moved = world.rename(tmp_path / "elsewhere")
    # What changes no result may change: workers, how often it is saved, what is judged.
    more = {**FEW, "num_workers": 1, "checkpoint_every": "2", "require_criteria": True}
    assert run_command_line(flags(moved, output, **more, resume=True)) == 0
    assert "Resumed at step 1 of 3" in capsys.readouterr().err
    adapter = f"{ADAPTER_FOLDER}/adapter_model.safetensors"
    assert sha256_file(output / adapter) == sha256_file(whole / adapter)


def test_a_checkpoint_that_is_none_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / CHECKPOINT_FILE).write_bytes(b"half a checkpoint")
    sentence = refusal(flags(world, output, **FEW, resume=True), capsys)
    assert f"{output / CHECKPOINT_FILE}: is not a checkpoint that can be resumed" in sentence
    assert "Start again with --overwrite." in sentence
    assert run_command_line(flags(world, output, **FEW, overwrite=True)) == 0


def test_broken_pictures_are_listed_once_and_resuming_ends_the_same(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{item_id}_0.jpg" for item_id in list(train_rows(world))[:2]]
    for name in names:
        (world / "train_images" / name).write_bytes(b"broken")
    broken = next((world / "valid_images").iterdir())
    broken.write_bytes(b"broken")
    more = {**FEW, "num_epochs": 2, "num_workers": 1}
    whole, output = tmp_path / "whole" / "out", tmp_path / "out"
    assert run_command_line(flags(world, whole, **more)) == 0
    stopped(flags(world, output, **more), monkeypatch, step=5)
    assert run_command_line(flags(world, output, **more, resume=True)) == 0
    for folder in (whole, output):
        rows = skipped(folder)
        assert sorted(row["key"] for row in rows) == sorted([*names, broken.name])
        assert {row["reason"] for row in rows} == {"the file is not an image of a known kind"}
    assert events(output) == events(whole)
    assert sha256_file(output / CHECKPOINT_FILE) == sha256_file(whole / CHECKPOINT_FILE)


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "failed"])
def test_a_run_that_ended_behind_its_last_checkpoint_gets_its_last_line(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    whole, output = tmp_path / "whole" / "out", tmp_path / "out"
    assert run_command_line(flags(world, whole, **FEW)) == 0

    def struck(*arguments: object, **named: object) -> None:
        raise StruckError

    with monkeypatch.context() as patched:
        patched.setattr("lavic.distill.run.judge_adapter", struck)
        assert run_command_line(flags(world, output, **FEW)) == 70
    assert events(output)[-1]["status"] == "failed"
    if killed:  # and so without a row that says how it ended
        rows = [line for line in (output / EVENTS_FILE).read_text().splitlines() if '"kind": "end"' not in line]
        (output / EVENTS_FILE).write_text("\n".join(rows) + "\n")
    assert run_command_line(flags(world, output, **FEW, resume=True)) == 0
    assert events(output) == events(whole)


def test_overwriting_leaves_nothing_of_the_old_run_and_nothing_of_others_is_lost(world: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run_command_line(flags(world, output, **FEW, num_epochs=3)) == 0
    (output / "notes.txt").write_text("mine")
    assert run_command_line(flags(world, output, **FEW, overwrite=True)) == 0
    assert (output / "notes.txt").read_text() == "mine"
    assert [path.name for path in output.glob("val_metrics_*")] == ["val_metrics_epoch_1.txt"]
    state = read_state(output)
    assert state is not None
    assert state.step == 3


def test_a_folder_in_use_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lavic.files import FolderLock

    with FolderLock(tmp_path / "out"):
        sentence = refusal(flags(world, tmp_path / "out", **FEW), capsys)
    assert "is writing here" in sentence


def test_what_was_wrong_with_the_data_does_not_stand_in_the_next_runs_way(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "train_images").rename(tmp_path / "forgotten")
    (world / "train_images").mkdir()
    assert "no sample is left" in refusal(flags(world, tmp_path / "out", **FEW), capsys)
    assert len(skipped(tmp_path / "out")) == 12
    (world / "train_images").rmdir()
    (tmp_path / "forgotten").rename(world / "train_images")
    assert run_command_line(flags(world, tmp_path / "out", **FEW)) == 0
    assert skipped(tmp_path / "out") == []
