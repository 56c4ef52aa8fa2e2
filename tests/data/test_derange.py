"""The blind control really is blind."""

from __future__ import annotations

import json
import random

import pytest

from lavic.data.derange import derangement, write_deranged
from lavic.errors import InputError
from lavic.formats import SkipLog, read_train_metadata


@pytest.mark.parametrize("count", [2, 3, 10, 500])
def test_a_derangement_leaves_nothing_in_place(count):
    for seed in range(20):
        order = derangement(count, random.Random(seed))
        assert sorted(order) == list(range(count))
        assert all(place != index for index, place in enumerate(order))


def test_an_item_with_two_pictures_keeps_both_its_texts(tmp_path):
    source = tmp_path / "train.json"
    rows = {
        "A": {"title": "a", "image_descriptions_llava_cleaned": {"A_0.jpg": "one", "A_1.jpg": "two"}},
        "B": {"title": "b", "image_descriptions_llava_cleaned": {"B_0.jpg": "three"}},
    }
    source.write_text(json.dumps(rows))
    assert write_deranged(source, tmp_path / "blind.json", seed=3) == 3
    blind = list(read_train_metadata(tmp_path / "blind.json", SkipLog()))
    assert [(row.title, row.description) for row in blind] == [("a", "one"), ("a", "two"), ("b", "three")]
    true = {"one": "A_0.jpg", "two": "A_1.jpg", "three": "B_0.jpg"}
    assert sorted(row.image_name for row in blind) == sorted(true.values())
    assert all(row.image_name != true[row.description] for row in blind)


def test_one_picture_is_refused(tmp_path):
    source = tmp_path / "train.json"
    source.write_text(json.dumps({"A": {"title": "a", "image_descriptions_llava_cleaned": {"A_0.jpg": "one"}}}))
    with pytest.raises(InputError, match="fewer than two described pictures"):
        write_deranged(source, tmp_path / "blind.json", seed=3)
