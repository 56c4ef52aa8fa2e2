"""The conversations written by hand: whole, answerable, and about products that the real catalogue has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lavic.conversations import Conversation, read_conversations
from lavic.data.conversation_facts import leaks_of
from lavic.formats import SkipLog

PATH = Path(__file__).parents[1] / "data_files" / "catalogue_conversations.jsonl"


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    skipped = SkipLog()
    found = list(read_conversations(PATH, skipped))
    assert skipped.count == 0
    return found


def test_thirty_six_rows_have_the_right_item_among_ten_and_no_leak(conversations: list[Conversation]) -> None:
    assert len(conversations) == 36
    for row in conversations:
        assert [len(set(ids)) for ids in row.candidates.values()] == [10, 10]
        assert row.ground_truth <= set(row.candidates["st"])
        assert leaks_of(row) == (False, False)
        assert not [item_id for ids in row.candidates.values() for item_id in ids if item_id in row.context]
        assert row.context.startswith("<submission>")
        assert row.raw is not None
        assert row.raw["note"] == "written by hand for testing lavic"
    assert len({row.gt_items for row in conversations}) == 36
    assert sum(row.ground_truth <= set(row.candidates["gpt_large"]) for row in conversations) == 30


def test_every_candidate_is_a_product_with_a_picture(conversations: list[Conversation], shared_data: Path) -> None:
    catalogue = shared_data / "catalogue"
    if not catalogue.is_dir():
        pytest.skip(f"the real catalogue is not here: {catalogue}")
    lines = (catalogue / "products.jsonl").read_text(encoding="utf-8").splitlines()
    products = {row["id"]: row for row in map(json.loads, lines)}
    named = {item_id for row in conversations for ids in row.candidates.values() for item_id in ids}
    assert len(named) > 100
    for item_id in named:
        assert (catalogue / "images" / products[item_id]["images"][0]).is_file()
