"""Which pictures a crawl is about: metadata, tables, categories, samples."""

from __future__ import annotations

import gzip
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hostile_server import write_valid
from small_world import refused

from lavic.crawl.config import CrawlSettings
from lavic.crawl.plan import make_plan
from lavic.crawl.targets import read_targets
from lavic.errors import ConfigError, InputError, NothingLeftError
from lavic.skipped import SkipLog

TRAIN = {
    "B000000001": {
        "title": "Mug",
        "images": [
            {"thumb": "http://h/1t", "large": "http://h/1", "hi_res": "http://h/1h"},
            {"thumb": "http://h/2t", "large": None, "hi_res": "http://h/2h"},
            {"thumb": "http://h/3t"},
            {"variant": "MAIN"},
            "http://h/5",
        ],
        "image_descriptions_llava_cleaned": {"B000000001_0.jpg": ""},
    },
    "B000000002": {"images": []},
    "B000000003": {"title": None, "images": [{"large": "http://h/6"}]},
    "../evil": {"images": [{"large": "http://h/7"}]},
    "B000000004": {"images": "http://h/8"},
    "B000000005": "nothing",
}


def world(folder: Path, **more: Any) -> CrawlSettings:
    (folder / "item2meta_train.json").write_text(json.dumps(TRAIN))
    write_valid(folder, {"B000000009_3.jpg": "http://h/9", "B000000003_0.jpg": "http://h/10"})
    paths = {"train_data": folder / "item2meta_train.json", "val_data": folder / "item2meta_valid.jsonl"}
    return CrawlSettings(**{**paths, **more})


def found(settings: CrawlSettings, skipped: SkipLog | None = None) -> list[tuple[str, str, str, str]]:
    targets = read_targets(settings, skipped or SkipLog())
    return [(target.split, target.image_name, target.url, target.url_key) for target in targets]


def test_the_best_address_of_each_picture_and_where_it_stood(tmp_path: Path) -> None:
    skipped = SkipLog()
    assert found(world(tmp_path), skipped) == [
        ("train", "B000000001_0.jpg", "http://h/1", "large"),
        ("train", "B000000001_1.jpg", "http://h/2h", "hi_res"),
        ("train", "B000000001_2.jpg", "http://h/3t", "thumb"),
        ("train", "B000000001_3.jpg", "", ""),
        ("train", "B000000001_4.jpg", "http://h/5", ""),
        ("train", "B000000003_0.jpg", "http://h/6", "large"),
        ("valid", "B000000009_3.jpg", "http://h/9", "image"),
        ("valid", "B000000003_0.jpg", "http://h/10", "image"),
    ]
    # A missing title or an empty description is no reason to leave a picture out; a path or a wrong type is.
    assert skipped.by_reason == {
        "the name holds a path separator": 1,
        "the value is text, not a list": 1,
        "the item is text, not an object": 1,
    }


def test_only_some_of_them(tmp_path: Path) -> None:
    assert [row[1] for row in found(world(tmp_path, train_only=True, images_per_item=1))] == [
        "B000000001_0.jpg",
        "B000000003_0.jpg",
    ]
    assert {row[0] for row in found(world(tmp_path, valid_only=True))} == {"valid"}


def test_the_first_pictures_of_an_item_in_the_validation_file_too(tmp_path: Path) -> None:
    names = ["B1_3.jpg", "B2_0.jpg", "B1_5.jpg", "B1_3.jpg", "B1_0.jpg", "b.jpg"]
    rows = [{"image_name": name, "image": f"http://h/{i}"} for i, name in enumerate(names)]
    path = tmp_path / "v.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def taken(most: int) -> list[str]:
        return [row[1] for row in found(CrawlSettings(val_data=path, valid_only=True, images_per_item=most))]

    # In file order; a name that stands twice is one picture.
    assert taken(1) == ["B1_3.jpg", "B2_0.jpg", "B1_3.jpg", "b.jpg"]
    assert taken(2) == ["B1_3.jpg", "B2_0.jpg", "B1_5.jpg", "B1_3.jpg", "b.jpg"]


def test_a_category_means_the_items_of_its_conversations(tmp_path: Path) -> None:
    settings = world(tmp_path, category="amazon_home")
    with pytest.raises(InputError, match="there are no conversations here"):
        make_plan(settings, SkipLog())
    (tmp_path / "amazon_home").mkdir()
    row = {"context": "x", "context_items": [], "gt_items": ["B000000009"], "candidates_st": ["B000000003"]}
    (tmp_path / "amazon_home" / "test.jsonl").write_text(json.dumps(row) + "\n")
    names = [(target.split, target.image_name) for target in make_plan(settings, SkipLog()).targets()]
    assert names == [("train", "B000000003_0.jpg"), ("valid", "B000000009_3.jpg"), ("valid", "B000000003_0.jpg")]
    with pytest.raises(InputError, match="path separator"):
        make_plan(world(tmp_path, category="../amazon_home"), SkipLog())


def test_a_sample_is_of_the_size_asked_for_and_hangs_on_the_seed_alone(tmp_path: Path) -> None:
    urls = {f"a_{i}.jpg": f"http://h/{i}" for i in range(200)}
    write_valid(tmp_path, urls)

    def drawn(**more: Any) -> list[str]:
        path = tmp_path / "item2meta_valid.jsonl"
        plan = make_plan(CrawlSettings(val_data=path, valid_only=True, **more), SkipLog())
        names = [target.image_name for target in plan.targets()]
        assert plan.total == len(names)
        return names

    first = drawn(sample=20, seed=1)
    assert len(first) == 20
    assert drawn(sample=20, seed=2) != first
    assert set(drawn(sample=30, seed=1)) > set(first)
    assert len(drawn(sample=1000)) == 200
    # Another order of the file, and rows that stand twice, change nothing.
    lines = (tmp_path / "item2meta_valid.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "item2meta_valid.jsonl").write_text("".join([*reversed(lines), *lines[:50]]))
    assert set(drawn(sample=20, seed=1)) == set(first)


def test_a_name_that_stands_twice_counts_once(tmp_path: Path) -> None:
    rows = [{"image_name": "a_0.jpg", "image": f"http://h/{i}"} for i in range(3)]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    skipped = SkipLog()
    plan = make_plan(CrawlSettings(val_data=tmp_path / "v.jsonl", valid_only=True), skipped)
    assert (plan.total, [target.url for target in plan.targets()]) == (1, ["http://h/0"])
    assert list(skipped.notes.values()) == [2]


# -- tables --------------------------------------------------------------------------------------------------

EXPECTED = [
    ("table", "B1_0.jpg", "http://h/1", "link"),
    ("table", "77_0.jpg", "http://h/2", "link"),
    ("table", "c_5.png", "http://h/3", "link"),
    ("table", "B4_0.jpg", "", ""),
]


def table(path: Path) -> CrawlSettings:
    return CrawlSettings(table=path, id_column="asin", url_column="link")


def test_a_table_as_jsonl(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"asin": "B1", "link": "http://h/1"},
        {"asin": 77, "link": ["http://h/2", "http://h/2b"]},
        {"asin": "c_5.png", "link": "http://h/3"},
        {"asin": "B4", "link": None},
        {"asin": "", "link": "http://h/5"},
        {"asin": [1], "link": "http://h/6"},
    ]
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    skipped = SkipLog()
    wanted = [*EXPECTED[:2], ("table", "77_1.jpg", "http://h/2b", "link"), *EXPECTED[2:]]
    assert found(table(path), skipped) == wanted
    assert skipped.count == 2


@pytest.mark.parametrize(("name", "mark"), [("t.csv", ","), ("t.tsv", "\t")])
def test_a_table_as_csv(tmp_path: Path, name: str, mark: str) -> None:
    lines = [["asin", "other", "link"], ["B1", '"x\ny"', "http://h/1"], ["77", "", "http://h/2"]]
    lines += [["c_5.png", "", "http://h/3"], ["B4", "", ""]]
    (tmp_path / name).write_text("\ufeff" + "".join(mark.join(line) + "\r\n" for line in lines), encoding="utf-8")
    assert found(table(tmp_path / name)) == EXPECTED


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("asin,url\nB1,http://h/1\n")
    with pytest.raises(InputError, match=r"there is no column 'link'\. --url_column names the one that is meant"):
        found(table(tmp_path / "t.csv"))
    (tmp_path / "t.jsonl").write_text('{"id": "B1", "link": "http://h/1"}\n')
    with pytest.raises(InputError, match=r"there is no column 'asin'\. --id_column"):
        found(table(tmp_path / "t.jsonl"))


def test_parquet_without_pyarrow_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="reading Parquet needs pyarrow, which is not installed"):
        found(table(tmp_path / "t.parquet"))


def test_a_table_as_parquet(tmp_path: Path) -> None:
    pyarrow: types.ModuleType = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    ids = pyarrow.array(["B1", "77", "c_5.png", "B4"])
    links = pyarrow.array(["http://h/1", "http://h/2", "http://h/3", None])
    parquet.write_table(pyarrow.table({"asin": ids, "other": ids, "link": links}), tmp_path / "t.parquet")
    assert found(table(tmp_path / "t.parquet")) == EXPECTED
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="the file is not Parquet"):
        found(table(tmp_path / "t.parquet"))


# -- wrong input ---------------------------------------------------------------------------------------------


def test_metadata_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"B1": {"images": []}}')
    with pytest.raises(NothingLeftError, match="there is no picture to fetch"):
        make_plan(CrawlSettings(train_data=tmp_path / "t.json", train_only=True), SkipLog())


def test_a_missing_file_names_the_flag_and_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, ["crawl"]) == (
        "--train_data data/item2meta_train.json: there is no such file. "
        "Name it, or fetch the validation pictures alone with --valid_only."
    )
    assert list(tmp_path.iterdir()) == []


def test_half_copied_metadata_is_noticed_before_the_first_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = world(tmp_path)
    text = settings.train_data.read_text()
    settings.train_data.write_text(text[: text.index("B000000003") + 30])
    words = ["crawl", "--train_data", str(settings.train_data), "--train_only"]
    sentence = refused(capsys, [*words, "--train_images_dir", str(tmp_path / "images")])
    assert sentence.endswith("the file ends inside item B000000003. It looks half-copied: copy it again.")
    assert not (tmp_path / "crawl_report.jsonl").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--train_only", "--valid_only"], "--train_only and --valid_only: they exclude each other."),
        (["--train-only", "--table", "x"], "--train_only and --table: they exclude each other."),
        (["--refresh", "--retry_failed"], "--retry_failed and --refresh: they exclude each other."),
        (
            ["--refresh", "--output", "webdataset"],
            "--refresh with --output webdataset: shards are never changed once written.",
        ),
        (
            ["--allow_private", "10.0.0.0/8", "--allow_private", "home"],
            "--allow_private: 'home' is not a range of addresses; write 10.1.0.0/16 or 127.0.0.1/32.",
        ),
        (
            ["--user_agent", "a\nb: c"],
            "--user_agent: 'a\\nb: c' is not a User-Agent; write name/version (how to reach you).",
        ),
        (["--workers", "0"], "--workers: 0 is too small; it must be at least 1."),
    ],
)
def test_wrong_flags(flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, ["crawl", *flags]) == sentence


def test_a_flag_may_be_given_again(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("allow_private: [10.0.0.0/8]\n")
    assert CrawlSettings.load(config, {}).allow_private == ("10.0.0.0/8",)
    more = CrawlSettings.load(config, {"allow_private": ["10.0.0.0/8", "fc00::/7"]})
    assert more.allow_private == ("10.0.0.0/8", "fc00::/7")
