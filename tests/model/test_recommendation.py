"""The recommendation prompt: its lines, its answer, and what a conversation that is too long loses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lavic.model.contexts import CUT, shorten
from lavic.model.load import TINY, load_base
from lavic.model.recommendation import Candidate, RecommendationPrompts
from lavic.model.sequences import SequenceBuilder, text_tokenizer
from lavic.prompts import DEFAULT_PROMPTS

POST = "<submission>" + "I would like a striped mug for my sister. " * 40 + "</submission>"
COMMENTS = [f"\n<comment>Comment number {number} says nothing much.</comment>" for number in range(60)]
LONG = POST + "".join(COMMENTS)
CANDIDATES = [Candidate(f"B00000000{number}", f"Velori Studio {number}", number != 3) for number in range(10)]


@pytest.fixture(scope="module")
def base():
    return load_base(TINY)


def prompts_of(base, max_length: int) -> RecommendationPrompts:
    builder = SequenceBuilder(base.tokenizer, DEFAULT_PROMPTS, base.family.views)
    return RecommendationPrompts(builder, max_length)


def encoder(base):
    """Reads everything as text; another copy of the tokenizer than the prompts have."""
    return lambda text: text_tokenizer(base.tokenizer).encode(text, add_special_tokens=False)


@pytest.fixture(scope="module")
def count(base):
    tokenizer = text_tokenizer(base.tokenizer)
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def test_a_candidate_without_a_picture_has_no_placeholder(base):
    prompts = prompts_of(base, 2048)
    sequence = prompts.sequence("Hello.", CANDIDATES, "B000000004")
    assert len(sequence.placeholders) == 9 * base.family.views
    text = prompts.prompt("Hello.", CANDIDATES)
    assert "B000000003: Velori Studio 3\n" in text
    assert text.endswith("\nAssistant:")


def test_a_picture_may_have_more_tokens_than_views(base):
    prompts, views = prompts_of(base, 4096), base.family.views
    plain = prompts.sequence("Hello.", CANDIDATES, "B000000004")
    counts = iter([1, 7, views, 2 * views, 30, 1, 1, 2, 3])
    longer = [replace(each, tokens=next(counts)) if each.has_picture else each for each in CANDIDATES]
    sequence = prompts.sequence("Hello.", longer, "B000000004")
    assert prompts.visual_tokens_of(longer) == [1, 7, views, 2 * views, 30, 1, 1, 2, 3]
    places = prompts.builder.placeholder_ids
    assert {sequence.input_ids[place] for place in sequence.placeholders} == {places[0]}
    # Without placeholders both are the same text, with the answer at the same place behind it.
    assert [token for token in sequence.input_ids if token not in places] == [
        token for token in plain.input_ids if token not in places
    ]
    assert sequence.target_tokens == plain.target_tokens
    assert len(sequence.placeholders) == 45 + 3 * views
    runs = [sequence.placeholders[at : at + 7] for at in (1,)]
    assert runs == [tuple(range(runs[0][0], runs[0][0] + 7))]


def test_only_the_id_and_its_end_carry_loss(base):
    prompts = prompts_of(base, 2048)
    sequence = prompts.sequence("Hello.", CANDIDATES, "B000000004")
    target = sequence.input_ids[sequence.prompt_length :]
    assert base.tokenizer.decode(target[:-1]).strip() == "B000000004"
    assert target[-1] == base.tokenizer.eos_token_id
    open_ended = prompts.sequence("Hello.", CANDIDATES, "B000000004", eos=False)
    assert open_ended.input_ids == sequence.input_ids[:-1]
    assert not prompts.builder.collate([open_ended]).is_eos.any()


@pytest.mark.parametrize("spelling", ["<ItemImageEmb3>", "</s>", "<image>", "<s>", "{visual_tokens}", "{candidates}"])
def test_special_spellings_in_titles_and_conversations_are_text(base, spelling):
    prompts = prompts_of(base, 2048)
    candidates = [Candidate("A1", f"{spelling} mug", True), Candidate("A2", "mug", True)]
    sequence = prompts.sequence(f"I want {spelling}.", candidates, "A1")
    assert len(sequence.placeholders) == 2 * base.family.views
    assert sequence.input_ids.count(base.tokenizer.eos_token_id) == 1
    assert sequence.input_ids.count(base.tokenizer.bos_token_id) == 1


def test_a_line_break_in_a_title_makes_no_further_candidate(base):
    text = prompts_of(base, 2048).prompt("Hello.", [Candidate("A1", "mug\nA2: cup", False)])
    assert "A1: mug A2: cup\n" in text


@pytest.mark.parametrize("max_length", [400, 600, 1000, 1400])
def test_a_long_conversation_loses_its_middle_and_nothing_else(base, max_length):
    prompts = prompts_of(base, max_length)
    context = prompts.fit(LONG, CANDIDATES)
    assert context is not None
    assert CUT in context
    head, tail = context.split(CUT)
    assert LONG.startswith(head)
    assert LONG.endswith(tail)
    assert tail.startswith("<comment>")
    sequence = prompts.sequence(context, CANDIDATES, "B000000009")
    assert max_length - 60 <= len(sequence.input_ids) <= max_length
    assert len(sequence.placeholders) == 9 * base.family.views
    whole = prompts.prompt(context, CANDIDATES)
    assert all(f"{candidate.item_id}: {candidate.title}" in whole for candidate in CANDIDATES)
    assert whole.startswith(DEFAULT_PROMPTS.recommend[:40])


def test_a_conversation_that_fits_stays_as_it_is(base):
    assert prompts_of(base, 2048).fit("Hello.", CANDIDATES) == "Hello."


def test_room_is_left_for_the_id_of_the_most_tokens_not_of_the_most_characters(base):
    few, many = "conversationcandidates", "zq7x9kj3v8"
    candidates = [Candidate(few, "mug", False), Candidate(many, "mug", False)]
    prompts = prompts_of(base, 4096)
    few_tokens, many_tokens = (len(prompts.sequence("Hello.", candidates, each).input_ids) for each in (few, many))
    # More than the one token a candidate that is left free anyway.
    assert many_tokens > few_tokens + 2
    assert prompts.longest_answer(candidates) == many
    for max_length in range(many_tokens + 20, many_tokens + 50):
        tight = prompts_of(base, max_length)
        context = tight.fit("Hello. " * 100, candidates)
        assert context is not None
        assert len(tight.sequence(context, candidates, many).input_ids) <= max_length


def test_candidates_that_leave_no_room_are_told_of(base):
    assert prompts_of(base, 150).fit(LONG, CANDIDATES) is None


def test_twenty_thousand_characters_without_a_tag_are_shortened(base):
    prompts = prompts_of(base, 700)
    context = prompts.fit("mug " * 5000, CANDIDATES)
    assert context is not None
    assert len(prompts.sequence(context, CANDIDATES, "B000000000").input_ids) <= 700


def test_one_endless_word_is_shortened(base):
    prompts = prompts_of(base, 700)
    context = prompts.fit("x" * 20_000, CANDIDATES)
    assert context is not None
    assert len(prompts.sequence(context, CANDIDATES, "B000000000").input_ids) <= 700


def test_a_submission_that_ends_the_text_and_is_too_long_keeps_its_start(base, count):
    post = "<submission>" + "I want a mug. " * 300 + "</submission>"
    short = shorten(post, 200, encoder(base))
    assert short.startswith("<submission>I want a mug. I want")
    assert short.endswith(CUT)
    assert 190 < count(short) <= 204


def test_a_text_without_a_submission_loses_its_middle(base):
    words = " ".join(f"{number}" for number in range(2000))
    head, tail = shorten(words, 200, encoder(base)).split(CUT)
    assert words.startswith(head)
    assert words.endswith(tail)
    assert min(len(head), len(tail)) > 50


@pytest.mark.parametrize("tokens", [5, 20, 60, 200])
def test_shortening_keeps_to_its_room(base, count, tokens):
    short = shorten(LONG, tokens, encoder(base))
    # Where a text is cut, a word may be spelt with some more tokens.
    assert count(short) <= tokens + 4


def test_a_short_post_leaves_its_room_to_the_comments(base, count):
    context = "<submission>A mug?</submission>" + "".join(COMMENTS)
    short = shorten(context, 200, encoder(base))
    assert short.startswith("<submission>A mug?</submission>")
    assert count(short) > 150


def test_few_comments_leave_their_room_to_the_post(base, count):
    short = shorten(POST + COMMENTS[0], 200, encoder(base))
    assert COMMENTS[0].strip() in short
    assert count(short) > 190
