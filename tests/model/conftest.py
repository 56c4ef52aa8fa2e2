"""What the tests of the model share."""

from __future__ import annotations

import pytest
from transformers import LlamaTokenizer

from lavic.model.sequences import SequenceBuilder
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> LlamaTokenizer:
    """The tokenizer of the tiny model: Llama's kind."""
    return train_tokenizer()


@pytest.fixture(scope="session")
def builder(tokenizer: LlamaTokenizer) -> SequenceBuilder:
    """Sequences for five views."""
    return SequenceBuilder(tokenizer, DEFAULT_PROMPTS, 5)
