"""The tiny tokenizer behaves as the real family's, traps included."""

from __future__ import annotations

import random

import pytest

from lavic.toyshop.text_tasks import item_id
from lavic.toyshop.tokenizer import LEARNT_SIZE, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


def test_vocabulary_size_and_specials(tokenizer):
    # The pairs of ID characters that were not learnt come behind what was, then <image> and <pad>.
    assert LEARNT_SIZE + 1200 < len(tokenizer) <= LEARNT_SIZE + 36 * 36 + 2
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


def test_item_ids_are_b0_and_pieces_of_one_or_two_characters(tokenizer):
    rng = random.Random(0)
    pieces = set()
    for _ in range(300):
        identity = item_id(rng)
        for before in ("Assistant:", "\n"):
            ids = tokenizer.encode(f"{before}{identity}", add_special_tokens=False)
            own = tokenizer.convert_ids_to_tokens(ids)[-identity_length(tokenizer, identity) :]
            assert "".join(own) == identity
            assert own[0] == "B0"
            assert all(len(piece) <= 2 for piece in own)
        pieces.update(own)
    # What tells rows apart must be many different tokens, not the 36 that stand in every row.
    assert len(pieces) > 400


def identity_length(tokenizer, identity: str) -> int:
    return len(tokenizer.encode(f":{identity}", add_special_tokens=False)) - len(
        tokenizer.encode(":", add_special_tokens=False)
    )
