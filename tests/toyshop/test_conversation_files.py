"""The files of the toy shop's conversations, and the command that writes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_world import refused

from lavic.cli.main import run_command_line
from lavic.conversations import read_conversations
from lavic.errors import ConfigError
from lavic.formats import SkipLog
from lavic.toyshop.conversations import (
    CATEGORY,
    ConversationCounts,
    check_look_alikes,
    plan_conversations,
    write_conversations_of,
)
from lavic.toyshop.items import plan_catalogue

TRAIN, VALID = plan_catalogue(1200, seed=0)


def write(folder: Path, seed: int = 0, **rows: int) -> ConversationCounts:
    folder.mkdir()
    numbers = {"train_rows": 60, "valid_rows": 20, "test_rows": 40, **rows}
    return write_conversations_of(folder, TRAIN, VALID, seed, **numbers)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / CATEGORY).iterdir()}


def test_every_row_is_read_back_in_the_public_form(tmp_path: Path) -> None:
    assert write(tmp_path / "shop") == ConversationCounts(60, 20, 40)
    for split, items, rows in (("train", TRAIN, 60), ("valid", VALID, 20), ("test", VALID, 40)):
        path = tmp_path / "shop" / CATEGORY / f"{split}.jsonl"
        skipped = SkipLog()
        found = list(read_conversations(path, skipped))
        assert skipped.count == 0
        assert found == [
            replace(row.conversation, where=again.where)
            for row, again in zip(plan_conversations(items, rows, 0, split), found, strict=True)
        ]
        assert path.read_bytes().isascii()
        keys = ["context", "context_items", "gt", "gt_items", "candidates_st", "candidates_gpt_large"]
        assert all(list(json.loads(line)) == keys for line in path.read_text().splitlines())


def test_equal_seeds_give_equal_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        write(tmp_path / name, seed)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "again")
    other = contents(tmp_path / "other")
    assert all(one[name] != other[name] for name in ("train.jsonl", "valid.jsonl", "test.jsonl"))


def test_more_rows_begin_with_the_same_ones(tmp_path: Path) -> None:
    write(tmp_path / "few")
    write(tmp_path / "many", train_rows=90, valid_rows=0)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    assert many["train.jsonl"].startswith(few["train.jsonl"])
    assert many["test.jsonl"] == few["test.jsonl"]
    assert sorted(many) == ["test.jsonl", "train.jsonl"]


def test_stats_find_ten_candidates_the_right_one_and_no_leak(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "shop")
    nothing = [
        word
        for name in ("train_data", "val_data", "train_images_dir", "val_images_dir", "output_dir")
        for word in (f"--{name}", "none")
    ]
    assert run_command_line(["data", "stats", "--json", "--conversations", str(tmp_path / "shop"), *nothing]) == 0
    found = json.loads(capsys.readouterr().out)["conversations"][CATEGORY]
    for split, rows in (("train", 60), ("valid", 20), ("test", 40)):
        facts = found[split]
        assert (facts["rows"], facts["rows_left_out"], facts["several_right_items"]) == (rows, 0, 0)
        assert (facts["leak_right_id_in_text"], facts["leak_right_id_in_context_items"]) == (0, 0)
        assert facts["candidates"]["st"]["right_item_share"] == 1
        assert 0.5 < facts["candidates"]["gpt_large"]["right_item_share"] < 1
        assert [each["not_ten_different"] for each in facts["candidates"].values()] == [0, 0]


# -- the command ---------------------------------------------------------------------------------------------


def test_the_command_writes_what_is_planned_whatever_the_number_of_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop, rows = tmp_path / "shop", ["--conversations", "30", "--test_conversations", "25", "--candidates", "3"]
    flags = ["toyshop", "--output_dir", str(shop), "--items", "100", "--workers", "2", *rows]
    assert run_command_line([*flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conversations"] == {"train": 30, "valid": 20, "test": 25}
    plan = tmp_path / "plan"
    plan.mkdir()
    write_conversations_of(plan, *plan_catalogue(100, 0), 0, train_rows=30, valid_rows=20, test_rows=25, candidates=3)
    assert contents(shop) == contents(plan)

    # Without conversations nothing of them stays.
    assert run_command_line([*flags[:3], "--items", "12", "--workers", "0", "--overwrite", "--json"]) == 0
    assert "conversations" not in json.loads(capsys.readouterr().out)
    assert not (shop / CATEGORY).exists()


def test_too_few_items_are_refused_before_anything_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["toyshop", "--output_dir", str(tmp_path / "shop"), "--conversations", "5", "--items"]
    assert refused(capsys, [*flags, "12"]) == (
        "--conversations: among 12 items no kind has 10 look-alikes, both for training and for validation. "
        "Give --items 300 or more."
    )
    assert not (tmp_path / "shop").exists()
    check_look_alikes(*plan_catalogue(300, 0), 0)


@pytest.mark.parametrize("candidates", [1, 101])
def test_a_number_of_candidates_out_of_bounds_is_refused(candidates: int) -> None:
    with pytest.raises(ConfigError, match=f"^--candidates: {candidates} is not a number of candidates from 2 to 100"):
        check_look_alikes(TRAIN, VALID, 0, candidates=candidates)


def test_a_hundred_candidates_repeat_looks_but_not_the_right_one() -> None:
    with pytest.raises(ConfigError, match="Give --items 3900 or more"):
        check_look_alikes(TRAIN, VALID, 0, candidates=100)
    for side in plan_catalogue(3900, 0):
        looks = {item.item_id: item.look for item in side}
        for row in plan_conversations(side, 60, 0, "test", candidates=100):
            for candidates in row.conversation.candidates.values():
                assert len(set(candidates)) == 100
                fitting = [item_id for item_id in candidates if row.wish.fits(looks[item_id])]
                assert tuple(fitting) == row.conversation.gt_items * (row.conversation.gt_items[0] in candidates)
