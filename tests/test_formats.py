"""The public formats: real files byte for byte, and every kind of bad file and bad row with its reason."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ijson
import pytest

from lavic.conversations import Conversation, read_conversations, write_conversations
from lavic.errors import InputError
from lavic.files import read_jsonl
from lavic.formats import (
    Item,
    ItemImage,
    item_id_of,
    read_train_items,
    read_train_metadata,
    read_valid_metadata,
    write_train_metadata,
    write_valid_metadata,
)
from lavic.skipped import OTHER_REASON, SkipLog

DESCRIPTIONS = "image_descriptions_llava_cleaned"
DESCRIPTION = "image_description_llava_cleaned"

TRAIN = {
    "B000000001": {
        "title": "Grüner Hut",
        "images": [
            {"large": "https://a/1.jpg", "hi_res": None},
            {"hi_res": "https://a/2.jpg"},
            {"thumb": "https://a/3t.jpg", "large": ""},
            {"variant": "MAIN"},
        ],
        DESCRIPTIONS: {"B000000001_0.jpg": "A green hat.", "B000000001_1.jpg": "The hat from behind."},
        "price": 12.50,
        "unknown": [1, {"a": None}],
    },
    "0062": {"title": None, DESCRIPTIONS: {"0062_0.jpg": "A book."}},
}
VALID = {"title": "Hat", "image_name": "B1_0.jpg", "image": "https://a/1.jpg", DESCRIPTION: "A hat."}
CONVERSATION = {
    "context": "<submission>Which hat? </s></submission>\n",
    "context_items": [],
    "gt": "this é",
    "gt_items": ["B1", "B1"],
    "candidates_gpt_large": ["B1", "B2"],
    "candidates_st": ["B2", "B3"],
}


def train_file(folder: Path, value: object = TRAIN) -> Path:
    path = folder / "item2meta_train.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def lines_file(folder: Path, *lines: bytes | dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    rows = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(rows) + b"\n")
    return path


def listed(log: SkipLog) -> list[tuple[str, str, str]]:
    assert log.path is not None
    return [(row["where"], row["key"], row["reason"]) for row in read_jsonl(log.path)]


@pytest.fixture
def log(tmp_path: Path) -> SkipLog:
    return SkipLog(tmp_path / "skipped.jsonl")


# The public files


def test_real_conversations_keep_their_bytes(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "reddit-amazon").glob("*/*.jsonl"))
    counts = {}
    for path in files:
        log = SkipLog()
        conversations = list(read_conversations(path, log))
        write_conversations(tmp_path / "again.jsonl", conversations)
        assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()
        assert (log.count, log.notes) == (0, {})
        assert all(len(set(ids)) == 10 for each in conversations for ids in each.candidates.values())
        counts[f"{path.parent.name}/{path.stem}"] = len(conversations)
    assert counts == {  # as the data's README counts them
        "all_beauty/test": 772,
        "all_beauty/valid": 758,
        "amazon_fashion/test": 826,
        "amazon_fashion/valid": 797,
    }


def test_real_descriptions_keep_their_bytes(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "reddit-amazon" / "item2meta_valid.jsonl"
    log = SkipLog()
    images = list(read_valid_metadata(path, log))
    write_valid_metadata(tmp_path / "again.jsonl", images)
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()
    assert (len(images), log.count) == (512, 0)
    assert (images[0].item_id, images[0].where) == ("B08LYS9WYD", f"{path}, line 1")


def test_real_descriptions_as_a_training_file(shared_data: Path, tmp_path: Path) -> None:
    images = list(read_valid_metadata(shared_data / "reddit-amazon" / "item2meta_valid.jsonl", SkipLog()))
    merged: dict[str, Item] = {}
    for image in images:
        old = merged.get(image.item_id, Item(image.item_id, image.title))
        descriptions = {**old.descriptions, image.image_name: image.description}
        merged[image.item_id] = replace(old, descriptions=descriptions)
    write_train_metadata(tmp_path / "train.json", merged.values())
    again = list(read_train_metadata(tmp_path / "train.json", SkipLog()))
    assert {(i.image_name, i.title, i.description) for i in again} == {
        (i.image_name, merged[i.item_id].title, i.description) for i in images
    }


# The training file


def test_training_images_in_file_order(tmp_path: Path, log: SkipLog) -> None:
    path = train_file(tmp_path)
    assert list(read_train_metadata(path, log)) == [
        ItemImage("B000000001", "B000000001_0.jpg", "Grüner Hut", "A green hat.", f"{path}, item B000000001"),
        ItemImage("B000000001", "B000000001_1.jpg", "Grüner Hut", "The hat from behind.", f"{path}, item B000000001"),
        ItemImage("0062", "0062_0.jpg", "No Title", "A book.", f"{path}, item 0062"),
    ]
    assert log.summary() == {"skipped": 0, "reasons": {}, "notes": {"titles missing, taken as 'No Title'": 1}}


def test_items_keep_addresses_by_number(tmp_path: Path, log: SkipLog) -> None:
    first, second = read_train_items(train_file(tmp_path), log)
    assert first.image_urls == ("https://a/1.jpg", "https://a/2.jpg", "https://a/3t.jpg", "")
    assert second.image_urls == ()
    assert first.raw == TRAIN["B000000001"]


@pytest.mark.parametrize("ascii_only", [True, False])
def test_training_file_keeps_its_bytes(tmp_path: Path, log: SkipLog, ascii_only: bool) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(TRAIN, ensure_ascii=ascii_only), encoding="utf-8")
    write_train_metadata(tmp_path / "again.json", read_train_items(path, log), ascii_only=ascii_only)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_new_descriptions_reach_the_file(tmp_path: Path, log: SkipLog) -> None:
    first, second = read_train_items(train_file(tmp_path), log)
    second = replace(second, descriptions={**second.descriptions, "0062_1.jpg": "Its back."})
    write_train_metadata(tmp_path / "again.json", [first, second, Item("B3", "New", ("https://a/3.jpg",))])
    again = json.loads((tmp_path / "again.json").read_bytes())
    assert again["B000000001"] == TRAIN["B000000001"]
    assert again["0062"] == {
        "title": None,
        DESCRIPTIONS: {"0062_0.jpg": "A book.", "0062_1.jpg": "Its back."},
    }
    assert again["B3"]["images"] == [{"large": "https://a/3.jpg"}]
    write_train_metadata(tmp_path / "none.json", [])
    assert (tmp_path / "none.json").read_bytes() == b"{}"


def test_a_byte_order_mark_and_line_breaks_are_taken(tmp_path: Path, log: SkipLog) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(TRAIN, indent=1), encoding="utf-8-sig")
    assert len(list(read_train_metadata(path, log))) == 3


def packed(folder: Path, kind: str, data: bytes, *names: str) -> Path:
    path = folder / f"item2meta_train.json.{kind}"
    if kind == "gz":
        path.write_bytes(gzip.compress(data))
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names or ("__MACOSX/._item2meta_train.json", "item2meta_train.json", "README"):
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("kind", ["zip", "gz"])
def test_zipped_as_it_is(tmp_path: Path, log: SkipLog, kind: str) -> None:
    path = packed(tmp_path, kind, json.dumps(TRAIN).encode())
    assert [image.image_name for image in read_train_metadata(path, log)] == [
        "B000000001_0.jpg",
        "B000000001_1.jpg",
        "0062_0.jpg",
    ]
    valid = packed(tmp_path, kind, json.dumps(VALID).encode(), "item2meta_valid.jsonl")
    assert len(list(read_valid_metadata(valid, log))) == 1


def encrypt(path: Path) -> None:
    """Set the flag that says so, in the local header and in the directory."""
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def cut_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)


def keep(path: Path) -> None:
    pass


LARGE = json.dumps({f"B{i}": {"title": random.Random(i).randbytes(20).hex()} for i in range(2000)}).encode()
DAMAGED = "the archive cannot be unpacked. It looks half-copied or of another kind: copy it again, or unpack it first."
SEVERAL = "the archive holds 2 JSON files; one is expected. Unpack it and name the one that is meant."
BOMB = "the archive unpacks to more than 200 times its size. Unpack it yourself if you trust it."


@pytest.mark.parametrize(
    ("kind", "data", "names", "spoiling", "sentence"),
    [
        ("zip", b"{}", ("a.json", "b/c.JSON"), keep, SEVERAL),
        ("zip", b"{}", ("a.txt",), keep, "the archive holds no JSON file; one is expected."),
        ("zip", LARGE, ("a.json",), encrypt, "the archive is encrypted. Unpack it first."),
        ("zip", LARGE, ("a.json",), cut_half, DAMAGED),
        ("zip", LARGE, ("a.json",), spoil, DAMAGED),
        ("zip", b"", ("a.json",), keep, "the file in the archive is empty."),
        ("zip", b" " * (20 * 2**20), ("a.json",), keep, BOMB),
        ("gz", LARGE, (), cut_half, DAMAGED),
        ("gz", LARGE, (), spoil, DAMAGED),
        ("gz", b"", (), keep, "the file in the archive is empty."),
        ("gz", b" " * (20 * 2**20), (), keep, BOMB),
    ],
)
def test_bad_archives(
    tmp_path: Path,
    log: SkipLog,
    kind: str,
    data: bytes,
    names: tuple[str, ...],
    spoiling: Callable[[Path], None],
    sentence: str,
) -> None:
    path = packed(tmp_path, kind, data, *names)
    spoiling(path)
    with pytest.raises(InputError) as caught:
        list(read_train_metadata(path, log))
    assert caught.value.sentence == f"{path}: {sentence}"


WHOLE = json.dumps({"A": {"title": "x", DESCRIPTIONS: {"A_0.jpg": "text"}}, "B": {"title": "y"}}, indent=1)
HALF = "It looks half-copied: copy it again."
NOT_UTF8 = '{"A": {"title": "é'.encode() + b"\xff"


@pytest.mark.parametrize(
    ("data", "where", "problem"),
    [
        (b"", "", "the file is empty."),
        (b"  \n ", ", line 2", f"the file ends before its first item. {HALF}"),
        (b"{", ", line 1", f"the file ends before its first item. {HALF}"),
        (WHOLE[:60].encode(), ", line 4", f"the file ends inside item A. {HALF}"),
        ('{"A": {"title": "é'.encode()[:-1], ", line 1", f"the file ends inside item A. {HALF}"),
        (WHOLE[: WHOLE.index('"B"')].encode(), ", line 8", f"the file ends after item A. {HALF}"),
        (WHOLE[:-1].encode(), ", line 11", f"the file ends after item B. {HALF}"),
        (b'{"A": {"title": tru', ", line 1", f"the file ends inside item A. {HALF}"),
        (b'{"A": {"title": oops}}', "", "the file is not valid JSON inside item A."),
        (b'{"A": {"title": "a\nb"}}', "", "the file is not valid JSON inside item A."),
        (b'{"A": {}, }', "", "the file is not valid JSON after item A."),
        (b'{"A": ' + b"1" * 5000 + b"}", "", "the file is not valid JSON inside item A."),
        (b'{"A": ' * 40 + b"}" * 40, "", "the JSON nests deeper than 32 levels inside item A."),
        (b'{"A": ' + b"[" * 200_000, "", "the JSON nests deeper than 32 levels inside item A."),
        (NOT_UTF8, ", byte 19", "the file is not UTF-8 text."),
        (b" " * 100_000 + NOT_UTF8, ", byte 100019", "the file is not UTF-8 text."),
        ("{}".encode("utf-16"), ", byte 0", "the file is not UTF-8 text."),
        (b"[1]", "", "the file holds a list, not one object of ID: item."),
        (b'"x"', "", "the file holds a text, not one object of ID: item."),
        (b"17", "", "the file holds a number, not one object of ID: item."),
        (b"null", "", "the file holds null, not one object of ID: item."),
        (
            b'{"A": {}}\n{"B": {}}\n',
            "",
            "more text follows after the object's closing brace; one object of ID: item is expected.",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("backend", ["yajl2_c", "python"])
def test_bad_training_files(
    tmp_path: Path,
    log: SkipLog,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    data: bytes,
    where: str,
    problem: str,
) -> None:
    # Which parser ijson brings depends on the machine; the sentences do not.
    try:
        parser = ijson.get_backend(backend)
    except ImportError:
        pytest.skip(f"ijson has no {backend} here")
    monkeypatch.setattr("lavic.json_stream.ijson.basic_parse", parser.basic_parse)
    path = tmp_path / "train.json"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        list(read_train_metadata(path, log))
    assert caught.value.sentence == f"{path}{where}: {problem}"


def test_a_training_file_cut_anywhere_is_an_input_error(tmp_path: Path, log: SkipLog) -> None:
    data = json.dumps(TRAIN, ensure_ascii=False).encode()
    path = tmp_path / "train.json"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            list(read_train_metadata(path, log))


def test_items_before_the_end_of_a_cut_file_are_given(tmp_path: Path, log: SkipLog) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(json.dumps(TRAIN).encode()[:-5])
    items = read_train_items(path, log)
    assert next(items).item_id == "B000000001"
    with pytest.raises(InputError, match="the file ends inside item 0062"):
        next(items)


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("read", [read_train_metadata, read_valid_metadata, read_conversations])
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (keep, "the file does not exist"),
        (Path.touch, "the file is empty"),
        (Path.mkdir, "this is a folder, not a file"),
        (pipe, "this is a pipe, not a file"),
    ],
)
def test_files_that_are_none(
    tmp_path: Path,
    log: SkipLog,
    read: Callable[[Path, SkipLog], Iterator[object]],
    make: Callable[[Path], None],
    problem: str,
) -> None:
    path = tmp_path / "rows"
    make(path)
    with pytest.raises(InputError) as caught:
        list(read(path, log))
    assert caught.value.sentence == f"{path}: {problem}."


@pytest.mark.parametrize(
    ("item_id", "item", "key", "reason"),
    [
        ("B", [1], "", "the item is a list, not an object"),
        ("B", None, "", "the item is null, not an object"),
        ("../B", {"title": "x"}, "", "the name holds a path separator"),
        ("", {"title": "x"}, "", "the name is empty"),
        ("B", {"title": 7}, "title", "the value is a number, not text"),
        ("B", {"title": "x", "images": "u"}, "images", "the value is text, not a list"),
        ("B", {"title": "x", DESCRIPTIONS: ["a"]}, DESCRIPTIONS, "the value is a list, not an object"),
        ("B", {"title": "x"}, DESCRIPTIONS, "the item has no image descriptions"),
        ("B", {"title": "x", DESCRIPTIONS: {}}, DESCRIPTIONS, "the item has no image descriptions"),
        ("B", {"title": "x", DESCRIPTIONS: {"B_0.jpg": None}}, "B_0.jpg", "the text is null"),
        ("B", {"title": "x", DESCRIPTIONS: {"B_0.jpg": " \n"}}, "B_0.jpg", "the text is empty"),
        ("B", {"title": "x", DESCRIPTIONS: {"B_0.jpg": 3.5}}, "B_0.jpg", "the text is a number"),
        ("B", {"title": "x", DESCRIPTIONS: {"B_0.jpg": True}}, "B_0.jpg", "the text is true or false"),
        ("B", {"title": "x", DESCRIPTIONS: {"../x.jpg": "t"}}, "../x.jpg", "the name holds a path separator"),
        ("B", {"title": "x", DESCRIPTIONS: {"/etc/x": "t"}}, "/etc/x", "the name holds a path separator"),
        ("B", {"title": "x", DESCRIPTIONS: {"..": "t"}}, "..", "the name starts with a dot"),
        ("B", {"title": "x", DESCRIPTIONS: {"": "t"}}, "", "the name is empty"),
    ],
)
def test_bad_training_rows_are_listed(
    tmp_path: Path, log: SkipLog, item_id: str, item: object, key: str, reason: str
) -> None:
    good = {"title": "Good", DESCRIPTIONS: {"G_0.jpg": "Good."}}
    path = train_file(tmp_path, {item_id: item, "G": good})
    assert [image.image_name for image in read_train_metadata(path, log)] == ["G_0.jpg"]
    assert listed(log) == [(f"item {item_id}", key, reason)]
    assert log.by_reason == {reason: 1}


@pytest.mark.parametrize("title", [None, "", " ", "absent"])
def test_a_missing_title_is_counted(tmp_path: Path, log: SkipLog, title: str | None) -> None:
    item = {"title": title, DESCRIPTIONS: {"B_0.jpg": "x"}}
    if title == "absent":
        del item["title"]
    (image,) = read_train_metadata(train_file(tmp_path, {"B": item}), log)
    assert (image.title, log.count) == ("No Title", 0)
    assert log.notes == {"titles missing, taken as 'No Title'": 1}


def test_the_first_of_repeated_keys_is_kept(tmp_path: Path, log: SkipLog) -> None:
    path = tmp_path / "train.json"
    text = (
        '{"A": {"title": "first", "DESC": {"A_0.jpg": "one", "A_0.jpg": "two"}, "title": "last"},'
        ' "A": {"title": "again", "DESC": {"A_0.jpg": "three"}}}'
    )
    path.write_text(text.replace("DESC", DESCRIPTIONS))
    (image,) = read_train_metadata(path, log)
    assert (image.title, image.description) == ("first", "one")
    assert listed(log) == [
        ("item A", "A_0.jpg", "the key stands twice; the first is kept"),
        ("item A", "title", "the key stands twice; the first is kept"),
        ("item A", "", "the item stands twice; the first is kept"),
    ]


# Files of lines


@pytest.mark.parametrize(
    ("line", "key", "reason"),
    [
        (b"{oops", "", "the line is not valid JSON"),
        (json.dumps(VALID).encode()[:50], "", "the line is not valid JSON"),
        (b'{"n": ' + b"1" * 5000 + b"}", "", "the line is not valid JSON"),
        (b'{"title": "\xff"}', "", "the line is not UTF-8 text"),
        (b"[1]", "", "the line is a list, not an object"),
        (b"7", "", "the line is a number, not an object"),
        (b'{"a":' * 100_000, "", "the line nests too deeply"),
        (b" " * (16 * 2**20 + 1), "", "the line is longer than 16 MiB"),
        ({"title": "x", DESCRIPTION: "x"}, "image_name", "the key is missing"),
        ({**VALID, "image_name": None}, "image_name", "the value is null, not text"),
        ({**VALID, "image_name": 4}, "image_name", "the value is a number, not text"),
        ({**VALID, "image_name": "../x_0.jpg"}, "image_name", "the name holds a path separator"),
        ({**VALID, "image_name": "/etc/passwd"}, "image_name", "the name holds a path separator"),
        ({**VALID, "image_name": "a\0"}, "image_name", "the name holds a control or invisible character"),
        ({"title": "x", "image_name": "B_0.jpg"}, DESCRIPTION, "the key is missing"),
        ({**VALID, DESCRIPTION: None}, DESCRIPTION, "the text is null"),
        ({**VALID, DESCRIPTION: ""}, DESCRIPTION, "the text is empty"),
        ({**VALID, DESCRIPTION: ["x"]}, DESCRIPTION, "the text is a list"),
        ({**VALID, DESCRIPTION: "half \ud83d"}, DESCRIPTION, "the text holds half a surrogate pair"),
        ({**VALID, "title": {"a": 1}}, "title", "the value is an object, not text"),
        ({**VALID, "title": "\ud83d"}, "title", "the text holds half a surrogate pair"),
        ({**VALID, "image": 1}, "image", "the value is a number, not text"),
    ],
)  # fmt: skip
def test_a_bad_validation_line_is_listed(
    tmp_path: Path, log: SkipLog, line: bytes | dict[str, Any], key: str, reason: str
) -> None:
    path = lines_file(tmp_path, VALID, b"", line, {**VALID, "image_name": "B2_1.jpg", "title": ""})
    images = list(read_valid_metadata(path, log))
    assert [(image.item_id, image.title, image.where) for image in images] == [
        ("B1", "Hat", f"{path}, line 1"),
        ("B2", "No Title", f"{path}, line 4"),
    ]
    assert listed(log) == [("line 3", key, reason)]


def test_repeated_keys_of_a_line_are_listed(tmp_path: Path, log: SkipLog) -> None:
    line = json.dumps(VALID).encode().replace(b'{"title": "Hat"', b'{"title": "Hat", "title": "Cap"')
    (image,) = read_valid_metadata(lines_file(tmp_path, line), log)
    assert image.title == "Hat"
    assert listed(log) == [("line 1", "title", "the key stands twice; the first is kept")]


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path, log: SkipLog) -> None:
    line = b"\xef\xbb\xbf" + json.dumps(VALID).encode() + b"\r"
    assert len(list(read_valid_metadata(lines_file(tmp_path, line, b"\r"), log))) == 1
    assert log.count == 0


def test_unknown_keys_and_order_survive(tmp_path: Path, log: SkipLog) -> None:
    row = {"z": [1.0, None], DESCRIPTION: "é 😀", "image_name": "B1_0.jpg", "title": None, "a": {"b": "ü"}}
    path = tmp_path / "valid.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    write_valid_metadata(tmp_path / "again.jsonl", read_valid_metadata(path, log))
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()


def test_new_validation_rows_have_the_public_keys(tmp_path: Path) -> None:
    image = ItemImage("B1", "B1_0.jpg", "Hat", "A hat.", image_url="https://a/1.jpg")
    write_valid_metadata(tmp_path / "valid.jsonl", [image])
    assert (tmp_path / "valid.jsonl").read_bytes() == json.dumps(VALID).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "item_id"),
    [
        ("B08LYS9WYD_4.jpg", "B08LYS9WYD"),
        ("0062315007_13.jpg", "0062315007"),
        ("a_b_2.png", "a_b"),
        ("x.jpg", "x"),
    ],
)
def test_item_id_of_an_image(name: str, item_id: str) -> None:
    assert item_id_of(name) == item_id


def test_a_conversation_knows_its_place_its_items_and_its_row() -> None:
    lists = {"st": ("B2", "B1", "B2"), "gpt": ("B3",)}
    made = Conversation("<submission>Hi</submission>", ("B1", "B1"), lists, ("B9",), where="a, b/test.jsonl, line 12")
    assert made.place == "line 12"
    assert made.needed_ids == ("B1", "B2", "B3")  # what its context names is not needed
    assert list(made.row().items())[1:] == [
        ("context_items", ["B9"]),
        ("gt", ""),
        ("gt_items", ["B1", "B1"]),
        ("candidates_st", ["B2", "B1", "B2"]),
        ("candidates_gpt", ["B3"]),
    ]


def test_conversations_are_read_and_written(tmp_path: Path, log: SkipLog) -> None:
    path = lines_file(tmp_path, CONVERSATION)
    (conversation,) = read_conversations(path, log)
    assert conversation == Conversation(
        context="<submission>Which hat? </s></submission>\n",
        gt_items=("B1", "B1"),
        candidates={"gpt_large": ("B1", "B2"), "st": ("B2", "B3")},
        context_items=(),
        answer="this é",
        where=f"{path}, line 1",
    )
    assert conversation.ground_truth == {"B1"}
    new = replace(conversation, raw=None)
    write_conversations(tmp_path / "again.jsonl", [conversation, new])
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes() * 2


def test_new_candidates_reach_the_file(tmp_path: Path, log: SkipLog) -> None:
    (conversation,) = read_conversations(lines_file(tmp_path, CONVERSATION), log)
    new = replace(conversation, candidates={**conversation.candidates, "hybrid": ("B9",)})
    write_conversations(tmp_path / "again.jsonl", [new])
    assert json.loads((tmp_path / "again.jsonl").read_bytes()) == {
        **CONVERSATION,
        "candidates_hybrid": ["B9"],
    }


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        ({"context": None}, "context", "the value is null, not text"),
        ({"context": " "}, "context", "the text is empty"),
        ({"context": "\ude00"}, "context", "the text holds half a surrogate pair"),
        ({"gt_items": "B1"}, "gt_items", "the value is text, not a list"),
        ({"gt_items": ["B1", 2]}, "gt_items.1", "the value is a number, not text"),
        ({"gt_items": ["a/b"]}, "gt_items", "the name holds a path separator"),
        ({"candidates_st": None}, "candidates_st", "the value is null, not a list"),
        ({"candidates_st": [None]}, "candidates_st", "the name is not text"),
        ({"candidates_st": [""]}, "candidates_st", "the name is empty"),
    ],
)
def test_a_bad_conversation_is_listed(
    tmp_path: Path, log: SkipLog, change: dict[str, Any], key: str, reason: str
) -> None:
    path = lines_file(tmp_path, {**CONVERSATION, **change}, CONVERSATION)
    assert [each.where for each in read_conversations(path, log)] == [f"{path}, line 2"]
    assert listed(log) == [("line 1", key, reason)]


# The list of what was left out


def test_a_case_is_counted_once_also_after_resuming(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    log = SkipLog(path)
    for _ in range(3):  # a picture that fails in each of three epochs
        log.add(file="images", where="B1_0.jpg", reason="the file is empty")
    with path.open("ab") as stream:
        stream.write(b'{"file": "im')  # killed here
    again = SkipLog(path, resume=True)
    again.add(file="images", where="B1_0.jpg", reason="the file is empty")
    again.add(file="images", where="B2_0.jpg", reason="the file is empty")
    assert (again.count, again.by_reason) == (2, {"the file is empty": 2})
    assert [row["where"] for row in read_jsonl(path)] == ["B1_0.jpg", "B2_0.jpg"]
    assert SkipLog(path).count == 0
    assert not path.exists()


def test_a_case_is_the_same_when_the_data_have_moved(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    SkipLog(path).add(file="here/images/B1_0.jpg", where="item B1", reason="the file is empty")
    again = SkipLog(path, resume=True)
    again.add(file="/there/pictures/B1_0.jpg", where="item B1", reason="the file is empty")
    assert again.count == 1


def test_a_list_without_a_place_is_held_until_it_has_one(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    log = SkipLog(aside=True)
    log.add(file="f", where="line 1", reason="the text is empty")
    assert list(tmp_path.iterdir()) == []
    log.keep_at(path)
    log.add(file="f", where="line 2", reason="the text is empty")
    assert [row["where"] for row in read_jsonl(path)] == ["line 1", "line 2"]
    assert log.count == 2
    nothing = SkipLog(aside=True)
    nothing.keep_at(tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_hostile_values_cannot_grow_the_counts(tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "skipped.jsonl")
    for number in range(300):
        log.add(file="f", where="\ud83d" + "x" * 10_000, key="k" * 10_000, reason=f"reason {number}")
    assert (log.count, len(log.by_reason), log.by_reason[OTHER_REASON]) == (300, 201, 100)
    assert (tmp_path / "skipped.jsonl").stat().st_size < 300 * 1000


def test_bytes_changed_at_random_never_escape_as_another_error(tmp_path: Path, log: SkipLog) -> None:
    data = json.dumps(TRAIN, ensure_ascii=False).encode()
    path = tmp_path / "train.json"
    for place, byte in itertools.product(range(0, len(data), 3), (0, 34, 125, 255)):
        path.write_bytes(data[:place] + bytes([byte]) + data[place + 1 :])
        try:
            list(read_train_metadata(path, log))
        except InputError:
            continue
