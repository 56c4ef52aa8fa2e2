"""Conversations about real products: embed their photographs, tune on some rows, answer the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lavic.cli.main import run_command_line
from lavic.layout import TRAIN_METADATA, VALID_METADATA, data_paths

CONVERSATIONS = Path(__file__).parents[1] / "data_files" / "catalogue_conversations.jsonl"
ROWS = {"train": slice(0, 24), "valid": slice(24, 30), "test": slice(30, 36)}


def command(*words: object) -> int:
    return run_command_line([str(word) for word in words])


@pytest.fixture
def world(tmp_path: Path, shared_data: Path) -> Path:
    catalogue = shared_data / "catalogue"
    if not catalogue.is_dir():
        pytest.skip("the catalogue of real photographs is not beside the project")
    world = tmp_path / "world"
    assert command("data", "convert", "--source_dir", catalogue, "--text", "both", "--output_dir", world) == 0
    lines = CONVERSATIONS.read_text(encoding="utf-8").splitlines(keepends=True)
    folder = world / "catalogue"
    folder.mkdir()
    for split, rows in ROWS.items():
        (folder / f"{split}.jsonl").write_text("".join(lines[rows]), encoding="utf-8")
    return world


def test_real_products_are_embedded_learnt_and_recommended(world: Path, tmp_path: Path) -> None:
    paths = data_paths(world)
    metadata = ["--item_meta_path", world / TRAIN_METADATA, "--val_data", world / VALID_METADATA]
    pictures = [word for name in ("train_images_dir", "val_images_dir") for word in (f"--{name}", paths[name])]
    store, tuned, found = tmp_path / "store", tmp_path / "tuned", tmp_path / "found"
    assert command("embed", "--model", "tiny", *metadata, *pictures, "--output_dir", store, "--num_workers", 0) == 0

    shared = ["--model", "tiny", *metadata, "--conversations", world, "--category", "catalogue", "--item_store", store]
    steps = ["--max_steps", 2, "--batch_size", 4, "--max_length", 2048]
    assert command("tune", *shared, *steps, "--output_dir", tuned, "--log_dir", tmp_path / "logs") == 0
    adapter = tuned / "trained_lora_adapter"
    assert command("evaluate", *shared, "--adapter", adapter, "--output_dir", found) == 0

    systems = json.loads((found / "results.json").read_text())["systems"]
    assert {"lavic", "lavic_greedy", "zero_shot_text", "random", "candidate_order"} <= systems.keys()
    for system in systems.values():
        assert system["rows"] == 6
        assert 0 <= system["values"]["hr@1"]["value"] <= 1
    # Some products of the catalogue have no text, so conversion leaves them out: their rows take the text-only slot.
    assert 0.5 < systems["lavic"]["picture_share"] <= 1
    answers = [json.loads(line) for line in (found / "test_results_candidates_st.jsonl").read_text().splitlines()]
    given = [json.loads(line) for line in (world / "catalogue" / "test.jsonl").read_text().splitlines()]
    assert [row["context"] for row in answers] == [row["context"] for row in given]
    assert all(row["recommended_st"] in row["candidates_st"] for row in answers)


@pytest.mark.parametrize("category", ["all_beauty", "amazon_fashion"])
def test_public_conversations_without_metadata_or_pictures_take_the_text_only_slot(
    category: str, tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the public files a few rows are trained on and answered; all of them are read, and cut to length."""
    public = shared_data / "reddit-amazon" / category
    if not public.is_dir():
        pytest.skip("the public conversations are not beside the project")
    folder, metadata = tmp_path / "world" / category, tmp_path / "none.json"
    folder.mkdir(parents=True)
    # Of the public training rows there are none here; the validation rows serve.
    for split, source in (("train", "valid"), ("valid", "valid"), ("test", "test")):
        lines = (public / f"{source}.jsonl").read_bytes().splitlines(keepends=True)
        (folder / f"{split}.jsonl").write_bytes(b"".join(lines[:3] if split == "valid" else lines))
    metadata.write_text('{"B000000000": {"title": "Nothing that is asked for"}}\n')
    shared = [
        "--model",
        "tiny",
        "--item_meta_path",
        metadata,
        "--val_data",
        shared_data / "reddit-amazon" / VALID_METADATA,
    ]
    shared += ["--conversations", tmp_path / "world", "--category", category, "--text_only"]
    tuned, found = tmp_path / "tuned", tmp_path / "found"
    steps = ["--max_steps", 1, "--batch_size", 4, "--log_dir", tmp_path / "logs"]
    assert command("tune", *shared, *steps, "--output_dir", tuned) == 0
    said = "".join(capsys.readouterr())
    assert "candidates without metadata, titled 'No Title'" in said
    adapter = ["--text_only_adapter", tuned / "trained_lora_adapter"]
    assert command("evaluate", *shared, *adapter, "--max_rows", 8, "--output_dir", found) == 0
    systems = json.loads((found / "results.json").read_text())["systems"]
    assert {name: system["rows"] for name, system in systems.items()} == dict.fromkeys(systems, 8)
    assert {name: system["picture_share"] for name, system in systems.items()} == {
        **dict.fromkeys(systems, 0),
        **{"random": None, "candidate_order": None},
    }
