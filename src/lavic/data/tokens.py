"""How long texts are for a model: its tokenizer's own count, special spellings read as text."""

from __future__ import annotations

from collections.abc import Callable

from lavic.model.load import load_tokenizer
from lavic.model.sequences import text_tokenizer


def token_counter(model: str) -> Callable[[str], int]:
    """A function that tells a text's length in tokens, without BOS and EOS.

    Args:
        model: a checkpoint's folder, a name on the hub, or ``tiny``; its weights are not loaded.

    Raises:
        ModelError: the tokenizer cannot be had.
    """
    tokenizer = text_tokenizer(load_tokenizer(model))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
