"""``lavic data build``: metadata in the form of Amazon-Reviews-2023 and conversations, made up, hostile rows too."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from data.public_world import conversation, lines
from small_world import refused

from lavic.cli.main import run_command_line
from lavic.conversations import read_conversations
from lavic.formats import read_train_items
from lavic.skipped import SkipLog


def meta(item_id: Any, pictures: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """A row of ``meta_<Category>.jsonl`` with the fields that the source has."""
    names = pictures if pictures is not None else [f"{item_id}-a", f"{item_id}-b"]
    base = "https://m.media.invalid/I"
    return {
        "main_category": "Amazon Home",
        "title": f"Thing {item_id}",
        "average_rating": 4.5,
        "rating_number": 12,
        "features": ["Solid"],
        "description": [],
        "price": 9.99,
        "images": [
            {"thumb": f"{base}/{name}_t.jpg", "large": f"{base}/{name}.jpg", "variant": "MAIN", "hi_res": None}
            for name in names
        ],
        "videos": [],
        "store": "Shop",
        "categories": ["Home", "Kitchen"],
        "details": {"Brand": "x"},
        "parent_asin": item_id,
        "bought_together": None,
        **more,
    }


ITEMS = [f"H{number}" for number in range(12)]
ROWS = [conversation(f"post {number // 2}", [ITEMS[number % 12]], [ITEMS[(number + 5) % 12]]) for number in range(24)]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """``meta_Home.jsonl`` with twelve items and six that nobody mentions; ``home.jsonl`` with 24 conversations."""
    lines(tmp_path / "meta_Home.jsonl", [meta(item_id) for item_id in (*ITEMS, *(f"X{n}" for n in range(6)))])
    lines(tmp_path / "home.jsonl", list(ROWS))
    return tmp_path


def command(sources: Path, *more: object) -> list[str]:
    words = ["--meta", sources / "meta_Home.jsonl", "--conversations", sources / "home.jsonl"]
    return ["data", "build", *map(str, (*words, "--output_dir", sources / "out", *more))]


def build(capsys: pytest.CaptureFixture[str], sources: Path, *more: object) -> dict[str, Any]:
    """The document of one run."""
    assert run_command_line([*command(sources, *more), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def addresses(out: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """ID -> addresses, of the training file and of the validation file."""
    log = SkipLog()
    train = {item.item_id: list(item.image_urls) for item in read_train_items(out / "item2meta_train.json", log)}
    valid: dict[str, list[str]] = {}
    for line in (out / "item2meta_valid.jsonl").read_text().splitlines():
        row = json.loads(line)
        item_id, _, number = row["image_name"].removesuffix(".jpg").rpartition("_")
        assert int(number) == len(valid.setdefault(item_id, []))
        valid[item_id].append(row["image"])
    assert log.count == 0
    return train, valid


def test_files_are_those_of_the_public_format(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = build(capsys, sources, "--images_per_item", 1)
    out = sources / "out"
    train, valid = addresses(out)
    assert sorted([*train, *valid]) == sorted(ITEMS)
    assert found["items"] == {"train": len(train), "valid": len(valid)} == {"train": 11, "valid": 1}
    item_id = next(iter(train))
    row = json.loads((out / "item2meta_train.json").read_text())[item_id]
    assert row == {
        "title": f"Thing {item_id}",
        "categories": ["Home", "Kitchen"],
        "features": ["Solid"],
        "description": [],
        "images": [
            {
                "thumb": f"https://m.media.invalid/I/{item_id}-a_t.jpg",
                "large": f"https://m.media.invalid/I/{item_id}-a.jpg",
                "variant": "MAIN",
            }
        ],
        "image_descriptions_llava_cleaned": {},
    }
    line = json.loads((out / "item2meta_valid.jsonl").read_text().splitlines()[0])
    assert list(line) == ["title", "image_name", "image", "image_description_llava_cleaned"]
    assert sum(found["conversations"].values()) == 24
    assert all(found["conversations"][split] > 0 for split in ("train", "valid", "test"))
    assert not list(out.glob(".items*"))


def test_conversations_keep_their_bytes_and_no_list_gets_the_right_item(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(capsys, sources)
    before = (sources / "home.jsonl").read_bytes().splitlines()
    after = [line for path in sorted((sources / "out" / "home").iterdir()) for line in path.read_bytes().splitlines()]
    assert sorted(after) == sorted(before)
    for path in (sources / "out" / "home").iterdir():
        for row in read_conversations(path, SkipLog()):
            assert not row.ground_truth & set(row.candidates["st"])  # as in ROWS


@pytest.mark.parametrize("seed", range(4))
def test_no_post_and_no_picture_stands_in_two_splits(
    sources: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    # H0, H3 and H7 share pictures in a chain; they must stay together.
    shared = {"H0": ["p", "q"], "H3": ["q", "r"], "H7": ["s", "r"]}
    lines(sources / "meta_Home.jsonl", [meta(item_id, shared.get(item_id)) for item_id in ITEMS])
    build(capsys, sources, "--valid_share", 0.4, "--test_share", 0.2, "--seed", seed)
    train, valid = addresses(sources / "out")
    assert len(valid) >= 2
    assert not train.keys() & valid.keys()
    assert not {url for urls in train.values() for url in urls} & {url for urls in valid.values() for url in urls}
    assert len({item_id in valid for item_id in shared}) == 1
    posts = {
        path.stem: {row.context for row in read_conversations(path, SkipLog())}
        for path in (sources / "out" / "home").iterdir()
    }
    assert sum(map(len, posts.values())) == len(set().union(*posts.values())) == 12


def test_a_folder_keeps_its_splits_but_for_leaks(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sources / "posts"
    lines(folder / "train.jsonl", [conversation("a", ["H0"], []), conversation("b", ["H1"], [])])
    lines(folder / "test.jsonl", [conversation("a", ["H2"], [])])
    found = build(capsys, sources, "--conversations", folder, "--category", "mine")
    assert found["conversations"] == {"train": 1, "test": 1}
    assert found["conversations_left_out"] == {"its opening post stands in test.jsonl too": 1}
    assert (sources / "out" / "mine" / "test.jsonl").read_bytes() == (folder / "test.jsonl").read_bytes()


def test_of_equal_rows_the_test_keeps_its_own(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sources / "posts"
    both, other = conversation("a", ["H0"], []), conversation("b", ["H1"], [])
    lines(folder / "train.jsonl", [both, other, other])
    lines(folder / "valid.jsonl", [both, conversation("c", ["H2"], [])])
    lines(folder / "test.jsonl", [both])
    found = build(capsys, sources, "--conversations", folder, "--category", "mine")
    assert found["conversations"] == {"train": 1, "valid": 1, "test": 1}
    assert (sources / "out" / "mine" / "test.jsonl").read_bytes() == (folder / "test.jsonl").read_bytes()
    listed = [json.loads(line) for line in (sources / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [(Path(row["file"]).name, row["where"], row["reason"]) for row in listed] == [
        ("valid.jsonl", "line 1", "the conversation stands in test.jsonl too"),
        ("train.jsonl", "line 1", "the conversation stands in test.jsonl too"),
        ("train.jsonl", "line 3", "the conversation stands twice; the first is kept"),
    ]


def test_a_picture_is_known_by_each_of_its_addresses(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # H0 and H1 have the same picture, H1 without its large address; as do H2 and H3, of which H3 has a thumb only.
    def entry(**urls: str | None) -> dict[str, Any]:
        return {key: url and f"https://m.media.invalid/I/{url}" for key, url in urls.items()}

    images = {
        "H0": entry(large="p.jpg", hi_res="p_h.jpg", thumb="p_t.jpg"),
        "H1": entry(large=None, hi_res="p_h.jpg", thumb=""),
        "H2": entry(large="q.jpg", hi_res="q_h.jpg", thumb="q_t.jpg"),
        "H3": entry(large="", hi_res=None, thumb="q_t.jpg"),
    }
    lines(sources / "meta_Home.jsonl", [meta(item_id, images=[each]) for item_id, each in images.items()])
    lines(sources / "home.jsonl", [conversation(f"post {item_id}", [item_id], []) for item_id in images])
    found = build(capsys, sources, "--valid_share", 0.5)
    train, valid = addresses(sources / "out")
    assert {frozenset(train), frozenset(valid)} == {frozenset({"H0", "H1"}), frozenset({"H2", "H3"})}
    assert {**train, **valid}["H3"] == ["https://m.media.invalid/I/q_t.jpg"]
    assert found["pictures"] == {"train": 2, "valid": 2}


def test_extra_items_are_drawn_by_lot_in_any_order(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(capsys, sources, "--extra_items", 3)
    train, valid = addresses(sources / "out")
    first = {item_id for item_id in (*train, *valid) if item_id.startswith("X")}
    assert len(first) == 3
    rows = (sources / "meta_Home.jsonl").read_bytes().splitlines(keepends=True)
    with gzip.open(sources / "meta_Home.jsonl.gz", "wb") as stream:
        stream.writelines(rows[::-1] + rows[:1])
    build(capsys, sources, "--extra_items", 3, "--meta", sources / "meta_Home.jsonl.gz", "--overwrite")
    train, valid = addresses(sources / "out")
    assert {item_id for item_id in (*train, *valid) if item_id.startswith("X")} == first


def test_hostile_rows_are_counted_and_left_out(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [meta(item_id) for item_id in ITEMS[:9]]
    bad_images: list[Any] = [
        None,
        "https://m.media.invalid/I/text.jpg",
        {"large": "file:///etc/passwd", "hi_res": None},
        {"large": "javascript:alert(1)"},
        {"large": "https://m.media.invalid/" + "x" * 3000},
        {"large": 5, "hi_res": "https://m.media.invalid/I/H9.jpg", "thumb": ["x"]},
        {"large": "https://m.media.invalid/I/H9.jpg"},
    ]
    hostile: list[Any] = [
        b"\xff\xfe\x00",
        b"{broken",
        b"null",
        b"[]",
        b'{"parent_asin": "' + b"x" * (17 * 2**20) + b'"}',
        b"[" * 100_000,
        meta(None),
        meta(5),
        meta("../H1"),
        meta("H0", title="again"),
        meta("H10", title=["x"]),
        meta("H11", images={"large": "x"}),
        meta("H11", images=None),
        meta("H9", images=bad_images, title=None, features=None, description=[1, "kept"], categories=None),
    ]
    lines(sources / "meta_Home.jsonl", [*good, *hostile])
    lines(
        sources / "home.jsonl",
        [*ROWS, ROWS[0], {"context": "x"}, {"context": 5}, b"\xff", conversation("z", ["GONE"], [])],
    )
    found = build(capsys, sources)
    train, valid = addresses(sources / "out")
    assert sorted([*train, *valid]) == sorted([*ITEMS[:10], "H11"])
    assert {**train, **valid}["H9"] == ["https://m.media.invalid/I/H9.jpg"]
    assert found["titles_missing"] == 1
    # Two rows each want H10, of which nothing is known, and H11, which has no picture; one wants GONE.
    assert found["conversations_left_out"] == {
        "a right item has no usable metadata": 3,
        "a right item has no picture": 2,
    }
    assert found["candidates"] == {"without_metadata": 1, "without_picture": 1}
    listed = [json.loads(line) for line in (sources / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [(row["key"], row["reason"]) for row in listed] == [
        ("", "the conversation stands twice; the first is kept"),
        ("gt_items", "the conversation has no right item"),
        ("context", "the value is a number, not text"),
        ("", "the line is not UTF-8 text"),
        ("", "the line is not UTF-8 text"),
        ("", "the line is not valid JSON"),
        ("", "the line is null, not an object"),
        ("", "the line is a list, not an object"),
        ("", "the line is longer than 16 MiB"),
        ("", "the line nests too deeply"),
        ("parent_asin", "the value is null, not text"),
        ("parent_asin", "the value is a number, not text"),
        ("parent_asin", "the name holds a path separator"),
        ("parent_asin", "the item stands twice; the first is kept"),
        ("title", "the value is a list, not text"),
        ("images", "the value is an object, not a list"),
    ]
    assert found["skipped"] == 16


def test_leaks_in_the_text_are_counted(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [conversation(f"look at {item_id}", [item_id], [], context_items=["H1"]) for item_id in ITEMS[:4]]
    lines(sources / "home.jsonl", list(rows))
    leaks = build(capsys, sources)["leaks"].values()
    assert sum(each["right_id_in_text"] for each in leaks) == 4
    assert sum(each["right_id_in_context_items"] for each in leaks) == 1


def test_equal_seeds_give_equal_files(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def result(name: str, seed: int) -> dict[str, bytes]:
        out = sources / name
        build(capsys, sources, "--output_dir", out, "--seed", seed, "--valid_share", 0.3, "--extra_items", 2)
        # The manifest names the seed; everything else is compared.
        return {path.name: path.read_bytes() for path in sorted(out.rglob("*.json*")) if path.name != "built.json"}

    assert result("a", 0) == result("b", 0) != result("c", 1)


def test_what_cannot_be_built_is_one_sentence(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(sources / "meta_other.jsonl", [meta("Z1"), meta("Z2")])
    lines(sources / "meta_same.jsonl", [meta(item_id, ["p"]) for item_id in ITEMS])
    lines(sources / "bad.jsonl", [b"null"])
    lines(sources / "two.jsonl", [conversation("a", ["H0"], []), conversation("b", ["H1"], [])])
    (sources / "empty.jsonl").write_bytes(b"")
    (sources / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"parent_asin": "x"}\n' * 9000)[:40])
    cases = [
        (
            ["--meta", sources / "meta_other.jsonl"],
            f"{sources}/meta_other.jsonl: the metadata hold no usable item that a conversation mentions. "
            "Is it of the same category?",
        ),
        (
            ["--meta", sources / "meta_same.jsonl"],
            f"{sources}/meta_same.jsonl: 12 items with pictures cannot be divided into training and validation: "
            "they share their pictures. Give more --extra_items.",
        ),
        (["--conversations", sources / "bad.jsonl"], f"{sources}/bad.jsonl: no conversation can be used."),
        (["--conversations", sources / "empty.jsonl"], f"{sources}/empty.jsonl: the file is empty."),
        (["--meta", sources / "none.jsonl"], f"{sources}/none.jsonl: the file does not exist."),
        (
            ["--meta", sources / "cut.jsonl.gz"],
            f"{sources}/cut.jsonl.gz: the archive cannot be unpacked. "
            "It looks half-copied or of another kind: copy it again, or unpack it first.",
        ),
        (
            ["--conversations", sources / "two.jsonl"],
            "--conversations: the usable conversations have 2 opening posts; three splits need three.",
        ),
        (
            ["--valid_share", 0.5, "--test_share", 0.5],
            "--valid_share and --test_share: together they leave nothing to train on. Give less than 1 in sum.",
        ),
        (
            ["--category", "../x"],
            "--category: the name holds a path separator. Give a plain word, such as home_kitchen.",
        ),
        (
            ["--output_dir", sources],
            f"{sources}: the output folder holds a source, {sources}/meta_Home.jsonl. Choose another --output-dir.",
        ),
    ]
    for more, sentence in cases:
        assert refused(capsys, command(sources, "--overwrite", *more)) == sentence
    assert not list((sources / "out").glob(".items*"))


def test_a_folder_that_holds_something_is_refused(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(capsys, sources)
    assert refused(capsys, command(sources)) == (
        f"{sources}/out/ holds a data set built earlier. Replace it with --overwrite, or choose another --output-dir."
    )
    (sources / "out" / "train_images").mkdir()
    (sources / "out" / "train_images" / "H0_0.jpg").write_text("crawled")
    build(capsys, sources, "--overwrite", "--category", "other")
    assert sorted(path.name for path in (sources / "out").iterdir() if path.is_dir()) == ["other", "train_images"]
    assert (sources / "out" / "train_images" / "H0_0.jpg").read_text() == "crawled"


def test_real_conversations_with_made_up_metadata(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = shared_data / "reddit-amazon" / "amazon_fashion"
    ids: dict[str, None] = {}
    for split in ("valid", "test"):
        for row in read_conversations(real / f"{split}.jsonl", SkipLog()):
            ids |= dict.fromkeys(
                [*row.gt_items, *row.context_items, *row.candidates["st"], *row.candidates["gpt_large"]]
            )
    lines(tmp_path / "meta_Home.jsonl", [meta(item_id) for item_id in ids])
    found = build(capsys, tmp_path, "--conversations", real)
    # Rows that stand twice in the published files are left out, all others are kept.
    assert sum(found["conversations"].values()) == 797 + 826 - found["skipped"]
    assert found["conversations_left_out"] == {}
    assert found["leaks"]["test"]["right_id_in_text"] <= 23
    assert found["items_mentioned"] == len(ids)
