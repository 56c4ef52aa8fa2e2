"""Whole runs of ``lavic distill``: what they write, and that a resumed one ends bit for bit the same."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from end_to_end.run_results import events, results
from safetensors.torch import load_file
from small_world import flags, make_world, refused, skipped, train_rows, write_train_rows

from lavic.cli.main import run_command_line
from lavic.distill import evaluation
from lavic.distill.config import DistillSettings
from lavic.distill.task import ADAPTER_FOLDER, DistillMicroStep, DistillTask
from lavic.files import sha256_file
from lavic.model.load import load_base
from lavic.training import base_model
from lavic.training.checkpoints import CHECKPOINT_FILE, read_state
from lavic.training.runs import loop_settings


def tree_hashes(folder: Path) -> dict[str, str]:
    """Every file but the lock, by its content."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lavic.lock")
    return {str(path.relative_to(folder)): sha256_file(path) for path in files}


# Dropout, shuffling, workers, uneven accumulation, warm-up, cosine, validation inside the epoch.
HARD = {
    "batch_size": 3,
    "gradient_accumulation": 2,
    "num_epochs": 2,
    "num_workers": 2,
    "warmup": 1,
    "schedule": "cosine",
    "val_every": "2",
    "checkpoint_every": "1",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    output = tmp_path_factory.mktemp("finished") / "out"
    assert run_command_line(flags(world, output, **HARD)) == 0
    return output


def test_a_run_leaves_what_the_guide_promises(finished: Path) -> None:
    adapter = finished / ADAPTER_FOLDER
    assert {path.name for path in adapter.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "README.md",
    }
    for epoch in (1, 2):
        lines = (finished / f"val_metrics_epoch_{epoch}.txt").read_text().splitlines()
        assert lines[0].startswith("Val Loss: ")
        assert lines[1].startswith("Val PPL: ")
        loss, perplexity = (float(line.split(": ")[1]) for line in lines[:2])
        assert perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    (log,) = (finished.parent / "logs").glob("training_*.log")
    text = log.read_text()
    for word in ("train_loss=", "val_loss=", "val_perplexity=", "Best LoRA adapter saved."):
        assert word in text
    assert list((finished / "tensorboard").glob("events.*"))
    assert (finished / "config.yaml").exists()
    assert json.loads((finished / "versions.json").read_text())["torch"]
    # 16 samples in micro-batches of 3: 6 of them, 3 optimizer steps an epoch, 2 epochs.
    state = read_state(finished)
    assert state is not None
    assert (state.step, state.finished) == (6, True)


def test_the_recorded_loss_of_the_best_adapter_is_measured_again_exactly(
    world: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = read_state(finished)
    assert state is not None
    assert state.best_result is not None
    again = flags(world, finished.parent / "unused", validate_only=True, adapter=finished / ADAPTER_FOLDER)
    assert run_command_line([*again, "--json", "--batch_size", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["val_loss_with_eos"] == state.best_result["loss"] == state.best_loss
    assert found["val_loss"] == state.best_result["loss_without_eos"]
    assert not (finished.parent / "unused").exists()


def test_an_adapter_that_is_validated_is_judged_too(
    world: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = flags(world, finished.parent / "unused", validate_only=True, adapter=finished / ADAPTER_FOLDER)
    assert run_command_line([*again, "--require_criteria", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["criteria_met"] is True
    for missed in (["--max_val_loss", "0.001"], ["--adapter_size_mb", "99"]):
        assert run_command_line([*again, *missed, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["criteria_met"] is False
        assert run_command_line([*again, *missed, "--require_criteria"]) == 1
        assert "NO" in capsys.readouterr().out


def test_what_changes_nothing_may_differ_in_a_resumed_run(world: Path, finished: Path) -> None:
    assert run_command_line(flags(world, finished, **HARD, resume=True, strategy="ddp")) == 0


def test_checkpoint_every_counts_steps_or_minutes() -> None:
    by_steps = loop_settings(DistillSettings(checkpoint_every="10"), 100)
    by_minutes = loop_settings(DistillSettings(checkpoint_every="10m"), 100)
    assert (by_steps.checkpoint_steps, by_steps.checkpoint_minutes) == (10, 0)
    assert (by_minutes.checkpoint_steps, by_minutes.checkpoint_minutes) == (0, 10)


def test_ctrl_c_in_a_validation_ends_it_behind_its_batch_and_resuming_repeats_it(
    world: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # 4 validation pictures in one batch: the second call is the validation at the end of the first epoch.
    more = {**HARD, "num_workers": 0}
    original, calls = evaluation.batch_loss, 0

    def struck(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    output = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "batch_loss", struck)
        assert run_command_line(flags(world, output, **more)) == 130
    error = capsys.readouterr().err
    assert "Stopping after this step; once more stops at once." in error
    assert calls == 2
    state = read_state(output)
    assert state is not None
    assert (state.step, state.validation_due, state.best_step) == (3, True, 2)
    assert [row["step"] for row in events(output) if row["kind"] == "validation"] == [2]
    assert run_command_line(flags(world, output, **more, resume=True)) == 0
    assert "Resumed at step 3 of 6" in capsys.readouterr().err
    found, expected = results(output), results(finished)
    found["events"][0]["settings"]["num_workers"] = HARD["num_workers"]
    assert found == expected


def test_a_loss_that_is_not_finite_names_the_pictures_and_keeps_the_last_good_checkpoint(
    world: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, original = tmp_path / "out", DistillMicroStep.nats
    spoiled: list[str] = []

    def struck(self: DistillMicroStep) -> Any:
        if spoiled or len([row for row in events(output) if row["kind"] == "step"]) < 4:
            return original(self)
        spoiled.extend(self.names)
        return original(self) * math.nan

    with monkeypatch.context() as patched:
        patched.setattr(DistillMicroStep, "nats", struck)
        sentence = refused(capsys, flags(world, output, **HARD))
    assert sentence == (
        f"the loss of step 5 is nan, with {', '.join(spoiled)} in it. "
        "The last good checkpoint is kept. Look at these samples, or lower --lr."
    )
    state = read_state(output)
    assert state is not None
    assert state.step == 4
    assert run_command_line(flags(world, output, **HARD, resume=True)) == 0
    assert results(output) == results(finished)


@pytest.mark.parametrize("ended", [False, True], ids=["killed", "finished"])
def test_halves_that_a_killed_run_left_are_gone_after_one_that_ended_well(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    output = tmp_path / "out"
    if ended:
        assert run_command_line(flags(world, output, **HARD)) == 0
    (output / ADAPTER_FOLDER).mkdir(parents=True, exist_ok=True)
    # Of a process that is gone, and of one whose number this process has been given again, as in a container.
    halves = [
        output / f".{CHECKPOINT_FILE}.999999999.part",
        output / f".{CHECKPOINT_FILE}.{os.getpid()}.part",
        output / ".probe.999999999.part",
        output / ADAPTER_FOLDER / ".adapter_model.safetensors.999999999.part",
    ]
    for half in halves:
        half.write_text("half")
        os.utime(half, (0, 0))
    (output / ".lavic.lock").write_text("1\n")  # a process that lives and holds no lock
    assert run_command_line(flags(world, output, **HARD, resume=True)) == 0
    assert not list(output.rglob(".*.part"))


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_run_whose_checkpoint_was_deleted_is_not_begun_anew(
    world: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], resume: bool
) -> None:
    output = Path(shutil.copytree(finished, tmp_path / "out"))
    (output / CHECKPOINT_FILE).unlink()
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    sentence = refused(capsys, flags(world, output, **HARD, resume=resume))
    assert "holds a finished run without its checkpoint.safetensors" in sentence
    assert "Replace it with --overwrite" in sentence
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


class KilledError(RuntimeError):
    """Stands for the end of the process at an awkward place."""


@pytest.mark.parametrize(
    ("method", "call"),
    [("step_done", 1), ("step_done", 4), ("keep_best", 1), ("validate", 2), ("save_checkpoint", 3), ("epoch_done", 1)],
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    world: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: str,
    call: int,
) -> None:
    calls = 0
    original = getattr(DistillTask, method)

    def struck(self: DistillTask, *arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KilledError
        return original(self, *arguments, **named)

    output = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(DistillTask, method, struck)
        assert run_command_line(flags(world, output, **HARD)) == 70
    assert run_command_line(flags(world, output, **HARD, resume=True)) == 0
    if (method, call) != ("step_done", 1):
        assert "Resumed at step " in capsys.readouterr().err
    assert results(output) == results(finished)


def test_a_finished_run_says_so(world: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(flags(world, finished, **HARD, resume=True)) == 0
    assert "has finished already, at step 6" in capsys.readouterr().err


def test_a_full_folder_is_refused_without_resume_or_overwrite(
    world: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sha256_file(finished / CHECKPOINT_FILE)
    assert run_command_line(flags(world, finished, **HARD)) == 2
    error = capsys.readouterr().err
    assert "holds a run at step 6 (finished)" in error
    assert "--resume" in error
    assert "--overwrite" in error
    assert sha256_file(finished / CHECKPOINT_FILE) == before


def test_a_run_is_replaced_only_once_data_and_model_can_be_used(
    world: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    before = tree_hashes(output)
    metadata = tmp_path / "bad.json"
    metadata.write_text("{")
    assert str(metadata) in refused(capsys, flags(world, output, **{**HARD, "train_data": metadata}, overwrite=True))
    weights = tmp_path / "model"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    refused(capsys, flags(world, output, **HARD, model=weights, overwrite=True))
    assert tree_hashes(output) == before


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("log_dir", "afile", "is not a folder. Choose another --log_dir."),
        ("log_dir", "afile/logs", "the log cannot be written (Not a directory)."),
        ("picture_cache", "afile/c", "cannot be written (Not a directory)."),
    ],
)
def test_a_run_is_replaced_and_a_new_one_begun_only_once_all_it_writes_to_can_be_used(
    world: Path,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    value: str,
    words: str,
) -> None:
    (tmp_path / "afile").write_text("mine")
    wrong = {**HARD, flag: tmp_path / value}
    old, new = Path(shutil.copytree(finished, tmp_path / "old")), tmp_path / "new"
    before = tree_hashes(old)
    assert words in refused(capsys, flags(world, old, **wrong, overwrite=True))
    assert tree_hashes(old) == before
    assert words in refused(capsys, flags(world, new, **wrong))
    assert tree_hashes(new) == {}
    assert run_command_line(flags(world, new, max_steps=1)) == 0


def test_a_disk_without_room_for_the_cut_pictures_of_both_sets_costs_no_run(
    world: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Path(shutil.copytree(finished, tmp_path / "old"))
    before = tree_hashes(old)
    # 16 and 4 pictures of 5 views, 3 x 40 x 40, and a header: room for either set, not for both.
    usage = shutil.disk_usage(tmp_path)._replace(free=19 * (128 + 24_000))
    monkeypatch.setattr("lavic.training.picture_cache.shutil.disk_usage", lambda path: usage)
    words = flags(world, old, **HARD, picture_cache=tmp_path / "cut", overwrite=True)
    assert refused(capsys, words).startswith("--picture_cache: 20 cut pictures take 0.0 GB, and ")
    assert tree_hashes(old) == before


def test_a_run_that_replaces_another_lists_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = make_world(tmp_path / "shop")
    output = tmp_path / "out"
    assert run_command_line(flags(shop, output, max_steps=1)) == 0
    next((shop / "train_images").iterdir()).unlink()
    assert run_command_line(flags(shop, output, max_steps=2, overwrite=True)) == 0
    (row,) = skipped(output)
    assert "skipped.jsonl lists them" in capsys.readouterr().err
    state = read_state(output)
    assert state is not None
    assert state.step == 2
    assert row["reason"]
    # Nothing of the old list is left either.
    assert run_command_line(flags(make_world(tmp_path / "whole"), output, max_steps=1, overwrite=True)) == 0
    assert skipped(output) == []


def test_resuming_with_other_settings_names_them(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    original = DistillTask.step_done

    def struck(self: DistillTask, report: object) -> None:
        original(self, report)  # type: ignore[arg-type]
        if report.step == 2:  # type: ignore[attr-defined]
            raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(DistillTask, "step_done", struck)
        assert run_command_line(flags(world, output, **HARD)) == 70
    capsys.readouterr()
    assert run_command_line(flags(world, output, **{**HARD, "lr": "1e-4"}, resume=True)) == 2
    assert "--lr (was 0.002, is 0.0001)" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_told_of_before_the_metadata_are_read(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(*arguments: object) -> None:
        raise AssertionError("the metadata were read first")

    monkeypatch.setattr("lavic.distill.run.read_metadata", read)
    model = tmp_path / "no" / "such-model"
    sentence = refused(capsys, flags(world, tmp_path / "out", model=model))
    assert sentence.startswith(f"{model}: there is no such folder.")
    assert not (tmp_path / "out").exists()


def test_resume_without_a_checkpoint_starts_at_the_beginning(world: Path, tmp_path: Path) -> None:
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1, resume=True)) == 0
    state = read_state(tmp_path / "out")
    assert state is not None
    assert state.step == 1


def test_training_leaves_every_frozen_weight_as_it_was(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    original = DistillTask.epoch_done

    def look(self: DistillTask, epoch: int) -> None:
        original(self, epoch)
        seen.update({name: value.clone() for name, value in self.model.llava.state_dict().items()})

    monkeypatch.setattr(DistillTask, "epoch_done", look)
    assert run_command_line(flags(world, tmp_path / "out", max_steps=3, warmup=0)) == 0
    expected = load_base("tiny").model.state_dict()
    compared = 0
    for name, value in seen.items():
        if "lora_" in name:
            continue
        assert torch.equal(value, expected[name.replace(".base_layer", "")]), name
        compared += 1
    assert compared == len(expected)
    trained = load_file(tmp_path / "out" / ADAPTER_FOLDER / "adapter_model.safetensors")
    assert any(float(tensor.abs().sum()) > 0 for name, tensor in trained.items() if "lora_B" in name)


def test_accumulated_micro_batches_are_one_batch(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In fp32 the rounding of sums in another order hides small differences.
    monkeypatch.setattr(base_model, "weights_dtype", lambda _: torch.float64)
    # One step over 16 samples, once as 16 and once as 6 uneven micro-batches: the same mean over tokens.
    losses = []
    for name, size, accumulation in (("one", 16, 1), ("many", 3, 6)):
        output = tmp_path / name
        sizes = {"batch_size": size, "gradient_accumulation": accumulation}
        assert run_command_line(flags(world, output, **sizes, lora_dropout=0, max_steps=1)) == 0
        losses.append(next(row["train_loss"] for row in events(output) if row["kind"] == "step"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    one, many = (load_file(tmp_path / name / CHECKPOINT_FILE) for name in ("one", "many"))
    for name in one:
        if name.startswith("optimizer/exp_avg/"):
            torch.testing.assert_close(one[name], many[name], rtol=1e-6, atol=1e-12)


def test_early_stopping_ends_after_validations_that_did_not_help(world: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    # A rate this small moves the loss by less than it is measured to: the first validation stays the best.
    more = {"lr": "1e-12", "val_every": "1", "early_stopping": 2, "num_epochs": 9}
    assert run_command_line(flags(world, output, **more)) == 0
    state = read_state(output)
    assert state is not None
    assert state.step < 9 * 4
    assert state.bad_validations == 2
    # Inside the first epoch of four steps: what an epoch leaves is left all the same.
    assert state.step < 4
    assert [path.name for path in output.glob("val_metrics_epoch_*.txt")] == ["val_metrics_epoch_1.txt"]


def test_max_samples_counts_pictures_that_are_there(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", items=15)
    rows = train_rows(world)
    first = next(iter(rows))
    (world / "train_images" / f"{first}_0.jpg").unlink()
    assert run_command_line(flags(world, tmp_path / "out", max_samples=4, max_steps=1)) == 0
    start = events(tmp_path / "out")[0]
    assert start["train_samples"] == 4
    assert [row["key"] for row in skipped(tmp_path / "out")] == [f"{first}_0.jpg"]


def test_require_criteria_decides_the_exit_code(world: Path, tmp_path: Path) -> None:
    wanted = {"max_steps": 1, "adapter_size_mb": 99, "overwrite": True}
    assert run_command_line(flags(world, tmp_path / "out", **wanted)) == 0
    assert run_command_line(flags(world, tmp_path / "out", **wanted, require_criteria=True)) == 1


def test_a_run_that_has_finished_is_judged_again_if_the_exit_code_is_to_tell(
    world: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = {**HARD, "resume": True, "adapter_size_mb": 99}
    assert run_command_line(flags(world, finished, **wanted)) == 0
    assert run_command_line(flags(world, finished, **wanted, require_criteria=True)) == 1
    assert "99.0 MB" in capsys.readouterr().out
    assert run_command_line(flags(world, finished, **HARD, resume=True, require_criteria=True)) == 0


def test_a_title_that_is_missing_is_counted_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = make_world(tmp_path / "world", items=15)
    rows = train_rows(world)
    for place, row in enumerate(rows.values()):
        if place == 0:
            del row["title"]
        if place == 1:
            row["title"] = None
    write_train_rows(world, rows)
    assert run_command_line([*flags(world, tmp_path / "out", max_steps=1), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["skipped"] == 0
    assert summary["notes"] == {"titles missing, taken as 'No Title'": 2}
    (log,) = (tmp_path / "logs").glob("training_*.log")
    assert "2 titles missing, taken as 'No Title'" in log.read_text(encoding="utf-8")
