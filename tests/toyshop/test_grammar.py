"""The shop's language: descriptions name what is shown, titles do not."""

from __future__ import annotations

import random

import pytest

from lavic.toyshop import grammar
from lavic.toyshop.kinds import COLOURS, KINDS, PATTERNS, Look, combinations, looks

LOOK = Look("mug", "red", "striped", "a lid", "a wooden table")


def test_every_description_names_its_look_and_nothing_else():
    rng = random.Random(0)
    for look in looks(rng, 3000, held_out=False):
        named = grammar.attributes_named(grammar.describe(look, rng))
        assert named == {"colour": look.colour, "pattern": look.pattern, "kind": look.kind, "detail": look.detail}


def test_wording_varies():
    rng = random.Random(0)
    assert len({grammar.describe(LOOK, rng) for _ in range(2000)}) >= 4 * 2 * 3 * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Colour and pattern of the background's sentence do not count.
        ("This is a mug. It has a lid. Behind it is a red striped wall.", (None, None, "mug", "a lid")),
        ("This is a blue mug with stripes. It has a golden rim.", ("blue", "striped", "mug", "a golden rim")),
        ("A red or blue plain cap", ("red", "plain", "cap", None)),
        ("", (None, None, None, None)),
    ],
)
def test_attributes_are_read_from_the_sentence_that_tells_them(text, expected):
    assert tuple(grammar.attributes_named(text).values()) == expected


def test_places_of_the_words_are_those_in_the_text():
    text = "We see a Red striped mug. It has a lid."
    spans = grammar.wordings_named(text)
    assert {name: text[start:end] for name, (start, end) in spans.items()} == {
        "colour": "Red",
        "pattern": "striped",
        "kind": "mug",
        "detail": "a lid",
    }


def test_titles_say_nothing_of_looks():
    rng = random.Random(0)
    words = {word for name in (*COLOURS, *KINDS, *PATTERNS) for word in name.lower().split()}
    for _ in range(2000):
        assert not words.intersection(grammar.title(rng).lower().split())


def test_held_out_combinations_are_a_fifth_and_apart():
    train, valid = set(combinations(held_out=False)), set(combinations(held_out=True))
    assert not train & valid
    assert len(train | valid) == 12 * 10 * 6
    assert 0.15 < len(valid) / 720 < 0.25
    # Each single attribute is known from training: only combinations are new.
    for place, names in enumerate((KINDS, COLOURS, PATTERNS)):
        assert {combination[place] for combination in train} == set(names)
