"""Flags as a user gives them, to the end of a run: published names, schedules, files that come out."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from small_world import flags, make_world, skipped

from lavic.cli.main import run_command_line
from lavic.distill.task import ADAPTER_FOLDER
from lavic.files import sha256_file
from lavic.prompts import DEFAULT_PROMPTS
from lavic.training.run_log import EVENTS_FILE

WEIGHTS = f"{ADAPTER_FOLDER}/adapter_model.safetensors"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def rows(output: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (output / EVENTS_FILE).read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def test_the_guides_and_the_authors_flags_train(world: Path, tmp_path: Path) -> None:
    words = ["distill", "--model_name", "tiny", "--log_dir", str(tmp_path / "logs")]
    values = {
        "train_data": world / "item2meta_train.json",
        "val_data": world / "item2meta_valid.jsonl",
        "train_images_dir": world / "train_images",
        "val_images_dir": world / "valid_images",
        "output_dir": tmp_path / "out",
        "batch_size": 2,
        "num_epochs": 1,
        "lr": "5e-5",
        "weight_decay": "1e-5",
        "max_samples": 6,
        "max_length": 2048,
        "num_workers": 2,
        "seed": 42,
        "devices": 1,
        "strategy": "ddp",
    }
    for name, value in values.items():
        words += [f"--{name}", str(value)]
    assert run_command_line([*words, "--validate_before_training", "--skip_gpu_check"]) == 0
    assert [row["step"] for row in rows(tmp_path / "out", "step")] == [1, 2, 3]
    assert [row["step"] for row in rows(tmp_path / "out", "validation")] == [0, 3]
    assert (tmp_path / "out" / WEIGHTS).exists()


def test_dashes_and_underscores_are_one_flag_and_the_last_one_counts(world: Path, tmp_path: Path) -> None:
    words = flags(world, tmp_path / "out", batch_size=16)
    assert run_command_line([*words, "--batch-size", "8", "--max-steps", "1"]) == 0
    assert rows(tmp_path / "out", "start")[0]["settings"]["batch_size"] == 8


def test_the_rates_of_a_run_are_those_of_its_schedule(world: Path, tmp_path: Path) -> None:
    # 16 samples in fours, 3 epochs: 12 steps, 3 of them warm-up.
    more = {"lr": 0.008, "warmup": 3, "schedule": "cosine", "num_epochs": 3}
    assert run_command_line(flags(world, tmp_path / "out", **more)) == 0
    turned = [0.004 * (1 + math.cos(math.pi * step / 9)) for step in range(9)]
    assert [row["lr"] for row in rows(tmp_path / "out", "step")] == pytest.approx(
        [0.002, 0.004, 0.006, *turned], rel=1e-12
    )


def test_validations_come_by_steps_or_by_parts_of_an_epoch(world: Path, tmp_path: Path) -> None:
    expected = {"3": [3, 4, 6, 8], "0.5e": [2, 4, 6, 8], "1e": [4, 8]}
    for text, steps in expected.items():
        output = tmp_path / text / "out"
        assert run_command_line(flags(world, output, num_epochs=2, val_every=text)) == 0
        assert [row["step"] for row in rows(output, "validation")] == steps
        assert len(list(output.glob("val_metrics_epoch_*.txt"))) == 2


def test_every_step_and_validation_can_be_grepped_in_the_log(world: Path, tmp_path: Path) -> None:
    assert run_command_line(flags(world, tmp_path / "out", num_epochs=2)) == 0
    (log,) = (tmp_path / "logs").glob("training_*_*.log")
    lines = log.read_text().splitlines()
    assert sum("train_loss=" in line for line in lines) == 8
    assert sum(" validation step=" in line and "val_loss=" in line and "val_perplexity=" in line for line in lines) == 2
    assert sum(line.endswith(" Best LoRA adapter saved.") for line in lines) >= 1


def test_tensorboard_has_the_curves(world: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run_command_line(flags(world, tmp_path / "out", val_every="2")) == 0
    curves = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    curves.Reload()
    drawn = [(event.step, event.value) for event in curves.Scalars("train/train_loss")]
    assert drawn == [(row["step"], pytest.approx(row["train_loss"])) for row in rows(tmp_path / "out", "step")]
    assert [event.step for event in curves.Scalars("val/val_perplexity")] == [2, 4]


def test_the_saved_configuration_makes_the_same_run_again(world: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first" / "out", tmp_path / "second"
    more = {"warmup": 1, "schedule": "cosine", "gradient_accumulation": 2, "lora_r": 4, "lora_alpha": 8, "seed": 7}
    assert run_command_line(flags(world, first, **more)) == 0
    saved = yaml.safe_load((first / "config.yaml").read_text())
    assert saved["lora_r"] == 4
    assert not {"resume", "overwrite"} & set(saved)
    assert set(json.loads((first / "versions.json").read_text())) >= {
        "lavic",
        "python",
        "torch",
        "transformers",
        "peft",
    }
    again = ["distill", "--config", str(first / "config.yaml"), "--output_dir", str(second)]
    assert run_command_line(again) == 0
    assert sha256_file(second / WEIGHTS) == sha256_file(first / WEIGHTS)
    assert run_command_line([*again, "--overwrite", "--seed", "8"]) == 0
    assert sha256_file(second / WEIGHTS) != sha256_file(first / WEIGHTS)


def test_the_rank_decides_the_shape_of_the_adapter(world: Path, tmp_path: Path) -> None:
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1, lora_r=2, lora_alpha=6)) == 0
    tensors = load_file(tmp_path / "out" / WEIGHTS)
    assert {tensor.shape[0] for name, tensor in tensors.items() if "lora_A" in name} == {2}
    config = json.loads((tmp_path / "out" / ADAPTER_FOLDER / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (2, 6, "tiny")


def test_workers_change_nothing_in_the_result(world: Path, tmp_path: Path) -> None:
    digests = set()
    for workers in (0, 2):
        output = tmp_path / str(workers) / "out"
        assert run_command_line(flags(world, output, num_workers=workers)) == 0
        digests.add(sha256_file(output / WEIGHTS))
    assert len(digests) == 1


def test_a_run_of_one_epoch_leaves_the_adapter_of_its_only_validation(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line([*flags(world, tmp_path / "out"), "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    (validation,) = rows(tmp_path / "out", "validation")
    assert summary["adapter"] == str(tmp_path / "out" / ADAPTER_FOLDER)
    assert summary["best_step"] == 4
    assert summary["val_loss"] == validation["val_loss"]
    assert summary["val_loss_with_eos"] == validation["val_loss_with_eos"]
    assert summary["criteria_met"] is True
    assert "Best LoRA adapter saved." in captured.err
    assert "59,136 trained" in captured.err
    assert "language_model: frozen" in captured.err


def test_a_validation_set_has_the_same_loss_without_the_training_set_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Titles that all start alike: the prompts of this set share more than those of both sets.
    world = make_world(tmp_path / "world", items=30)
    path = world / "item2meta_valid.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, "title": "One title for all"}) + "\n" for line in lines))
    assert run_command_line(flags(world, tmp_path / "out", max_steps=2)) == 0
    recorded = rows(tmp_path / "out", "validation")[-1]
    again = flags(world, tmp_path / "unused", validate_only=True, adapter=tmp_path / "out" / ADAPTER_FOLDER)
    capsys.readouterr()
    assert run_command_line([*again, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["val_loss"] == recorded["val_loss"]
    assert found["val_loss_with_eos"] == recorded["val_loss_with_eos"]


def test_the_command_named_at_the_end_finds_the_recorded_loss(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(yaml.safe_dump({"distill": "{title}?\n{visual_tokens}\nIt is:"}))
    more = {"max_steps": 2, "prompts": prompts, "precision": "bf16", "device": "cpu"}
    assert run_command_line(flags(world, tmp_path / "out", **more)) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    words = last.partition("Check it again with: lavic ")[2].split()
    assert words[:2] == ["distill", "--config"]
    assert run_command_line([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["val_loss_with_eos"] == rows(tmp_path / "out", "validation")[-1]["val_loss_with_eos"]


def test_validating_the_bare_model_needs_no_training_data(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1, validate_before_training=True)) == 0
    before = rows(tmp_path / "out", "validation")[0]
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(world / "item2meta_valid.jsonl", only)
    shutil.copytree(world / "valid_images", only / "valid_images")
    capsys.readouterr()
    assert run_command_line([*flags(only, tmp_path / "unused", validate_only=True), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["adapter"] == "none"
    assert found["samples"] == 4
    # LoRA that has learnt nothing yet adds zeros.
    assert found["val_loss"] == pytest.approx(before["val_loss"], rel=1e-6)
    assert not (tmp_path / "unused").exists()


def test_another_wording_of_the_prompt_is_what_the_model_sees(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = []
    for name, wording in (("same", DEFAULT_PROMPTS.distill), ("other", "{title}?\n{visual_tokens}\nIt is:")):
        prompts = tmp_path / f"{name}.yaml"
        prompts.write_text(yaml.safe_dump({"distill": wording}))
        only = flags(world, tmp_path / "unused", validate_only=True, prompts=prompts)
        assert run_command_line([*only, "--json"]) == 0
        losses.append(json.loads(capsys.readouterr().out)["val_loss"])
    assert run_command_line([*flags(world, tmp_path / "unused", validate_only=True), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["val_loss"] == losses[0] != losses[1]


def test_a_warm_up_longer_than_the_run_is_remarked_on(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(flags(world, tmp_path / "out", warmup=4)) == 0
    assert "Warning: --warmup 4 is longer than the run, which never comes to its full rate." in capsys.readouterr().err


def test_what_was_left_out_is_told_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = make_world(tmp_path / "world", items=15)
    for path in list((world / "train_images").iterdir())[:3]:
        path.unlink()
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1)) == 0
    captured = capsys.readouterr()
    path = tmp_path / "out" / "skipped.jsonl"
    assert f"Warning: 3 rows or pictures were left out; {path} lists them." in captured.err
    assert "reasons.there is no such picture  3" in captured.out
    assert len(skipped(tmp_path / "out")) == 3
    assert rows(tmp_path / "out", "skipped")[0]["count"] == 3
