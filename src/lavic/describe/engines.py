"""What runs the teacher, behind one small interface that transformers and vLLM serve, each in its own file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Protocol

from PIL import Image


@dataclass(frozen=True)
class Request:
    """One picture to describe; ``seed`` decides what is drawn, whatever stands beside it in the batch."""

    image: Image.Image
    seed: int


@dataclass(frozen=True)
class Answer:
    """What the teacher said.

    Attributes:
        text: as decoded, without special tokens.
        tokens: how many were generated, EOS not counted.
        cut_off: whether the token limit ended it.
    """

    text: str
    tokens: int
    cut_off: bool


@dataclass(frozen=True)
class Speech:
    """How the teacher speaks.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: draw among the likeliest tokens that together have this probability.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0


class Engine(Protocol):
    """Describes batches of pictures with one prompt, which it was made with."""

    @property
    def weights(self) -> str:
        """What tells its weights from others': a SHA-256, or as much as can be known."""

    def image_tokens(self, size: tuple[int, int]) -> int:
        """How many image tokens a picture of (width, height) makes; only what is alike is put in a batch."""

    def describe(self, requests: Rows[Request]) -> list[Answer]:
        """Answers in the order of the requests."""


def picture_seed(seed: int, image_name: str) -> int:
    """A picture's own seed below 2**31, the same in every run."""
    digest = hashlib.sha256(f"{seed}\0{image_name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
