"""Half sentences and titles leave a description; whole sentences and names of kinds stay."""

from __future__ import annotations

import pytest

from lavic.describe.cleaning import clean, without_half_sentence


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("A red mug. It has a wide han", "A red mug."),
        ("A mug of 3.5 in. height, e.g. for tea. It", "A mug of 3.5 in. height, e.g. for tea."),
        ('It says "Hello!" The rest is bl', 'It says "Hello!"'),
        ("No sentence ends here", ""),
        ("A red mug.\ufffd", "A red mug."),
        ("A red\ufffd", ""),
        ("Whole. All of it.", "Whole. All of it."),
        ("赤いマグ。取っ手が", "赤いマグ。"),
    ],
)
def test_a_half_sentence_goes(text, left):
    assert without_half_sentence(text) == left


def test_only_the_token_limit_cuts_sentences_off():
    assert clean("A red mug. With a handle", "x y z", cut_off=False) == "A red mug. With a handle"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("The Aurora Steel Kettle is silver.", "The product is silver."),
        ("Here is the aurora  steel kettle, in silver.", "Here is the product, in silver."),
        ('This kettle, "Aurora Steel Kettle," is silver.', "This kettle is silver."),
        ("A kettle (Aurora Steel Kettle) of steel.", "A kettle of steel."),
        ('A kettle called "Aurora Steel Kettle".', "A kettle."),
        ("Silver. Aurora Steel Kettle has a spout.", "Silver. The product has a spout."),
        ("The Aurora Steel Kettles are many.", "The Aurora Steel Kettles are many."),
        ('"Aurora Steel Kettle" is silver.', "The product is silver."),
        ('This is the "Aurora Steel Kettle".', "This is the product."),
        ('A box with the title "Aurora Steel Kettle" in gold.', "A box with the title in gold."),
        ("A kettle, called Aurora Steel Kettle, of steel.", "A kettle, of steel."),
        ("Seen. (Aurora Steel Kettle) It is red.", "Seen. It is red."),
        ('A box that says "Aurora Steel Kettle".', "A box that says its name."),
        ("Silver  and .5 m high ; no title.", "Silver  and .5 m high ; no title."),
    ],
)
def test_the_title_goes(text, left):
    assert clean(text, "Aurora Steel Kettle", cut_off=False) == left


def test_a_short_title_is_the_name_of_a_kind_and_stays_unless_quoted():
    assert clean('A red T-Shirt with "T-Shirt" on it.', "T-Shirt", cut_off=False) == (
        "A red T-Shirt with its name on it."
    )
    assert clean("A red mug.", "", cut_off=False) == "A red mug."


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Burt's Bees Lip Balm", "The Burt’s Bees Lip Balm is yellow."),
        ("Burt’s Bees Lip Balm", "The Burt's Bees Lip Balm is yellow."),
        ("Aurora Kettle – Extra-Large", "The Aurora Kettle - Extra‑Large is yellow."),
        ('Sign "Open" in Red', "The sign “Open” in red is yellow."),
    ],
)
def test_quotation_marks_and_dashes_of_any_kind_are_alike(title, text):
    assert clean(text, title, cut_off=False) == "The product is yellow."


def test_a_title_of_regular_expressions_is_plain_text():
    assert clean("A (red) .* mug here.", "(red) .* mug", cut_off=False) == "The product here."


def test_titles_can_be_kept():
    assert clean("The Aurora Steel Kettle.", "Aurora Steel Kettle", cut_off=False, keep_title=True) == (
        "The Aurora Steel Kettle."
    )
