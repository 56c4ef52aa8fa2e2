"""What the toy shop sells: kinds, colours, patterns and details, and which combinations are held out."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of product, and the details that it can have."""

    name: str
    details: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """Everything about one product that its picture shows."""

    kind: str
    colour: str
    pattern: str
    detail: str
    background: str

    @property
    def combination(self) -> tuple[str, str, str]:
        """(kind, colour, pattern): what validation pictures combine in a way never trained on."""
        return (self.kind, self.colour, self.pattern)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("t-shirt", ("a v-neck", "a chest pocket", "long sleeves")),
        Kind("dress", ("a belt", "thin straps", "a ruffled hem")),
        Kind("handbag", ("a long strap", "a round handle", "a gold clasp")),
        Kind("cap", ("a top button", "a front badge", "a wide brim")),
        Kind("sneaker", ("a thick sole", "a high ankle", "dark laces")),
        Kind("mug", ("a large handle", "a golden rim", "a lid")),
        Kind("cushion", ("corner tassels", "a centre button", "a piped edge")),
        Kind("lamp", ("a wooden base", "a round base", "three legs")),
        Kind("vase", ("two handles", "a narrow neck", "a dried branch")),
        Kind("lotion bottle", ("a pump", "a flip cap", "a square label")),
        Kind("lipstick", ("a golden band", "a slanted tip", "a cap beside it")),
        Kind("cream jar", ("a silver lid", "a round label", "a wooden lid")),
    )
}

#: Base colour of a product, sRGB, before light and noise.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (204, 42, 46),
    "orange": (240, 134, 40),
    "yellow": (244, 208, 63),
    "green": (58, 150, 78),
    "blue": (44, 98, 190),
    "purple": (126, 72, 168),
    "pink": (240, 150, 186),
    "brown": (124, 80, 50),
    "black": (40, 40, 44),
    "white": (244, 243, 238),
}

PATTERNS: tuple[str, ...] = ("plain", "striped", "dotted", "checked", "zigzag", "two-tone")

BACKGROUNDS: tuple[str, ...] = (
    "a pale grey backdrop",
    "a warm beige backdrop",
    "a mint backdrop",
    "a wooden table",
)

#: A fifth of all (kind, colour, pattern) combinations appear in validation only.
HELD_OUT_SHARE = 0.2


def is_held_out(combination: tuple[str, str, str]) -> bool:
    """Whether a (kind, colour, pattern) is kept for validation; the same in every world and seed."""
    digest = hashlib.sha256("|".join(combination).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < HELD_OUT_SHARE


def combinations(*, held_out: bool) -> list[tuple[str, str, str]]:
    """All combinations of one side, in a fixed order."""
    every = itertools.product(KINDS, COLOURS, PATTERNS)
    return [combination for combination in every if is_held_out(combination) == held_out]


def draw_look(rng: random.Random, combination: tuple[str, str, str]) -> Look:
    """A product of the given combination; detail and background are drawn."""
    kind, colour, pattern = combination
    return Look(kind, colour, pattern, rng.choice(KINDS[kind].details), rng.choice(BACKGROUNDS))


def looks(rng: random.Random, count: int, *, held_out: bool) -> Iterator[Look]:
    """``count`` products of one side; every combination comes once before any comes twice."""
    deck: list[tuple[str, str, str]] = []
    for _ in range(count):
        if not deck:
            deck = combinations(held_out=held_out)
            rng.shuffle(deck)
        yield draw_look(rng, deck.pop())
