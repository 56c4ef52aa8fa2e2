"""A catalogue becomes the public format: by hand on a small one, then the real one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lavic.data.convert import ConvertResult, convert_catalogue
from lavic.errors import ConfigError, InputError, NothingLeftError, OutputError
from lavic.files import read_jsonl
from lavic.formats import DESCRIPTION_KEY, DESCRIPTIONS_KEY, read_train_metadata, read_valid_metadata
from lavic.skipped import SkipLog

PRODUCTS = [
    {"id": "A", "title": "Hat", "description": "Seller: hat.", "images": ["A_0.jpg", "A_1.jpg"]},
    {"id": "B", "title": "", "description": "", "images": ["B_0.jpg", "B_1.jpg"]},
    {"id": "C", "title": "Mug", "description": "Seller: mug.", "images": ["C_0.jpg"]},
    {"id": "D", "title": "Bag", "description": None, "images": ["D_0.jpg"]},
]
CAPTIONS = [
    {"image": "A_1.jpg", "caption": "Caption of A_1."},
    {"image": "B_0.jpg", "caption": "Caption of B_0."},
]


def lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "catalogue"
    (folder / "images").mkdir(parents=True)
    lines(folder / "products.jsonl", PRODUCTS)
    lines(folder / "captions.jsonl", CAPTIONS)
    for product in PRODUCTS:
        for name in product["images"]:
            (folder / "images" / name).write_bytes(b"bytes of " + name.encode())
    return folder


def texts(output: Path) -> dict[str, str]:
    """image_name -> description, of both sides."""
    log = SkipLog()
    train = list(read_train_metadata(output / "item2meta_train.json", log))
    valid = list(read_valid_metadata(output / "item2meta_valid.jsonl", log))
    assert log.count == 0
    for side, images in (("train_images", train), ("valid_images", valid)):
        assert sorted(path.name for path in (output / side).iterdir()) == sorted(image.image_name for image in images)
    assert not {image.item_id for image in train} & {image.item_id for image in valid}
    return {image.image_name: image.description for image in train + valid}


def skipped(output: Path) -> list[tuple[str, str, str]]:
    return [(row["where"], row["key"], row["reason"]) for row in read_jsonl(output / "skipped.jsonl")]


@pytest.mark.parametrize(
    ("text", "expected", "without_text"),
    [
        (
            "both",
            {
                "A_0.jpg": "Seller: hat.",
                "A_1.jpg": "Caption of A_1.",
                "B_0.jpg": "Caption of B_0.",
                "C_0.jpg": "Seller: mug.",
            },
            2,
        ),
        (
            "descriptions",
            {"A_0.jpg": "Seller: hat.", "A_1.jpg": "Seller: hat.", "C_0.jpg": "Seller: mug."},
            3,
        ),
        ("captions", {"A_1.jpg": "Caption of A_1.", "B_0.jpg": "Caption of B_0."}, 4),
    ],
)
def test_which_text_goes_with_a_picture(
    source: Path, tmp_path: Path, text: Any, expected: dict[str, str], without_text: int
) -> None:
    result = convert_catalogue(source, tmp_path / "out", 0, 0.4, text)
    assert texts(tmp_path / "out") == expected
    assert result.without_text == without_text
    assert result.train_images + result.valid_images == len(expected)


def test_pictures_without_a_text_are_kept_to_be_described(source: Path, tmp_path: Path) -> None:
    result = convert_catalogue(source, tmp_path / "out", 0, 0.4, keep_without_text=True)
    items = json.loads((tmp_path / "out" / "item2meta_train.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "out" / "item2meta_valid.jsonl").read_text().splitlines()]
    found = {name: text for item in items.values() for name, text in item[DESCRIPTIONS_KEY].items()}
    found |= {row["image_name"]: row[DESCRIPTION_KEY] for row in rows}
    assert found == {
        "A_0.jpg": "Seller: hat.",
        "A_1.jpg": "Caption of A_1.",
        "B_0.jpg": "Caption of B_0.",
        "B_1.jpg": "",
        "C_0.jpg": "Seller: mug.",
        "D_0.jpg": "",
    }
    assert (result.without_text, result.train_images + result.valid_images) == (2, 6)


def test_served_pictures_have_addresses_and_the_names_that_crawling_gives(source: Path, tmp_path: Path) -> None:
    (source / "images" / "B_1.jpg").rename(source / "images" / "back side.jpg")
    lines(source / "products.jsonl", [PRODUCTS[1] | {"images": ["back side.jpg", "B_0.jpg"]}, PRODUCTS[0]])
    served = {"keep_without_text": True, "served_at": "http://127.0.0.1:8000/a/"}
    convert_catalogue(source, tmp_path / "out", 0, 0.5, **served)  # type: ignore[arg-type]
    items = json.loads((tmp_path / "out" / "item2meta_train.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "out" / "item2meta_valid.jsonl").read_text().splitlines()]
    # Which of the two is for validation, the seed says.
    assert list(items) == ["A"]
    assert [entry["large"] for entry in items["A"]["images"]] == [f"http://127.0.0.1:8000/a/A_{n}.jpg" for n in (0, 1)]
    assert items["A"][DESCRIPTIONS_KEY] == {"A_0.jpg": "Seller: hat.", "A_1.jpg": "Caption of A_1."}
    assert [(row["image_name"], row["image"], row[DESCRIPTION_KEY]) for row in rows] == [
        ("B_0.jpg", "http://127.0.0.1:8000/a/back%20side.jpg", ""),
        ("B_1.jpg", "http://127.0.0.1:8000/a/B_0.jpg", "Caption of B_0."),
    ]
    assert {path.name for path in (tmp_path / "out" / "pictures").iterdir()} == {
        "A_0.jpg",
        "A_1.jpg",
        "B_0.jpg",
        "back side.jpg",
    }
    assert not (tmp_path / "out" / "train_images").exists()


def test_crawled_pictures_stay_beside_served_ones(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert_catalogue(source, out, 0, served_at="http://127.0.0.1:8000")
    (out / "train_images").mkdir()
    (out / "train_images" / "A_0.jpg").write_text("crawled")
    convert_catalogue(source, out, 0, served_at="http://127.0.0.1:8000", overwrite=True)
    assert (out / "train_images" / "A_0.jpg").read_text() == "crawled"
    # Without a server they are in the way of its own, and what was served goes too.
    convert_catalogue(source, out, 0, overwrite=True)
    assert not (out / "pictures").exists()
    texts(out)


def test_pictures_are_copied_byte_for_byte(source: Path, tmp_path: Path) -> None:
    result = convert_catalogue(source, tmp_path / "out", 3, 0.34)
    copies = [path for side in ("train_images", "valid_images") for path in (tmp_path / "out" / side).iterdir()]
    assert all(path.read_bytes() == b"bytes of " + path.name.encode() for path in copies)
    assert (result.train_items, result.valid_items, len(copies)) == (2, 1, 4)


def test_the_split_depends_on_seed_and_ids_only(source: Path, tmp_path: Path) -> None:
    def valid_ids(name: str, seed: int) -> frozenset[str]:
        convert_catalogue(source, tmp_path / name, seed, 0.34)
        rows = read_valid_metadata(tmp_path / name / "item2meta_valid.jsonl", SkipLog())
        return frozenset(row.item_id for row in rows)

    first = valid_ids("a", 1)
    lines(source / "products.jsonl", PRODUCTS[::-1])
    assert valid_ids("b", 1) == first
    assert len({valid_ids(f"seed{seed}", seed) for seed in range(12)}) == 3


@pytest.mark.parametrize(("share", "valid"), [(0.01, 1), (0.5, 2), (0.99, 2)])
def test_each_side_gets_a_product(source: Path, tmp_path: Path, share: float, valid: int) -> None:
    assert convert_catalogue(source, tmp_path / "out", 0, share).valid_items == valid


def test_bad_rows_are_listed(source: Path, tmp_path: Path) -> None:
    (source / "images" / "C_0.jpg").unlink()
    os.mkfifo(source / "images" / "E_0.jpg")
    (source / "images" / "link.jpg").symlink_to("/etc/passwd")
    lines(
        source / "products.jsonl",
        [
            *PRODUCTS,
            "{oops",
            {"id": "../E", "title": "x", "images": []},
            {"id": "A", "title": "again", "description": "x", "images": ["A_0.jpg"]},
            {"id": "F", "title": "x", "description": "Seller: F.", "images": ["A_0.jpg", "../../x.jpg"]},
            {"id": "G", "title": "x", "description": "Seller: G.", "images": ["E_0.jpg", "link.jpg"]},
            {"id": "H", "title": "x"},
        ],
    )
    lines(source / "captions.jsonl", [*CAPTIONS, CAPTIONS[0], {"image": "A_0.jpg", "caption": None}])
    result = convert_catalogue(source, tmp_path / "out", 0, 0.4)
    assert set(texts(tmp_path / "out")) == {"A_0.jpg", "A_1.jpg", "B_0.jpg"}
    assert skipped(tmp_path / "out") == [
        ("line 3", "image", "the image has a caption already; the first is kept"),
        ("line 4", "caption", "the text is null"),
        ("line 3", "C_0.jpg", "the file does not exist"),
        ("line 5", "", "the line is not valid JSON"),
        ("line 6", "id", "the name holds a path separator"),
        ("line 7", "id", "the product stands twice; the first is kept"),
        ("line 8", "A_0.jpg", "the image belongs to an earlier product or entry"),
        ("line 8", "../../x.jpg", "the name holds a path separator"),
        ("line 9", "E_0.jpg", "this is a pipe, not a file"),
        ("line 9", "link.jpg", "the name is a link that leads out of its folder"),
        ("line 10", "images", "the key is missing"),
    ]
    assert result.skipped == 11


def test_a_catalogue_without_captions(source: Path, tmp_path: Path) -> None:
    (source / "captions.jsonl").unlink()
    assert convert_catalogue(source, tmp_path / "out", 0).train_items == 1
    with pytest.raises(InputError) as caught:
        convert_catalogue(source, tmp_path / "out2", 0, text="captions")
    assert caught.value.sentence == f"{source}/captions.jsonl: the file does not exist."


def test_whole_problems_are_one_sentence(source: Path, tmp_path: Path) -> None:
    cases: list[tuple[Path, Path, float, type[Exception], str]] = [
        (tmp_path / "none", tmp_path / "o1", 0.25, InputError, f"{tmp_path}/none: there is no such folder."),
        (source, tmp_path / "o2", 1.5, ConfigError, "--valid-share: 1.5 is not a share between 0 and 1."),
        (source, source, 0.25, OutputError, f"{source}: the output folder is the source itself."),
    ]
    for source_dir, output_dir, share, kind, sentence in cases:
        with pytest.raises(kind) as caught:
            convert_catalogue(source_dir, output_dir, 0, share)
        assert caught.value.sentence == sentence  # type: ignore[attr-defined]
    (source / "products.jsonl").unlink()
    with pytest.raises(InputError) as missing:
        convert_catalogue(source, tmp_path / "o4", 0)
    assert missing.value.sentence == f"{source}/products.jsonl: the file does not exist."


def test_too_little_to_split(source: Path, tmp_path: Path) -> None:
    lines(source / "products.jsonl", PRODUCTS[:1])
    with pytest.raises(NothingLeftError) as caught:
        convert_catalogue(source, tmp_path / "out", 0)
    assert caught.value.sentence == (f"{source}: products with a usable picture and a text: 1; a split needs two.")
    (source / "images" / "A_0.jpg").unlink()
    with pytest.raises(NothingLeftError) as listed:
        convert_catalogue(source, tmp_path / "out", 0, keep_without_text=True)
    assert listed.value.sentence == (
        f"{source}: products with a usable picture: 1; a split needs two; "
        "most frequent reason, 1 times: the file does not exist."
    )


def test_an_earlier_conversion_is_replaced_only_when_asked(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = convert_catalogue(source, out, 0)
    with pytest.raises(OutputError) as caught:
        convert_catalogue(source, out, 0)
    assert caught.value.sentence == (
        f"{out}/ holds an earlier conversion. Replace it with --overwrite, or choose another --output-dir."
    )
    (out / "notes.txt").write_text("mine")
    (out / "train_images" / "stale.jpg").write_text("x")
    assert convert_catalogue(source, out, 0, overwrite=True) == first
    assert (out / "notes.txt").exists()
    texts(out)


def test_crawled_pictures_are_never_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "train_images").mkdir()
    (tmp_path / "train_images" / "A_0.jpg").write_text("crawled")
    with pytest.raises(OutputError) as caught:
        convert_catalogue(source, tmp_path, 0, overwrite=True)
    assert caught.value.sentence == (
        f"{tmp_path}: the folder holds data that this command did not make, so it is not replaced. "
        "Choose another --output-dir."
    )
    assert (tmp_path / "train_images" / "A_0.jpg").read_text() == "crawled"


def test_the_real_catalogue(shared_data: Path, tmp_path: Path) -> None:
    result = convert_catalogue(shared_data / "catalogue", tmp_path / "out", 0)
    # Its README: 304 photos, 75 products with a description (one photo each) and 40 captions of others.
    assert result == ConvertResult(tmp_path / "out", 86, 86, 29, 29, 304 - 115, 0)
    assert len(texts(tmp_path / "out")) == 115
