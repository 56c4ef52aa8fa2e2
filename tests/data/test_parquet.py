"""``lavic data convert --to parquet`` and back: equal metadata bytes, equal pictures."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from data.public_world import flags, jpeg, make_public
from small_world import make_world, refused

from lavic.cli.main import run_command_line

WHY_NOT = 'Parquet needs pyarrow: pip install "lavic[parquet]"'


def convert(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """The document of one run."""
    assert run_command_line(["data", "convert", "--json", *map(str, words)]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def files_of(folder: Path) -> dict[str, bytes]:
    """The metadata and the pictures of a data set."""
    paths = [folder / "item2meta_train.json", folder / "item2meta_valid.jsonl"]
    paths += [path for side in ("train_images", "valid_images") for path in (folder / side).iterdir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("make", [make_public, make_world], ids=["by hand", "toyshop"])
def test_the_way_there_and_back_gives_the_same_bytes(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow", reason=WHY_NOT)
    world = make(tmp_path / "world")
    there = convert(capsys, "--to", "parquet", "--source_dir", world, "--output_dir", tmp_path / "there")
    assert there["same_bytes_back"]
    assert there["skipped"] == 0
    back = convert(capsys, "--from", "parquet", "--source_dir", tmp_path / "there", "--output_dir", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(world)
    assert back["pictures"] == there["pictures"]


def test_rows_are_pictures_with_the_note_of_datasets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason=WHY_NOT)
    world, out = make_public(tmp_path / "world"), tmp_path / "out"
    counts = convert(capsys, "--to", "parquet", "--source_dir", world, "--output_dir", out)
    assert counts["files"] == ["data/train-00000.parquet", "data/validation-00000.parquet"]
    # T4_1 and T5_0 are described, but not there.
    assert (counts["rows"], counts["pictures"]) == ({"train": 10, "valid": 2}, {"train": 8, "valid": 2})
    assert counts["pictures_missing"] == 2
    table = pq.read_table(out / "data" / "train-00000.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert set(features) == set(table.column_names)
    rows = table.to_pylist()
    assert rows[1]["image"] == {"bytes": (world / "train_images" / "T0_1.jpg").read_bytes(), "path": "T0_1.jpg"}
    assert rows[1]["description"] == "It shows T0 from side 1."
    texts = [json.loads(row["row_json"]) for row in rows[:4]]
    assert texts[0] == texts[1] == texts[2] != texts[3]
    assert "data/train-*.parquet" in (out / "README.md").read_text()


def test_rows_that_were_filtered_or_written_by_an_older_lavic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pa = pytest.importorskip("pyarrow", reason=WHY_NOT)
    import pyarrow.parquet as pq

    world, there = make_public(tmp_path / "world"), tmp_path / "there"
    convert(capsys, "--to", "parquet", "--source_dir", world, "--output_dir", there)
    path = there / "data" / "train-00000.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    words = ["--from", "parquet", "--source_dir", there, "--output_dir"]

    def back(name: str, kept: list[dict[str, Any]]) -> tuple[list[str], dict[str, Any]]:
        pq.write_table(pa.Table.from_pylist(kept, schema=table.schema), path)
        counts = convert(capsys, *words, tmp_path / name)
        return list(json.loads((tmp_path / name / "item2meta_train.json").read_text())), counts

    # Without T0's and T1's first pictures, and shuffled.
    ids, counts = back("filtered", [rows[4], rows[2], *rows[5:], rows[1]])
    assert sorted(ids) == ["T0", "T1", "T2", "T3", "T4", "T5"]
    assert (counts["entries"]["train"], counts["skipped"]) == (6, 0)
    old, seen = [], set()
    for row in rows:
        old.append({**row, "row_json": None if row["item_id"] in seen else row["row_json"]})
        seen.add(row["item_id"])
    assert back("old", old[::-1])[1]["skipped"] == 0
    assert files_of(tmp_path / "old").keys() == files_of(world).keys()
    # What an older file lost is listed.
    ids, counts = back("lost", [*old[1:3], *old[4:]])
    assert "T0" not in ids
    listed = [json.loads(line) for line in (tmp_path / "lost" / "skipped.jsonl").read_text().splitlines()]
    assert [(row["where"], row["key"], row["reason"]) for row in listed] == [
        ("row 1", "T0", "no row holds the metadata of this item or picture"),
        ("row 3", "T1", "no row holds the metadata of this item or picture"),
    ]


def test_titles_and_descriptions_that_were_edited_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pa = pytest.importorskip("pyarrow", reason=WHY_NOT)
    import pyarrow.parquet as pq

    world, there, edited = make_public(tmp_path / "world"), tmp_path / "there", tmp_path / "edited"
    convert(capsys, "--to", "parquet", "--source_dir", world, "--output_dir", there)
    edited.mkdir()
    for split, name in (("train", "train.parquet"), ("validation", "validation-00000.parquet")):
        table = pq.read_table(there / "data" / f"{split}-00000.parquet")
        rows = table.to_pylist()
        for row in rows:
            if row["image_name"] in ("T0_1.jpg", "V1_0.jpg"):
                row["title"], row["description"] = "New é", "Edited."
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), edited / name)
    back = convert(capsys, "--from", "parquet", "--source_dir", edited, "--output_dir", tmp_path / "back")
    assert back["edited"] == {"titles": 2, "descriptions": 2}
    before, after = files_of(world), files_of(tmp_path / "back")
    train = before["item2meta_train.json"].replace("Thing T0 é".encode(), "New é".encode(), 1)
    assert after["item2meta_train.json"] == train.replace(b"It shows T0 from side 1.", b"Edited.")
    valid = before["item2meta_valid.jsonl"].replace(b"Thing V1", "New é".encode())
    assert after["item2meta_valid.jsonl"] == valid.replace("A picture of V1 — green.".encode(), b"Edited.")
    # Without them, a new column of nothing edits nothing.
    convert(capsys, "--from", "parquet", "--source_dir", there, "--output_dir", tmp_path / "plain")
    assert files_of(tmp_path / "plain") == before


def test_the_next_command_names_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow", reason=WHY_NOT)
    world = make_public(tmp_path / "world")
    (world / "item2meta_valid.jsonl").unlink()
    convert(capsys, "--to", "parquet", "--source_dir", world, "--output_dir", tmp_path / "there")
    words = ["--from", "parquet", "--source_dir", str(tmp_path / "there"), "--output_dir", str(tmp_path / "back")]
    assert run_command_line(["data", "convert", *words]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Next: lavic distill")
    assert "--val" not in last


def test_items_without_pictures_and_half_surrogates_come_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow", reason=WHY_NOT)
    world = tmp_path / "world"
    world.mkdir()
    text = '{"A": {"title": "a", "features": ["\\ud83d"], "images": []}, "B": {"title": "", "images": null}}'
    (world / "item2meta_train.json").write_text(text)
    convert(capsys, "--to", "parquet", "--source_dir", world, "--output_dir", tmp_path / "there")
    convert(capsys, "--from", "parquet", "--source_dir", tmp_path / "there", "--output_dir", tmp_path / "back")
    assert (tmp_path / "back" / "item2meta_train.json").read_text() == text
    assert not (tmp_path / "back" / "item2meta_valid.jsonl").exists()


def test_other_spacing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow", reason=WHY_NOT)
    world = make_public(tmp_path / "world")
    content = json.loads((world / "item2meta_train.json").read_text())
    (world / "item2meta_train.json").write_text(json.dumps(content, indent=1))
    words = ["--to", "parquet", "--source_dir", str(world), "--output_dir", str(tmp_path / "there")]
    assert run_command_line(["data", "convert", *words]) == 0
    captured = capsys.readouterr()
    assert "the way back gives the same content in other bytes" in captured.err
    convert(capsys, "--from", "parquet", "--source_dir", tmp_path / "there", "--output_dir", tmp_path / "back")
    assert json.loads((tmp_path / "back" / "item2meta_train.json").read_text()) == content


def test_large_data_become_several_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow", reason=WHY_NOT)
    monkeypatch.setattr("lavic.data.parquet.GROUP_ROWS", 2)
    monkeypatch.setattr("lavic.data.parquet.FILE_BYTES", 3000)
    world = make_public(tmp_path / "world")
    with zipfile.ZipFile(world / "item2meta_train.json.zip", "w") as archive:
        archive.write(world / "item2meta_train.json", "item2meta_train.json")
    expected = files_of(world)
    (world / "item2meta_train.json").unlink()
    counts = convert(capsys, "--to", "parquet", "--source_dir", world, "--output_dir", tmp_path / "there")
    assert len(counts["files"]) > 3
    assert counts["same_bytes_back"]
    convert(capsys, "--from", "parquet", "--source_dir", tmp_path / "there", "--output_dir", tmp_path / "back")
    assert files_of(tmp_path / "back") == expected


def test_hostile_parquet_is_refused_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pa = pytest.importorskip("pyarrow", reason=WHY_NOT)
    import pyarrow.parquet as pq

    source = tmp_path / "source"
    source.mkdir()
    path = source / "train-00000.parquet"
    words = ["data", "convert", "--from", "parquet", "--source_dir", str(source), "--overwrite", "--output_dir"]

    def refusal(name: str) -> str:
        return refused(capsys, [*words, str(tmp_path / name)])

    path.write_bytes(b"PAR1 no parquet at all PAR1")
    assert refusal("a") == f"{path}: the file cannot be read as Parquet. It looks half-copied: copy it again."
    pq.write_table(pa.table({"text": ["x"]}), path)
    assert refusal("b").endswith("not a file of `lavic data convert --to parquet`: it has no column item_id.")
    columns = {name: ["x"] for name in ("item_id", "image_name", "image", "row_json")}
    pq.write_table(pa.table(columns), path)
    assert refusal("c").endswith("its columns are of other types.")
    picture = {"bytes": jpeg((1, 2, 3)), "path": "x"}
    rows = [
        {"item_id": "../A", "image_name": "A_0.jpg", "image": picture, "row_json": "{}"},
        {"item_id": "A", "image_name": "../../A_0.jpg", "image": picture, "row_json": "{}"},
        {"item_id": "A", "image_name": "A_0.jpg", "image": picture, "row_json": "[1"},
        {"item_id": None, "image_name": None, "image": None, "row_json": None},
    ]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("item_id", pa.string()), ("image_name", pa.string()), ("image", image), ("row_json", pa.string())]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    assert refusal("d").endswith("no row can be used; most frequent reason, 2 times: the name holds a path separator.")
    rows.append({"item_id": "A", "image_name": "A_0.jpg", "image": picture, "row_json": "{}"})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    assert convert(capsys, *words[2:], tmp_path / "d")["entries"] == {"train": 1, "valid": 0}
    listed = [json.loads(line) for line in (tmp_path / "d" / "skipped.jsonl").read_text().splitlines()]
    assert [row["key"] for row in listed] == ["item_id", "image_name", "row_json", "item_id"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b", "c", "d", "source"]


def test_without_pyarrow_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    world = make_public(tmp_path / "world")
    for way in ("--to", "--from"):
        words = ["data", "convert", way, "parquet", "--source_dir", str(world), "--output_dir", str(tmp_path / "out")]
        assert refused(capsys, words) == (
            'Parquet needs pyarrow, which is not installed. Install it: pip install "lavic[parquet]".'
        )
    assert not (tmp_path / "out").exists()


def test_ways_that_do_not_exist_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["data", "convert", "--source_dir", str(tmp_path / "x"), "--output_dir", str(tmp_path / "out")]
    assert refused(capsys, [*base, "--from", "public"]) == (
        "--from and --to: both are the public format. Give `--to parquet`, or another --from."
    )
    assert refused(capsys, [*base, "--from", "catalogue", "--to", "parquet"]) == (
        "--from: catalogue is not brought to Parquet directly. "
        "Bring a catalogue into the public format first: lavic data convert without --to."
    )
    assert refused(capsys, base) == f"{tmp_path}/x: there is no such folder."
    for more in (["--to", "parquet", "--keep_without_text"], ["--from", "parquet", "--served_at", "http://a"]):
        assert refused(capsys, [*base, *more]) == (
            "--keep_without_text and --served_at: they are for a catalogue. Leave them out."
        )
    assert "'a b' is not an address; write http://127.0.0.1:8000" in refused(capsys, [*base, "--served_at", "a b"])


def test_the_source_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow", reason=WHY_NOT)
    world = make_public(tmp_path / "data")
    (tmp_path / "parquet.json").write_text("{}")
    words = ["--to", "parquet", "--source_dir", str(world), "--output_dir", str(tmp_path), "--overwrite"]
    assert "the output folder holds a source" in refused(capsys, ["data", "convert", *words])
    assert run_command_line(["data", "stats", *flags(world, "--output_dir", "none")]) == 0
