"""The candidate that a generated text names."""

from __future__ import annotations

from collections.abc import Sequence

# From here on (CJK radicals, kana, ideographs, Hangul, ...) words are written without spaces between them.
_UNSPACED_SCRIPTS = "\u2e80"


def named_candidate(text: str, candidates: Sequence[str]) -> str | None:
    """The candidate whose ID a generated text names first, or None.

    An ID counts where it stands by itself, in exactly this spelling: quotes, brackets, markdown, a colon or a full stop
    may touch it, letters and digits may not (Chinese, Japanese and Korean may, being written without spaces). A sign
    that occurs in one of the candidates' IDs, such as the hyphen of ``mug-1``, may be part of an ID in the text too:
    ``mug-1-red`` does not name ``mug-1``. Where several candidates start at one place, the longest is meant.

    Args:
        text: what the model wrote, without the prompt.
        candidates: IDs, any safe names.
    """
    signs = {char for item_id in candidates for char in item_id if not char.isalnum() and not char.isspace()}
    found = [
        (start, -len(item_id), item_id)
        for item_id in candidates
        if (start := _first_place(text, item_id, signs)) is not None
    ]
    return min(found)[2] if found else None


def _first_place(text: str, item_id: str, signs: set[str]) -> int | None:
    start = text.find(item_id) if item_id else -1
    while start >= 0:
        before, after = text[:start][::-1], text[start + len(item_id) :]
        if not _goes_on(before, signs) and not _goes_on(after, signs):
            return start
        start = text.find(item_id, start + 1)
    return None


def _goes_on(text: str, signs: set[str]) -> bool:
    """Whether an ID that ends where ``text`` starts is only a part of a longer one."""
    for char in text:
        if char not in signs:
            return char.isalnum() and char < _UNSPACED_SCRIPTS
    return False
