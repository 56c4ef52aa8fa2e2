"""``lavic data stats``: every figure of a small data set by hand, leaks, the sheet, and the real files' figures."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from data.public_world import VALID, conversation, flags, jpeg, lines, make_public
from PIL import Image
from small_world import refused

from lavic.cli.main import run_command_line
from lavic.data.sheet import Card, write_sheet


def stats(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """The document of one run."""
    assert run_command_line(["data", "stats", "--json", *map(str, words)]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_counts_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = make_public(tmp_path / "world")
    (world / "train_images" / "stray.jpg").write_bytes(jpeg((0, 0, 0)))
    out = tmp_path / "out"
    found = stats(capsys, *flags(world, "--conversations", world, "--output_dir", out))
    train, valid = found["train"], found["valid"]
    # 3 + 2 + 1 + 1 + 2 + 1 pictures, of which T4_1 and T5_0 are not there.
    assert (train["items"], train["pictures"], train["described_pictures"]) == (6, 10, 10)
    assert (train["missing_pictures"], train["missing_described_pictures"]) == (2, 2)
    assert train["missing_examples"] == ["T4_1.jpg", "T5_0.jpg"]
    assert train["files_without_metadata"] == 1
    assert train["categories"] == {"Toys": 6}
    assert train["description_words"] == {"count": 10, "mean": 6, "min": 6, "median": 6, "p95": 6, "max": 6}
    assert train["files"]["common_sizes"] == {"16x12": 8}
    assert (valid["items"], valid["pictures"], valid["missing_pictures"]) == (2, 2, 0)
    assert valid["files"]["height"]["max"] == 30
    sizes = [(world / "valid_images" / f"{item_id}_0.jpg").stat().st_size for item_id in VALID]
    assert valid["files"]["bytes"]["max"] == max(sizes)
    assert found["leaks"] == {"items_in_both": 0, "image_names_in_both": 0}
    assert found["same_files"]["groups"] == 0
    assert found["tokenizer"] == "tiny"
    toys = found["conversations"]["toys"]
    assert toys["train"]["rows"] == 3
    assert toys["train"]["right_item_repeated"] == 1
    assert toys["train"]["candidates"]["st"] == {
        "rows": 3,
        "not_ten_different": 3,
        "right_item_among_them": 1,
        "right_item_share": 0.3333,
        "several_right_items_among_them": 0,
    }
    assert (toys["valid"]["several_right_items"], toys["valid"]["leak_right_id_in_text"]) == (1, 1)
    assert toys["test"]["leak_right_id_in_context_items"] == 1
    assert toys["opening_posts_in_two_splits"] == {"train and valid": 0, "train and test": 0, "valid and test": 0}
    assert json.loads((out / "stats.json").read_text()) == {"complete": True, **found}


def test_tokens_are_those_of_the_tokenizer_and_special_spellings_are_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lavic.model.load import TINY_FOLDER

    row = {"title": "</s>", "image_name": "a_0.jpg", "image": "", "image_description_llava_cleaned": "red mug <image>"}
    lines(tmp_path / "valid.jsonl", [row])
    words = ["--train_data", "none", "--val_data", tmp_path / "valid.jsonl", "--val_images_dir", "none"]
    found = stats(capsys, *words, "--output_dir", "none", "--model", TINY_FOLDER)
    # As text "</s>" is more than one token.
    assert found["valid"]["title_tokens"]["max"] > 1
    assert found["valid"]["description_tokens"]["max"] > 3
    assert "missing_pictures" not in found["valid"]
    assert "same_files" not in found


def test_duplicates_and_leaks_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = make_public(tmp_path / "world")
    shutil.copy(world / "train_images" / "T0_0.jpg", world / "train_images" / "T1_1.jpg")
    shutil.copy(world / "train_images" / "T2_0.jpg", world / "valid_images" / "V1_0.jpg")
    rows = [conversation("one", ["T0"], []), conversation(" one ", ["T1"], [])]
    lines(world / "toys" / "test.jsonl", rows)
    found = stats(capsys, *flags(world, "--conversations", world / "toys", "--output_dir", tmp_path / "out"))
    assert found["same_files"] == {
        "groups": 2,
        "repeated_files": 2,
        "leaks": 1,
        "leaked_valid_pictures": 1,
        "leak_examples": ["train/T2_0.jpg = valid/V1_0.jpg"],
    }
    listed = [json.loads(line) for line in (tmp_path / "out" / "duplicates.jsonl").read_text().splitlines()]
    assert [(row["files"], row["leak"]) for row in listed] == [
        (["train/T0_0.jpg", "train/T1_1.jpg"], False),
        (["train/T2_0.jpg", "valid/V1_0.jpg"], True),
    ]
    assert found["conversations"]["toys"]["opening_posts_in_two_splits"]["train and test"] == 1
    assert found["conversations"]["toys"]["test"]["opening_posts"] == 1


def test_bad_rows_and_pictures_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = make_public(tmp_path / "world")
    (world / "train_images" / "T0_0.jpg").write_bytes(b"<html>gone</html>")
    (world / "train_images" / "T2_0.jpg").write_bytes(b"")
    with (world / "item2meta_valid.jsonl").open("ab") as stream:
        stream.write(b'\xff\n{"image_name": "../x.jpg"}\n{"image_name": "W_0.jpg", "title": null}\n[]\n')
    found = stats(capsys, *flags(world, "--output_dir", tmp_path / "out"))
    assert found["train"]["files"]["unusable_reasons"] == {"the file is an HTML page, not an image": 1}
    assert found["train"]["missing_pictures"] == 3
    assert found["valid"]["rows_left_out"] == 3
    # Without a description a picture counts all the same: this is how a crawled data set looks.
    assert (found["valid"]["pictures"], found["valid"]["described_pictures"]) == (3, 2)
    assert found["valid"]["titles_missing"] == 1
    assert len((tmp_path / "out" / "skipped.jsonl").read_text().splitlines()) == 3


def test_the_sheet_shows_seeded_products_and_nothing_from_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_public(tmp_path / "world")
    pages = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        stats(capsys, *flags(world, "--output_dir", tmp_path / name, "--sheet_items", 3, "--seed", seed))
        pages.append((tmp_path / name / "sheet.html").read_text())
        with Image.open(tmp_path / name / "sheet.png") as image:
            assert image.width > 1000
    assert pages[0] == pages[1] != pages[2]
    assert pages[0].count("data:image/jpeg") == 3
    assert "It shows T" in pages[0] or "A picture of V" in pages[0]
    for outside in ("<script", "<link", "@import", "url(", 'src="http'):
        assert outside not in pages[0]


def test_hostile_texts_on_the_sheet_are_text(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg((1, 2, 3)))
    hostile = '<script>alert(1)</script>" \x1b[31m $x_{' + "字" * 3000
    cards = [
        Card("train", "x", hostile, hostile, tmp_path / "x.jpg"),
        Card("valid", "y", "Broken", "", tmp_path / "none.jpg"),
    ]
    write_sheet(tmp_path, cards, 0)
    html = (tmp_path / "sheet.html").read_text()
    assert "<script" not in html
    assert "\x1b" not in html
    assert "(no description)" in html
    assert "the file does not exist" in html


def test_a_second_run_replaces_only_its_own_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, out = make_public(tmp_path / "world"), tmp_path / "out"
    stats(capsys, *flags(world, "--output_dir", out))
    (out / "notes.txt").write_text("mine")
    sentence = refused(capsys, ["data", "stats", *flags(world, "--output_dir", out)])
    assert sentence == (f"{out}/ holds earlier figures. Replace it with --overwrite, or choose another --output-dir.")
    stats(capsys, *flags(world, "--output_dir", out, "--overwrite"))
    assert (out / "notes.txt").read_text() == "mine"
    (out / "stats.json").unlink()
    assert "that this command did not make" in refused(
        capsys, ["data", "stats", *flags(world, "--output_dir", out, "--overwrite")]
    )


def test_what_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = make_public(tmp_path / "world")
    none = ["--train_data", "none", "--val_data", "none", "--output_dir", "none"]
    cases = [
        (
            ["--train_data", str(tmp_path / "x.json")],
            f"{tmp_path}/x.json: there is no such file. "
            "Name the file with --train_data, or leave it out with `--train_data none`.",
        ),
        (
            flags(world, "--val_images_dir", tmp_path / "x"),
            f"{tmp_path}/x: the folder with the pictures does not exist. "
            "Name the folder with --val_images_dir, or leave it out with `--val_images_dir none`.",
        ),
        (none, "nothing to look at. Give --train_data, --val_data or --conversations."),
        (
            [*none, "--conversations", str(world / "train_images")],
            f"{world}/train_images: neither the folder nor one in it holds train.jsonl, valid.jsonl or test.jsonl. "
            "Give --conversations the folder of a category, or the folder that holds those of several.",
        ),
    ]
    for words, sentence in cases:
        assert refused(capsys, ["data", "stats", *words]) == sentence


def test_the_tables_name_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = make_public(tmp_path / "world")
    assert run_command_line(["data", "stats", *flags(world, "--conversations", world, "--output_dir", "none")]) == 0
    out = capsys.readouterr().out
    assert "Tokens are those of the tokenizer of tiny." in out
    assert re.search(r"description words, median +6 \(mean 6, 95 % up to 6, 6 to 6\) +6 \(", out)
    assert "Conversations: toys" in out


def test_the_real_conversations_give_the_figures_that_were_counted_before(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = shared_data / "reddit-amazon"
    words = ["--train_data", "none", "--val_data", real / "item2meta_valid.jsonl", "--val_images_dir", "none"]
    found = stats(capsys, *words, "--conversations", real, "--output_dir", "none")
    assert (found["valid"]["items"], found["valid"]["pictures"]) == (508, 512)
    assert round(found["valid"]["description_words"]["mean"]) == 88
    assert round(found["valid"]["title_words"]["mean"]) == 17
    files = [splits[split] for splits in found["conversations"].values() for split in ("valid", "test")]
    beauty = found["conversations"]["all_beauty"]["test"]
    assert (beauty["rows"], beauty["right_item_repeated"], beauty["context_characters"]["max"]) == (772, 27, 18620)

    def span(values: list[Any]) -> tuple[Any, Any]:
        return min(values), max(values)

    assert span([each["context_characters"]["median"] for each in files]) == (636, 745)
    assert span([each["leak_right_id_in_text"] for each in files]) == (12, 23)
    assert span([each["leak_right_id_in_context_items"] for each in files]) == (7, 11)
    lists = [each["candidates"] for each in files]
    assert all(one["not_ten_different"] == 0 for each in lists for one in each.values())
    assert span([each["st"]["right_item_share"] for each in lists]) == (0.2183, 0.2319)
    assert span([each["gpt_large"]["right_item_share"] for each in lists]) == (0.4129, 0.4354)
    assert span([one["several_right_items_among_them"] for each in lists for one in each.values()]) == (3, 17)
    assert all(
        count == 0 for each in found["conversations"].values() for count in each["opening_posts_in_two_splits"].values()
    )
