"""Descriptions reach the metadata; every other byte stays, whatever the file's conventions are."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from pathlib import Path

import pytest
from end_to_end.file_operations import FileOperations

from lavic.describe.config import DescribeSettings
from lavic.describe.merge import merge
from lavic.describe.sides import Side, look_for_pictures, resolve_sides
from lavic.describe.spans import object_members
from lavic.errors import InputError, NothingLeftError, OutputError
from lavic.skipped import SkipLog

KEY, ONE = "image_descriptions_llava_cleaned", "image_description_llava_cleaned"
ITEMS = {
    "B1": {"title": "Café", "price": 1.5, "images": [{"large": "u"}, {}], KEY: {"B1_0.jpg": "old"}},
    "B2": {"images": []},
    "B3": {KEY: {"B3_0.jpg": "", "B3_1.jpg": None}, "last": [1, {"B1": "x"}]},
    "B4": {KEY: None},
    "B5": "no object",
    "B6": {},
}
TEXTS = {f"B{number}": {f"B{number}_0.jpg": f"Thé {number}"} for number in range(1, 7)}
TEXTS["B1"]["B1_1.jpg"], TEXTS["B3"]["B3_1.jpg"] = 'Quote "x"', "y"


def described(items: dict) -> dict:
    """By plain Python: what the merged file must hold."""
    made = json.loads(json.dumps(items))
    for item_id, texts in TEXTS.items():
        item = made[item_id]
        if isinstance(item, dict):
            known = item.get(KEY) or {}
            item[KEY] = known | {name: known.get(name) or text for name, text in texts.items()}
    return made


def train_side(path: Path) -> Side:
    return Side("train", path, path, path.parent)


@pytest.mark.parametrize("indent", [None, 2, 4])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("separators", [None, (",", ":")])
def test_a_merged_file_is_what_json_would_write(tmp_path, indent, ascii_only, separators):
    if indent and separators:
        separators = (",", ": ")
    path = tmp_path / "m.json"

    def dump(items: dict) -> bytes:
        return json.dumps(items, indent=indent, ensure_ascii=ascii_only, separators=separators).encode()

    path.write_bytes(dump(ITEMS))
    assert merge(train_side(path), TEXTS) == 6
    assert path.read_bytes() == dump(described(ITEMS))


def test_what_no_reader_keeps_is_kept(tmp_path):
    # Numbers spelled otherwise, a key twice, an item twice, odd spaces, no description for B9.
    head = '\ufeff { "B1" : {"n": 1.50, "n": 1E5, "t": "\\u00e9\\/"} ,\n"B9":{"x" :[ ]}, "B1": {"n": 2}'
    path = tmp_path / "m.json"
    path.write_text(head + "}\n", encoding="utf-8")
    assert merge(train_side(path), {"B1": {"B1_0.jpg": "é"}}) == 1
    new = '"t": "\\u00e9\\/", "' + KEY + '": {"B1_0.jpg": "é"}}'
    found = path.read_text(encoding="utf-8")
    assert found.replace(" : ", ": ") == (head + "}\n").replace('"t": "\\u00e9\\/"}', new).replace(" : ", ": ")


def test_lines_get_their_text_and_keep_their_order(tmp_path):
    path = tmp_path / "v.jsonl"
    lines = [
        '{"title": "é", "image_name": "B1_0.jpg", "image": "u"}',
        '{"image_name": "B2_0.jpg", "' + ONE + '": "", "more": 1.0}',
        "not json",
        '{"image_name": "B3_0.jpg", "' + ONE + '": "old"}',
        '{"image_name":"B4_0.jpg"}',
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    texts = {f"B{number}_0.jpg": f"Thé {number}" for number in range(1, 5)}
    assert merge(Side("valid", path, path, tmp_path), {"": texts}) == 3
    lines[0] = lines[0][:-1] + ', "' + ONE + '": "Thé 1"}'
    lines[1] = lines[1].replace('""', '"Thé 2"')
    lines[4] = lines[4][:-1] + ', "' + ONE + '": "Thé 4"}'
    assert path.read_text(encoding="utf-8") == "\n".join(lines)


def test_a_packed_file_gives_an_unpacked_one_beside_it(tmp_path):
    plain = json.dumps(ITEMS).encode()
    packed = tmp_path / "item2meta_train.json.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("item2meta_train.json", plain)
    before = packed.read_bytes()
    settings = DescribeSettings(train_data=packed, train_images_dir=tmp_path, train_only=True)
    (side,) = resolve_sides(settings)
    assert merge(side, TEXTS) == 6
    assert packed.read_bytes() == before
    assert json.loads((tmp_path / "item2meta_train.json").read_text()) == described(ITEMS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["item2meta_train.json", packed.name]
    with pytest.raises(InputError, match="is there already"):
        resolve_sides(settings)
    side.journal.touch()
    assert resolve_sides(settings)[0].source == tmp_path / "item2meta_train.json"


def test_a_file_cut_off_under_way_is_left_as_it_is(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(ITEMS)[:-30])
    before = path.read_bytes()
    with pytest.raises(InputError, match="changed while it was read"):
        merge(train_side(path), TEXTS)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["m.json"]


def test_members_are_found_among_braces_in_texts():
    data = b'{"a\\"{": "}\\\\", "b": {"c": ["]"]}, "d": 12 , "e":{}}'
    found = [(member.key, data[member.start : member.end]) for member in object_members(data, 0)]
    assert found == [('a"{', b'"}\\\\"'), ("b", b'{"c": ["]"]}'), ("d", b"12"), ("e", b"{}")]


def test_only_pictures_that_are_there_and_have_no_text_are_asked_for(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(ITEMS))
    for name in ("B1_0", "B1_1", "B2_0", "B2_1", "B3_0", "B6_1"):
        (tmp_path / f"{name}.jpg").write_bytes(b"x")
    skipped = SkipLog()
    found = look_for_pictures(train_side(path), skipped)
    # B1_0 has a text; B2 lists no pictures, but two lie in the folder; B3_1 and B6_0 do not.
    assert [picture.image_name for picture in found.pictures] == ["B1_1.jpg", "B2_0.jpg", "B2_1.jpg", "B3_0.jpg"]
    assert (found.described, found.missing) == (1, 1)
    assert skipped.by_reason == {"there is no such picture": 1, "the item is text, not an object": 1}
    assert [one.image_name for one in look_for_pictures(train_side(path), SkipLog(), 2).pictures] == [
        "B1_1.jpg",
        "B2_0.jpg",
    ]


def test_what_cannot_be_read_is_missing_and_told_why(tmp_path):
    (tmp_path / "B0_0.jpg").write_bytes(b"")
    (tmp_path / "B1_0.jpg").mkdir()
    (tmp_path / "B2_0.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "B3_0.jpg")
    (tmp_path / "B4_0.jpg").write_bytes(b"x")
    path = tmp_path / "m.json"
    path.write_text(json.dumps({f"B{number}": {"images": [{}]} for number in range(5)}))
    skipped = SkipLog()
    found = look_for_pictures(train_side(path), skipped)
    assert ([picture.image_name for picture in found.pictures], found.missing) == (["B4_0.jpg"], 4)
    assert list(skipped.by_reason) == [
        "the file is empty (0 bytes)",
        "is a folder",
        "the link leads nowhere",
        "is not an ordinary file",
    ]


@pytest.mark.parametrize("title", [None, "", " \t"])
def test_a_title_without_a_letter_is_none(tmp_path, title):
    for name in ("B1_0.jpg", "B2_0.jpg"):
        (tmp_path / name).write_bytes(b"x")
    train, valid = tmp_path / "m.json", tmp_path / "v.jsonl"
    train.write_text(json.dumps({"B1": {"title": title, "images": [{}]}}))
    valid.write_text(json.dumps({"title": title, "image_name": "B2_0.jpg"}))
    for side in (train_side(train), Side("valid", valid, valid, tmp_path)):
        assert [picture.title for picture in look_for_pictures(side, SkipLog()).pictures] == ["No Title"]


def test_a_text_goes_where_its_key_stands_whatever_its_name_says(tmp_path):
    # A name built otherwise, one that speaks of another item, one in two items, and an item that stands twice.
    keys = '{"odd.jpg": null, "B2_0.jpg": "", "both.jpg": " "}, "images": []'
    text = f'{{"B1": {{"{KEY}": {keys}}}, "B2": {{"{KEY}": {{"both.jpg": null}}}}, "B2": {{"{KEY}": null}}}}'
    path = tmp_path / "m.json"
    path.write_text(text)
    for name in ("odd.jpg", "B2_0.jpg", "both.jpg"):
        (tmp_path / name).write_bytes(b"x")
    skipped = SkipLog()
    pictures = look_for_pictures(train_side(path), skipped).pictures
    assert skipped.by_reason == {"the item stands twice; the first is kept": 1}
    assert [(one.home, one.image_name) for one in pictures] == [
        ("B1", "odd.jpg"),
        ("B1", "B2_0.jpg"),
        ("B1", "both.jpg"),
        ("B2", "B2_0.jpg"),
        ("B2", "both.jpg"),
    ]
    texts: dict[str, dict[str, str]] = {"B1": {}, "B2": {}}
    for number, picture in enumerate(pictures):
        texts[picture.home][picture.image_name] = f"t{number}"
    assert merge(train_side(path), texts) == 5
    wanted = text.replace('"odd.jpg": null', '"odd.jpg": "t0"').replace('"B2_0.jpg": ""', '"B2_0.jpg": "t1"')
    wanted = wanted.replace('"both.jpg": " "', '"both.jpg": "t2"')
    assert path.read_text() == wanted.replace('"both.jpg": null', '"both.jpg": "t4", "B2_0.jpg": "t3"')


def test_a_row_of_half_a_surrogate_pair_is_described_anew_and_a_name_of_one_is_left_out(tmp_path):
    lines = [
        '{"image_name": "B1_0.jpg", "' + ONE + '": "\\ud83d"}\r\n',
        '{"image_name": "B2_\\ud83d.jpg", "' + ONE + '": null}\r\n',
        '{"image_name": "B1_0.jpg", "title": "\\ud83d"}\r\n',
    ]
    path = tmp_path / "v.jsonl"
    path.write_bytes("".join(lines).encode())
    (tmp_path / "B1_0.jpg").write_bytes(b"x")
    side, skipped = Side("valid", path, path, tmp_path), SkipLog()
    found = look_for_pictures(side, skipped)
    assert [picture.image_name for picture in found.pictures] == ["B1_0.jpg"]
    assert skipped.by_reason == {"the name holds a control or invisible character": 1}
    # The same picture twice gets the same text twice.
    assert merge(side, {"": {"B1_0.jpg": "A mug."}}) == 2
    lines[0] = lines[0].replace('"\\ud83d"', '"A mug."')
    lines[2] = lines[2].replace("}", ', "' + ONE + '": "A mug."}')
    assert path.read_bytes() == "".join(lines).encode()


@pytest.mark.parametrize("name", ["item2meta_valid.jsonl.gz", "valid.gz"])
def test_a_gzipped_file_of_one_line_gives_an_unpacked_one(tmp_path, name):
    packed = tmp_path / name
    packed.write_bytes(gzip.compress(b'{"image_name": "B1_0.jpg"}'))
    settings = DescribeSettings(val_data=packed, val_images_dir=tmp_path, valid_only=True)
    (side,) = resolve_sides(settings)
    assert merge(side, {"": {"B1_0.jpg": "A mug."}}) == 1
    assert side.target.name == packed.name.removesuffix(".jsonl.gz").removesuffix(".gz") + ".jsonl"
    assert side.target.read_text() == '{"image_name": "B1_0.jpg", "' + ONE + '": "A mug."}'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "it names no picture that can be used"),
        ('{"B1": {"images": [{}, {}]}}', "none of the 2 pictures that m.json names is there"),
    ],
)
def test_a_folder_without_any_of_the_pictures_is_told(tmp_path, text, sentence):
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(NothingLeftError, match=sentence):
        look_for_pictures(train_side(path), SkipLog())


def test_a_full_disk_is_told_and_leaves_the_file(tmp_path):
    path = tmp_path / "m.json"
    # Longer than what Python holds back, so that the disk is full in the middle of the search.
    path.write_text(json.dumps({f"C{number}": {"title": "x" * 90} for number in range(2000)} | ITEMS))
    before = path.read_bytes()
    with FileOperations(tmp_path, full_at=1).active(), pytest.raises(OutputError, match="No space left"):
        merge(train_side(path), TEXTS)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["m.json"]
