"""Training samples and rows to be answered, from conversations as the public files have them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from lavic.errors import NothingLeftError
from lavic.formats import NO_TITLE
from lavic.model.load import TINY, inspect_base
from lavic.model.recommendation import RecommendationPrompts
from lavic.model.sequences import SequenceBuilder
from lavic.prompts import DEFAULT_PROMPTS
from lavic.skipped import SkipLog
from lavic.tune.config import ConversationSettings
from lavic.tune.conversations import (
    NO_METADATA,
    NO_PICTURE,
    REPEATED,
    SHORTENED,
    Catalogue,
    conversations_of,
    read_titles,
)
from lavic.tune.samples import (
    NO_CHOICE,
    NO_RIGHT_ITEM,
    TOO_LONG,
    asked_rows,
    in_order,
    tune_samples,
    with_right_item,
)

TEN = [f"B00000000{number}" for number in range(10)]


class Store:
    """Every item but one has visual tokens."""

    all_image_tokens = False

    def __contains__(self, item_id: object) -> bool:
        return item_id != "B000000007"


@pytest.fixture(scope="module")
def prompts():
    base = inspect_base(TINY)
    builder = SequenceBuilder(base.tokenizer, DEFAULT_PROMPTS, base.family.views)
    return RecommendationPrompts(builder, 1024)


def row(right: list[str], candidates: list[str] = TEN, context: str = "A mug, please.") -> dict:
    return {"context": context, "context_items": [], "gt": "", "gt_items": right, "candidates_st": candidates}


def write(folder: Path, rows: list[dict]) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def collected(folder, prompts, rows, *, make=tune_samples, **more):
    path, skipped = write(folder, rows), SkipLog()
    catalogue = Catalogue({item_id: f"Title {item_id}" for item_id in TEN}, Store(), skipped)
    if make is tune_samples:
        more.setdefault("seed", 0)
    found = make(conversations_of(path, "st", skipped), catalogue, prompts, path=path, skipped=skipped, **more)
    return found, skipped


def test_every_distinct_right_item_makes_a_sample(tmp_path, prompts):
    samples, _ = collected(tmp_path, prompts, [row([TEN[2], TEN[5], TEN[2]])])
    assert [sample.answer for sample in samples] == [TEN[2], TEN[5]]
    for sample, other in zip(samples, (TEN[5], TEN[2]), strict=True):
        ids = [candidate.item_id for candidate in sample.candidates]
        assert sample.answer in ids
        assert other not in ids


def test_repeated_right_items_make_a_sample_each_if_asked_for(tmp_path, prompts):
    samples, _ = collected(tmp_path, prompts, [row([TEN[2], TEN[5], TEN[2]])], repeat_right_items=True)
    assert [sample.answer for sample in samples] == [TEN[2], TEN[5], TEN[2]]


def test_a_right_item_that_is_no_candidate_takes_the_place_of_one(tmp_path, prompts):
    rows = [row(["B00000RIGHT"]) for _ in range(200)]
    samples, _ = collected(tmp_path, prompts, rows)
    places = [[candidate.item_id for candidate in sample.candidates].index("B00000RIGHT") for sample in samples]
    assert {len(sample.candidates) for sample in samples} == {10}
    # At random: of 200 no place has none or more than a third.
    assert all(0 < places.count(place) < 67 for place in range(10))


def test_the_conversations_own_list_stays_as_it_is():
    given = list(TEN)
    found = with_right_item(given, "X", frozenset({"X", TEN[1]}), random.Random(0))
    assert given == TEN
    assert len(found) == 10
    assert "X" in found
    assert TEN[1] not in found


def test_the_order_is_a_function_of_seed_epoch_and_sample(tmp_path, prompts):
    samples, _ = collected(tmp_path, prompts, [row([TEN[0]]), row([TEN[1]])])
    first = in_order(samples[0], seed=1, epoch=0, shuffle=True)
    assert first == in_order(samples[0], seed=1, epoch=0, shuffle=True)
    assert sorted(each.item_id for each in first) == TEN
    others = [
        in_order(samples[0], seed=1, epoch=1, shuffle=True),
        in_order(samples[0], seed=2, epoch=0, shuffle=True),
        in_order(samples[1], seed=1, epoch=0, shuffle=True),
    ]
    assert all(other != first for other in others)
    assert in_order(samples[0], seed=1, epoch=3, shuffle=False) == samples[0].candidates


def test_position_says_nothing_after_shuffling(tmp_path, prompts):
    samples, _ = collected(tmp_path, prompts, [row([TEN[0]]) for _ in range(300)])
    places = [
        [each.item_id for each in in_order(sample, seed=0, epoch=0, shuffle=True)].index(TEN[0]) for sample in samples
    ]
    assert all(10 < places.count(place) < 60 for place in range(10))


def test_missing_metadata_and_pictures_are_counted_and_take_the_text_only_slot(tmp_path, prompts):
    samples, skipped = collected(tmp_path, prompts, [row(["B00000RIGHT"])])
    by_id = {candidate.item_id: candidate for candidate in samples[0].candidates}
    assert by_id["B00000RIGHT"].title == NO_TITLE
    assert not by_id.get("B000000007", by_id["B00000RIGHT"]).has_picture or "B000000007" not in by_id
    assert skipped.notes[NO_METADATA] == 1
    assert skipped.notes[NO_PICTURE] == ("B000000007" in by_id)
    assert skipped.count == 0


def test_titles_are_read_of_items_that_nobody_has_described_yet(tmp_path):
    train, valid = tmp_path / "train.json", tmp_path / "valid.jsonl"
    texts = {"B000000001_0.jpg": ""}
    train.write_text(json.dumps({"B000000001": {"title": "One", "image_descriptions_llava_cleaned": texts}}))
    lines = [
        {"image_name": "B000000002_0.jpg", "title": "Two", "image_description_llava_cleaned": ""},
        {"image_name": "B000000003_0.jpg", "title": "Three"},
    ]
    valid.write_text("".join(json.dumps(line) + "\n" for line in lines))
    skipped = SkipLog()
    titles = read_titles(ConversationSettings(item_meta_path=train, val_data=valid), skipped)
    assert titles == {"B000000001": "One", "B000000002": "Two", "B000000003": "Three"}
    assert skipped.count == 0


def test_rows_that_cannot_be_used_are_listed(tmp_path, prompts):
    rows = [row([]), {**row([TEN[0]]), "candidates_st": []}, row([TEN[0]], context="  "), row([TEN[0]])]
    del rows[1]["gt"]
    samples, skipped = collected(tmp_path, prompts, rows)
    assert len(samples) == 1
    assert skipped.count == 3
    assert skipped.by_reason[NO_RIGHT_ITEM] == 1
    assert skipped.by_reason["the list is empty"] == 1
    assert skipped.by_reason["the text is empty"] == 1


def test_repeated_candidates_count_once(tmp_path, prompts):
    rows, skipped = collected(tmp_path, prompts, [row([TEN[0]], [*TEN, TEN[0]])], make=asked_rows)
    assert rows[0].item_ids == tuple(TEN)
    assert skipped.notes[REPEATED] == 1


def test_a_list_that_no_row_has_is_told_of_with_those_there_are(tmp_path, prompts):
    path, skipped = write(tmp_path, [row([TEN[0]])]), SkipLog()
    with pytest.raises(NothingLeftError, match=r"no row has candidates_gpt_large. It has: candidates_st"):
        list(conversations_of(path, "gpt_large", skipped))


def test_a_conversation_of_twenty_thousand_characters_is_shortened_and_counted(tmp_path, prompts):
    samples, skipped = collected(tmp_path, prompts, [row([TEN[0]], context="A mug, please. " * 1400)])
    assert skipped.notes[SHORTENED] == 1
    assert samples[0].length <= 1024
    assert {candidate.item_id for candidate in samples[0].candidates} == set(TEN)


def test_candidates_too_long_for_any_prompt_leave_the_row_out(tmp_path, prompts):
    many = [f"B{number:09d}" for number in range(200)]
    samples, skipped = collected(tmp_path, prompts, [row([many[0]], many), row([TEN[0]])])
    assert len(samples) == 1
    assert skipped.by_reason[TOO_LONG] == 1


def test_a_right_item_that_is_too_long_leaves_the_conversations_others(tmp_path, prompts):
    # Of many tokens, which stand twice in its sample: in the list and as the answer.
    long = "zq7x9kj3v8" * 4
    rows = [row([f"{long}1", TEN[1], f"{long}2", TEN[2]], TEN[5:7])]
    whole, _ = collected(tmp_path, prompts, rows)
    assert [sample.answer for sample in whole] == [f"{long}1", TEN[1], f"{long}2", TEN[2]]
    tight = RecommendationPrompts(prompts.builder, whole[1].length + 10)
    samples, skipped = collected(tmp_path, tight, rows)
    assert [sample.answer for sample in samples] == [TEN[1], TEN[2]]
    assert skipped.by_reason[TOO_LONG] == 2


def test_a_sample_without_another_candidate_is_left_out_and_listed(tmp_path, prompts):
    rows = [row(TEN[:2], TEN[:2]), row([TEN[3]], [TEN[3]]), row([TEN[4]], [TEN[5]]), row([TEN[0]])]
    samples, skipped = collected(tmp_path, prompts, rows)
    assert [sample.answer for sample in samples] == [TEN[0]]
    assert skipped.by_reason[NO_CHOICE] == 4
    published, skipped = collected(tmp_path, prompts, rows, without_choice=True)
    assert [len(sample.candidates) for sample in published] == [1, 1, 1, 1, 10]
    assert skipped.count == 0


@pytest.mark.parametrize(
    ("make", "problem"),
    [(tune_samples, "no conversation can be trained on"), (asked_rows, "no conversation can be answered")],
)
def test_where_nothing_is_left_the_commonest_reason_and_its_mend_are_named(tmp_path, prompts, make, problem):
    many = [f"B{number:09d}" for number in range(200)]
    with pytest.raises(NothingLeftError) as caught:
        collected(tmp_path, prompts, [row([many[0]], many), row([many[1]], many)], make=make)
    assert caught.value.sentence == (
        f"{tmp_path}/train.jsonl: {problem}; most frequent reason, 2 times: {TOO_LONG}. "
        "Give a larger --max_length, or a list of fewer candidates."
    )


def test_of_several_reasons_the_commonest_is_named(tmp_path, prompts):
    many = [f"B{number:09d}" for number in range(200)]
    with pytest.raises(NothingLeftError, match=rf"2 times: {NO_RIGHT_ITEM}\. Give conversations that name right"):
        collected(tmp_path, prompts, [row([many[0]], many), row([]), row([])])


def test_without_any_row_there_is_no_reason_to_name(tmp_path, prompts):
    catalogue = Catalogue({}, None, SkipLog())
    with pytest.raises(NothingLeftError, match=r"f: no conversation can be answered\.$"):
        asked_rows([], catalogue, prompts, path=Path("f"), skipped=SkipLog())


def test_the_first_samples_only(tmp_path, prompts):
    samples, _ = collected(tmp_path, prompts, [row([TEN[0], TEN[1]]), row([TEN[2]])], max_samples=2)
    assert [sample.answer for sample in samples] == TEN[:2]


def test_a_rows_length_is_that_with_the_id_of_the_most_tokens(tmp_path, prompts):
    few, many = "conversationcandidates", "zq7x9kj3v8"
    rows, _ = collected(tmp_path, prompts, [row([few], [few, many])], make=asked_rows)
    lengths = [len(prompts.sequence(rows[0].context, rows[0].candidates, each).input_ids) for each in (few, many)]
    assert lengths[0] < lengths[1]
    assert rows[0].length == lengths[1]


def test_rows_to_be_answered_are_as_they_are_given(tmp_path, prompts):
    rows, _ = collected(tmp_path, prompts, [row(["B00000RIGHT"]), row([TEN[1], TEN[2]]), row([])], make=asked_rows)
    assert [each.item_ids for each in rows] == [tuple(TEN)] * 3
    assert rows[1].conversation.gt_items == (TEN[1], TEN[2])
