"""Half a surrogate pair, which JSON can spell and no parser agrees on, comes through as it stands in the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ijson
import pytest

from lavic.formats import SkipLog, read_train_items, read_train_metadata, write_train_metadata
from lavic.json_stream import stream_members

DESCRIPTIONS = "image_descriptions_llava_cleaned"
HALF = "the text holds half a surrogate pair"


@pytest.fixture(params=["yajl2_c", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which parser ijson brings depends on the machine; what is read does not."""
    try:
        backend = ijson.get_backend(request.param)
    except ImportError:
        pytest.skip(f"ijson has no {request.param} here")
    monkeypatch.setattr("lavic.json_stream.ijson.basic_parse", backend.basic_parse)


def read(path: Path, text: str) -> dict[str, Any]:
    path.write_text(text, encoding="utf-8")
    return {member.key: member.value for member in stream_members(path)}


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    "spelled",
    [
        r"\ud83d",
        r"\udd25 and more",
        r"\uD83D\ud83d\ude00",  # half a pair before a whole one
        r"\ude00\ud83d",  # the halves the wrong way round
        r"\\ud83d",  # a backslash and five letters
        r"\\\ud83d",  # a backslash and half a pair
        r"\ud83d\n\"\ud83d",
        r"\ud83dude00",
    ],
)
def test_escapes_are_read_as_pythons_own_parser_reads_them(tmp_path: Path, spelled: str) -> None:
    text = f'{{"A": {{"title": "x{spelled}", "{spelled}": ["{spelled}"]}}, "{spelled}": "é"}}'
    assert read(tmp_path / "rows.json", text) == json.loads(text)


@pytest.mark.usefixtures("parser")
def test_an_escape_may_lie_across_the_border_of_two_blocks(tmp_path: Path) -> None:
    # ijson reads 64 KiB at a time; the pair and the half move over the border byte by byte.
    for spelled in (r"\ud83d\ude00", r"x\ud83d", r"\\\\\ud83d!"):
        for moved in range(16):
            start = '{"A": "' + "." * (64 * 1024 - 10 - moved)
            text = start + spelled + '"}'
            assert read(tmp_path / "rows.json", text) == json.loads(text)


@pytest.mark.usefixtures("parser")
def test_only_the_field_or_the_item_with_half_a_pair_is_left_out(tmp_path: Path) -> None:
    items = {
        "A": {"title": "half \ud83d", DESCRIPTIONS: {"A_0.jpg": "A mug."}},
        "B": {"title": "Mug", DESCRIPTIONS: {"B_0.jpg": "half \udd25", "B_1.jpg": "A mug.", "B\ud83d.jpg": "A mug."}},
        "C\udd25": {"title": "Mug", DESCRIPTIONS: {"C_0.jpg": "A mug."}},
        "D": {"title": "Mug \U0001f525", "features": ["\ud83d"], DESCRIPTIONS: {"D_0.jpg": "A mug \U0001f525."}},
    }
    path = tmp_path / "item2meta_train.json"
    path.write_text(json.dumps(items))
    log = SkipLog(tmp_path / "skipped.jsonl")
    images = list(read_train_metadata(path, log))
    assert [(image.image_name, image.description) for image in images] == [
        ("B_1.jpg", "A mug."),
        ("D_0.jpg", "A mug \U0001f525."),
    ]
    invisible = "the name holds a control or invisible character"
    assert log.by_reason == {HALF: 2, invisible: 2}
    rows = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [(row["where"], row["key"]) for row in rows] == [
        ("item A", "title"),
        ("item B", "B_0.jpg"),
        ("item B", "B\ud83d.jpg"),
        ("item C\udd25", ""),
    ]


def test_half_a_pair_that_nobody_reads_is_written_again(tmp_path: Path) -> None:
    path, again = tmp_path / "item2meta_train.json", tmp_path / "again.json"
    path.write_text(json.dumps({"D": {"title": "Mug", "features": ["\ud83d"], DESCRIPTIONS: {"D_0.jpg": "A mug."}}}))
    write_train_metadata(again, read_train_items(path, SkipLog()), ascii_only=True)
    assert again.read_bytes() == path.read_bytes()
