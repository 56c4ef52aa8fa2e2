"""What people in the toy shop's conversations ask for, and how they say it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lavic.toyshop.grammar import PATTERN_WORDS, phrase, with_article
from lavic.toyshop.kinds import Look

#: How a wish is brought forward, and what may follow it.
REQUESTS = (
    "I am looking for {}.",
    "Can anyone recommend {}?",
    "My sister wants {}, any idea?",
    "Where can I find {}? Thanks.",
    "Hello all, I need {} for my flat.",
)
CHATTER = ("Thanks in advance!", "Price does not matter.", "It is a gift.", "I have searched for days.")
CHATTER_OR_NONE = (*CHATTER, "")
_QUESTIONS = {"pattern": ("Any pattern?", "Which pattern?"), "colour": ("Any colour?", "Which colour?")}
_MORE_QUESTIONS = ("Anything else?", "Is that all?")
_CHANGES = (
    "Sorry, I changed my mind: rather {}.",
    "I changed my mind, I am looking for {} now.",
    "No, wait. I need {}, not that one.",
)
_ANSWERS = ("This is what you are looking for: {}", "I can recommend [this one]({}).", "{} is all you need.")
_WHOLE_AGAIN = 0.8


@dataclass(frozen=True)
class Wish:
    """What is asked for; ``detail`` is None where any will do."""

    kind: str
    colour: str
    pattern: str
    detail: str | None = None

    def fits(self, look: Look) -> bool:
        """Whether a product is what is asked for."""
        same = (self.kind, self.colour, self.pattern) == look.combination
        return same and self.detail in (None, look.detail)

    def said(self, rng: random.Random) -> str:
        """The wish as a noun phrase: ``a red striped mug and a lid``."""
        words = phrase(Look(self.kind, self.colour, self.pattern, self.detail or "", ""), rng)
        return words if self.detail is None else f"{words} and {self.detail}"


def wish_for(look: Look, *, with_detail: bool) -> Wish:
    """The wish that a product fulfils."""
    return Wish(look.kind, look.colour, look.pattern, look.detail if with_detail else None)


def conversation_about(wish: Wish, first_wish: Wish | None, rng: random.Random, *, in_turns: bool) -> str:
    """What is said until a recommender answers, in the public format.

    Args:
        first_wish: what is asked for before the asker changes their mind; None where they do not.
        in_turns: spread the (first) wish over several comments.
    """
    told = first_wish or wish
    lines = posted_in_turns(told, rng) if in_turns else posted(told, rng)
    if first_wish is not None:
        lines += changed(first_wish, wish, rng)
    return "\n".join([*lines, *closing(rng)])


def asked_before(looks: Sequence[Look], right: int, rng: random.Random) -> int | None:
    """Which product may have been asked for before the right one: of its kind, with another colour or pattern.

    Preferably not with both; None if there is none.
    """
    wanted = looks[right]
    differing = [
        (index, (look.colour != wanted.colour) + (look.pattern != wanted.pattern))
        for index, look in enumerate(looks)
        if look.kind == wanted.kind
    ]
    for attributes in (1, 2):
        possible = [index for index, differ in differing if differ == attributes]
        if possible:
            return rng.choice(possible)
    return None


def posted(wish: Wish, rng: random.Random) -> list[str]:
    """A submission that says all."""
    return [_submission(wish.said(rng), rng)]


def posted_in_turns(wish: Wish, rng: random.Random) -> list[str]:
    """A submission that says a part, and comments that ask for the rest and tell it."""
    before, after = PATTERN_WORDS[wish.pattern]
    if rng.random() < 0.5:
        opening, asked_for = with_article(f"{wish.colour} {wish.kind}"), "pattern"
        answer = rng.choice((before, after))
    else:
        opening = rng.choice((with_article(f"{before} {wish.kind}"), f"{with_article(wish.kind)} {after}"))
        answer, asked_for = wish.colour, "colour"
    # Never first in a sentence: its words are other tokens in capitals, whose spelling the tiny model has not read.
    answer = f"Preferably {answer}"
    lines = [_submission(opening, rng), _comment(rng.choice(_QUESTIONS[asked_for]))]
    if wish.detail is None:
        return [*lines, _comment(f"{answer}, please.")]
    if rng.random() < 0.5:
        return [*lines, _comment(f"{answer}, and with {wish.detail}.")]
    return [*lines, _comment(f"{answer}."), _comment(rng.choice(_MORE_QUESTIONS)), _comment(f"With {wish.detail}.")]


def changed(first: Wish, wish: Wish, rng: random.Random) -> list[str]:
    """Comments that take back the first wish for another, mostly told as a whole."""
    lines = [_comment(rng.choice(CHATTER))] if rng.random() < 0.5 else []
    only_one = (first.colour == wish.colour) != (first.pattern == wish.pattern)
    if not only_one or rng.random() < _WHOLE_AGAIN:
        words = wish.said(rng)
    else:
        new = wish.colour if first.colour != wish.colour else PATTERN_WORDS[wish.pattern][0]
        words = with_article(f"{new} one")
        if wish.detail != first.detail:
            words += f" and {wish.detail}"
    return [*lines, _comment(rng.choice(_CHANGES).format(words))]


def closing(rng: random.Random) -> list[str]:
    """Now and then a comment that says nothing."""
    return [_comment(rng.choice(CHATTER))] if rng.random() < 0.3 else []


def answered(url: str, rng: random.Random) -> str:
    """The comment that names the product; it is not part of what a recommender reads."""
    return rng.choice(_ANSWERS).format(url)


def _submission(asked_for: str, rng: random.Random) -> str:
    words = rng.choice(REQUESTS).format(asked_for)
    chatter = rng.choice(CHATTER_OR_NONE)
    return f"<submission>{words} {chatter}".rstrip() + "</submission>"


def _comment(text: str) -> str:
    return f"<comment>{text}</comment>"
