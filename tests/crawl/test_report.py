"""The report's rows, the shards and the counts, by themselves."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lavic.crawl.report import Report
from lavic.crawl.shards import Shards, sample_key
from lavic.crawl.tally import Tally
from lavic.errors import InputError


def row(name: str, status: str = "ok", **more: Any) -> dict[str, Any]:
    return {"split": "train", "image_name": name, "status": status, **more}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_last_row_of_a_picture_counts_and_the_others_go(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with Report(path) as report:
        report.add(row("a", "failed"))
        report.add(row("b"))
        assert report.earlier("train/a") is None  # this run's own rows are no earlier ones
    with Report(path) as report:
        assert report.earlier("train/a") == row("a", "failed")
        assert report.earlier("valid/a") is None
        report.add(row("a", message="x" * 10_000))
        assert lines(path)[-1]["status"] == "ok"  # on disk at once
    assert lines(path) == [row("b"), row("a", message="x" * 10_000)]
    with Report(path) as report:
        assert report.earlier("train/a") == row("a", message="x" * 10_000)


@pytest.mark.parametrize("cut", [1, 8, 20, -1])
def test_half_a_row_that_a_kill_left_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(row("a")) + "\n" + json.dumps(row("b"))[:cut])
    with Report(path) as report:
        assert report.earlier("train/b") is None
        report.add(row("c"))
    assert [each["image_name"] for each in lines(path)] == ["a", "c"]


@pytest.mark.parametrize(
    "text", ['{"B000000001": {"title": "Mug"}}', "x", '{"split": 5', '{"image_name": "a", "status": 1}\n']
)
def test_a_file_of_another_kind_is_neither_cut_nor_added_to(tmp_path: Path, text: str) -> None:
    # The training metadata is one long line without an end, as half a row would be.
    path = tmp_path / "item2meta_train.json"
    path.write_text(text)
    with pytest.raises(InputError, match="line 1: the line is not a row of a crawl's report"), Report(path):
        pass
    assert path.read_text() == text


def test_a_run_that_wrote_nothing_leaves_no_empty_report(tmp_path: Path) -> None:
    with Report(tmp_path / "r.jsonl"):
        pass
    assert list(tmp_path.iterdir()) == []


# -- shards --------------------------------------------------------------------------------------------------


def add(shards: Shards, *names: str) -> None:
    import hashlib

    for name in names:
        data = name.encode() * 300
        shards.add(name, data, {"sha256": hashlib.sha256(data).hexdigest()})


def names_of(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        return [member.name for member in archive if member.name.endswith(".jpg")]


def test_keys_are_safe_and_tell_names_apart() -> None:
    names = ["B1_0.jpg", "B.1_0.jpg", "B1_0", "B1_0.png", "é_0.jpg", "%_0.jpg", "a b_0.jpg", "-rf_0.jpg", "B%2E1_0.jpg"]
    keys = [sample_key(name) for name in names]
    assert keys[:4] == ["B1_0", "B%2E1_0", "B1_0%", "B1_0%2Epng%"]
    assert len(set(keys)) == len(names)
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-%") for key in keys)


@pytest.mark.parametrize("lost", [1, 100, 600, 1100, 1600])
def test_a_killed_runs_open_shard_is_taken_up(tmp_path: Path, lost: int) -> None:
    shards = Shards(tmp_path, 10).__enter__()
    add(shards, "a_0.jpg", "b_0.jpg", "c_0.jpg")
    (open_shard,) = tmp_path.iterdir()
    data = open_shard.read_bytes()
    assert shards._stream is not None
    shards._stream.close()
    open_shard.write_bytes(data[:-lost])  # the machine went down: the end did not reach the disk
    with Shards(tmp_path, 10) as again:
        assert ["a_0.jpg" in again, "b_0.jpg" in again, "c_0.jpg" in again] == [True, True, False]
        add(again, "c_0.jpg", "d_0.jpg")
    (shard,) = tmp_path.iterdir()
    assert shard.name == "shard-000000.tar"
    assert names_of(shard) == ["a_0.jpg", "b_0.jpg", "c_0.jpg", "d_0.jpg"]


def test_bytes_that_changed_in_an_open_shard_are_fetched_again(tmp_path: Path) -> None:
    shards = Shards(tmp_path, 10).__enter__()
    add(shards, "a_0.jpg", "b_0.jpg")
    assert shards._stream is not None
    shards._stream.close()
    (open_shard,) = tmp_path.iterdir()
    data = bytearray(open_shard.read_bytes())
    data[data.rindex(b"b_0.jpgb_0.jpg")] ^= 1
    open_shard.write_bytes(bytes(data))
    with Shards(tmp_path, 10) as again:
        assert ["a_0.jpg" in again, "b_0.jpg" in again] == [True, False]


def test_a_long_name_is_kept_whole(tmp_path: Path) -> None:
    name = "é" * 100 + "_0.jpg"
    with Shards(tmp_path, 10) as shards:
        add(shards, name)
    with Shards(tmp_path, 10) as again:
        assert name in again
    assert names_of(tmp_path / "shard-000000.tar") == ["%C3%A9" * 100 + "_0.jpg"]


def test_a_shard_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shard-000000.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(InputError, match="the shard cannot be read"), Shards(tmp_path, 10):
        pass


@pytest.mark.parametrize("name", ["shard-000000.tar", ".shard-000000.tar.open"])
@pytest.mark.parametrize("text", ['{"caption": "red"}', '["a_0.jpg"]', '"image_name"'])
def test_a_shard_of_another_program_is_refused_and_left_as_it_is(tmp_path: Path, name: str, text: str) -> None:
    with tarfile.open(tmp_path / name, "w") as archive:
        for member, data in (("a.jpg", b"picture"), ("a.json", text.encode())):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    before = (tmp_path / name).read_bytes()
    with pytest.raises(InputError, match="the shard cannot be read"), Shards(tmp_path, 10):
        pass
    assert (tmp_path / name).read_bytes() == before


def test_a_foreign_tar_reader_sees_ordinary_files(tmp_path: Path) -> None:
    with Shards(tmp_path, 2) as shards:
        add(shards, "a_0.jpg", "b_0.jpg", "c_0.jpg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-000000.tar", "shard-000001.tar"]
    data = (tmp_path / "shard-000000.tar").read_bytes()
    assert len(data) % 512 == 0
    assert data.endswith(b"\0" * 1024)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [(member.name, member.isfile()) for member in archive][::2] == [("a_0.jpg", True), ("b_0.jpg", True)]


# -- counts --------------------------------------------------------------------------------------------------


def test_it_stops_at_the_share_and_not_before() -> None:
    tally = Tally(stop_after=500, stop_share=0.99)
    for _ in range(6):
        tally.count("ok")
    for _ in range(494):
        tally.count("failed", "http_403")
    assert tally.hopeless() == ""  # 494 of 500 are 98.8 %
    tally.count("failed", "http_403")
    assert tally.hopeless(undecided=10) == ""  # they may all be good
    assert tally.hopeless().startswith("495 of the last 500 pictures failed for the same reason (http_403)")


def test_success_and_pictures_that_were_there_are_no_reason_to_stop() -> None:
    tally = Tally(stop_after=10, stop_share=0.99)
    for _ in range(20):
        tally.count("ok")
        tally.count("present", tried=False)
    assert tally.hopeless() == ""
    never = Tally(stop_after=0, stop_share=0.99)
    for _ in range(1000):
        never.count("failed", "http_403")
    assert never.hopeless() == ""


def test_reasons_made_up_by_hosts_do_not_fill_memory() -> None:
    tally = Tally(stop_after=0, stop_share=0.99)
    for number in range(1000):
        tally.count("failed", f"http_{number}")
    assert len(tally.by_reason) <= 101
    assert sum(tally.by_reason.values()) == 1000
