"""``lavic data subset``: what is taken belongs together, keeps its bytes, and is told in the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data.public_world import KEY, conversation, flags, lines, make_public
from small_world import refused

from lavic.cli.main import run_command_line
from lavic.conversations import read_conversations
from lavic.formats import read_train_items, read_train_metadata, read_valid_metadata
from lavic.skipped import SkipLog


def command(world: Path, output: Path, *more: object) -> list[str]:
    words = flags(world, "--conversations", world, "--category", "toys", "--output_dir", output, *more)
    return ["data", "subset", *words]


def subset(capsys: pytest.CaptureFixture[str], world: Path, output: Path, *more: object) -> dict[str, Any]:
    """The document of one run."""
    assert run_command_line([*command(world, output, *more), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def check_consistent(output: Path, images_per_item: int) -> dict[str, int]:
    """Every item that a conversation needs has metadata and a picture; nothing else is there."""
    log = SkipLog()
    needed: set[str] = set()
    rows = {}
    for path in sorted((output / "toys").iterdir()):
        conversations = list(read_conversations(path, log))
        rows[path.stem] = len(conversations)
        for each in conversations:
            needed |= {*each.gt_items, *each.candidates["st"]}
    described = list(read_train_metadata(output / "item2meta_train.json", log))
    valid = output / "item2meta_valid.jsonl"
    described += list(read_valid_metadata(valid, log)) if valid.exists() else []
    assert {image.item_id for image in described} == needed
    files = [path.name for side in ("train_images", "valid_images") for path in (output / side).iterdir()]
    assert sorted(files) == sorted(image.image_name for image in described)
    assert all(sum(name.startswith(item_id) for name in files) <= images_per_item for item_id in needed)
    assert log.count == 0
    return rows


def test_what_is_taken_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, out = make_public(tmp_path / "world"), tmp_path / "out"
    found = subset(capsys, world, out)
    assert check_consistent(out, 2) == {"train": 2, "valid": 1, "test": 1}
    assert found["conversations_left_out"] == {
        "an item that the conversation needs has no metadata": 1,  # T9
        "an item that the conversation needs has no picture": 1,  # T5
    }
    # T0 to T3 and V1; T0 has two of its three pictures, T1 two, T2 and T3 one.
    assert (found["item_count"], found["train_pictures"], found["valid_pictures"]) == (5, 6, 1)
    manifest = json.loads((out / "subset.json").read_text())
    assert manifest["complete"]
    assert manifest["items"]["T0"] == ["T0_0.jpg", "T0_1.jpg"]
    assert manifest["rows"] == {"train": [1, 2], "valid": [1], "test": [2]}  # lines
    assert len(manifest["sources"][str(world / "toys" / "train.jsonl")]) == 64
    listed = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [(row["where"], row["key"]) for row in listed] == [("line 3", "T9"), ("line 1", "T5")]


def test_bytes_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, out = make_public(tmp_path / "world"), tmp_path / "out"
    subset(capsys, world, out, "--images_per_item", 9)
    for name in ("train", "valid", "test"):
        before = (world / "toys" / f"{name}.jsonl").read_bytes().splitlines()
        after = (out / "toys" / f"{name}.jsonl").read_bytes().splitlines()
        assert [line for line in before if line in after] == after
    lines = (world / "item2meta_valid.jsonl").read_bytes().splitlines()
    assert (out / "item2meta_valid.jsonl").read_bytes() == lines[1] + b"\n"
    rows = json.loads((world / "item2meta_train.json").read_text())
    kept = {item_id: rows[item_id] for item_id in ("T0", "T1", "T2", "T3")}
    assert (out / "item2meta_train.json").read_bytes() == json.dumps(kept, ensure_ascii=False).encode()
    for path in (out / "train_images").iterdir():
        assert path.read_bytes() == (world / "train_images" / path.name).read_bytes()
    # An escaped training file stays escaped.
    (world / "item2meta_train.json").write_text(json.dumps(rows))
    subset(capsys, world, tmp_path / "escaped", "--images_per_item", 9)
    assert (tmp_path / "escaped" / "item2meta_train.json").read_bytes() == json.dumps(kept).encode()


def test_pictures_that_are_not_taken_are_not_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, out = make_public(tmp_path / "world"), tmp_path / "out"
    (world / "train_images" / "T0_0.jpg").unlink()
    subset(capsys, world, out, "--images_per_item", 1)
    items = {item.item_id: item for item in read_train_items(out / "item2meta_train.json", SkipLog())}
    # Number 1 is the first that is there; the entry before it stays, for the numbers' sake.
    assert list(items["T0"].descriptions) == ["T0_1.jpg"]
    assert [url.rpartition("/")[2] for url in items["T0"].image_urls] == ["0.jpg", "1.jpg"]
    assert items["T1"].raw is not None
    assert items["T1"].raw["unknown"] == {"kept": [1, None]}
    assert len(items["T1"].image_urls) == 1


def test_a_picture_with_a_thumbnail_alone_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, out = make_public(tmp_path / "world"), tmp_path / "out"
    rows = json.loads((world / "item2meta_train.json").read_text())
    rows["T2"] |= {"images": [{"thumb": "https://shop.invalid/T2/t.jpg"}], KEY: {}}
    (world / "item2meta_train.json").write_text(json.dumps(rows))
    assert subset(capsys, world, out)["conversations"] == {"train": 2, "valid": 1, "test": 1}
    assert json.loads((out / "subset.json").read_text())["items"]["T2"] == ["T2_0.jpg"]


def test_links_share_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, out = make_public(tmp_path / "world"), tmp_path / "out"
    subset(capsys, world, out, "--link")
    for path in (out / "train_images").iterdir():
        assert path.samefile(world / "train_images" / path.name)
        assert not path.is_symlink()
    subset(capsys, world, tmp_path / "copied")
    copies = list((tmp_path / "copied" / "train_images").iterdir())
    assert copies
    assert not any(path.samefile(world / "train_images" / path.name) for path in copies)
    # Replacing a linked subset leaves the pictures of the source alone.
    subset(capsys, world, out, "--overwrite")
    assert len(list((world / "train_images").iterdir())) == 8


def test_equal_seeds_give_equal_bytes_and_no_more_than_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_public(tmp_path / "world")

    def taken(name: str, most: int) -> dict[str, bytes]:
        out = tmp_path / name
        found = subset(capsys, world, out, "--max_items", most, "--seed", 4)
        assert found["item_count"] <= most
        assert sum(check_consistent(out, 2).values()) >= 1
        files = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")]
        return {str(path.relative_to(out)): path.read_bytes() for path in files}

    assert taken("a", 3) == taken("b", 3)
    assert taken("c", 4).keys() > taken("d", 3).keys()


def test_what_gets_nothing_gets_no_file_and_no_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, out = make_public(tmp_path / "world"), tmp_path / "out"
    # Only the first row of test.jsonl needs T5, only its second V1: without a picture of V1 none is left.
    (world / "valid_images" / "V1_0.jpg").unlink()
    assert run_command_line(command(world, out)) == 0
    assert sorted(path.name for path in (out / "toys").iterdir()) == ["train.jsonl", "valid.jsonl"]
    assert not (out / "item2meta_valid.jsonl").exists()
    assert check_consistent(out, 2) == {"train": 2, "valid": 1}
    assert json.loads((out / "subset.json").read_text())["conversations"] == {"train": 2, "valid": 1, "test": 0}
    flags_of_train = f"--train_data {out}/item2meta_train.json --train_images_dir {out}/train_images"
    assert capsys.readouterr().out.splitlines()[-1] == f"Next: lavic distill --model tiny {flags_of_train}"
    # The other way round: one row, whose item is of the validation file.
    lines(world / "toys" / "test.jsonl", [conversation("six", ["V0"], ["V0"])])
    for split in ("train", "valid"):
        (world / "toys" / f"{split}.jsonl").unlink()
    subset(capsys, world, tmp_path / "valid")
    assert not (tmp_path / "valid" / "item2meta_train.json").exists()


def test_what_cannot_be_taken_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, out = make_public(tmp_path / "world"), tmp_path / "out"
    cases = [
        (
            ["--category", "books"],
            f"{world}/books: there is no train.jsonl, valid.jsonl or test.jsonl of this category. There are: toys.",
        ),
        (
            ["--category", "../toys"],
            "--category: the name holds a path separator. Give the name of a folder in --conversations.",
        ),
        (["--max_items", 1], "toys: no conversation can be taken: the smallest needs 2 items, --max_items is 1."),
        (["--val_images_dir", "none"], "--val_data and --val_images_dir: one is given without the other."),
        (
            ["--output_dir", tmp_path],
            f"{tmp_path}: the output folder holds a source, {world}/toys/train.jsonl. Choose another --output-dir.",
        ),
    ]
    for more, sentence in cases:
        assert refused(capsys, command(world, out, "--overwrite", *more)) == sentence
    empty = ["--train_data", "none", "--train_images_dir", "none"]
    assert refused(capsys, command(world, tmp_path / "none", *empty)) == (
        "toys: no conversation can be taken (6 times: an item that the conversation needs has no metadata)."
    )


def test_a_folder_that_holds_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, out = make_public(tmp_path / "world"), tmp_path / "out"
    subset(capsys, world, out)
    assert refused(capsys, command(world, out)) == (
        f"{out}/ holds a subset. Replace it with --overwrite, or choose another --output-dir."
    )
    other = make_public(tmp_path / "other")
    (other / "toys" / "train.jsonl").unlink()
    assert "that this command did not make" in refused(capsys, command(world, other, "--overwrite"))
    assert (other / "train_images" / "T0_0.jpg").exists()


def test_real_conversations_with_drawn_pictures(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from data.public_world import item, jpeg

    real = shared_data / "reddit-amazon"
    rows = list(read_conversations(real / "all_beauty" / "test.jsonl", SkipLog()))[:60]
    ids = dict.fromkeys(each for row in rows for ids in (row.gt_items, *row.candidates.values()) for each in ids)
    world = tmp_path / "world"
    (world / "train_images").mkdir(parents=True)
    (world / "item2meta_train.json").write_text(json.dumps({item_id: item(item_id, 1) for item_id in ids}))
    picture = jpeg((9, 9, 9))
    for item_id in ids:
        (world / "train_images" / f"{item_id}_0.jpg").write_bytes(picture)
    words = ["--train_data", world / "item2meta_train.json", "--train_images_dir", world / "train_images", "--link"]
    words += ["--val_data", "none", "--val_images_dir", "none", "--conversations", real, "--category", "all_beauty"]
    out = tmp_path / "out"
    assert run_command_line(["data", "subset", *map(str, words), "--output_dir", str(out), "--max_items", "200"]) == 0
    manifest = json.loads((out / "subset.json").read_text())
    assert manifest["conversations"]["test"] >= 5
    assert manifest["item_count"] <= 200
    source = (real / "all_beauty" / "test.jsonl").read_bytes().splitlines(keepends=True)
    taken = b"".join(source[line - 1] for line in manifest["rows"]["test"])
    assert (out / "all_beauty" / "test.jsonl").read_bytes() == taken
