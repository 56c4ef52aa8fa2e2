"""Real product photographs, where they are: converted, distilled, and none of them lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_world import flags, skipped

from lavic.cli.main import run_command_line


def test_real_photographs_are_converted_and_distilled(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    words = ["data", "convert", "--source_dir", str(shared_data / "catalogue"), "--output_dir", str(data), "--json"]
    assert run_command_line([*words, "--seed", "3"]) == 0
    converted = json.loads(capsys.readouterr().out)
    assert converted["skipped"] == 0
    # 75 products have a seller's description and 40 other photographs a caption; each has one picture at least.
    pictures = converted["train_images"] + converted["valid_images"]
    assert pictures >= 115
    more = {"max_steps": 4, "batch_size": 4, "validate_before_training": True}
    assert run_command_line([*flags(data, tmp_path / "out", **more), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["steps"] == 4
    assert summary["skipped"] == 0
    assert skipped(tmp_path / "out") == []
    rows = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    start = rows[0]
    assert start["train_samples"] + start["val_samples"] == pictures
    before, after = (row["val_loss_with_eos"] for row in rows if row["kind"] == "validation")
    assert after < before
