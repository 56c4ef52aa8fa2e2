"""Rows of pictures: the exercises, and what the tiny model is asked about them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from lavic.model.load import load_base
from lavic.model.recommendation import Candidate, RecommendationPrompts
from lavic.model.sequences import SequenceBuilder
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop import grammar
from lavic.toyshop.kinds import BACKGROUNDS, KINDS, Look, looks
from lavic.toyshop.picture_choosing import PictureLessons, first_states, reading_loss, view_tokens
from lavic.toyshop.picture_rows import NAMED, PLACES, PictureRows
from lavic.toyshop.text_tasks import FITS, IGNORE, NO, OWN, RIGHT, YES

LOOKS = list(looks(random.Random(0), 1200, held_out=False))


@pytest.fixture(scope="module")
def base():
    return load_base("tiny")


@pytest.fixture(scope="module")
def rows(base):
    return PictureRows(base.tokenizer, LOOKS)


def exercises(rows, count, candidates=5):
    rng = random.Random(1)
    return [rows.exercise(rng, candidates) for _ in range(count)]


def rows_of(one):
    return [one.places[start : start + PLACES] for start in range(0, len(one.places), PLACES)]


def test_the_words_of_a_picture_spell_what_it_shows(base, rows):
    look = LOOKS[3]
    said = [word.lstrip("▁") for word in base.tokenizer.convert_ids_to_tokens(rows.words_of(look))]
    wordings = (look.background, look.colour, grammar.PATTERN_WORDS[look.pattern][0], look.kind, look.detail)
    assert all(word in wording for word, wording in zip(said, wordings, strict=True))


def test_the_words_tell_all_details_of_a_kind_apart(rows):
    for kind in KINDS.values():
        words = {
            tuple(rows.words_of(Look(kind.name, "red", "plain", detail, BACKGROUNDS[0]))) for detail in kind.details
        }
        assert len(words) == len(kind.details)
    assert len({rows.words_of(replace(LOOKS[0], background=one))[0] for one in BACKGROUNDS}) == len(BACKGROUNDS)


def test_exactly_one_row_fits_and_its_id_is_the_answer(base, rows):
    yes, no = base.tokenizer.convert_tokens_to_ids([YES, NO])
    for one in exercises(rows, 40):
        ends = [one.exercise.labels[RIGHT][places[-1] + 1] for places in rows_of(one)]
        fits = [one.exercise.labels[FITS][places[-1]] for places in rows_of(one)]
        assert ends.count(no) == len(ends) - 1
        right = next(row for row, label in enumerate(ends) if label != no)
        assert [label == yes for label in fits] == [row == right for row in range(len(ends))]
        own = [label for label in one.exercise.labels[OWN] if label != IGNORE]
        assert len(own) == len(ends)
        assert own[right] == ends[right]
        answer = [token for token in one.exercise.targets if token != IGNORE]
        assert ends[right] in answer
        assert base.tokenizer.decode(answer, skip_special_tokens=True).replace(" ", "") == one.exercise.answer


def test_a_patterns_second_wording_means_its_first(base, rows):
    lessons = PictureLessons(base.model, rows, torch.zeros(len(LOOKS), 5, 1, 96), seed=0)
    drawn = exercises(rows, 60)
    ids = lessons.batch(drawn)[0]
    meant = lessons.meant(ids, drawn)
    told = base.tokenizer.convert_ids_to_tokens
    changed = meant != ids
    assert set(zip(told(ids[changed]), told(meant[changed]), strict=True)) == {
        ("▁pattern", "▁plain"),
        ("▁stripes", "▁striped"),
        ("▁dots", "▁dotted"),
        ("▁checks", "▁checked"),
        ("▁lines", "▁zigzag"),
        ("▁tones", "▁two"),
    }
    for one in drawn:
        said = base.tokenizer.decode(one.exercise.input_ids[: one.places[0]])
        assert len(one.synonyms) == sum(said.count(second) for _, second in grammar.PATTERN_WORDS.values())


def test_labels_say_how_far_a_row_fits(base, rows):
    yes = base.tokenizer.convert_tokens_to_ids(YES)
    told_apart = set()
    for one in exercises(rows, 60):
        fits = [[one.exercise.labels[FITS][places[place]] == yes for place, _ in NAMED] for places in rows_of(one)]
        right = rows.looks[one.pictures[[row[-1] for row in fits].index(True)]]
        for row, picture in zip(fits, one.pictures, strict=True):
            # Once something does not fit, nothing behind it does.
            assert row == sorted(row, reverse=True)
            same = [getattr(rows.looks[picture], name) == getattr(right, name) for _, name in NAMED]
            told_apart.add(row.count(True))
            assert row.count(True) >= (same.index(False) if False in same else len(same))
    assert told_apart >= {0, 1, 3, 4}  # the kind alone tells few apart


def test_the_prompt_is_the_one_that_a_recommender_reads(base, rows):
    """Placeholders in the words' places, and nothing else, tell an exercise from a row of ``lavic tune``."""
    builder = SequenceBuilder(base.tokenizer, DEFAULT_PROMPTS, views=PLACES)
    prompts = RecommendationPrompts(builder, 4096)
    for one in exercises(rows, 5):
        words = list(one.exercise.input_ids)
        for place, token in zip(one.places, builder.placeholder_ids * len(one.pictures), strict=True):
            words[place] = token
        # The longest line of this text that both know: a row without its picture's places.
        sequence = prompts.sequence("", [Candidate("B000000001", "Nothing", True)], "B000000001")
        line_break = sequence.input_ids[sequence.placeholders[-1] + 1]
        assert words[one.places[-1] + 1] == line_break
        assert words[one.exercise.prompt_tokens - 1] == sequence.input_ids[sequence.prompt_length - 1]


@pytest.fixture
def lessons(base, rows):
    torch.manual_seed(0)
    return PictureLessons(base.model, rows, torch.randn(len(LOOKS), 5, 25, 96), seed=2)


def test_pictures_stand_in_their_own_places(lessons):
    drawn = lessons.draw(3, 4)
    ids, *_ = lessons.batch(drawn)
    words = lessons.model.get_input_embeddings()(ids)
    shown, mask = lessons.shown(words, drawn, 1.0, vary=False)
    for row, one in enumerate(drawn):
        expected = view_tokens(lessons.model, lessons.features[list(one.pictures)], vary=False).flatten(0, 1)
        torch.testing.assert_close(shown[row, list(one.places)], expected)
        assert mask[row, list(one.places)].tolist() == [1, 2, 3, 4, 5] * 4
        assert int((mask[row] > 0).sum()) == len(one.places)
    assert torch.equal(shown[mask == 0], words[mask == 0])
    unshown, nowhere = lessons.shown(words, drawn, 0.0)
    assert torch.equal(unshown, words)
    assert not nowhere.any()


def test_varied_tokens_stay_near_their_view(lessons):
    plain = view_tokens(lessons.model, lessons.features[:50], vary=False)
    varied = view_tokens(lessons.model, lessons.features[:50])
    assert not torch.equal(plain, varied)
    assert torch.cosine_similarity(plain, varied, dim=-1).mean() > 0.5


def test_the_first_layer_alone_gives_the_same_states(base):
    language_model = base.model.model.language_model
    embeds = torch.randn(2, 7, 128)
    whole = language_model(inputs_embeds=embeds, use_cache=False, output_hidden_states=True)
    layers = len(language_model.layers)
    torch.testing.assert_close(first_states(language_model, embeds), whole.hidden_states[1])
    assert len(language_model.layers) == layers
    again = language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    torch.testing.assert_close(again, whole.last_hidden_state)


def test_reading_loss_is_zero_for_equal_states_and_one_for_unrelated():
    torch.manual_seed(0)
    wanted = torch.randn(4, 50, 64)
    places = (torch.arange(50) % 6).expand(4, 50)
    real = torch.ones(4, 50, dtype=torch.bool)
    apart, error = reading_loss(wanted, wanted, places, real)
    assert apart.shape == (5,)
    torch.testing.assert_close(apart, torch.zeros(5), atol=1e-5, rtol=0)
    assert error == 0
    apart, error = reading_loss(torch.randn(4, 50, 64), wanted, places, real)
    assert (apart - 1).abs().max() < 0.15
    assert 1.5 < error < 2.5
