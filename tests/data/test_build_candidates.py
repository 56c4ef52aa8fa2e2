"""``lavic data build``: a right item must have metadata and a picture, a candidate need not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data.public_world import conversation, lines
from data.test_build import ITEMS, addresses, build, meta

from lavic.conversations import read_conversations
from lavic.skipped import SkipLog


@pytest.mark.parametrize("seed", range(3))
def test_candidates_need_neither_picture_nor_metadata(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    # H4 to H7 are candidates only: without a picture, without metadata, and one whose one address cannot be used.
    rows = [conversation(f"post {number}", [ITEMS[number % 4]], ["H4", "H5", "H6", "H7"]) for number in range(8)]
    lines(tmp_path / "home.jsonl", list(rows))
    known = [meta(item_id) for item_id in ("H0", "H1", "H2", "H3", "H7")]
    bare = [meta("H4", []), meta("H6", images=[{"large": "file:///etc/passwd"}]), meta("X", [])]
    lines(tmp_path / "meta_Home.jsonl", [*known, *bare])
    found = build(capsys, tmp_path, "--seed", seed, "--valid_share", 0.4, "--extra_items", 2)
    assert sum(found["conversations"].values()) == 8
    assert found["conversations_left_out"] == {}
    assert found["candidates"] == {"without_metadata": 1, "without_picture": 2}
    assert (found["items_without_picture"], found["items"]) == (2, {"train": 5, "valid": 2})
    train, valid = addresses(tmp_path / "out")
    assert train["H4"] == train["H6"] == []
    assert not {"H4", "H6", "X"} & valid.keys()
    assert json.loads((tmp_path / "out" / "item2meta_train.json").read_text())["H4"]["title"] == "Thing H4"
    # An item that nobody mentions is of use for its picture only.
    assert [json.loads(line)["reason"] for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()] == [
        "no entry of images has an address that can be used"
    ]


def test_real_rows_of_which_candidates_lack_metadata_or_pictures(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = shared_data / "reddit-amazon" / "all_beauty" / "valid.jsonl"
    rows = list(read_conversations(real, SkipLog()))
    right = {item_id for row in rows for item_id in row.gt_items}
    others = sorted({item_id for row in rows for item_id in row.needed_ids} - right)
    # Every second candidate is unknown, of the rest every second has no picture.
    known = [meta(item_id) for item_id in sorted(right)]
    known += [meta(item_id, [] if place % 2 else None) for place, item_id in enumerate(others[::2])]
    lines(tmp_path / "meta_Home.jsonl", list(known))
    found = build(capsys, tmp_path, "--conversations", real)
    assert sum(found["conversations"].values()) == 758 - found["skipped"]
    assert found["candidates"]["without_metadata"] == len(others) - len(others[::2])
    assert found["candidates"]["without_picture"] == len(others[::2]) // 2
    before = set(real.read_bytes().splitlines())
    for path in (tmp_path / "out" / "home").iterdir():
        assert set(path.read_bytes().splitlines()) <= before
