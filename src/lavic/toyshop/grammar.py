"""Words about the toy shop's products: descriptions, phrases, titles, and which attributes a text names."""

from __future__ import annotations

import random
import re
from functools import cache

from lavic.toyshop.kinds import COLOURS, KINDS, PATTERNS, Look

#: Two ways to say each pattern: before the noun, and after it.
PATTERN_WORDS: dict[str, tuple[str, str]] = {
    "plain": ("plain", "without any pattern"),
    "striped": ("striped", "with stripes"),
    "dotted": ("dotted", "with dots"),
    "checked": ("checked", "with checks"),
    "zigzag": ("zigzag", "with zigzag lines"),
    "two-tone": ("two-tone", "in two tones"),
}

_OPENINGS = ("The image shows {}.", "This is {}.", "We see {}.", "The picture features {}.")
_DETAILS = ("It has {}.", "It comes with {}.", "Its most notable feature is {}.")
_BACKGROUNDS = ("The background is {}.", "It is shown on {}.", "Behind it is {}.")

_SYLLABLES = (
    "ve",
    "lo",
    "ma",
    "ri",
    "ta",
    "no",
    "ka",
    "del",
    "sor",
    "min",
    "fa",
    "ber",
    "lu",
    "pe",
    "zan",
    "ho",
)
_LINES = ("Classic", "Original", "Everyday", "Signature", "Studio", "Heritage", "Essential", "Select")
_NOUNS = ("Edition", "Series", "Collection", "Model", "Release", "Line")


def phrase(look: Look, rng: random.Random) -> str:
    """A noun phrase with colour, pattern and kind, such as ``a red striped mug``."""
    if rng.random() < 0.7:
        return plain_phrase(look)
    return with_article(f"{look.colour} {look.kind} {PATTERN_WORDS[look.pattern][1]}")


def plain_phrase(look: Look) -> str:
    """The same with the pattern in front, always."""
    return with_article(f"{look.colour} {PATTERN_WORDS[look.pattern][0]} {look.kind}")


def with_article(words: str) -> str:
    """``a mug``, ``an orange mug``."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def short_description(look: Look, rng: random.Random) -> str:
    """One line that names everything but the background."""
    return f"{phrase(look, rng)} and {look.detail}"


def describe(look: Look, rng: random.Random) -> str:
    """Three sentences on what the picture shows: the product, its detail, the background."""
    sentences = [rng.choice(_OPENINGS).format(phrase(look, rng))]
    sentences.append(rng.choice(_DETAILS).format(look.detail))
    sentences.append(rng.choice(_BACKGROUNDS).format(look.background))
    return " ".join(sentences)


def title(rng: random.Random) -> str:
    """A name that says nothing about the picture, such as ``Velori Studio Series 42``."""
    brand = "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(2, 3))).capitalize()
    return f"{brand} {rng.choice(_LINES)} {rng.choice(_NOUNS)} {rng.randint(2, 99)}"


#: Every attribute: its values, and the wordings of each.
_WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "colour": {name: (name,) for name in COLOURS},
    "pattern": {name: PATTERN_WORDS[name] for name in PATTERNS},
    "kind": {name: (name,) for name in KINDS},
    "detail": {detail: (detail,) for kind in KINDS.values() for detail in kind.details},
}


@cache
def _pattern_of(attribute: str) -> tuple[re.Pattern[str], dict[str, str]]:
    """A pattern that finds any wording of an attribute, and what each wording stands for."""
    meaning = {wording: value for value, wordings in _WORDINGS[attribute].items() for wording in wordings}
    longest_first = sorted(meaning, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b"), meaning


def _found(text: str) -> dict[str, tuple[re.Match[str], str]]:
    """The first wording of each attribute; the detail is looked for behind the first sentence only."""
    text = text.lower()
    end = text.find(".") if "." in text else len(text)
    found: dict[str, tuple[re.Match[str], str]] = {}
    for attribute in _WORDINGS:
        pattern, meaning = _pattern_of(attribute)
        match = pattern.search(text, end) if attribute == "detail" else pattern.search(text, 0, end)
        if match:
            found[attribute] = (match, meaning[match.group()])
    return found


def attributes_named(text: str) -> dict[str, str | None]:
    """The colour, pattern, kind and detail that a description names; None for one it does not name.

    Colour, pattern and kind are read from the first sentence, the detail from what follows it.
    """
    found = _found(text)
    return {attribute: found[attribute][1] if attribute in found else None for attribute in _WORDINGS}


def wordings_named(text: str) -> dict[str, tuple[int, int]]:
    """Where each attribute that a description names stands in it, as (start, end) characters."""
    return {attribute: match.span() for attribute, (match, _) in _found(text).items()}
