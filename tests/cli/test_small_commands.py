"""The commands that need no model, called as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lavic.cli.main import run_command_line


def test_toyshop_draws_a_catalogue_and_names_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "toys"
    flags = ["toyshop", "--output-dir", str(folder), "--items", "12", "--seed", "3", "--workers", "0"]
    assert run_command_line(flags) == 0
    out, err = capsys.readouterr()
    assert "train items" in out
    assert out.splitlines()[-1].startswith(f"Next: lavic distill --model tiny --train_data {folder}/")
    assert err.startswith("Drawing products: 12/12, ")
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    made = {"item2meta_train.json", "item2meta_valid.jsonl", "train_images", "valid_images"}
    assert names == made | {"toyshop.json", "config.yaml", "versions.json"}

    assert run_command_line(flags) == 2
    assert capsys.readouterr().err.startswith(f"Error: {folder}/ holds a drawn catalogue. Replace it with")
    assert run_command_line([*flags, "--overwrite", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["train_items"] + found["valid_items"] == 12


def test_the_saved_configuration_draws_the_same_catalogue(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ["--items", "12", "--seed", "3", "--workers", "0"]
    assert run_command_line(["toyshop", "--output_dir", str(first), *flags]) == 0
    config = str(first / "config.yaml")
    assert run_command_line(["toyshop", "--config", config, "--output_dir", str(second)]) == 0
    name = "item2meta_train.json"
    assert (first / name).read_bytes() == (second / name).read_bytes()


def test_convert_brings_photographs_into_the_public_format(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--source_dir", str(shared_data / "catalogue"), "--output_dir", str(tmp_path / "data"), "--json"]
    assert run_command_line(["data", "convert", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = (tmp_path / "data" / "item2meta_valid.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == found["valid_images"] > 0
    assert len(list((tmp_path / "data" / "train_images").iterdir())) == found["train_images"] > 0


def test_convert_of_a_missing_folder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "missing"
    flags = ["--source_dir", str(source), "--output_dir", str(tmp_path / "data")]
    assert run_command_line(["data", "convert", *flags]) == 2
    assert capsys.readouterr() == ("", f"Error: {source}: there is no such folder.\n")
