"""The tiny tokenizer behaves as the real family's, traps included."""

from __future__ import annotations

import random
import string

import pytest

from lavic.toyshop.text_tasks import item_id
from lavic.toyshop.tokenizer import VOCABULARY_SIZE, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


def test_vocabulary_size_and_specials(tokenizer):
    assert len(tokenizer) == VOCABULARY_SIZE
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>"]) == [0, 1, 2]
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize("text", ["Émile 😀 \t x", "Ω≈ç√∫", "日本語のテキスト", "line\nbreak  two spaces", "\x00\x07"])
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_a_word_after_the_colon_has_other_ids_than_after_a_space(tokenizer):
    joined = tokenizer.encode("Assistant:The mug", add_special_tokens=False)
    apart = tokenizer.encode("Assistant: The mug", add_special_tokens=False)
    assert joined != apart
    assert tokenizer.convert_tokens_to_ids("▁The") in apart
    assert tokenizer.convert_tokens_to_ids("▁The") not in joined


def test_item_ids_are_single_characters(tokenizer):
    rng = random.Random(0)
    for _ in range(300):
        identity = item_id(rng)
        ids = tokenizer.encode(f"Assistant:{identity}", add_special_tokens=False)[-len(identity) :]
        assert tokenizer.convert_ids_to_tokens(ids) == list(identity)
        assert set(identity) <= set(string.ascii_uppercase + string.digits)
